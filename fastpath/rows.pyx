# cython: language_level=3, boundscheck=False, wraparound=False
"""Rows of Postgres in the form of `record_send`, read where they stand.

Four bytes say how many columns there are; each has its type, its length (-1 for null) and its value in
binary. Digests are made of these bytes, so a reader of the journal has them in hand anyway.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int16_t, int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp

from fastpath.pgwire cimport value_of, word_at

__all__ = ["RowImage", "RowShape"]

cdef enum:
    INT8 = 20
    INT2 = 21
    INT4 = 23


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

    def distinct(self, list rows, str name):
        """The values that a column has in rows of this shape, as a set."""
        cdef Py_ssize_t place = self._places[name], size = 0
        cdef const uint8_t* data
        cdef RowImage row
        cdef set values = set()
        cdef bytes last = None
        for row in rows:
            data = row.raw(place, &size)
            if last is None or PyBytes_GET_SIZE(last) != size or memcmp(
                PyBytes_AS_STRING(last), data, size
            ):
                last = PyBytes_FromStringAndSize(<const char*>data, size)
                values.add(row._at(place))
        return values

    def numbers(self, list rows, str first, str second):
        """What two columns with numbers say in rows of this shape."""
        cdef Py_ssize_t one = self._places[first], other = self._places[second]
        cdef RowImage row
        return [(row.whole(one), row.whole(other)) for row in rows]

    def grouped(self, list rows, str first, str second):
        """Rows of this shape by two columns with numbers, in their order."""
        cdef Py_ssize_t one = self._places[first], other = self._places[second]
        cdef dict groups = {}
        cdef RowImage row
        cdef list group
        for row in rows:
            key = (row.whole(one), row.whole(other))
            group = groups.get(key)
            if group is None:
                groups[key] = [row]
            else:
                group.append(row)
        return groups


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
