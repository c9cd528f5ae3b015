# What other compiled modules use of the codec: packagers as C reads them, messages, and the writing
# of values.

from cpython.object cimport PyObject
from libc.stdint cimport uint8_t, uint16_t, uint64_t

from fastpath._frame cimport FIELDS, Layout, Table
from fastpath._wire cimport Row

cdef enum:
    FIRST_MAC = 64
    SECOND_MAC = 128
    MAC_BYTES = 8

cdef struct Draft:
    PyObject* values[FIELDS]  # borrowed from the caller's mapping
    uint64_t bits[2]

cdef class Plan:
    cdef Table table

cdef class Message:
    cdef readonly bytes raw
    cdef readonly object packager
    cdef Plan plan
    cdef Layout layout
    cdef uint16_t starts[FIELDS]
    cdef const uint8_t* data(self) noexcept
    cdef object text_of(self, int de, bint normal)
    cdef bytes bytes_of(self, int de)
    cdef bint is_binary(self, int de) noexcept
    cdef list numbers(self)

cdef object format_error(int reason, int field, Py_ssize_t offset)
cdef Plan plan_of(object packager)
cdef Message new_message(bytes raw, object packager, Plan plan, const Layout* layout)
cdef object mti_text(const Table* table, const uint8_t* data)
cdef object field_text(
    const Table* table, const uint8_t* data, const Layout* layout, int de, bint normal)
cdef bytes field_bytes(const Table* table, const uint8_t* data, const Layout* layout, int de)
cdef object field_amount(const Table* table, const uint8_t* data, const Layout* layout, int de)
cdef dict as_dict(object fields)
cdef int collect(dict fields, Draft* draft) except -1
cdef int take_mti(const Table* table, object mti, uint8_t* digits) except -1
cdef int announce_mac(const Table* table, uint64_t* bits) except -1
cdef int put_object(
    const Row* row, int field, PyObject* value, uint8_t* frame, Py_ssize_t* position) except -1
