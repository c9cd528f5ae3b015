# cython: language_level=3
"""The cards of a token table before it is a file: collected, sorted, written in one go.

See `csrc/token_slots.h` for the slots, `fastpath.tokens` for who looks things up in them.
"""

import os
import struct

cimport cython

from cpython.bytes cimport (
    PyBytes_AS_STRING,
    PyBytes_Check,
    PyBytes_FromStringAndSize,
    PyBytes_GET_SIZE,
)
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, qsort, realloc
from libc.string cimport memset

__all__ = ["TokenEntries"]

cdef extern from "token_slots.h" nogil:
    ctypedef struct slot_sum:
        pass
    uint32_t high_first32(const uint8_t *place)
    const uint8_t *slot_digest(const token_slot *slot)
    int slot_order(const void *one, const void *other)
    uint64_t slot_home(const uint8_t *digest, uint64_t capacity)
    void slot_fill(token_slot *slot, const uint8_t *digest, uint32_t card_id)
    slot_sum slot_sum_start(uint64_t capacity, uint64_t count)
    void slot_sum_add(slot_sum *total, const token_slot *slot)
    uint64_t slot_sum_end(const slot_sum *total)

cdef enum:
    DIGEST = 12
    SLOT = 16
    HEADER = 64
    CHUNK_SLOTS = 65536

# Magic, version, slot length, entries, capacity, slots in the file, checksum, zeros.
LAYOUT = struct.Struct("<8sIIQQQQ16x")
MAGIC = b"CSTOKENS"
VERSION = 1


cdef int check_entry(object digest, object card_id) except -1:
    if not PyBytes_Check(digest) or PyBytes_GET_SIZE(digest) != DIGEST:
        raise ValueError("a digest has 12 bytes")
    if not isinstance(card_id, int) or not 1 <= card_id <= 0xFFFFFFFF:
        raise ValueError("a card id is 1 to 2**32 - 1")
    return 0


@cython.final
cdef class TokenEntries:
    """Entries on their way into a table: collected, then sorted and written."""

    def __dealloc__(self):
        free(self.slots)

    def __len__(self):
        return self.count

    def __reduce__(self):
        raise TypeError("TokenEntries cannot be pickled or copied")

    def add(self, digest, card_id):
        """One entry. ValueError unless the digest has 12 bytes and the id is 1 to 2**32 - 1."""
        check_entry(digest, card_id)
        self.make_room(1)
        slot_fill(
            &self.slots[self.count], <const uint8_t *>PyBytes_AS_STRING(digest), card_id)
        self.count += 1

    def add_packed(self, bytes packed not None):
        """Entries one behind the other: 12 bytes of digest, 4 of the card's id, highest byte first.

        ValueError, with nothing taken, where a part is left over or an id is 0.
        """
        cdef size_t count = PyBytes_GET_SIZE(packed) // SLOT, i
        cdef const uint8_t *at = <const uint8_t *>PyBytes_AS_STRING(packed)
        if count * SLOT != <size_t>PyBytes_GET_SIZE(packed):
            raise ValueError("packed entries have 16 bytes each")
        for i in range(count):
            if high_first32(&at[i * SLOT + DIGEST]) == 0:
                raise ValueError("a card id is 1 to 2**32 - 1")
        self.make_room(count)
        for i in range(count):
            slot_fill(
                &self.slots[self.count + i], &at[i * SLOT], high_first32(&at[i * SLOT + DIGEST]))
        self.count += count

    cdef int make_room(self, size_t count) except -1:
        cdef token_slot *grown
        cdef size_t room = self.room
        while room - self.count < count:
            room = room * 2 if room else 1024
        if room != self.room:
            grown = <token_slot *>realloc(self.slots, room * SLOT)
            if grown is NULL:
                raise MemoryError
            self.slots, self.room = grown, room
        return 0

    cdef int sort(self) except -1:
        cdef size_t i
        cdef bint twice = False
        if self.count == 0:
            return 0
        with nogil:
            qsort(self.slots, self.count, SLOT, slot_order)
            for i in range(1, self.count):
                twice |= slot_order(&self.slots[i - 1], &self.slots[i]) == 0
        if twice:
            raise ValueError("a digest is there twice")
        return 0

    def write(self, path):
        """Writes the table to `path`.

        ValueError when a digest is there twice. The file is complete and on disk before it takes
        its name; until then, and after any error, what was at `path` stays. The same entries give
        the same bytes, whatever their order.
        """
        self.sort()
        path = os.fspath(path)
        temporary = path + (b".tmp" if isinstance(path, bytes) else ".tmp")
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        try:
            with os.fdopen(os.open(temporary, flags, 0o600), "wb") as stream:
                write_table(stream, self)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(temporary, path)
        except BaseException:
            if os.path.exists(temporary):
                os.unlink(temporary)
            raise
        sync_directory(path)


cdef write_table(stream, TokenEntries entries):
    """Header and slots; the header goes in last, so that half a file is never a table."""
    cdef uint64_t capacity = entries.count * 20 // 17 + 1  # load 0.85
    cdef uint64_t place, next_place = 0, chunk_start = 0
    cdef size_t i
    cdef slot_sum checksum = slot_sum_start(capacity, entries.count)
    cdef token_slot *chunk = <token_slot *>malloc(CHUNK_SLOTS * SLOT)
    if chunk is NULL:
        raise MemoryError
    memset(chunk, 0, CHUNK_SLOTS * SLOT)
    try:
        stream.write(bytes(HEADER))
        for i in range(entries.count):
            place = slot_home(slot_digest(&entries.slots[i]), capacity)
            if place < next_place:
                place = next_place
            while place >= chunk_start + CHUNK_SLOTS:
                write_chunk(stream, chunk, CHUNK_SLOTS, &checksum)
                chunk_start += CHUNK_SLOTS
            chunk[place - chunk_start] = entries.slots[i]
            next_place = place + 1
        total = max(next_place, capacity) + 1
        while chunk_start < total:
            place = min(total - chunk_start, CHUNK_SLOTS)
            write_chunk(stream, chunk, place, &checksum)
            chunk_start += place
    finally:
        free(chunk)
    stream.seek(0)
    stream.write(LAYOUT.pack(
        MAGIC, VERSION, SLOT, entries.count, capacity, total, slot_sum_end(&checksum)))


cdef write_chunk(stream, token_slot *chunk, size_t slots, slot_sum *checksum):
    cdef size_t i
    for i in range(slots):
        slot_sum_add(checksum, &chunk[i])
    stream.write(PyBytes_FromStringAndSize(<char *>chunk, slots * SLOT))
    memset(chunk, 0, CHUNK_SLOTS * SLOT)


cdef sync_directory(path):
    descriptor = os.open(os.path.dirname(os.path.abspath(path)), os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
