# cython: language_level=3, boundscheck=False, wraparound=False
"""Rows of Postgres in the form of `record_send`, read where they stand.

Four bytes say how many columns there are; each has its type, its length (-1 for null) and its value in
binary. Digests are made of these bytes, so a reader of the journal has them in hand anyway.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int16_t, int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from fastpath.pgwire cimport value_of, word_at

__all__ = ["RowImage", "RowShape", "SpreadShape"]

cdef enum:
    INT8 = 20
    INT2 = 21
    INT4 = 23
    BPCHAR = 1042

cdef enum:
    COUNTER = -1
    NUMBER = -2


@cython.final
@cython.auto_pickle(False)
cdef class RowShape:
    """The columns of rows that are read in the form of Postgres' `record_send`: names and types."""

    def __init__(self, names, oids):
        """ValueError unless there are as many names as types, at most 31."""
        if not len(names) == len(oids) <= COLUMNS_MAX:
            raise ValueError("no shape of a row")
        self._places = {name: place for place, name in enumerate(names)}
        self._count = len(oids)
        for place, oid in enumerate(oids):
            self._oids[place] = oid

    cpdef Py_ssize_t place(self, str name) except -1:
        """Where a column stands. KeyError."""
        return self._places[name]

    def open(self, bytes image):
        """The row; its values are made when they are asked for. ValueError for another shape."""
        cdef const uint8_t* data = <const uint8_t*>PyBytes_AS_STRING(image)
        cdef Py_ssize_t size = PyBytes_GET_SIZE(image), at = 4, place
        cdef int32_t length
        cdef RowImage row = RowImage.__new__(RowImage)
        if size < 4 or <Py_ssize_t>word_at(data, 0) != self._count:
            raise ValueError("a row of another width")
        for place in range(self._count):
            if at + 8 > size:
                raise ValueError("a cut row")
            length = <int32_t>word_at(data, at + 4)
            if word_at(data, at) != self._oids[place] or length > size - at - 8:
                raise ValueError("a row of other types, or cut")
            at += 8
            row._ends[place] = at + length if length >= 0 else -1
            row._begins[place] = at
            if length > 0:
                at += length
        if at != size:
            raise ValueError("more than a row")
        row.image = image
        row._shape = self
        return row


@cython.final
@cython.auto_pickle(False)
cdef class RowImage:
    """A row in its binary form, to be read by column, by place, or by a slice of places."""

    def __init__(self):
        raise TypeError("RowShape.open makes it")

    cdef int64_t whole(self, Py_ssize_t place) except? -1:
        """The number in a column. ValueError for one of another type, or none at all."""
        cdef const uint8_t* data = <const uint8_t*>PyBytes_AS_STRING(self.image)
        cdef int32_t begin = self._begins[place], size = self._ends[place] - begin
        cdef uint32_t oid = self._shape._oids[place]
        if oid == INT8 and size == 8:
            return <int64_t>(<uint64_t>word_at(data, begin) << 32 | word_at(data, begin + 4))
        if oid == INT4 and size == 4:
            return <int32_t>word_at(data, begin)
        if oid == INT2 and size == 2:
            return <int16_t>(data[begin] << 8 | data[begin + 1])
        raise ValueError("no number in this column")

    cdef const uint8_t* raw(self, Py_ssize_t place, Py_ssize_t* size) except NULL:
        """The bytes in a column, as long as the row lives. ValueError for none."""
        if self._ends[place] < 0:
            raise ValueError("nothing in this column")
        size[0] = self._ends[place] - self._begins[place]
        return <const uint8_t*>PyBytes_AS_STRING(self.image) + self._begins[place]

    cdef object _at(self, Py_ssize_t place):
        cdef int32_t begin = self._begins[place]
        if self._ends[place] < 0:
            return None
        return value_of(
            self._shape._oids[place],
            <const uint8_t*>PyBytes_AS_STRING(self.image) + begin,
            self._ends[place] - begin,
        )

    def __len__(self):
        return self._shape._count

    def __iter__(self):
        return iter(self[:])

    def __getitem__(self, key):
        """KeyError, IndexError where there is no such column; `image` is the whole row."""
        cdef Py_ssize_t place
        if isinstance(key, str):
            if key == "image":
                return self.image
            return self._at(self._shape._places[key])
        if isinstance(key, slice):
            return tuple([self._at(place) for place in range(*key.indices(self._shape._count))])
        place = key
        if not 0 <= place < self._shape._count:
            raise IndexError(key)
        return self._at(place)


cdef struct Number:
    int64_t value
    bint there


cdef inline Number _counted(Py_ssize_t place) noexcept nogil:
    cdef Number number
    number.value = place
    number.there = True
    return number


cdef inline void _put32(char* out, int64_t value) noexcept nogil:
    cdef int shift
    for shift in range(4):
        out[shift] = <char>(value >> (24 - 8 * shift))


@cython.final
@cython.auto_pickle(False)
cdef class SpreadShape:
    """Rows that stand in another row as an array of numbers (`bigint[]`), so many to a row.

    The columns `shared` are the outer row's, `counter` counts the rows from 0, and the others are
    the array's numbers in their order: int2, int8, or three digits (bpchar). What is not there, or no
    value of its column, is null, as for a reader who asks Postgres for the array's elements 1, 2, 3.
    """

    def __init__(self, RowShape outer, RowShape inner, shared, str counter):
        """KeyError for a column that is not there, ValueError where one cannot be made."""
        cdef Py_ssize_t place
        self._outer, self._inner = outer, inner
        self._numbers = 0
        if inner._oids[inner._places[counter]] != INT2:
            raise ValueError("a counter is int2")
        for name, place in inner._places.items():
            if name == counter:
                self._sources[place] = COUNTER
            elif name in shared:
                self._sources[place] = outer._places[name]
                if outer._oids[self._sources[place]] != inner._oids[place]:
                    raise ValueError("a column of two types")
            elif inner._oids[place] in (INT2, INT8, BPCHAR):
                self._sources[place] = NUMBER
                self._numbers += 1
            else:
                raise ValueError("a column that is no number")
        if not self._numbers:
            raise ValueError("no column is a number")

    def rows(self, RowImage outer, bytes array):
        """The rows in a row; `array` in binary (`array_send`). ValueError for none of bigint."""
        cdef const uint8_t* data = <const uint8_t*>PyBytes_AS_STRING(array)
        cdef Py_ssize_t size = PyBytes_GET_SIZE(array), dimension
        cdef int64_t dimensions, total = 1, lower, place
        cdef Numbers numbers
        cdef list rows = []
        if size < 12 or word_at(data, 8) != INT8:
            raise ValueError("no array of bigint")
        dimensions = word_at(data, 0)
        if dimensions == 0:
            return rows
        if dimensions > 6 or size < 12 + 8 * dimensions:
            raise ValueError("a cut array")
        for dimension in range(dimensions):
            total *= word_at(data, 12 + 8 * dimension)
            if total * 4 > size:
                raise ValueError("a cut array")
        lower = <int32_t>word_at(data, 16)
        numbers.at = data + 12 + 8 * dimensions
        numbers.left = size - 12 - 8 * dimensions
        numbers.readable = dimensions == 1
        numbers.before = max(lower - 1, -total)
        while numbers.before < 0:  # elements in front of the first that is asked for
            _number(&numbers)
        for place in range((total + self._numbers - 1) // self._numbers):
            rows.append(self._row(outer, place, &numbers))
        return rows

    cdef RowImage _row(self, RowImage outer, Py_ssize_t place, Numbers* numbers):
        cdef RowImage row = RowImage.__new__(RowImage)
        cdef RowShape inner = self._inner
        cdef Py_ssize_t column, source, at = 4, length, room = 4
        cdef const char* shared = PyBytes_AS_STRING(outer.image)
        cdef char* out
        cdef Number number
        if outer._shape is not self._outer:
            raise ValueError("a row of another shape")
        for column in range(inner._count):
            source = self._sources[column]
            room += 16 if source < 0 else 8 + max(outer._ends[source] - outer._begins[source], 0)
        row.image = PyBytes_FromStringAndSize(NULL, room)
        row._shape = inner
        out = PyBytes_AS_STRING(row.image)
        _put32(out, inner._count)
        for column in range(inner._count):
            source = self._sources[column]
            _put32(out + at, inner._oids[column])
            at += 8
            row._begins[column] = at
            if source >= 0:
                length = outer._ends[source] - outer._begins[source]
                if outer._ends[source] < 0:
                    length = -1
                else:
                    memcpy(out + at, shared + outer._begins[source], length)
            elif source == COUNTER:
                length = _put(out + at, INT2, _counted(place))
            else:
                number = _number(numbers)
                length = _put(out + at, inner._oids[column], number)
            _put32(out + at - 4, length)
            row._ends[column] = at + length if length >= 0 else -1
            at += max(length, 0)
        if at != room:
            row.image = row.image[:at]
        return row


cdef Number _number(Numbers* numbers) noexcept nogil:
    """The next element of an array; none behind its end, or where it is null."""
    cdef Number number
    cdef int64_t length
    number.value = 0
    number.there = False
    if numbers.before > 0:
        numbers.before -= 1
        return number
    if numbers.before < 0:
        numbers.before += 1
    if not numbers.readable or numbers.left < 4:
        return number
    length = <int32_t>word_at(numbers.at, 0)
    numbers.at += 4
    numbers.left -= 4
    if length == 8 and numbers.left >= 8:
        number.value = <int64_t>(
            <uint64_t>word_at(numbers.at, 0) << 32 | word_at(numbers.at, 4)
        )
        number.there = True
        numbers.at += 8
        numbers.left -= 8
    return number


cdef Py_ssize_t _put(char* out, uint32_t oid, Number number) noexcept nogil:
    """A number as a value of a type; how long it is, -1 where it is none."""
    cdef int64_t value = number.value
    if not number.there:
        return -1
    if oid == INT8:
        _put32(out, value >> 32)
        _put32(out + 4, value)
        return 8
    if oid == INT2 and -0x8000 <= value <= 0x7FFF:
        out[0], out[1] = <char>(value >> 8), <char>value
        return 2
    if oid == BPCHAR and 0 <= value <= 999:
        out[0], out[1], out[2] = 48 + value // 100, 48 + value // 10 % 10, 48 + value % 10
        return 3
    return -1
