# Length headers in plain C: what a frame claims, and how a claim is written.

from libc.stdint cimport uint8_t

cdef enum:
    BINARY2 = 0
    ASCII4 = 1
    TPDU = 2
    TPDU_LENGTH = 5
    # what claimed_length() says of a header that cannot be followed
    OVER_MAXIMUM = -1
    NOT_DIGITS = -2
    UNDER_TPDU = -3


cdef inline Py_ssize_t longest_frame(int form) noexcept nogil:
    return 9999 if form == ASCII4 else 65535


cdef inline Py_ssize_t header_size(int form) noexcept nogil:
    return 4 if form == ASCII4 else 2


cdef inline Py_ssize_t claimed_length(
    int form, Py_ssize_t max_length, const uint8_t* header
) noexcept nogil:
    """The length a header claims, or one of the negative reasons."""
    cdef Py_ssize_t length = 0
    cdef int i
    if form == ASCII4:
        for i in range(4):
            if header[i] < 48 or header[i] > 57:
                return NOT_DIGITS
            length = length * 10 + (header[i] - 48)
    else:
        length = (<Py_ssize_t>header[0] << 8) | header[1]
    if length > max_length:
        return OVER_MAXIMUM
    if form == TPDU and 0 < length < TPDU_LENGTH:
        return UNDER_TPDU
    return length


cdef inline void put_header(int form, Py_ssize_t length, uint8_t* out) noexcept nogil:
    cdef int i
    if form == ASCII4:
        for i in range(3, -1, -1):
            out[i] = 48 + length % 10
            length //= 10
    else:
        out[0] = length >> 8
        out[1] = length & 0xFF
