# cython: language_level=3
"""From a card number to the card's id, by a keyed digest; no card number is stored.

The digest is an AES-CMAC (SP 800-38B) over one block, so it is worth nothing without its key, and
the key is never in the table. The table is one file, mapped read-only and shared by all workers;
a new generation is built beside it and renamed into place. See `csrc/token_slots.h` for the slots.
"""

import mmap
import os

cimport cython

from cpython.bytes cimport (
    PyBytes_AS_STRING,
    PyBytes_Check,
    PyBytes_FromStringAndSize,
    PyBytes_GET_SIZE,
)
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy

from fastpath.token_entries cimport TokenEntries, check_entry

from fastpath.token_entries import LAYOUT, MAGIC, VERSION

__all__ = ["TokenKey", "TokenTable"]

cdef extern from "Python.h":
    bint PyUnicode_Check(object value)
    bint PyUnicode_IS_ASCII(object value)
    Py_ssize_t PyUnicode_GET_LENGTH(object value)
    void *PyUnicode_DATA(object value)

cdef extern from "secret.h" nogil:
    void wipe(void *memory, size_t size)

cdef extern from "aes.c" nogil:  # the source: it is compiled into this module
    ctypedef struct aes_key:
        pass
    const aes_key *block_key(const aes_cmac_key *key)
    const uint8_t *block_subkey(const aes_cmac_key *key)
    void aes_startup()
    void aes_force_portable(int portable)
    const char *aes_implementation()
    void aes_encrypt(const aes_key *key, const uint8_t *source, uint8_t *target, size_t blocks)
    void aes_cmac_schedule(aes_cmac_key *key, const uint8_t *data, size_t length)

cdef extern from "token_slots.h" nogil:
    const uint8_t *slot_digest(const token_slot *slot)
    uint32_t slot_id(const token_slot *slot)
    void slot_prefetch(const token_slot *slots, uint64_t capacity, const uint8_t *digest)
    uint32_t slot_find(
        const token_slot *slots, uint64_t capacity, uint64_t total, const uint8_t *digest)
    token_additions *additions_new()
    void additions_free(token_additions *additions)
    uint64_t additions_count(const token_additions *additions)
    int additions_put(token_additions *additions, const uint8_t *digest, uint32_t card_id)
    uint32_t additions_find(const token_additions *additions, const uint8_t *digest)
    const token_slot *additions_next(const token_additions *additions, uint64_t *place)
    int slots_hold(
        const token_slot *slots, uint64_t capacity, uint64_t total, uint64_t count,
        uint64_t checksum)

cdef enum:
    BLOCK = 16
    DIGEST = 12
    SLOT = 16
    HEADER = 64
    DIGITS_MIN = 12
    DIGITS_MAX = 19
    GROUP = 16  # look-ups whose cache misses overlap

_SLOTS_MAX = 1 << 33

aes_startup()

cdef int take_number(object pan, number *taken) except -1:
    """A text that cannot be digits gets the count 0, which no check lets pass."""
    if PyUnicode_Check(pan):
        taken.digits = <const uint8_t *>PyUnicode_DATA(pan)
        taken.count = PyUnicode_GET_LENGTH(pan) if PyUnicode_IS_ASCII(pan) else 0
    elif PyBytes_Check(pan):
        taken.digits = <const uint8_t *>PyBytes_AS_STRING(pan)
        taken.count = PyBytes_GET_SIZE(pan)
    else:
        raise TypeError("a card number is str or bytes")
    return 0


cdef bint fill_block(const number *pan, const uint8_t *subkey, uint8_t *block) noexcept nogil:
    """Number of digits, the digits as BCD, zeros; plus the CMAC subkey. False if malformed."""
    cdef uint32_t digit
    cdef Py_ssize_t i
    memcpy(block, subkey, BLOCK)
    if pan.count < DIGITS_MIN or pan.count > DIGITS_MAX:
        return False
    block[0] ^= <uint8_t>pan.count
    for i in range(pan.count):
        digit = <uint32_t>pan.digits[i] - c"0"
        if digit > 9:
            return False
        block[1 + i // 2] ^= <uint8_t>(digit if i & 1 else digit << 4)
    return True


@cython.final
cdef class TokenKey:
    """The key of the card numbers' digests: 16 or 32 bytes, else ValueError.

    It cannot be pickled, copied or read back, and is wiped when it dies.
    """

    def __cinit__(self, bytes key not None):
        if PyBytes_GET_SIZE(key) not in (16, 32):
            raise ValueError("a token key has 16 or 32 bytes")
        aes_cmac_schedule(
            &self.schedule, <const uint8_t *>PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key))

    def __dealloc__(self):
        wipe(&self.schedule, sizeof(self.schedule))

    def __repr__(self):
        return "TokenKey(…)"

    def __reduce__(self):
        raise TypeError("a TokenKey cannot be pickled or copied")

    cdef bint compute(self, const number *pan, uint8_t *block) noexcept nogil:
        """The whole CMAC; False for a malformed number."""
        if not fill_block(pan, block_subkey(&self.schedule), block):
            return False
        aes_encrypt(block_key(&self.schedule), block, block, 1)
        return True

    def digest(self, pan):
        """The 12 bytes under which a card number (12 to 19 digits) is known.

        Leftmost 96 bits of the AES-CMAC over one block: the number of digits, the digits as BCD,
        zeros. ValueError for anything that is not such a number.
        """
        cdef uint8_t block[BLOCK]
        cdef number taken
        take_number(pan, &taken)
        if not self.compute(&taken, block):
            raise ValueError("a card number has 12 to 19 digits")
        return PyBytes_FromStringAndSize(<char *>block, DIGEST)


@cython.final
cdef class TokenTable:
    """A table from digests to card ids, mapped read-only; made by `build`, used after `open`.

    What `add` puts in is known to this process only, from the next look-up on: look-ups may run in
    other threads meanwhile.
    """

    def __dealloc__(self):
        additions_free(self.additions)

    def __init__(self):
        raise TypeError("use TokenTable.open")

    def __reduce__(self):
        raise TypeError("a TokenTable cannot be pickled or copied")

    def __repr__(self):
        return f"TokenTable({len(self)} cards)"

    @staticmethod
    def build(path, entries):
        """Writes a table of (digest, card id) pairs, any iterable, as `TokenEntries.write` does."""
        cdef TokenEntries collected = TokenEntries()
        for digest, card_id in entries:
            collected.add(digest, card_id)
        collected.write(path)

    @staticmethod
    def open(path, TokenKey key not None, *, bint check=True, TokenTable after=None):
        """Maps the table at `path`; its digests must have been made with `key`.

        `after`: the table in use so far, whose additions are taken over where this one lacks them.

        ValueError when it is not a table of this version, or has another size than it says, or
        (unless `check` is off, for workers whose supervisor has just looked) when any slot is
        damaged: that reads the whole file, about 5 ms for a million cards.
        """
        cdef TokenTable table = TokenTable.__new__(TokenTable)
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            status = os.fstat(descriptor)
            size = status.st_size
            if size < HEADER:
                raise ValueError("not a token table")
            mapped = mmap.mmap(descriptor, size, access=mmap.ACCESS_READ)
        finally:
            os.close(descriptor)
        magic, version, slot_length, count, capacity, total, checksum = LAYOUT.unpack_from(mapped)
        if magic != MAGIC:
            raise ValueError("not a token table")
        if version != VERSION or slot_length != SLOT:
            raise ValueError("a token table of another version")
        if not (count < total <= _SLOTS_MAX and 1 <= capacity < total):
            raise ValueError("a token table with a damaged header")
        if size != HEADER + total * SLOT:
            raise ValueError("a token table of the wrong size")
        table.key = key
        table.view = mapped
        table.slots = <const token_slot *>&table.view[HEADER]
        table.count = count
        table.capacity = capacity
        table.total = total
        table.place = (os.fspath(path), status.st_dev, status.st_ino)
        table.additions = additions_new()
        if table.additions is NULL:
            raise MemoryError
        if check and not table.holds(checksum):
            raise ValueError("a token table with damaged slots")
        if after is not None:
            table.take_over(after)
        return table

    cdef int take_over(self, TokenTable other) except -1:
        cdef uint64_t place = 0
        cdef const token_slot *slot
        other.ready()
        while True:
            slot = additions_next(other.additions, &place)
            if slot is NULL:
                return 0
            if self.find(slot_digest(slot)) == 0:
                if additions_put(self.additions, slot_digest(slot), slot_id(slot)) < 0:
                    raise MemoryError

    @property
    def is_current(self):
        """Whether the file at its path is still the one that is mapped."""
        self.ready()
        path, device, inode = self.place
        try:
            status = os.stat(path)
        except FileNotFoundError:
            return True  # nothing newer to go to
        return (status.st_dev, status.st_ino) == (device, inode)

    cdef bint holds(self, uint64_t checksum):
        cdef bint right
        with nogil:
            right = slots_hold(self.slots, self.capacity, self.total, self.count, checksum)
        return right

    cdef int ready(self) except -1:
        if self.slots is NULL:
            raise TypeError("use TokenTable.open")
        return 0

    def __len__(self):
        self.ready()
        return self.count + additions_count(self.additions)

    def digest(self, pan):
        """As `TokenKey.digest`, with the key of this table."""
        self.ready()
        return self.key.digest(pan)

    def add(self, bytes digest not None, card_id):
        """Makes a card known to this process. ValueError when its digest has another id already."""
        cdef const uint8_t *wanted = <const uint8_t *>PyBytes_AS_STRING(digest)
        cdef uint32_t known
        self.ready()
        check_entry(digest, card_id)
        known = self.find(wanted)
        if known == 0:
            if additions_put(self.additions, wanted, card_id) < 0:
                raise MemoryError
        elif known != card_id:
            raise ValueError("the digest belongs to another card")

    cdef uint32_t find(self, const uint8_t *digest) noexcept nogil:
        """The id of a digest, 0 when it is neither in the file nor among the additions."""
        cdef uint32_t found = slot_find(self.slots, self.capacity, self.total, digest)
        return found if found else additions_find(self.additions, digest)

    def get(self, pan):
        """The id of the card with this number; 0 when unknown or not a card number."""
        cdef uint8_t block[BLOCK]
        cdef number taken
        self.ready()
        take_number(pan, &taken)
        if not self.key.compute(&taken, block):
            return 0
        return self.find(block)

    def get_many(self, list pans not None):
        """The id of each card number, 0 where `get` says 0; one call without the GIL."""
        cdef tuple held = tuple(pans)  # no other thread can take an element away meanwhile
        cdef Py_ssize_t i, count = len(held)
        cdef number *numbers = NULL
        cdef uint32_t *found = NULL
        self.ready()
        try:
            numbers = <number *>calloc(<size_t>(count + 1), sizeof(number))
            found = <uint32_t *>malloc(<size_t>(count + 1) * sizeof(uint32_t))
            if numbers is NULL or found is NULL:
                raise MemoryError
            for i in range(count):
                take_number(held[i], &numbers[i])
            with nogil:
                self.find_all(numbers, found, count)
            return [found[i] for i in range(count)]
        finally:
            free(numbers)
            free(found)

    cdef void find_all(
        self, const number *numbers, uint32_t *found, Py_ssize_t count
    ) noexcept nogil:
        """Digests of a group at once, all their cache lines asked for, then the look-ups."""
        cdef uint8_t blocks[GROUP * BLOCK]
        cdef bint valid[GROUP]
        cdef Py_ssize_t start = 0, i, size
        while start < count:
            size = min(count - start, <Py_ssize_t>GROUP)
            for i in range(size):
                valid[i] = fill_block(
                    &numbers[start + i], block_subkey(&self.key.schedule), &blocks[BLOCK * i])
            aes_encrypt(block_key(&self.key.schedule), blocks, blocks, size)
            for i in range(size):
                slot_prefetch(self.slots, self.capacity, &blocks[BLOCK * i])
            for i in range(size):
                found[start + i] = self.find(&blocks[BLOCK * i]) if valid[i] else 0
            start += size


def _implementation():
    """For tests: which AES runs, as in `fastpath.mac.implementation`."""
    return aes_implementation().decode()


def _force_portable(bint portable):
    """For tests: token keys made from now on use the portable AES (or again the fastest)."""
    aes_force_portable(portable)
