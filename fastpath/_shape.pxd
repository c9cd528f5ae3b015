# What a bitmap says about its frame, worked out once: fixed fields of one kind behind each other are
# one run, with one check of bounds and of bytes. A frame that does not pass is read field by field,
# which says what is wrong with it.
#
# Shapes belong to a packager and are shared by all threads: each is finished before its pointer is
# stored, and never changed or freed while the packager lives. There is room for a few; whoever sends
# more kinds of bitmap than that is read field by field.

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc

from fastpath._bytes cimport (
    cs_leading_zeros,
    fails,
    not_bcd,
    not_digits,
    not_hex,
    not_text,
)
from fastpath._wire cimport (
    DIGITS,
    DIGITS_BCD,
    FINE,
    FIXED,
    HEX_TEXT,
    RAW,
    TEXT,
    UNDECLARED,
    Row,
    take_field,
)

cdef enum:
    SHAPES = 64
    SHAPE_FIELDS = 128

cdef struct Step:
    uint8_t check  # of a run; UNDECLARED for a field by itself
    uint8_t field
    uint16_t fields
    uint32_t size

cdef struct Shape:
    uint64_t bits[2]
    int steps
    int count
    int last
    Step step[SHAPE_FIELDS]
    uint16_t within[SHAPE_FIELDS]  # where each field begins in its run


cdef extern from *:  # in _bytes.pxd
    Shape* cs_load_shape(Shape** place) noexcept nogil
    bint cs_store_shape(Shape** place, Shape* shape) noexcept nogil


cdef inline size_t shape_place(const uint64_t* bits) noexcept nogil:
    cdef uint64_t mixed = (bits[0] ^ (bits[1] * <uint64_t>0x9E3779B97F4A7C15))
    return <size_t>((mixed * <uint64_t>0xC2B2AE3D27D4EB4F) >> 58)


cdef inline bint makes_runs(const Row* row) noexcept nogil:
    """Whether nothing but the bytes of a field has to be looked at."""
    if row.length_form != FIXED:
        return False
    if row.check == DIGITS_BCD:
        return row.length % 2 == 0
    return row.check == DIGITS or row.check == TEXT or row.check == RAW or row.check == HEX_TEXT


cdef inline Shape* new_shape(const Row* rows, const uint64_t* bits) noexcept nogil:
    """NULL without memory."""
    cdef Shape* shape = <Shape*>malloc(sizeof(Shape))
    cdef Step* step = NULL
    cdef uint64_t left
    cdef int half, field
    if shape is NULL:
        return NULL
    shape.bits[0] = bits[0]
    shape.bits[1] = bits[1]
    shape.steps = shape.count = shape.last = 0
    for half in range(2):
        left = bits[half]
        while left:
            field = 64 * half + 1 + cs_leading_zeros(left)
            left &= ~(<uint64_t>1 << (63 - ((field - 1) & 63)))
            if not makes_runs(&rows[field]):
                step = &shape.step[shape.steps]
                step.check = UNDECLARED
                step.size = 0
            elif step is NULL or step.check != rows[field].check:
                step = &shape.step[shape.steps]
                step.check = rows[field].check
                step.size = 0
            else:
                shape.steps -= 1  # goes on
                step.fields += 1
            if step.size == 0:
                step.field = <uint8_t>field
                step.fields = 1
            shape.within[shape.count] = <uint16_t>step.size
            step.size += rows[field].fixed_bytes if step.check != UNDECLARED else 0
            shape.steps += 1
            shape.count += 1
            shape.last = field
    return shape


cdef inline const Shape* shape_of(
    Shape** shapes, const Row* rows, const uint64_t* bits
) noexcept nogil:
    """The shape of a bitmap, made if there is room for it; else NULL."""
    cdef Shape** place = shapes + shape_place(bits)
    cdef Shape* shape = cs_load_shape(place)
    if shape is NULL:
        shape = new_shape(rows, bits)
        if shape is NULL:
            return NULL
        if not cs_store_shape(place, shape):  # somebody else was faster
            free(shape)
            shape = cs_load_shape(place)
    if shape.bits[0] != bits[0] or shape.bits[1] != bits[1]:
        return NULL
    return shape


cdef inline bint run_fails(int check, const uint8_t* data, Py_ssize_t size) noexcept nogil:
    if check == DIGITS:
        return fails(not_digits, data, size)
    if check == DIGITS_BCD:
        return fails(not_bcd, data, size)
    if check == TEXT:
        return fails(not_text, data, size)
    if check == HEX_TEXT:
        return fails(not_hex, data, size)
    return False


cdef inline Py_ssize_t take_shape(
    const Shape* shape, const Row* rows, const uint8_t* data, Py_ssize_t size, Py_ssize_t at,
    uint16_t* start
) noexcept nogil:
    """Finds all fields from `at` on; returns the place behind the last, -1 if anything is wrong."""
    cdef const Step* step
    cdef int n, i, k = 0
    for n in range(shape.steps):
        step = &shape.step[n]
        if step.check == UNDECLARED:
            start[k] = <uint16_t>at
            k += 1
            if take_field(&rows[step.field], data, size, &at) != FINE:
                return -1
            continue
        if size - at < <Py_ssize_t>step.size or run_fails(step.check, data + at, step.size):
            return -1
        for i in range(step.fields):
            start[k] = <uint16_t>(at + shape.within[k])
            k += 1
        at += step.size
    return at
