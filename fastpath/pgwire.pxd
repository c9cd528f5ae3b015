# What other compiled modules need to read a value in its binary form.

from libc.stdint cimport uint8_t, uint32_t

cdef object value_of(uint32_t oid, const uint8_t* data, Py_ssize_t size)
cdef uint32_t word_at(const uint8_t* data, Py_ssize_t at) noexcept nogil
