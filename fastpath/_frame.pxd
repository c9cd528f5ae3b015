# A whole frame in plain C: message type, bitmaps, then the fields their bits announce. The codec
# wraps this in objects; nothing here touches one.

from libc.stdint cimport uint8_t, uint16_t, uint64_t
from libc.string cimport memcpy

from fastpath._bytes cimport (
    big_endian,
    bytes_to_hex,
    cs_leading_zeros,
    cs_number_of_hex,
    cs_ones,
    fails,
    not_bcd,
    not_digits,
    not_hex,
    put_big_endian,
)
from fastpath._shape cimport SHAPES, Shape, shape_of, take_shape
from fastpath._wire cimport (
    BAD_DIGITS,
    BAD_HEX,
    BAD_VERSION,
    EMPTY_SECONDARY,
    ENDS_EARLY,
    FINE,
    FIXED,
    FRAME_TOO_LONG,
    HAS_THIRD_BITMAP,
    LEFT_OVER,
    NO_PAD,
    Row,
    put_bcd,
    read_length,
    take_field,
    wire_bytes,
)

cdef enum:
    FIELDS = 129  # 0 .. 128
    SECONDARY = 1
    THIRD_BITMAP = 65
    LONGEST_FRAME = 65535
    NO_FIELD = -1

# a packager as C reads it
cdef struct Table:
    Row rows[FIELDS]
    bint mti_bcd
    bint bitmap_raw
    int version
    Shape* shapes[SHAPES]

# where the fields of one frame are
cdef struct Layout:
    uint64_t bits[2]  # as sent, but for bit 1
    uint16_t* start  # of each field that is there, in order, with its length prefix
    int count
    int last

cdef struct Fault:
    int field
    Py_ssize_t offset


cdef inline uint64_t bit_of(int field) noexcept nogil:
    """The bit of a field inside its bitmap of 64."""
    return <uint64_t>1 << (63 - ((field - 1) & 63))


cdef inline bint has_field(const Layout* layout, int field) noexcept nogil:
    if field < 2 or field > 128:
        return False
    return (layout.bits[(field - 1) >> 6] & bit_of(field)) != 0


cdef inline Py_ssize_t start_of(const Layout* layout, int field) noexcept nogil:
    """Where a field that is there begins: as many are before it as bits are before its own."""
    cdef uint64_t bit = bit_of(field)
    if field <= 64:
        return layout.start[cs_ones(layout.bits[0] & ~((bit << 1) - 1))]
    return layout.start[cs_ones(layout.bits[0]) + cs_ones(layout.bits[1] & ~((bit << 1) - 1))]


cdef inline const uint8_t* value_of(
    const Table* table, const uint8_t* data, const Layout* layout, int field
) noexcept nogil:
    """The value of a field that is there, behind its length prefix."""
    return data + start_of(layout, field) + table.rows[field].length_bytes


cdef inline Py_ssize_t count_of(const Table* table, const uint8_t* value, int field) noexcept nogil:
    """Digits, characters or bytes of a value whose prefix was checked before."""
    cdef const Row* row = &table.rows[field]
    if row.length_form == FIXED:
        return row.length
    return read_length(row, value - row.length_bytes)


cdef inline Py_ssize_t field_size(const Table* table, const uint8_t* field, int de) noexcept nogil:
    """Bytes on the wire of the checked field at `field`, with its length prefix."""
    cdef const Row* row = &table.rows[de]
    return row.length_bytes + wire_bytes(row, count_of(table, field + row.length_bytes, de))


cdef inline Py_ssize_t mac_covers(const Table* table, const Layout* layout) noexcept nogil:
    """How many bytes are before the MAC; 0 where the last field is none."""
    if layout.last == 0 or not table.rows[layout.last].holds_mac:
        return 0
    return layout.start[layout.count - 1]


cdef inline Py_ssize_t mti_bytes(const Table* table) noexcept nogil:
    return 2 if table.mti_bcd else 4


cdef inline Py_ssize_t bitmap_bytes(const Table* table) noexcept nogil:
    return 8 if table.bitmap_raw else 16


cdef inline int read_bitmap(const Table* table, const uint8_t* data, uint64_t* bits) noexcept nogil:
    if table.bitmap_raw:
        bits[0] = big_endian(data)
        return FINE
    if fails(not_hex, data, 16):
        return BAD_HEX
    bits[0] = cs_number_of_hex(data)
    return FINE


cdef inline int read_mti(const Table* table, const uint8_t* data) noexcept nogil:
    cdef int version
    if table.mti_bcd:
        if fails(not_bcd, data, 2):
            return BAD_DIGITS
        version = data[0] >> 4
    else:
        if fails(not_digits, data, 4):
            return BAD_DIGITS
        version = data[0] - 48
    return FINE if version == table.version else BAD_VERSION


cdef inline int read_head(
    const Table* table, const uint8_t* data, Py_ssize_t size, Layout* layout, Fault* fault
) noexcept nogil:
    """Message type and bitmaps; leaves the place behind them in `fault.offset`."""
    cdef Py_ssize_t at = mti_bytes(table), width = bitmap_bytes(table)
    cdef int reason
    fault.field = 0
    fault.offset = 0
    layout.bits[0] = layout.bits[1] = 0
    if size < at:
        return ENDS_EARLY
    reason = read_mti(table, data)
    if reason != FINE:
        return reason
    fault.field = SECONDARY
    fault.offset = at
    if size - at < width:
        return ENDS_EARLY
    reason = read_bitmap(table, data + at, &layout.bits[0])
    if reason != FINE:
        return reason
    at += width
    if layout.bits[0] & bit_of(SECONDARY):
        layout.bits[0] ^= bit_of(SECONDARY)
        fault.offset = at
        if size - at < width:
            return ENDS_EARLY
        reason = read_bitmap(table, data + at, &layout.bits[1])
        if reason != FINE:
            return reason
        if layout.bits[1] == 0:
            return EMPTY_SECONDARY
        if layout.bits[1] & bit_of(THIRD_BITMAP):
            fault.field = THIRD_BITMAP
            return HAS_THIRD_BITMAP
        at += width
    fault.offset = at
    return FINE


cdef inline int read_frame(
    Table* table, const uint8_t* data, Py_ssize_t size, Layout* layout, Fault* fault
) noexcept nogil:
    """Finds and checks every field; on anything but FINE `fault` says where.

    `layout.start` has room for all that there can be (FIELDS).
    """
    cdef Py_ssize_t at
    cdef uint64_t bits
    cdef int reason, half, field
    cdef const Shape* shape
    fault.field = NO_FIELD
    fault.offset = 0
    if size > LONGEST_FRAME:
        return FRAME_TOO_LONG
    reason = read_head(table, data, size, layout, fault)
    if reason != FINE:
        return reason
    at = fault.offset
    shape = shape_of(table.shapes, table.rows, layout.bits)
    if shape is not NULL and size == take_shape(
            shape, table.rows, data, size, at, layout.start):
        layout.last = shape.last
        layout.count = shape.count
        fault.field = NO_FIELD
        return FINE
    layout.last = layout.count = 0
    for half in range(2):
        bits = layout.bits[half]
        while bits:
            field = 64 * half + 1 + cs_leading_zeros(bits)
            bits ^= bit_of(field)
            layout.start[layout.count] = <uint16_t>at
            reason = take_field(&table.rows[field], data, size, &at)
            if reason != FINE:
                fault.field = field
                fault.offset = at
                return reason
            layout.last = field
            layout.count += 1
    fault.field = NO_FIELD
    fault.offset = at
    return FINE if at == size else LEFT_OVER


cdef inline Py_ssize_t put_head(
    const Table* table, const uint8_t* digits, const uint64_t* bits, uint8_t* frame
) noexcept nogil:
    """Message type and bitmaps at the front of a frame (at most 36 bytes); returns their size."""
    cdef uint8_t opened[16]
    cdef Py_ssize_t at = mti_bytes(table), size = 16 if bits[1] else 8
    if table.mti_bcd:
        put_bcd(NO_PAD, digits, 4, 4, frame)
    else:
        memcpy(frame, digits, 4)
    put_big_endian(bits[0] | (bit_of(SECONDARY) if bits[1] else 0), opened)
    put_big_endian(bits[1], opened + 8)
    if table.bitmap_raw:
        memcpy(frame + at, opened, size)
        return at + size
    bytes_to_hex(opened, size, frame + at)
    return at + 2 * size
