# cython: language_level=3, boundscheck=False, wraparound=False
"""Messages of the PostgreSQL frontend/backend protocol 3.0, as far as a journal needs them.

Bytes only: whoever has a connection sends what `bind_execute` makes and reads what `Messages` splits.
All values travel in their binary form (the `send` and `recv` functions of each type).
"""

cimport cython
from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_GET_SIZE
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_AsUTF8AndSize
from libc.stdint cimport int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy

import datetime

cdef extern from *:
    """
    #define CS_BIG16(x) __builtin_bswap16(x)
    #define CS_BIG32(x) __builtin_bswap32(x)
    #define CS_BIG64(x) __builtin_bswap64(x)
    #if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
    #error "written for little-endian machines"
    #endif
    """
    uint16_t CS_BIG16(uint16_t value) nogil
    uint32_t CS_BIG32(uint32_t value) nogil
    uint64_t CS_BIG64(uint64_t value) nogil

__all__ = [
    "MESSAGE_BYTES_MAX",
    "Messages",
    "bind_execute",
    "decode_row",
    "message",
    "parse_describe",
]

cdef enum:
    DATA_ROW = 68  # "D"

cdef enum:
    BOOL = 16
    BYTEA = 17
    INT8 = 20
    INT2 = 21
    INT4 = 23
    TEXT = 25
    FLOAT8 = 701
    BPCHAR = 1042
    VARCHAR = 1043
    DATE = 1082
    TIMESTAMPTZ = 1184
    NAME = 19
    VOID = 2278
    XID8 = 5069

cdef dict _ELEMENT_OF = {
    1001: BYTEA, 1005: INT2, 1007: INT4, 1016: INT8, 1009: TEXT, 1014: BPCHAR, 1015: VARCHAR,
    1000: BOOL, 1003: NAME, 1185: TIMESTAMPTZ,
}
_EPOCH = datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC)
_EPOCH_DAY = datetime.date(2000, 1, 1).toordinal()
_DAY_MIN, _DAY_MAX = -(1 << 31), (1 << 31) - 1
MESSAGE_BYTES_MAX = 1 << 28


@cython.final
@cython.auto_pickle(False)
cdef class _Writer:
    cdef char* data
    cdef Py_ssize_t size, room

    def __dealloc__(self):
        free(self.data)

    cdef char* reserve(self, Py_ssize_t count) except NULL:
        """Room for so many bytes at the end, which the caller fills."""
        cdef Py_ssize_t needed = self.size + count
        cdef char* grown
        if needed > self.room:
            needed = max(needed, 2 * self.room, 4096)
            grown = <char*>realloc(self.data, needed)
            if grown == NULL:
                raise MemoryError
            self.data = grown
            self.room = needed
        grown = self.data + self.size
        self.size += count
        return grown

    cdef int put16(self, int value) except -1:
        cdef uint16_t big = CS_BIG16(<uint16_t>value)
        memcpy(self.reserve(2), &big, 2)
        return 0

    cdef int put32(self, int64_t value) except -1:
        cdef uint32_t big = CS_BIG32(<uint32_t>value)
        memcpy(self.reserve(4), &big, 4)
        return 0

    cdef int put64(self, int64_t value) except -1:
        cdef uint64_t big = CS_BIG64(<uint64_t>value)
        memcpy(self.reserve(8), &big, 8)
        return 0

    cdef int put(self, const char* data, Py_ssize_t size) except -1:
        memcpy(self.reserve(size), data, size)
        return 0

    cdef int patch32(self, Py_ssize_t at) except -1:
        """The length of what has been written since `at`, without the four bytes there."""
        cdef uint32_t big = CS_BIG32(<uint32_t>(self.size - at - 4))
        memcpy(self.data + at, &big, 4)
        return 0

    cdef bytes taken(self):
        return PyBytes_FromStringAndSize(self.data, self.size)


cdef int _scalar(_Writer out, uint32_t oid, object value) except -1:
    """One value with its length in front. TypeError, OverflowError, ValueError where it is none."""
    cdef int64_t number
    cdef Py_ssize_t size
    cdef const char* text
    if value is None:
        return out.put32(-1)
    if oid == INT8 or oid == XID8:
        out.put32(8)
        return out.put64(<int64_t>value)
    if oid == INT4:
        number = value
        if not -0x80000000 <= number <= 0x7FFFFFFF:
            raise OverflowError("no int4")
        out.put32(4)
        return out.put32(number)
    if oid == INT2:
        number = value
        if not -0x8000 <= number <= 0x7FFF:
            raise OverflowError("no int2")
        out.put32(2)
        return out.put16(<int>number)
    if oid == BYTEA:
        if not isinstance(value, bytes):
            raise TypeError("bytea is bytes")
        size = PyBytes_GET_SIZE(value)
        out.put32(size)
        return out.put(PyBytes_AS_STRING(value), size)
    if oid in (TEXT, BPCHAR, VARCHAR, NAME):
        if not isinstance(value, str):
            raise TypeError("text is str")
        text = PyUnicode_AsUTF8AndSize(value, &size)
        out.put32(size)
        return out.put(text, size)
    if oid == BOOL:
        out.put32(1)
        out.reserve(1)[0] = 1 if value else 0
        return 0
    if oid == DATE:
        out.put32(4)
        return out.put32(value.toordinal() - _EPOCH_DAY)
    if oid == TIMESTAMPTZ:
        passed = value - _EPOCH
        number = (passed.days * 86_400 + passed.seconds) * 1_000_000 + passed.microseconds
        out.put32(8)
        return out.put64(number)
    raise TypeError(f"no binary form is known for the type {oid}")


cdef int _array(_Writer out, uint32_t element, object values) except -1:
    cdef Py_ssize_t at = out.size
    cdef Py_ssize_t count = len(values)
    out.put32(0)
    out.put32(1 if count else 0)
    out.put32(0)  # no nulls
    out.put32(element)
    if count:
        out.put32(count)
        out.put32(1)
    for value in values:
        if value is None:
            raise TypeError("no nulls in arrays")
        _scalar(out, element, value)
    return out.patch32(at)


def bind_execute(bytes statement, tuple oids, tuple values):
    """Bind, Execute and Sync of a prepared statement in one piece; all results in binary.

    `oids` are the types of its parameters, as Describe told them. An array is a sequence without
    None. TypeError, OverflowError and ValueError for values that are not of their type, before
    anything is sent.
    """
    cdef _Writer out = _Writer()
    cdef Py_ssize_t at, i, count = len(oids)
    if len(values) != count:
        raise TypeError(f"{len(values)} values for {count} parameters")
    out.put(b"B", 1)
    at = out.size
    out.put32(0)
    out.put(b"\0", 1)
    out.put(PyBytes_AS_STRING(statement), PyBytes_GET_SIZE(statement) + 1)
    out.put16(1)
    out.put16(1)
    out.put16(<int>count)
    for i in range(count):
        element = _ELEMENT_OF.get(oids[i])
        if element is None:
            _scalar(out, oids[i], values[i])
        else:
            _array(out, element, values[i])
    out.put16(1)
    out.put16(1)
    _patch_length(out, at)
    out.put(b"E\0\0\0\x09\0\0\0\0\0S\0\0\0\x04", 15)
    return out.taken()


cdef int _patch_length(_Writer out, Py_ssize_t at) except -1:
    """A message's length counts its own four bytes."""
    cdef uint32_t big = CS_BIG32(<uint32_t>(out.size - at))
    memcpy(out.data + at, &big, 4)
    return 0


def message(bytes kind, bytes body):
    """A frontend message: its type (b"" for the first of a connection), length and body."""
    return kind + (len(body) + 4).to_bytes(4, "big") + body


def parse_describe(bytes statement, str query):
    """Parse, Describe and Sync: prepare a statement under a name and ask what it takes and gives."""
    parsed = message(b"P", statement + b"\0" + query.encode() + b"\0\0\0")
    return parsed + message(b"D", b"S" + statement + b"\0") + message(b"S", b"")


@cython.final
@cython.auto_pickle(False)
cdef class Messages:
    """Splits what a server sends into (type, body); any cut of the stream gives the same."""

    cdef bytearray _data
    cdef Py_ssize_t _at

    def __cinit__(self):
        self._data = bytearray()
        self._at = 0

    def feed(self, data):
        """Bytes as they were read."""
        if self._at:
            del self._data[: self._at]
            self._at = 0
        self._data += data

    cdef Py_ssize_t _whole(self) except -2:
        """How long the next message's body is; -1 where it is not all there."""
        cdef const uint8_t* data = <const uint8_t*>PyByteArray_AS_STRING(self._data) + self._at
        cdef Py_ssize_t left = PyByteArray_GET_SIZE(self._data) - self._at
        cdef Py_ssize_t length
        if left < 5:
            return -1
        length = word_at(data, 1)
        if not 4 <= length <= MESSAGE_BYTES_MAX:
            raise ValueError("not a message of PostgreSQL")
        return length - 4 if left > length else -1

    def next(self):
        """The next whole message, or None. ValueError for a length that cannot be."""
        cdef Py_ssize_t size = self._whole(), at = self._at
        cdef const char* data = PyByteArray_AS_STRING(self._data) + at
        if size < 0:
            return None
        self._at = at + size + 5
        return <uint8_t>data[0], PyBytes_FromStringAndSize(data + 5, size)

    def rows(self, tuple oids):
        """The values of each DataRow that comes next, as far as they are whole.

        ValueError as from `decode_row`, or for a length that cannot be.
        """
        cdef Py_ssize_t size
        cdef const uint8_t* data
        cdef list rows = []
        while True:
            size = self._whole()
            data = <const uint8_t*>PyByteArray_AS_STRING(self._data) + self._at
            if size < 0 or data[0] != DATA_ROW:
                return rows
            rows.append(_row(data + 5, size, oids))
            self._at += size + 5


cdef object value_of(uint32_t oid, const uint8_t* data, Py_ssize_t size):
    cdef uint64_t wide = 0
    cdef uint32_t word = 0
    cdef uint16_t half = 0
    cdef double real
    if oid in (TEXT, BPCHAR, VARCHAR, NAME):
        return (<const char*>data)[:size].decode()
    if oid == BYTEA:
        return PyBytes_FromStringAndSize(<const char*>data, size)
    if oid == INT8 and size == 8:
        memcpy(&wide, data, 8)
        return <int64_t>CS_BIG64(wide)
    if oid == XID8 and size == 8:
        memcpy(&wide, data, 8)
        return CS_BIG64(wide)
    if oid == INT4 and size == 4:
        memcpy(&word, data, 4)
        return <int32_t>CS_BIG32(word)
    if oid == INT2 and size == 2:
        memcpy(&half, data, 2)
        return <int16_t>CS_BIG16(half)
    if oid == BOOL and size == 1:
        return data[0] != 0
    if oid == VOID:
        return None
    if oid == FLOAT8 and size == 8:
        memcpy(&wide, data, 8)
        wide = CS_BIG64(wide)
        memcpy(&real, &wide, 8)
        return real
    if oid == DATE and size == 4:
        memcpy(&word, data, 4)
        return _date(<int32_t>CS_BIG32(word))
    if oid == TIMESTAMPTZ and size == 8:
        memcpy(&wide, data, 8)
        return _instant(<int64_t>CS_BIG64(wide))
    element = _ELEMENT_OF.get(oid)
    if element is not None:
        return _elements(data, size)
    raise ValueError(f"no binary form is known for the type {oid}, or not of {size} bytes")


cdef object _date(int32_t days):
    if days == _DAY_MIN:
        return datetime.date.min
    if days == _DAY_MAX:
        return datetime.date.max
    return datetime.date.fromordinal(_EPOCH_DAY + days)


cdef object _instant(int64_t microseconds):
    if microseconds == -0x8000000000000000:
        return datetime.datetime.min.replace(tzinfo=datetime.UTC)
    if microseconds == 0x7FFFFFFFFFFFFFFF:
        return datetime.datetime.max.replace(tzinfo=datetime.UTC)
    return _EPOCH + datetime.timedelta(microseconds=microseconds)


cdef uint32_t word_at(const uint8_t* data, Py_ssize_t at) noexcept nogil:
    cdef uint32_t word
    memcpy(&word, data + at, 4)
    return CS_BIG32(word)


cdef list _values(
    const uint8_t* data, Py_ssize_t size, Py_ssize_t at, Py_ssize_t count, object oids, str what
):
    """So many values from `at`, each behind its length; `oids` is their type, or each one's."""
    cdef Py_ssize_t length, i
    cdef bint alike = not isinstance(oids, tuple)
    cdef list values = []
    for i in range(count):
        if at + 4 > size:
            raise ValueError(f"a cut {what}")
        length = <int32_t>word_at(data, at)
        at += 4
        if length < 0:
            values.append(None)
            continue
        if at + length > size:
            raise ValueError(f"a cut {what}")
        values.append(value_of(oids if alike else oids[i], data + at, length))
        at += length
    return values


cdef list _elements(const uint8_t* data, Py_ssize_t size):
    """An array of one dimension (or none)."""
    if size < 12 or word_at(data, 0) > 1:
        raise ValueError("not an array of one dimension")
    if word_at(data, 0) == 0:
        return []
    if size < 20:
        raise ValueError("a cut array")
    return _values(data, size, 20, word_at(data, 12), word_at(data, 8), "array")


def decode_row(bytes body, tuple oids):
    """The values of a DataRow, of these types. ValueError for a row that is cut or of others."""
    return _row(<const uint8_t*>PyBytes_AS_STRING(body), PyBytes_GET_SIZE(body), oids)


cdef list _row(const uint8_t* data, Py_ssize_t size, tuple oids):
    if size < 2 or (data[0] << 8 | data[1]) != len(oids):
        raise ValueError("a row of another width")
    return _values(data, size, 2, len(oids), oids, "row")
