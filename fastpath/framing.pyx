"""Message boundaries on a byte stream: length headers in, whole messages out.

Sans-IO and bounded: a `FrameBuffer` never holds more than one unfinished frame, and never one
longer than its `max_length`, however the peer cuts its bytes.
"""

import enum

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy

from fastpath._header cimport *

from fastpath.errors import FormatError

__all__ = ["FrameBuffer", "Header", "pack", "pack_many", "swap_tpdu"]


class Header(enum.Enum):
    """How a frame says its length; the header itself is never counted."""

    BINARY2 = "binary2"  # 2 bytes, big-endian
    ASCII4 = "ascii4"  # 4 ASCII digits
    TPDU = "tpdu"  # 2 bytes, big-endian, counting a 5-byte TPDU and the message


cdef dict _FORMS = {Header.BINARY2: BINARY2, Header.ASCII4: ASCII4, Header.TPDU: TPDU}
cdef dict _REASONS = {
    OVER_MAXIMUM: "frame is longer than the link allows",
    NOT_DIGITS: "length header is not digits",
    UNDER_TPDU: "frame is shorter than a TPDU",
}


cdef int form_of(object header) except -1:
    form = _FORMS.get(header)
    if form is None:
        raise TypeError("header must be a Header")
    return form


cdef object header_fault(Py_ssize_t reason):
    """The error of a header that cannot be followed."""
    return FormatError(_REASONS[reason])


@cython.final
cdef class FrameBuffer:
    """Splits a stream into messages; one per connection and direction.

    `header` is the link's header, `max_length` the largest length it may claim (1 .. 65535, of
    `ascii4` 9999; ValueError otherwise). Length 0 is a keep-alive: counted, not returned.
    """

    cdef int _form
    cdef Py_ssize_t _max_length
    cdef Py_ssize_t _head
    cdef uint8_t* _held
    cdef Py_ssize_t _capacity
    cdef readonly Py_ssize_t pending
    cdef readonly Py_ssize_t keepalives
    cdef readonly object error

    def __cinit__(self):
        # safe even where __init__ is never called
        self._max_length = 1
        self._head = 2

    def __init__(self, header=Header.BINARY2, Py_ssize_t max_length=4096):
        self._form = form_of(header)
        if not 1 <= max_length <= longest_frame(self._form):
            raise ValueError(f"max_length must be 1 .. {longest_frame(self._form)}")
        self._max_length = max_length
        self._head = header_size(self._form)
        self.pending = 0
        self.keepalives = 0
        self.error = None

    def __dealloc__(self):
        free(self._held)

    def feed(self, data):
        """The complete messages that `data` finishes, in order; a TPDU stays in front of its own.

        A header that cannot be followed sets `error` (a FormatError): the messages before it are
        still returned, what follows is neither read nor kept, and every later call returns [].
        """
        cdef Py_buffer view
        cdef list frames = []
        if self.error is not None:
            return frames
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            self._split(<const uint8_t*>view.buf, view.len, frames)
        finally:
            PyBuffer_Release(&view)
        return frames

    cdef int _split(self, const uint8_t* data, Py_ssize_t size, list frames) except -1:
        cdef Py_ssize_t position = 0, length
        if self.pending:
            position = self._finish(data, size, frames)
        while self.error is None and size - position >= self._head:
            length = self._claim(data + position)
            if length < 0:
                self._fail(length)
            elif length == 0:
                self.keepalives += 1
                position += self._head
            elif size - position - self._head < length:
                break
            else:
                position += self._head
                frames.append(PyBytes_FromStringAndSize(<const char*>data + position, length))
                position += length
        if self.error is None and position < size:
            self._hold(data + position, size - position)
        return 0

    cdef Py_ssize_t _finish(self, const uint8_t* data, Py_ssize_t size, list frames) except -1:
        """Completes the held frame; returns how much of `data` that took."""
        cdef Py_ssize_t position = 0, length
        if self.pending < self._head:
            position = min(self._head - self.pending, size)
            self._hold(data, position)
            if self.pending < self._head:
                return position
        length = self._claim(self._held)
        if length < 0:
            self._fail(length)
            return position
        if length == 0:
            self.keepalives += 1
            self.pending = 0
            return position
        cdef Py_ssize_t taken = min(self._head + length - self.pending, size - position)
        self._hold(data + position, taken)
        if self.pending == self._head + length:
            frames.append(PyBytes_FromStringAndSize(<const char*>self._held + self._head, length))
            self.pending = 0
        return position + taken

    cdef int _hold(self, const uint8_t* data, Py_ssize_t size) except -1:
        """Keeps bytes of an unfinished frame: at most its header and max_length of them."""
        cdef Py_ssize_t needed = self.pending + size
        cdef uint8_t* grown
        if size == 0:
            return 0
        if needed > self._capacity:
            # doubling, so that a peer that sends byte by byte costs no more than others
            needed = max(needed, min(2 * needed, self._head + self._max_length))
            grown = <uint8_t*>realloc(self._held, needed)
            if grown == NULL:
                raise MemoryError()
            self._held = grown
            self._capacity = needed
        memcpy(self._held + self.pending, data, size)
        self.pending += size
        return 0

    cdef Py_ssize_t _claim(self, const uint8_t* header) noexcept:
        return claimed_length(self._form, self._max_length, header)

    cdef int _fail(self, Py_ssize_t reason) except -1:
        self.error = header_fault(reason)
        self.pending = 0
        free(self._held)
        self._held = NULL
        self._capacity = 0
        return 0


cdef Py_ssize_t _check_length(int form, Py_ssize_t length) except -1:
    if length > longest_frame(form):
        raise FormatError("message is too long for its length header")
    if form == TPDU and 0 < length < TPDU_LENGTH:
        raise FormatError(_REASONS[UNDER_TPDU])
    return length


cdef uint8_t* _put(int form, uint8_t* out, bytes message) noexcept:
    """Writes one frame and returns the place behind it."""
    cdef Py_ssize_t length = PyBytes_GET_SIZE(message)
    put_header(form, length, out)
    out += header_size(form)
    memcpy(out, PyBytes_AS_STRING(message), length)
    return out + length


def pack(header, bytes message not None):
    """One frame: the message behind its length; an empty message makes a keep-alive.

    For `Header.TPDU` the message begins with its 5 TPDU bytes. FormatError where the length does
    not fit the header.
    """
    cdef int form = form_of(header)
    cdef Py_ssize_t length = _check_length(form, PyBytes_GET_SIZE(message))
    frame = PyBytes_FromStringAndSize(NULL, header_size(form) + length)
    _put(form, <uint8_t*>PyBytes_AS_STRING(frame), message)
    return frame


def pack_many(header, list messages not None):
    """All frames of `messages`, in order, as one piece for one send."""
    cdef int form = form_of(header)
    cdef Py_ssize_t total = 0
    cdef bytes message
    cdef uint8_t* out
    # a copy: nobody may change the list between the two passes
    cdef tuple fixed = tuple(messages)
    for item in fixed:
        if type(item) is not bytes:
            raise TypeError("messages must be bytes")
        total += header_size(form) + _check_length(form, PyBytes_GET_SIZE(item))
    frames = PyBytes_FromStringAndSize(NULL, total)
    out = <uint8_t*>PyBytes_AS_STRING(frames)
    for message in fixed:
        out = _put(form, out, message)
    return frames


def swap_tpdu(bytes tpdu not None):
    """The TPDU of the answer: id kept, destination and origin exchanged. ValueError unless 5 bytes.

    >>> swap_tpdu(bytes.fromhex("6000038001")).hex()
    '6080010003'
    """
    if len(tpdu) != TPDU_LENGTH:
        raise ValueError("a TPDU has 5 bytes")
    return tpdu[0:1] + tpdu[3:5] + tpdu[1:3]
