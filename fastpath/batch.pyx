"""All that one read of a socket brought, in one call without the GIL.

A `fastpath.reader.BatchReader` stands where a `FrameBuffer` and a loop over `decode` would: it splits the stream,
decodes every message, finds its terminal and checks its MAC, and looks up its card. What comes out
is a `MessageBatch`: the bytes as they came and where the fields are in them. Nothing becomes a
Python object before somebody asks for it. Each message is what `decode` would have made of it, or
carries the FormatError that it would have raised.
"""

import enum

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy

from fastpath._bytes cimport bcd_to_text, hex_to_bytes
from fastpath._frame cimport *
from fastpath._header cimport TPDU, TPDU_LENGTH
from fastpath._wire cimport *
from fastpath.codec cimport (
    MAC_BYTES,
    Plan,
    field_amount,
    field_bytes,
    field_text,
    format_error,
    mti_text,
    new_message,
    plan_of,
)
from fastpath.directory cimport KEYS_MAX, KeySlot, TerminalKeyTable
from fastpath.mac cimport job, run_jobs, set_job
from fastpath.tokens cimport TokenTable, number

from fastpath.specs import DE

__all__ = ["MacVerdict", "MessageBatch"]

cdef extern from "secret.h" nogil:
    void wipe(void* memory, size_t size)


class MacVerdict(enum.Enum):
    """What was found about a message's MAC."""

    NOT_ASKED = 0  # the reader was given no keys, or the message is malformed
    RIGHT = 1
    WRONG = 2  # or missing, or its key is not taken
    UNKNOWN_TERMINAL = 3  # or none named


cdef enum:
    NOT_ASKED = 0
    RIGHT = 1
    WRONG = 2
    UNKNOWN_TERMINAL = 3
    NUMBER_LENGTH = 24  # more characters than a card number has
    FIRST_ROOM = 16

cdef tuple _VERDICTS = tuple(MacVerdict)
cdef int _PAN = DE.PAN, _TRACK2 = DE.TRACK2, _TERMINAL = DE.TERMINAL
cdef int _SECURITY_CONTROL = DE.SECURITY_CONTROL


@cython.final
cdef class MessageBatch:
    """The messages of one read, by their place in it. Made by
    `fastpath.reader.BatchReader`.

    Whatever asks for a part of a malformed message raises its FormatError. IndexError beyond the
    last message.
    """

    def __init__(self):
        raise TypeError("a MessageBatch is made by BatchReader.feed()")

    def __dealloc__(self):
        free(self.entries)
        free(self.pool)

    def __len__(self):
        return self.count

    def __repr__(self):
        return f"<MessageBatch of {self.count}>"

    cdef const uint8_t* bytes_of(self, const Entry* entry) noexcept nogil:
        return self.bytes + entry.start

    cdef Entry* entry(self, Py_ssize_t n) except NULL:
        if n < 0 or n >= self.count:
            raise IndexError("no such message in the batch")
        return &self.entries[n]

    cdef Entry* sound(self, Py_ssize_t n) except NULL:
        cdef Entry* entry = self.entry(n)
        if entry.reason != FINE:
            raise format_error(entry.reason, entry.fault.field, entry.fault.offset)
        return entry

    cdef int append(self, Py_ssize_t start, Py_ssize_t size) noexcept nogil:
        """-1 without memory."""
        cdef Entry* grown
        if self.count == self.room:
            self.room = 2 * self.room if self.room else FIRST_ROOM
            grown = <Entry*>realloc(self.entries, self.room * sizeof(Entry))
            if grown is NULL:
                return -1
            self.entries = grown
        cdef Entry* entry = &self.entries[self.count]
        entry.start = <uint32_t>start
        entry.size = <uint32_t>size
        entry.verdict = NOT_ASKED
        entry.terminal = -1
        entry.slot = 0
        entry.card_id = 0
        entry.has_number = False
        self.count += 1
        return 0

    cdef int decode_all(self) noexcept nogil:
        """Finds the fields of every message; -1 without memory."""
        cdef uint16_t* grown
        cdef Entry* entry
        cdef Py_ssize_t n
        for n in range(self.count):
            entry = &self.entries[n]
            if self.pool_room - self.pool_count < FIELDS:
                self.pool_room = 2 * self.pool_room + FIRST_ROOM * FIELDS
                grown = <uint16_t*>realloc(self.pool, self.pool_room * sizeof(uint16_t))
                if grown is NULL:
                    return -1
                self.pool = grown
            entry.first = self.pool_count
            entry.layout.start = self.pool + self.pool_count
            entry.reason = read_frame(
                &self.plan.table, self.bytes_of(entry), entry.size, &entry.layout, &entry.fault)
            if entry.reason == FINE:
                self.pool_count += entry.layout.count
        for n in range(self.count):  # the pool may have moved
            self.entries[n].layout.start = self.pool + self.entries[n].first
        return 0

    cdef const uint8_t* field(self, const Entry* entry, int de, Py_ssize_t* count) noexcept nogil:
        """The value of a field on the wire and its units; NULL where the message has none."""
        cdef const uint8_t* value
        if entry.reason != FINE or not has_field(&entry.layout, de):
            return NULL
        value = value_of(&self.plan.table, self.bytes_of(entry), &entry.layout, de)
        count[0] = count_of(&self.plan.table, value, de)
        return value

    def error(self, Py_ssize_t n):
        """The FormatError of a malformed message, else None."""
        cdef Entry* entry = self.entry(n)
        if entry.reason == FINE:
            return None
        return format_error(entry.reason, entry.fault.field, entry.fault.offset)

    def raw(self, Py_ssize_t n):
        """The bytes of a message, malformed or not, without header and TPDU."""
        cdef Entry* entry = self.entry(n)
        return PyBytes_FromStringAndSize(<const char*>self.bytes_of(entry), entry.size)

    def tpdu(self, Py_ssize_t n):
        """The 5 bytes of TPDU in front of a message; b"" where the link has none."""
        cdef Entry* entry = self.entry(n)
        cdef Py_ssize_t size = TPDU_LENGTH if self.form == TPDU else 0
        return PyBytes_FromStringAndSize(<const char*>self.bytes_of(entry) - size, size)

    def message(self, Py_ssize_t n):
        """The `fastpath.codec.Message`, with a copy of its bytes."""
        cdef Entry* entry = self.sound(n)
        return new_message(self.raw(n), self.packager, self.plan, &entry.layout)

    def mti(self, Py_ssize_t n):
        """As `Message.mti`."""
        return mti_text(&self.plan.table, self.bytes_of(self.sound(n)))

    def get(self, Py_ssize_t n, int de):
        """As `Message.get`."""
        cdef Entry* entry = self.sound(n)
        if not has_field(&entry.layout, de):
            return None
        return field_text(&self.plan.table, self.bytes_of(entry), &entry.layout, de, True)

    def get_bytes(self, Py_ssize_t n, int de):
        """As `Message.get_bytes`."""
        cdef Entry* entry = self.sound(n)
        if not has_field(&entry.layout, de):
            return None
        return field_bytes(&self.plan.table, self.bytes_of(entry), &entry.layout, de)

    def amount(self, Py_ssize_t n, int de):
        """As `Message.amount`."""
        cdef Entry* entry = self.sound(n)
        if not has_field(&entry.layout, de):
            return None
        return field_amount(&self.plan.table, self.bytes_of(entry), &entry.layout, de)

    def verdict(self, Py_ssize_t n):
        """The `MacVerdict`."""
        return _VERDICTS[self.entry(n).verdict]

    def terminal(self, Py_ssize_t n):
        """What the `TerminalKeyTable` was given as the terminal; None where it is unknown."""
        cdef Entry* entry = self.entry(n)
        return None if entry.terminal < 0 else self.directory.held_owners[entry.terminal]

    def mac_key(self, Py_ssize_t n):
        """The `MacKey` under which the MAC was right, else None."""
        cdef Entry* entry = self.entry(n)
        if entry.verdict != RIGHT:
            return None
        return self.directory.held_keys[entry.terminal][entry.slot]

    def key_version(self, Py_ssize_t n):
        """The version of that key, else 0."""
        cdef Entry* entry = self.entry(n)
        if entry.verdict != RIGHT:
            return 0
        return self.directory.terminals[entry.terminal].slots[entry.slot].version

    def card_id(self, Py_ssize_t n):
        """The id of the card whose number is in DE 2, or without it in DE 35; 0 when unknown.

        None where the message has neither or the reader was given no token table.
        """
        cdef Entry* entry = self.entry(n)
        return entry.card_id if entry.has_number else None


# ---- authentication ------------------------------------------------------------------------------


cdef int named_version(MessageBatch batch, const Entry* entry) noexcept nogil:
    """Digits 1 and 2 of DE 53, the version of the MAC key; 0 where there is none."""
    cdef Py_ssize_t count = 0
    cdef const uint8_t* value = batch.field(entry, _SECURITY_CONTROL, &count)
    cdef const Row* row = &batch.plan.table.rows[_SECURITY_CONTROL]
    cdef uint8_t digits[2]
    if value is NULL or count < 2:
        return 0
    if row.check == DIGITS_BCD:
        bcd_to_text(value, 2, count & 1 and row.pad == LEFT_ZERO, digits)
    elif row.check == DIGITS:
        memcpy(digits, value, 2)
    else:
        return 0
    return 10 * (digits[0] - 48) + digits[1] - 48


cdef void find_terminal(MessageBatch batch, Entry* entry) noexcept nogil:
    cdef Py_ssize_t count = 0
    cdef const uint8_t* value = batch.field(entry, _TERMINAL, &count)
    cdef int check = batch.plan.table.rows[_TERMINAL].check
    entry.verdict = UNKNOWN_TERMINAL
    if value is not NULL and (check == TEXT or check == DIGITS):
        entry.terminal = batch.directory.find(value, count)
        if entry.terminal >= 0:
            entry.verdict = WRONG  # until a key says otherwise


cdef bint next_slot(MessageBatch batch, Entry* entry, int version, int64_t now_s) noexcept nogil:
    """Moves on to the first key from `entry.slot` on that this message may have been made with."""
    cdef const KeySlot* slots = batch.directory.terminals[entry.terminal].slots
    while entry.slot < batch.directory.terminals[entry.terminal].keys:
        if now_s < slots[entry.slot].until_s and version in (0, slots[entry.slot].version):
            return True
        entry.slot += 1
    return False


cdef const uint8_t* sent_mac(MessageBatch batch, const Entry* entry, uint8_t* opened) noexcept nogil:
    """The 8 bytes of a message's MAC; NULL where it has none."""
    cdef Py_ssize_t covers = mac_covers(&batch.plan.table, &entry.layout)
    cdef const uint8_t* value = batch.bytes_of(entry) + covers
    if covers == 0:
        return NULL
    if batch.plan.table.rows[entry.layout.last].check == RAW:
        return value
    hex_to_bytes(value, MAC_BYTES, opened)
    return opened


cdef bint take_job(
    MessageBatch batch, Entry* entry, job* work, uint8_t* opened, int64_t now_s
) noexcept nogil:
    """The MAC of a message under its next key; False where no key or no MAC is left."""
    cdef const uint8_t* expected
    if not next_slot(batch, entry, named_version(batch, entry), now_s):
        return False
    expected = sent_mac(batch, entry, opened)
    if expected is NULL:
        return False
    set_job(
        work,
        batch.directory.terminals[entry.terminal].slots[entry.slot].key,
        batch.bytes_of(entry),
        mac_covers(&batch.plan.table, &entry.layout),
    )
    work.expected = expected
    return True


cdef int authenticate(MessageBatch batch, int64_t now_s) noexcept nogil:
    """Checks the MACs of all, each with the keys it may have, in as many turns as keys; -1 without
    memory. Only a message whose MAC is not right yet takes part in the next turn."""
    cdef job* jobs = <job*>malloc((batch.count + 1) * sizeof(job))
    cdef uint32_t* owners = <uint32_t*>malloc((batch.count + 1) * sizeof(uint32_t))
    cdef uint8_t* opened = <uint8_t*>malloc((batch.count + 1) * MAC_BYTES)
    cdef Py_ssize_t n, taken
    cdef int turn
    if jobs is NULL or owners is NULL or opened is NULL:
        free(jobs)
        free(owners)
        free(opened)
        return -1
    for n in range(batch.count):
        if batch.entries[n].reason == FINE:
            find_terminal(batch, &batch.entries[n])
    for turn in range(KEYS_MAX):
        taken = 0
        for n in range(batch.count):
            if batch.entries[n].verdict == WRONG and take_job(
                    batch, &batch.entries[n], &jobs[taken], opened + MAC_BYTES * n, now_s):
                owners[taken] = <uint32_t>n
                taken += 1
        if taken == 0:
            break
        run_jobs(jobs, taken)
        for n in range(taken):
            if jobs[n].right:
                batch.entries[owners[n]].verdict = RIGHT
            else:
                batch.entries[owners[n]].slot += 1
        wipe(jobs, taken * sizeof(job))  # right MACs of refused messages must not linger
    free(jobs)
    free(owners)
    free(opened)
    return 0


# ---- cards ---------------------------------------------------------------------------------------


cdef bint card_number(
    MessageBatch batch, const Entry* entry, number* taken, uint8_t* opened
) noexcept nogil:
    """The card number of a message as characters; False where it names none."""
    cdef Py_ssize_t count = 0, i
    cdef int de = _PAN
    cdef const uint8_t* value = batch.field(entry, de, &count)
    cdef const Row* row
    if value is NULL:
        de = _TRACK2
        value = batch.field(entry, de, &count)
        if value is NULL:
            return False
    row = &batch.plan.table.rows[de]
    if row.check == DIGITS_BCD or row.check == TRACK_BCD:
        i = count & 1 and row.pad == LEFT_ZERO
        count = min(count, <Py_ssize_t>NUMBER_LENGTH)
        bcd_to_text(value, count, i, opened)
        value = opened
    taken.digits = value
    taken.count = count
    if de == _TRACK2:
        for i in range(count):
            if value[i] == 61 or value[i] == 68:  # =, D
                taken.count = i
                break
    return True


cdef int find_cards(MessageBatch batch, TokenTable tokens) noexcept nogil:
    """Looks up the cards of all messages; -1 without memory."""
    cdef number* numbers = <number*>malloc((batch.count + 1) * sizeof(number))
    cdef uint32_t* found = <uint32_t*>malloc((batch.count + 1) * sizeof(uint32_t))
    cdef uint8_t* opened = <uint8_t*>malloc((batch.count + 1) * NUMBER_LENGTH)
    cdef Py_ssize_t n, taken = 0
    if numbers is not NULL and found is not NULL and opened is not NULL:
        for n in range(batch.count):
            batch.entries[n].has_number = card_number(
                batch, &batch.entries[n], &numbers[taken], opened + NUMBER_LENGTH * n)
            taken += batch.entries[n].has_number
        tokens.find_all(numbers, found, taken)
        taken = 0
        for n in range(batch.count):
            if batch.entries[n].has_number:
                batch.entries[n].card_id = found[taken]
                taken += 1
        wipe(opened, batch.count * NUMBER_LENGTH)
        n = 0
    else:
        n = -1
    free(numbers)
    free(found)
    free(opened)
    return <int>n


# ---- all of it -----------------------------------------------------------------------------------


cdef int examine(MessageBatch batch, int64_t now_s, TokenTable tokens) noexcept nogil:
    """Decodes what was appended, checks MACs where there is a directory, looks up cards where there
    is a token table (None is none). -1 without memory."""
    cdef int failed = batch.decode_all()
    if not failed and batch.has_directory:
        failed = authenticate(batch, now_s)
    if not failed and batch.has_tokens:
        failed = find_cards(batch, tokens)
    return failed


cdef MessageBatch new_batch(
    object packager, Plan plan, int form, bytes arena, TerminalKeyTable keys, TokenTable tokens
):
    """An empty batch over these bytes."""
    cdef MessageBatch batch = MessageBatch.__new__(MessageBatch)
    batch.packager = packager
    batch.plan = plan
    batch.form = form
    batch.arena = arena
    batch.bytes = <const uint8_t*>PyBytes_AS_STRING(arena)
    batch.size = PyBytes_GET_SIZE(arena)
    batch.directory = keys
    batch.has_directory = keys is not None
    batch.has_tokens = tokens is not None
    return batch
