# What other compiled modules may take out of a row's image without making objects of it.

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t

cdef enum:
    COLUMNS_MAX = 31


cdef class RowShape:
    cdef dict _places
    cdef Py_ssize_t _count
    cdef uint32_t _oids[COLUMNS_MAX]

    cpdef Py_ssize_t place(self, str name) except -1


cdef class RowImage:
    cdef readonly bytes image
    cdef RowShape _shape
    cdef int32_t _begins[COLUMNS_MAX]
    cdef int32_t _ends[COLUMNS_MAX]

    cdef object _at(self, Py_ssize_t place)
    cdef int64_t whole(self, Py_ssize_t place) except? -1
    cdef const uint8_t* raw(self, Py_ssize_t place, Py_ssize_t* size) except NULL


cdef struct Numbers:
    const uint8_t* at
    Py_ssize_t left      # bytes
    Py_ssize_t before    # numbers that come before the first element, and are none
    bint readable


cdef class SpreadShape:
    cdef RowShape _outer, _inner
    cdef Py_ssize_t _sources[COLUMNS_MAX]
    cdef Py_ssize_t _numbers

    cdef RowImage _row(self, RowImage outer, Py_ssize_t place, Numbers* numbers)
