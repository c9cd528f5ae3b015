# What the batch reader uses of the token table: look-ups of many card numbers without the GIL.

from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef extern from "aes.h" nogil:
    ctypedef struct aes_cmac_key:
        pass

cdef extern from "token_slots.h" nogil:
    ctypedef struct token_slot:
        pass
    ctypedef struct token_additions:
        pass

# A card number as it came: characters that somebody keeps alive, and their number.
cdef struct number:
    const uint8_t *digits
    Py_ssize_t count

cdef class TokenKey:
    cdef aes_cmac_key schedule
    cdef bint compute(self, const number *pan, uint8_t *block) noexcept nogil

cdef class TokenTable:
    cdef TokenKey key
    cdef const uint8_t[::1] view
    cdef const token_slot *slots
    cdef uint64_t count
    cdef uint64_t capacity
    cdef uint64_t total
    cdef token_additions *additions
    cdef tuple place
    cdef bint holds(self, uint64_t checksum)
    cdef int ready(self) except -1
    cdef int take_over(self, TokenTable other) except -1
    cdef uint32_t find(self, const uint8_t *digest) noexcept nogil
    cdef void find_all(
        self, const number *numbers, uint32_t *found, Py_ssize_t count) noexcept nogil
