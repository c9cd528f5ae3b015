"""Replies built from the bytes of their requests, their MACs in one call, one piece a connection.

What is echoed is copied as it came: the codec takes only what it would write, so that this is what
decoding and encoding would make of it. Only new values are converted.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.object cimport PyObject
from libc.stdint cimport uint8_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy

from fastpath._bytes cimport cs_leading_zeros
from fastpath._frame cimport *
from fastpath._header cimport *
from fastpath._wire cimport *
from fastpath.batch cimport Entry, MessageBatch
from fastpath.codec cimport (
    FIRST_MAC,
    MAC_BYTES,
    SECOND_MAC,
    Draft,
    Message,
    Plan,
    announce_mac,
    as_dict,
    collect,
    format_error,
    put_object,
    take_mti,
)
from fastpath.framing cimport form_of
from fastpath.mac cimport MacKey, job, key_ref, run_jobs, set_job

from fastpath.errors import FormatError
from fastpath.framing import Header

__all__ = ["Replies"]

cdef extern from "secret.h" nogil:
    void wipe(void* memory, size_t size)

cdef enum:
    FRONT = 4 + TPDU_LENGTH  # header and TPDU at most
    FIRST_ROOM = 16

# One reply in the arena: header and TPDU, then the message.
cdef struct Reply:
    size_t frame  # where its header is
    size_t message
    size_t size  # of the message, with the bytes kept for its MAC
    size_t covers  # before the MAC; 0 for a reply without
    const Row* mac_row
    key_ref key
    int form
    Py_ssize_t group


@cython.final
cdef class Replies:
    """Collects the replies of a batch and finishes them together. May be used again after `finish`.

    `echoed`: the data elements that a reply repeats where its request had them; none may be a MAC
    (ValueError).
    """

    cdef uint64_t echoed[2]
    cdef uint8_t* arena
    cdef size_t used
    cdef size_t capacity
    cdef Reply* replies
    cdef Py_ssize_t count
    cdef Py_ssize_t room
    cdef Py_ssize_t groups
    cdef list held  # plans and keys that the replies point into

    def __cinit__(self, echoed=()):
        cdef int de
        self.echoed[0] = self.echoed[1] = 0
        for de in echoed:
            if not 2 <= de < SECOND_MAC or de in (FIRST_MAC, THIRD_BITMAP):
                raise ValueError("only data elements from 2 to 127 are echoed, and no MAC")
            self.echoed[(de - 1) >> 6] |= bit_of(de)
        self.held = []

    def __dealloc__(self):
        free(self.arena)
        free(self.replies)

    def __len__(self):
        return self.count

    def add(
        self, Py_ssize_t group, Message request not None, mti, fields, MacKey key=None, *,
        header=Header.BINARY2, bytes tpdu=b""
    ):
        """A reply to `request` for connection number `group` (0, 1, ...).

        `fields`: what is not echoed, or not as it came, as `encode` takes it. With `key` the reply
        carries a MAC under it, in DE 128 where any field is above 64, else in DE 64. `tpdu` goes in
        front where `header` is `Header.TPDU`, and must have 5 bytes then.
        FormatError as `encode` and `encode_unsealed` raise it: nothing was added then.
        """
        if request.plan is None:
            raise TypeError("a Message is made by decode()")
        self._add(
            group, request.plan, request.data(), &request.layout, mti, fields, key,
            form_of(header), tpdu)

    def add_to(
        self, Py_ssize_t group, MessageBatch batch not None, Py_ssize_t n, mti, fields,
        MacKey key=None, *, header=Header.BINARY2, bytes tpdu=b""
    ):
        """As `add`, to message `n` of a batch, which needs not become a Message for it."""
        cdef Entry* entry = batch.sound(n)
        self._add(
            group, batch.plan, batch.bytes_of(entry), &entry.layout, mti, fields, key,
            form_of(header), tpdu)

    cdef int _add(
        self, Py_ssize_t group, Plan plan, const uint8_t* request, const Layout* layout, mti,
        fields, MacKey key, int form, bytes tpdu
    ) except -1:
        cdef Reply reply
        cdef Py_ssize_t front = header_size(form), size
        if group < 0:
            raise ValueError("a connection's number is not negative")
        if PyBytes_GET_SIZE(tpdu) != (TPDU_LENGTH if form == TPDU else 0):
            raise ValueError("a TPDU has 5 bytes, and goes with its header only")
        self._make_room()
        reply.frame = self.used
        reply.message = self.used + front + PyBytes_GET_SIZE(tpdu)
        reply.form = form
        reply.group = group
        memcpy(self.arena + self.used + front, PyBytes_AS_STRING(tpdu), PyBytes_GET_SIZE(tpdu))
        self._compose(&reply, plan, request, layout, mti, as_dict(fields), key is not None)
        size = reply.size + PyBytes_GET_SIZE(tpdu)
        if size > longest_frame(form):
            raise FormatError("message is too long for its length header")
        put_header(form, size, self.arena + self.used)
        if key is not None:
            reply.key = key.ref
            self.held.append(key)
        self.held.append(plan)
        self.replies[self.count] = reply
        self.count += 1
        self.used = reply.message + reply.size
        self.groups = max(self.groups, group + 1)
        return 0

    cdef int _make_room(self) except -1:
        """For one more reply, however long."""
        cdef size_t needed = self.used + FRONT + LONGEST_FRAME
        cdef uint8_t* arena
        cdef Reply* replies
        if needed > self.capacity:
            arena = <uint8_t*>realloc(self.arena, 2 * needed)
            if arena is NULL:
                raise MemoryError
            self.arena = arena
            self.capacity = 2 * needed
        if self.count == self.room:
            replies = <Reply*>realloc(
                self.replies, (2 * self.room + FIRST_ROOM) * sizeof(Reply))
            if replies is NULL:
                raise MemoryError
            self.replies = replies
            self.room = 2 * self.room + FIRST_ROOM
        return 0

    cdef int _compose(
        self, Reply* reply, Plan plan, const uint8_t* request, const Layout* layout, mti,
        dict fields, bint sealed
    ) except -1:
        """Writes the message but for its MAC."""
        cdef const Table* table = &plan.table
        cdef uint8_t* frame = self.arena + reply.message
        cdef uint8_t digits[4]
        cdef uint64_t bits[2]
        cdef uint64_t left
        cdef Draft draft
        cdef Py_ssize_t at
        cdef int half, de, reason, mac_field = 0
        collect(fields, &draft)
        for half in range(2):
            bits[half] = draft.bits[half] | (layout.bits[half] & self.echoed[half])
        if sealed:
            mac_field = announce_mac(table, bits)
        take_mti(table, mti, digits)
        at = put_head(table, digits, bits, frame)
        for half in range(2):
            left = bits[half]
            while left:
                de = 64 * half + 1 + cs_leading_zeros(left)
                left ^= bit_of(de)
                if de == mac_field:
                    continue
                if draft.bits[half] & bit_of(de):
                    reason = put_object(&table.rows[de], de, draft.values[de], frame, &at)
                else:
                    reason = copy_field(table, request, layout, de, frame, &at)
                if reason != FINE:
                    raise format_error(reason, de, at)
        reply.covers = 0
        if sealed:
            reply.covers = at
            reply.mac_row = &table.rows[mac_field]
            at += wire_bytes(reply.mac_row, MAC_BYTES)
            if at > LONGEST_FRAME:
                raise format_error(FRAME_TOO_LONG, mac_field, reply.covers)
        reply.size = at
        return 0

    def finish(self):
        """All frames as they go out, in order: one bytes object for each connection number.

        The MACs of all are made in one call without the GIL.
        """
        cdef Py_ssize_t n
        cdef int failed
        cdef list pieces
        with nogil:
            failed = self._sign_all()
        if failed:
            raise MemoryError
        pieces = [self._piece(n) for n in range(self.groups)]
        self.used = 0
        self.count = 0
        self.groups = 0
        self.held = []
        return pieces

    cdef int _sign_all(self) noexcept nogil:
        """-1 without memory."""
        cdef job* jobs = <job*>malloc((self.count + 1) * sizeof(job))
        cdef Reply* reply
        cdef Py_ssize_t n, taken = 0
        if jobs is NULL:
            return -1
        for n in range(self.count):
            reply = &self.replies[n]
            if reply.covers:
                set_job(&jobs[taken], reply.key, self.arena + reply.message, reply.covers)
                taken += 1
        run_jobs(jobs, taken)
        taken = 0
        for n in range(self.count):
            reply = &self.replies[n]
            if reply.covers:
                put_value(
                    reply.mac_row, jobs[taken].mac, MAC_BYTES, MAC_BYTES,
                    self.arena + reply.message + reply.covers)
                taken += 1
        wipe(jobs, taken * sizeof(job))
        free(jobs)
        return 0

    cdef bytes _piece(self, Py_ssize_t group):
        """The frames of one connection behind each other."""
        cdef Py_ssize_t n, size = 0
        cdef Reply* reply
        cdef size_t length
        cdef char* out
        for n in range(self.count):
            reply = &self.replies[n]
            if reply.group == group:
                size += reply.message + reply.size - reply.frame
        piece = PyBytes_FromStringAndSize(NULL, size)
        out = PyBytes_AS_STRING(piece)
        for n in range(self.count):
            reply = &self.replies[n]
            if reply.group == group:
                length = reply.message + reply.size - reply.frame
                memcpy(out, self.arena + reply.frame, length)
                out += length
        return piece


cdef int copy_field(
    const Table* table, const uint8_t* request, const Layout* layout, int de, uint8_t* frame,
    Py_ssize_t* position
) noexcept nogil:
    """Copies a field of the request as it is on the wire; returns a reason."""
    cdef const uint8_t* field = request + start_of(layout, de)
    cdef Py_ssize_t size = field_size(table, field, de)
    if LONGEST_FRAME - position[0] < size:
        return FRAME_TOO_LONG
    memcpy(frame + position[0], field, size)
    position[0] += size
    return FINE
