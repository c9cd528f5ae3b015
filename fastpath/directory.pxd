# What the batch reader uses of the directory of terminals.

from libc.stdint cimport int64_t, uint8_t

from fastpath.mac cimport key_ref

cdef enum:
    NAME_LENGTH = 16
    KEYS_MAX = 4

cdef struct KeySlot:
    int version
    int64_t until_s  # taken before this instant
    key_ref key

cdef struct Terminal:
    uint8_t name[NAME_LENGTH]  # without its blanks, then zeros
    int keys
    KeySlot slots[KEYS_MAX]

cdef class TerminalKeyTable:
    cdef Terminal* terminals
    cdef int* buckets  # index of a terminal plus 1, 0 where empty
    cdef size_t bucket_count
    cdef readonly Py_ssize_t count
    cdef list held_keys  # of each terminal: a tuple of MacKeys
    cdef list held_owners
    cdef int find(self, const uint8_t* name, Py_ssize_t size) noexcept nogil
