"""A stream of ISO 8583 messages, read by read, each read in one call without the GIL.

Where a `FrameBuffer` gives the frames of a read, a `BatchReader` gives them split, decoded, with MACs
checked and cards looked up: a `fastpath.batch.MessageBatch`. Just as bounded: it never holds more
than one unfinished frame.
"""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_FromStringAndSize
from libc.stdint cimport int64_t, uint8_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy

from fastpath._header cimport *
from fastpath.batch cimport MessageBatch, examine, new_batch
from fastpath.codec cimport Plan, plan_of
from fastpath.directory cimport TerminalKeyTable
from fastpath.framing cimport form_of, header_fault
from fastpath.tokens cimport TokenTable

from fastpath.framing import Header

__all__ = ["BatchReader"]


@cython.final
cdef class BatchReader:
    """Splits a stream into batches of decoded messages; one per connection.

    `header` and `max_length` as in `FrameBuffer`, and so are `pending`, `keepalives` and `error`.
    """

    cdef object _packager
    cdef Plan _plan
    cdef int _form
    cdef Py_ssize_t _max_length
    cdef uint8_t* _held
    cdef Py_ssize_t _capacity
    cdef readonly Py_ssize_t pending
    cdef readonly Py_ssize_t keepalives
    cdef readonly object error

    def __cinit__(self, packager, header=Header.BINARY2, Py_ssize_t max_length=4096):
        self._plan = plan_of(packager)
        self._packager = packager
        self._form = form_of(header)
        if not 1 <= max_length <= longest_frame(self._form):
            raise ValueError(f"max_length must be 1 .. {longest_frame(self._form)}")
        self._max_length = max_length

    def __dealloc__(self):
        free(self._held)

    def feed(
        self, data, TerminalKeyTable keys=None, TokenTable tokens=None, *, double now_s=0
    ):
        """The messages that `data` finishes, as a `MessageBatch`, in order.

        With `keys` their MACs are checked, at `now_s` seconds since 1970; with `tokens` their cards
        are looked up. A header that cannot be followed sets `error`: the messages before it are
        still there, what follows is neither read nor kept, and every later batch is empty.
        """
        cdef MessageBatch batch
        cdef Py_ssize_t end = 0, fault = 0
        cdef int failed = 0
        cdef int64_t now = <int64_t>now_s
        if tokens is not None:
            tokens.ready()
        batch = new_batch(
            self._packager, self._plan, self._form,
            b"" if self.error is not None else self._whole(data), keys, tokens)
        if batch.size == 0:
            return batch
        with nogil:
            failed = self._split(batch, &end, &fault)
            if not failed:
                failed = examine(batch, now, tokens)
        if failed:
            raise MemoryError
        self.pending = 0
        if fault:
            self._fail(fault)
        else:
            self._hold(batch.bytes + end, batch.size - end)
        return batch

    cdef bytes _whole(self, data):
        """What is held and `data` in one piece; b"" where no frame is complete yet: all is held."""
        cdef Py_buffer view
        cdef Py_ssize_t needed
        cdef bytes whole
        if self.pending == 0 and PyBytes_CheckExact(data):
            return data
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            if self.pending:
                needed = self._head() - self.pending
                if needed > 0:  # the header first
                    needed = min(needed, view.len)
                    self._hold(<const uint8_t*>view.buf, needed)
                else:
                    needed = 0
                if self.pending < self._head() or (
                    self.pending + view.len - needed < self._head()
                    + max(0, claimed_length(self._form, self._max_length, self._held))
                ):
                    self._hold(<const uint8_t*>view.buf + needed, view.len - needed)
                    return b""
            else:
                needed = 0
            whole = PyBytes_FromStringAndSize(NULL, self.pending + view.len - needed)
            if self.pending:  # else there is no memory to copy from
                memcpy(PyBytes_AS_STRING(whole), self._held, self.pending)
            memcpy(
                PyBytes_AS_STRING(whole) + self.pending,
                <const char*>view.buf + needed,
                view.len - needed,
            )
            return whole
        finally:
            PyBuffer_Release(&view)

    cdef Py_ssize_t _head(self) noexcept nogil:
        return header_size(self._form)

    cdef int _split(self, MessageBatch batch, Py_ssize_t* end, Py_ssize_t* fault) noexcept nogil:
        """Appends every complete message; -1 without memory. `end` is behind the last frame."""
        cdef Py_ssize_t at = 0, length
        cdef Py_ssize_t head = self._head(), skipped = TPDU_LENGTH if self._form == TPDU else 0
        while batch.size - at >= head:
            length = claimed_length(self._form, self._max_length, batch.bytes + at)
            if length < 0:
                fault[0] = length
                break
            if length == 0:
                self.keepalives += 1
            elif batch.size - at - head < length:
                break
            elif batch.append(at + head + skipped, length - skipped):
                return -1
            at += head + length
        end[0] = at
        return 0

    cdef int _hold(self, const uint8_t* data, Py_ssize_t size) except -1:
        """Keeps bytes of an unfinished frame: at most its header and max_length of them."""
        cdef Py_ssize_t needed = self.pending + size
        cdef uint8_t* grown
        if size <= 0:
            return 0
        if needed > self._capacity:
            # doubling, so that a peer that sends byte by byte costs no more than others
            needed = max(needed, min(2 * needed, self._head() + self._max_length))
            grown = <uint8_t*>realloc(self._held, needed)
            if grown == NULL:
                raise MemoryError
            self._held = grown
            self._capacity = needed
        memcpy(self._held + self.pending, data, size)
        self.pending += size
        return 0

    cdef int _fail(self, Py_ssize_t reason) except -1:
        self.error = header_fault(reason)
        free(self._held)
        self._held = NULL
        self._capacity = 0
        return 0
