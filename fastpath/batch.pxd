# What the writer of replies uses of a batch of messages.

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t

from fastpath._frame cimport Fault, Layout
from fastpath.codec cimport Plan
from fastpath.directory cimport TerminalKeyTable
from fastpath.tokens cimport TokenTable

# One message: where it is, and what was found out about it.
cdef struct Entry:
    uint32_t start
    uint32_t size
    size_t first  # of its fields' places in the pool
    Layout layout
    Fault fault
    int reason
    int verdict
    int terminal
    int slot
    uint32_t card_id
    bint has_number

cdef class MessageBatch:
    cdef bytes arena
    cdef const uint8_t* bytes  # of the arena
    cdef Py_ssize_t size
    cdef bint has_directory
    cdef bint has_tokens
    cdef readonly object packager
    cdef Plan plan
    cdef TerminalKeyTable directory
    cdef int form
    cdef Entry* entries
    cdef uint16_t* pool
    cdef Py_ssize_t count
    cdef Py_ssize_t room
    cdef size_t pool_count
    cdef size_t pool_room
    cdef const uint8_t* bytes_of(self, const Entry* entry) noexcept nogil
    cdef Entry* entry(self, Py_ssize_t n) except NULL
    cdef Entry* sound(self, Py_ssize_t n) except NULL
    cdef int append(self, Py_ssize_t start, Py_ssize_t size) noexcept nogil
    cdef int decode_all(self) noexcept nogil
    cdef const uint8_t* field(self, const Entry* entry, int de, Py_ssize_t* count) noexcept nogil

cdef int examine(MessageBatch batch, int64_t now_s, TokenTable tokens) noexcept nogil
cdef MessageBatch new_batch(
    object packager, Plan plan, int form, bytes arena, TerminalKeyTable keys, TokenTable tokens)
