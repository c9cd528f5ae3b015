"""Terminals and their MAC keys as the batch reader finds them, without the GIL.

Made once from a programme and never changed: a new programme is a new table. It holds references to
the keys and shows none.
"""

cimport cython
from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memchr, memcmp, memcpy, memset

from fastpath.mac cimport MacKey

__all__ = ["TerminalKeyTable"]

cdef enum:
    VERSION_MAX = 99  # two digits of DE 53
    BLANK = 32

cdef int64_t FOR_EVER = 0x7FFFFFFFFFFFFFFF


cdef inline bint take_name(const uint8_t* text, Py_ssize_t size, uint8_t* name) noexcept nogil:
    """`text` without the blanks around it, zeros behind; False where that is no name."""
    while size and text[size - 1] == BLANK:
        size -= 1
    while size and text[0] == BLANK:
        text += 1
        size -= 1
    if size == 0 or size > NAME_LENGTH or memchr(text, 0, size) is not NULL:
        return False
    memset(name, 0, NAME_LENGTH)
    memcpy(name, text, size)
    return True


cdef inline uint64_t mixed(const uint8_t* name) noexcept nogil:
    cdef uint64_t one, other
    memcpy(&one, name, 8)
    memcpy(&other, name + 8, 8)
    one = (one ^ (other * <uint64_t>0x9E3779B97F4A7C15)) * <uint64_t>0xC2B2AE3D27D4EB4F
    return one ^ (one >> 32)


@cython.final
cdef class TerminalKeyTable:
    """From what DE 41 says to a terminal's keys.

    `terminals`: for each its code (1 to 16 characters of Latin-1, blanks around it do not count),
    its keys, and whatever object stands for it outside (`MessageBatch.terminal` gives it back). A
    key is its version (1 to 99), the `MacKey`, and the second since 1970 before which it is taken,
    None for ever; they are tried in the order given, at most 4. ValueError for anything else, and
    for a code that is there twice.
    """

    def __cinit__(self, terminals):
        cdef list taken = list(terminals)
        cdef Py_ssize_t n
        self.count = len(taken)
        self.held_keys = []
        self.held_owners = []
        self.bucket_count = 8
        while self.bucket_count < 2 * <size_t>self.count:
            self.bucket_count *= 2
        self.terminals = <Terminal*>calloc(self.count + 1, sizeof(Terminal))
        self.buckets = <int*>calloc(self.bucket_count, sizeof(int))
        if self.terminals is NULL or self.buckets is NULL:
            raise MemoryError
        for n in range(self.count):
            code, keys, owner = taken[n]
            take_terminal(self, n, code, tuple(keys))
            self.held_owners.append(owner)

    def __dealloc__(self):
        free(self.terminals)
        free(self.buckets)

    def __len__(self):
        return self.count

    def __repr__(self):
        return f"TerminalKeyTable({self.count} terminals)"

    def __reduce__(self):
        raise TypeError("a TerminalKeyTable cannot be pickled or copied")

    def __contains__(self, str code):
        """Whether there is such a terminal."""
        cdef bytes text = code.encode("latin-1", "ignore")
        return len(text) == len(code) and self.find(text, len(text)) >= 0

    cdef int find(self, const uint8_t* name, Py_ssize_t size) noexcept nogil:
        """The number of a terminal, -1 when there is none."""
        cdef uint8_t wanted[NAME_LENGTH]
        cdef size_t at
        cdef int n
        if not take_name(name, size, wanted):
            return -1
        at = mixed(wanted) & (self.bucket_count - 1)
        while self.buckets[at]:
            n = self.buckets[at] - 1
            if memcmp(self.terminals[n].name, wanted, NAME_LENGTH) == 0:
                return n
            at = (at + 1) & (self.bucket_count - 1)
        return -1


cdef int take_terminal(TerminalKeyTable table, Py_ssize_t n, str code, tuple keys) except -1:
    cdef Terminal* terminal = &table.terminals[n]
    cdef bytes text = code.encode("latin-1", "replace")
    cdef KeySlot* slot
    cdef size_t at
    cdef list held = []
    if not take_name(text, len(text), terminal.name):
        raise ValueError(f"a terminal's code has 1 to {NAME_LENGTH} characters")
    if table.find(text, len(text)) >= 0:
        raise ValueError("a terminal's code is there twice")
    if len(keys) > KEYS_MAX:
        raise ValueError(f"a terminal has at most {KEYS_MAX} keys")
    for version, key, until_s in keys:
        if not 1 <= version <= VERSION_MAX:
            raise ValueError(f"key version {version} is not between 1 and {VERSION_MAX}")
        slot = &terminal.slots[terminal.keys]
        slot.version = version
        slot.until_s = FOR_EVER if until_s is None else <int64_t>int(until_s)
        slot.key = (<MacKey?>key).ref
        held.append(key)
        terminal.keys += 1
    table.held_keys.append(tuple(held))
    at = mixed(terminal.name) & (table.bucket_count - 1)
    while table.buckets[at]:
        at = (at + 1) & (table.bucket_count - 1)
    table.buckets[at] = n + 1
    return 0
