# One field on the wire: what the codec does with the rows of a flattened packager, in plain C.
# Reading checks every bound before it touches a byte; writing checks value and room before it does.

from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy, memset

from fastpath._bytes cimport (
    Test,
    bytes_to_hex,
    fails,
    not_bcd,
    not_digits,
    not_hex,
    not_text,
    not_track,
    not_track_text,
    text_to_bcd,
)

cdef enum Check:
    UNDECLARED = 0
    DIGITS
    DIGITS_BCD
    TRACK
    TRACK_BCD
    SIGNED
    SIGNED_BCD
    TEXT
    RAW
    HEX_TEXT

cdef enum Padding:
    NO_PAD = 0
    LEFT_ZERO
    RIGHT_ZERO
    RIGHT_F

cdef enum LengthForm:
    FIXED = 0
    LENGTH_ASCII
    LENGTH_BCD
    LENGTH_BINARY

# positions in the tuple of sentences in codec.pyx
cdef enum Reason:
    FINE = 0
    ENDS_EARLY
    LENGTH_NOT_NUMBER
    OVER_LONG
    BAD_DIGITS
    BAD_TRACK
    BAD_SIGN
    BAD_TEXT
    BAD_HEX
    ODD_HEX
    BAD_PADDING
    NOT_DECLARED
    BAD_VERSION
    EMPTY_SECONDARY
    HAS_THIRD_BITMAP
    LEFT_OVER
    FRAME_TOO_LONG
    WRONG_LENGTH
    EMPTY_NUMBER
    NOT_LATIN
    OUT_OF_RANGE
    SEALED_LATER
    NO_MAC_FIELD
    NOT_UNSEALED

cdef struct Row:
    uint8_t check
    uint8_t pad
    uint8_t length_form
    uint8_t length_bytes  # of the prefix
    uint8_t counts_wire  # a variable hex field whose length counts characters
    uint8_t holds_mac  # fixed, 8 bytes, DE 64 or 128
    uint16_t length  # exact, or the longest
    uint32_t fixed_bytes  # on the wire of a fixed field


cdef inline Py_ssize_t wire_bytes(const Row* row, Py_ssize_t count) noexcept nogil:
    """Bytes on the wire of a value of `count` units, without its length prefix."""
    if row.check == DIGITS_BCD or row.check == TRACK_BCD:
        return (count + 1) >> 1
    if row.check == SIGNED_BCD:
        return 1 + (count >> 1)
    if row.check == HEX_TEXT and not row.counts_wire:
        return 2 * count
    return count


cdef inline Py_ssize_t read_length(const Row* row, const uint8_t* data) noexcept nogil:
    """The number a length prefix holds, or -1 when it is none."""
    cdef Py_ssize_t length = 0
    cdef int i, high, low
    for i in range(row.length_bytes):
        if row.length_form == LENGTH_ASCII:
            low = data[i] - 48
            if low < 0 or low > 9:
                return -1
            length = length * 10 + low
        elif row.length_form == LENGTH_BCD:
            high = data[i] >> 4
            low = data[i] & 15
            if high > 9 or low > 9:
                return -1
            length = length * 100 + high * 10 + low
        else:
            length = (length << 8) | data[i]
    return length


cdef inline void write_length(const Row* row, Py_ssize_t length, uint8_t* out) noexcept nogil:
    cdef int i
    for i in range(row.length_bytes - 1, -1, -1):
        if row.length_form == LENGTH_ASCII:
            out[i] = 48 + length % 10
            length //= 10
        elif row.length_form == LENGTH_BCD:
            out[i] = (((length % 100) // 10) << 4) | (length % 10)
            length //= 100
        else:
            out[i] = length & 0xFF
            length >>= 8


cdef inline int check_bcd(
    Test test, int otherwise, int pad, const uint8_t* data, Py_ssize_t digits
) noexcept nogil:
    """Half-bytes of `digits` digits, and the idle one where that number is odd."""
    cdef Py_ssize_t size = (digits + 1) >> 1
    if digits & 1:
        if pad == LEFT_ZERO:
            if data[0] >> 4:
                return BAD_PADDING
        elif pad == RIGHT_F:
            if data[size - 1] & 15 != 15:
                return BAD_PADDING
            if fails(test, data, size - 1) or test(data[size - 1] & 0xF0):
                return otherwise
            return FINE
        elif data[size - 1] & 15:
            return BAD_PADDING
    return otherwise if fails(test, data, size) else FINE


cdef inline int check_value(const Row* row, const uint8_t* data, Py_ssize_t count) noexcept nogil:
    """Whether the value at `data`, all of it inside the frame, is what its kind allows."""
    if row.check == UNDECLARED:
        return NOT_DECLARED
    if row.check == DIGITS:
        return BAD_DIGITS if fails(not_digits, data, count) else FINE
    if row.check == DIGITS_BCD:
        return check_bcd(not_bcd, BAD_DIGITS, row.pad, data, count)
    if row.check == TEXT:
        return BAD_TEXT if fails(not_text, data, count) else FINE
    if row.check == RAW:
        return FINE
    if row.check == HEX_TEXT:
        return BAD_HEX if fails(not_hex, data, wire_bytes(row, count)) else FINE
    if row.check == TRACK_BCD:
        return check_bcd(not_track, BAD_TRACK, row.pad, data, count)
    if row.check == TRACK:
        return BAD_TRACK if fails(not_track_text, data, count) else FINE
    if data[0] != 67 and data[0] != 68:  # C, D
        return BAD_SIGN
    if row.check == SIGNED:
        return BAD_DIGITS if fails(not_digits, data + 1, count - 1) else FINE
    return check_bcd(not_bcd, BAD_DIGITS, row.pad, data + 1, count - 1)


cdef inline int take_field(
    const Row* row, const uint8_t* data, Py_ssize_t size, Py_ssize_t* position
) noexcept nogil:
    """Checks the field at `position` of a frame of `size` bytes; moves behind it when it is fine."""
    cdef Py_ssize_t at = position[0], length = row.length, needed = row.fixed_bytes
    cdef int reason
    if row.length_form != FIXED:
        if size - at < row.length_bytes:
            return ENDS_EARLY
        length = read_length(row, data + at)
        if length < 0:
            return LENGTH_NOT_NUMBER
        if length > row.length:
            return OVER_LONG
        at += row.length_bytes
        if row.counts_wire and length & 1:
            return ODD_HEX
        needed = wire_bytes(row, length)
    if size - at < needed:
        return ENDS_EARLY
    reason = check_value(row, data + at, length)
    position[0] = position[0] if reason else at + needed
    return reason


cdef inline int judge_value(
    const Row* row, const uint8_t* text, Py_ssize_t size, Py_ssize_t* count
) noexcept nogil:
    """Whether a value to be written fits its row; `count` is then its length as sent."""
    cdef bint fixed = row.length_form == FIXED
    count[0] = row.length if fixed else size
    if row.check == UNDECLARED:
        return NOT_DECLARED
    if row.check == RAW or row.check == HEX_TEXT:
        if row.counts_wire:
            count[0] = 2 * size
        if count[0] > row.length or (fixed and size != row.length):
            return WRONG_LENGTH
        return FINE
    if size > row.length:
        return WRONG_LENGTH
    if row.check == TEXT:
        return BAD_TEXT if fails(not_text, text, size) else FINE
    if row.check == TRACK or row.check == TRACK_BCD:
        if fixed and size != row.length:
            return WRONG_LENGTH
        return BAD_TRACK if fails(not_track_text, text, size) else FINE
    if row.check == SIGNED or row.check == SIGNED_BCD:
        if size < 2:
            return EMPTY_NUMBER
        if text[0] != 67 and text[0] != 68:
            return BAD_SIGN
        return BAD_DIGITS if fails(not_digits, text + 1, size - 1) else FINE
    if fixed and size == 0:
        return EMPTY_NUMBER
    return BAD_DIGITS if fails(not_digits, text, size) else FINE


cdef inline void put_bcd(
    int pad, const uint8_t* text, Py_ssize_t size, Py_ssize_t digits, uint8_t* out
) noexcept nogil:
    """`size` characters as `digits` half-bytes, zeros in front where there are fewer."""
    cdef Py_ssize_t first = digits - size
    if digits & 1 and pad == LEFT_ZERO:
        first += 1
    memset(out, 0, (digits + 1) >> 1)
    text_to_bcd(text, size, first, out)
    if digits & 1 and pad == RIGHT_F:
        out[digits >> 1] |= 15


cdef inline void put_value(
    const Row* row, const uint8_t* text, Py_ssize_t size, Py_ssize_t count, uint8_t* out
) noexcept nogil:
    """Writes a judged value, padded to `count` units."""
    if row.check == TEXT:
        memcpy(out, text, size)
        memset(out + size, 32, count - size)
    elif row.check == DIGITS:
        memset(out, 48, count - size)
        memcpy(out + count - size, text, size)
    elif row.check == DIGITS_BCD or row.check == TRACK_BCD:
        put_bcd(row.pad, text, size, count, out)
    elif row.check == SIGNED:
        out[0] = text[0]
        memset(out + 1, 48, count - size)
        memcpy(out + 1 + count - size, text + 1, size - 1)
    elif row.check == SIGNED_BCD:
        out[0] = text[0]
        put_bcd(row.pad, text + 1, size - 1, count - 1, out + 1)
    elif row.check == HEX_TEXT:
        bytes_to_hex(text, size, out)
    else:
        memcpy(out, text, size)


cdef inline int put_field(
    const Row* row,
    const uint8_t* text,
    Py_ssize_t size,
    uint8_t* frame,
    Py_ssize_t room,
    Py_ssize_t* position,
) noexcept nogil:
    """Writes one field at `position` of a buffer of `room` bytes; moves behind it when it fits."""
    cdef Py_ssize_t at = position[0], count = 0, needed
    cdef int reason = judge_value(row, text, size, &count)
    if reason != FINE:
        return reason
    needed = row.length_bytes + wire_bytes(row, count)
    if room - at < needed:
        return FRAME_TOO_LONG
    write_length(row, count, frame + at)
    put_value(row, text, size, count, frame + at + row.length_bytes)
    position[0] = at + needed
    return FINE
