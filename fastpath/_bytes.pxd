# Inline checks and conversions of digits, hex and text. Eight bytes at a time: every test below is
# a sum over the bytes of a word, so it does not matter in which order the machine stores them.
# All of them trust the caller for the bounds of `data`.

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

cdef extern from *:
    """
    #include <stdint.h>
    static const char CS_HEX[] = "0123456789ABCDEF";
    static inline int cs_leading_zeros(uint64_t word) { return __builtin_clzll(word); }
    """
    const char* CS_HEX
    int cs_leading_zeros(uint64_t word) noexcept nogil

ctypedef uint64_t (*Test)(uint64_t word) noexcept nogil


cdef inline uint64_t word_at(const uint8_t* data) noexcept nogil:
    cdef uint64_t word
    memcpy(&word, data, 8)
    return word


cdef inline uint64_t short_word(const uint8_t* data, Py_ssize_t size) noexcept nogil:
    """Eight bytes made of the 1 .. 7 there are, some of them twice: enough to test each."""
    cdef uint32_t low, high
    cdef uint16_t first, last
    if size >= 4:
        memcpy(&low, data, 4)
        memcpy(&high, data + size - 4, 4)
        return (<uint64_t>high << 32) | low
    if size >= 2:
        memcpy(&first, data, 2)
        memcpy(&last, data + size - 2, 2)
        return ((<uint64_t>last << 16) | first) * <uint64_t>0x0000000100000001
    return data[0] * <uint64_t>0x0101010101010101


cdef inline uint64_t not_digits(uint64_t word) noexcept nogil:
    """Not zero when a byte is no ASCII digit (a carry needs a byte that already fails)."""
    cdef uint64_t high = <uint64_t>0xF0F0F0F0F0F0F0F0, three = <uint64_t>0x3030303030303030
    return ((word & high) ^ three) | (((word + <uint64_t>0x0606060606060606) & high) ^ three)


cdef inline uint64_t not_bcd(uint64_t word) noexcept nogil:
    """Not zero when a half-byte is over 9."""
    return (word >> 3) & ((word >> 2) | (word >> 1)) & <uint64_t>0x1111111111111111


cdef inline uint64_t not_track(uint64_t word) noexcept nogil:
    """Not zero when a half-byte is over 9 and not D, the separator of track 2."""
    cdef uint64_t separator = (word >> 3) & (word >> 2) & ~(word >> 1) & word
    return not_bcd(word) & ~separator


cdef inline uint64_t not_text(uint64_t word) noexcept nogil:
    """Not zero when a byte is a control character: under 0x20, or 0x7F."""
    cdef uint64_t top = <uint64_t>0x8080808080808080, ones = <uint64_t>0x0101010101010101
    cdef uint64_t delete = word ^ (ones * 0x7F)
    return ((word - ones * 0x20) & ~word & top) | ((delete - ones) & ~delete & top)


cdef inline bint fails(Test test, const uint8_t* data, Py_ssize_t size) noexcept nogil:
    """Whether any of `size` bytes fails the test."""
    cdef uint64_t bad = 0
    cdef Py_ssize_t position = 0
    if size >= 8:
        while position + 8 <= size:
            bad |= test(word_at(data + position))
            position += 8
        if position < size:
            bad |= test(word_at(data + size - 8))
    elif size > 0:
        bad = test(short_word(data, size))
    return bad != 0


cdef inline int nibble_of_hex(uint8_t character) noexcept nogil:
    """0 .. 15, or -1: upper case only."""
    if 48 <= character <= 57:
        return character - 48
    if 65 <= character <= 70:
        return character - 55
    return -1


cdef inline bint not_hex(const uint8_t* data, Py_ssize_t size) noexcept nogil:
    cdef int seen = 0
    cdef Py_ssize_t i
    for i in range(size):
        seen |= nibble_of_hex(data[i])
    return seen < 0


cdef inline void hex_to_bytes(const uint8_t* data, Py_ssize_t size, uint8_t* out) noexcept nogil:
    """`size` bytes from twice as many characters that are known to be hex."""
    cdef Py_ssize_t i
    for i in range(size):
        out[i] = (nibble_of_hex(data[2 * i]) << 4) | nibble_of_hex(data[2 * i + 1])


cdef inline void bytes_to_hex(const uint8_t* data, Py_ssize_t size, uint8_t* out) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(size):
        out[2 * i] = CS_HEX[data[i] >> 4]
        out[2 * i + 1] = CS_HEX[data[i] & 15]


cdef inline uint8_t character_of(int nibble) noexcept nogil:
    """The character of a checked half-byte: a digit, or the separator (D) as '='."""
    return 48 + nibble if nibble < 10 else 61


cdef inline void bcd_to_text(
    const uint8_t* data, Py_ssize_t count, bint skip, uint8_t* out
) noexcept nogil:
    """`count` characters from half-bytes; `skip` leaves the first half-byte out."""
    cdef Py_ssize_t i, place
    for i in range(count):
        place = i + skip
        out[i] = character_of((data[place >> 1] >> 4) if not place & 1 else (data[place >> 1] & 15))


cdef inline void text_to_bcd(
    const uint8_t* text, Py_ssize_t count, Py_ssize_t first, uint8_t* out
) noexcept nogil:
    """Writes characters into zeroed `out` from half-byte `first`; '=' and 'D' both make a D."""
    cdef Py_ssize_t i, place
    cdef int nibble
    for i in range(count):
        place = first + i
        nibble = 13 if text[i] == 68 else text[i] & 15
        out[place >> 1] |= nibble if place & 1 else nibble << 4


cdef inline uint64_t big_endian(const uint8_t* data) noexcept nogil:
    cdef uint64_t word = 0
    cdef int i
    for i in range(8):
        word = (word << 8) | data[i]
    return word


cdef inline void put_big_endian(uint64_t word, uint8_t* out) noexcept nogil:
    cdef int i
    for i in range(8):
        out[i] = <uint8_t>(word >> (56 - 8 * i))
