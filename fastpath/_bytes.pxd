# Inline checks and conversions of digits, hex and text. Eight bytes at a time: every test below is
# a sum over the bytes of a word, so it does not matter in which order the machine stores them.
# All of them trust the caller for the bounds of `data`.

from libc.stdint cimport uint8_t, uint64_t

cdef extern from *:
    """
    #include <stddef.h>
    #include <stdint.h>
    #include <string.h>

    static const char CS_HEX[] = "0123456789ABCDEF";

    static inline int cs_leading_zeros(uint64_t word) { return __builtin_clzll(word); }

    /* Pointers that other threads may be storing; a place is filled once. */
    #define cs_load_shape(place) __atomic_load_n((place), __ATOMIC_ACQUIRE)
    #define cs_store_shape(place, shape) cs_fill_once((void **)(place), (shape))
    static inline int cs_fill_once(void **place, void *filled) {
        void *empty = NULL;
        return __atomic_compare_exchange_n(
            place, &empty, filled, 0, __ATOMIC_RELEASE, __ATOMIC_RELAXED);
    }

    /* 16 hex digits, checked before, as a number. */
    static inline uint64_t cs_number_of_hex(const uint8_t *data) {
        uint64_t number = 0;
        for (int half = 0; half < 2; half++) {
            uint64_t word = 0;
            for (int i = 0; i < 8; i++)
                word |= (uint64_t)data[8 * half + i] << (8 * i);
            word = (word & UINT64_C(0x0F0F0F0F0F0F0F0F)) +
                   9 * ((word >> 6) & UINT64_C(0x0101010101010101));
            word = ((word << 4) | (word >> 8)) & UINT64_C(0x00FF00FF00FF00FF);
            number = number << 32 | (word & 0xFF) << 24 | (word >> 16 & 0xFF) << 16 |
                     (word >> 32 & 0xFF) << 8 | (word >> 48 & 0xFF);
        }
        return number;
    }

    /* How many bits are set, without the call that compilers make of it for old processors. */
    static inline int cs_ones(uint64_t word) {
        word -= (word >> 1) & UINT64_C(0x5555555555555555);
        word = (word & UINT64_C(0x3333333333333333)) + ((word >> 2) & UINT64_C(0x3333333333333333));
        word = (word + (word >> 4)) & UINT64_C(0x0F0F0F0F0F0F0F0F);
        return (int)((word * UINT64_C(0x0101010101010101)) >> 56);
    }

    /* Eight bytes made of the 1 .. 7 there are, some of them twice: enough to test each. */
    static inline uint64_t cs_short_word(const uint8_t *data, ptrdiff_t size) {
        uint32_t low, high;
        uint16_t first, last;
        if (size >= 4) {
            memcpy(&low, data, 4);
            memcpy(&high, data + size - 4, 4);
            return ((uint64_t)high << 32) | low;
        }
        if (size >= 2) {
            memcpy(&first, data, 2);
            memcpy(&last, data + size - 2, 2);
            return (((uint64_t)last << 16) | first) * UINT64_C(0x0000000100000001);
        }
        return data[0] * UINT64_C(0x0101010101010101);
    }

    /* Whether any of `size` bytes fails `test`. In C for the attribute: inlined with a test that is
       known, it has no call left in it. */
    static inline __attribute__((always_inline)) int fails(
        uint64_t (*test)(uint64_t), const uint8_t *data, ptrdiff_t size
    ) {
        uint64_t bad = 0, word;
        ptrdiff_t position = 0;
        if (size >= 8) {
            for (; position + 8 <= size; position += 8) {
                memcpy(&word, data + position, 8);
                bad |= test(word);
            }
            if (position < size) {
                memcpy(&word, data + size - 8, 8);
                bad |= test(word);
            }
        } else if (size > 0) {
            bad = test(cs_short_word(data, size));
        }
        return bad != 0;
    }
    """
    const char* CS_HEX
    int cs_leading_zeros(uint64_t word) noexcept nogil
    int cs_ones(uint64_t word) noexcept nogil
    uint64_t cs_number_of_hex(const uint8_t* data) noexcept nogil
    bint fails(uint64_t (*test)(uint64_t) noexcept nogil, const uint8_t* data, Py_ssize_t size) \
        noexcept nogil

ctypedef uint64_t (*Test)(uint64_t word) noexcept nogil


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


cdef inline uint64_t not_hex(uint64_t word) noexcept nogil:
    """Not zero when a byte is neither 0-9 nor A-F. Adding 0x80 - n sets the top bit from n on."""
    cdef uint64_t top = <uint64_t>0x8080808080808080, ones = <uint64_t>0x0101010101010101
    cdef uint64_t digit = (word + ones * 0x50) & ~(word + ones * 0x46)  # from 0x30, not from 0x3A
    cdef uint64_t letter = (word + ones * 0x3F) & ~(word + ones * 0x39)  # from 0x41, not from 0x47
    return (~(digit | letter) | word) & top


cdef inline uint64_t not_track_text(uint64_t word) noexcept nogil:
    """Not zero when a byte is no digit and no separator of track 2 ('=' or 'D')."""
    cdef uint64_t top = <uint64_t>0x8080808080808080, ones = <uint64_t>0x0101010101010101
    cdef uint64_t digit = (word + ones * 0x50) & ~(word + ones * 0x46)
    # adding 0x7F sets the top bit of everything but 0
    cdef uint64_t equals = ~((word ^ (ones * 0x3D)) + ones * 0x7F)
    cdef uint64_t letter = ~((word ^ (ones * 0x44)) + ones * 0x7F)
    return (~(digit | equals | letter) | word) & top


cdef inline int nibble_of_hex(uint8_t character) noexcept nogil:
    """0 .. 15 of a checked upper-case hex character."""
    return (character & 15) + 9 * (character >> 6)


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
