# cython: language_level=3, boundscheck=False, wraparound=False
"""What travels to the cache and back: card states under a seal, and the command that carries them.

A sealed state is 8 bytes of AES-CMAC (NIST SP 800-38B) over the card's id (8 bytes, big-endian) and a
body; the body is a MessagePack array of three byte strings, of at most 65,535 bytes each. A command is
an array of bulk strings (RESP2).
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from fastpath._bytes cimport put_big_endian
from fastpath.mac cimport MAC_LENGTH, MacKey, job, run_jobs, set_job

cdef extern from "secret.h" nogil:
    void wipe(void *data, size_t size)

__all__ = ["function_call", "open_states", "seal_states"]

cdef enum:
    ID = 8
    PARTS = 3
    PART_MAX = 0xFFFF
    ARRAY_OF_PARTS = 0x93
    BIN8 = 0xC4
    BIN16 = 0xC5
    DIGITS_MAX = 20


cdef void *_room(Py_ssize_t size) except NULL:
    cdef void *room = malloc(<size_t>size + 1)
    if room is NULL:
        raise MemoryError
    return room


cdef void _free_jobs(job *jobs, Py_ssize_t count) noexcept:
    if jobs is not NULL:
        wipe(jobs, <size_t>count * sizeof(job))  # right MACs of refused states must not linger
    free(jobs)


cdef inline uint8_t *_put_part(uint8_t *out, bytes part) noexcept:
    cdef Py_ssize_t size = PyBytes_GET_SIZE(part)
    if size < 256:
        out[0], out[1] = BIN8, <uint8_t>size
        out += 2
    else:
        out[0], out[1], out[2] = BIN16, <uint8_t>(size >> 8), <uint8_t>size
        out += 3
    memcpy(out, PyBytes_AS_STRING(part), <size_t>size)
    return out + size


def seal_states(MacKey key not None, card_ids, parts):
    """Three byte strings per card as one, sealed for that card and no other.

    ValueError where there are not as many of both, or a byte string is too long.
    """
    cdef list ids = list(card_ids), rows = [tuple(row) for row in parts], sealed = []
    cdef Py_ssize_t count = len(ids), i, room = 0, size
    cdef bytes facts, state, window
    cdef uint8_t *place
    cdef uint8_t *out
    if len(rows) != count:
        raise ValueError("cards and states differ in number")
    for facts, state, window in rows:
        size = len(facts) | len(state) | len(window)
        if size > PART_MAX:
            raise ValueError("a state that is too long")
        room += ID + 1 + 3 * PARTS + len(facts) + len(state) + len(window)
    cdef uint8_t *arena = <uint8_t *>_room(room)
    cdef job *jobs = NULL
    try:
        jobs = <job *>_room(count * <Py_ssize_t>sizeof(job))
        place = arena
        for i in range(count):
            facts, state, window = rows[i]
            put_big_endian(<uint64_t><int64_t>ids[i], place)
            place[ID] = ARRAY_OF_PARTS
            out = _put_part(_put_part(_put_part(place + ID + 1, facts), state), window)
            set_job(&jobs[i], key.ref, place, <size_t>(out - place))
            place = out
        with nogil:
            run_jobs(jobs, count)
        for i in range(count):
            size = <Py_ssize_t>jobs[i].size - ID
            one = PyBytes_FromStringAndSize(NULL, MAC_LENGTH + size)
            out = <uint8_t *>PyBytes_AS_STRING(one)
            memcpy(out, jobs[i].mac, MAC_LENGTH)
            memcpy(out + MAC_LENGTH, jobs[i].data + ID, <size_t>size)
            sealed.append(one)
    finally:
        _free_jobs(jobs, count)
        free(arena)
    return sealed


cdef tuple _parts(const uint8_t *data, Py_ssize_t size):
    """The byte strings of a body; None for anything else."""
    cdef Py_ssize_t at = 1, length, i
    cdef list parts = []
    if size < 1 or data[0] != ARRAY_OF_PARTS:
        return None
    for i in range(PARTS):
        if at + 2 <= size and data[at] == BIN8:
            length = data[at + 1]
            at += 2
        elif at + 3 <= size and data[at] == BIN16:
            length = data[at + 1] << 8 | data[at + 2]
            at += 3
        else:
            return None
        if length > size - at:
            return None
        parts.append(PyBytes_FromStringAndSize(<const char *>data + at, length))
        at += length
    return tuple(parts) if at == size else None


def open_states(MacKey key not None, card_ids, states):
    """The byte strings of each sealed state, with None for anything not sealed so for this card.

    ValueError where there are not as many of both.
    """
    cdef list ids = list(card_ids), sealed = list(states), opened = []
    cdef Py_ssize_t count = len(ids), i, room = 0, size
    cdef bytes state
    cdef uint8_t *place
    if len(sealed) != count:
        raise ValueError("cards and states differ in number")
    for state in sealed:
        room += ID + len(state)
    cdef uint8_t *arena = <uint8_t *>_room(room)
    cdef job *jobs = NULL
    try:
        jobs = <job *>_room(count * <Py_ssize_t>sizeof(job))
        place = arena
        for i in range(count):
            state = sealed[i]
            size = max(PyBytes_GET_SIZE(state) - MAC_LENGTH, 0)
            put_big_endian(<uint64_t><int64_t>ids[i], place)
            if size:
                memcpy(place + ID, PyBytes_AS_STRING(state) + MAC_LENGTH, <size_t>size)
            set_job(&jobs[i], key.ref, place, <size_t>(ID + size))
            if size:  # without a body nothing is expected, and so nothing right
                jobs[i].expected = <const uint8_t *>PyBytes_AS_STRING(state)
            place += ID + size
        with nogil:
            run_jobs(jobs, count)
        for i in range(count):
            size = <Py_ssize_t>jobs[i].size - ID
            opened.append(_parts(jobs[i].data + ID, size) if jobs[i].right else None)
    finally:
        _free_jobs(jobs, count)
        free(arena)
    return opened


cdef inline int _digits(uint64_t number, uint8_t *out) noexcept nogil:
    """Writes a number in decimal; how many digits it has."""
    cdef uint8_t backwards[DIGITS_MAX]
    cdef int count = 0, i
    while True:
        backwards[count] = <uint8_t>(48 + number % 10)
        number //= 10
        count += 1
        if number == 0:
            break
    for i in range(count):
        out[i] = backwards[count - 1 - i]
    return count


cdef inline uint8_t *_put_head(uint8_t *out, char kind, Py_ssize_t size) noexcept nogil:
    out[0] = <uint8_t>kind
    out += 1 + _digits(<uint64_t>size, out + 1)
    out[0], out[1] = 13, 10
    return out + 2


cdef inline uint8_t *_put_bulk(
    uint8_t *out, const void *first, Py_ssize_t first_size, const void *second, Py_ssize_t second_size
) noexcept nogil:
    """A bulk string of two pieces."""
    out = _put_head(out, 36, first_size + second_size)
    memcpy(out, first, <size_t>first_size)
    memcpy(out + first_size, second, <size_t>second_size)
    out += first_size + second_size
    out[0], out[1] = 13, 10
    return out + 2


cdef inline uint8_t *_put_bytes(uint8_t *out, bytes value) noexcept:
    return _put_bulk(out, PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value), NULL, 0)


cdef inline int _id_text(int64_t card_id, uint8_t *out) noexcept nogil:
    if card_id >= 0:
        return _digits(<uint64_t>card_id, out)
    out[0] = 45
    return 1 + _digits(-<uint64_t>card_id, out + 1)


def function_call(bytes function not None, bytes tag not None, keys, card_ids, arguments):
    """FCALL with `tag` before each key and each card's id as keys, and these arguments.

    All but the ids are bytes.
    """
    cdef list names = list(keys), ids = list(card_ids), values = list(arguments)
    cdef Py_ssize_t count = len(names) + len(ids), around = DIGITS_MAX + 5
    cdef Py_ssize_t room = 4 * around + PyBytes_GET_SIZE(function)
    cdef uint8_t text[DIGITS_MAX + 1]
    cdef bytes value
    cdef int64_t card_id
    cdef uint8_t *out
    for value in names:
        room += around + PyBytes_GET_SIZE(tag) + len(value)
    room += <Py_ssize_t>len(ids) * (around + PyBytes_GET_SIZE(tag) + DIGITS_MAX + 1)
    for value in values:
        room += around + len(value)
    cdef uint8_t *start = <uint8_t *>_room(room)
    try:
        out = _put_head(start, 42, 3 + count + <Py_ssize_t>len(values))
        out = _put_bytes(out, b"FCALL")
        out = _put_bytes(out, function)
        out = _put_bulk(out, text, _digits(<uint64_t>count, text), NULL, 0)
        for value in names:
            out = _put_bulk(
                out, PyBytes_AS_STRING(tag), PyBytes_GET_SIZE(tag), PyBytes_AS_STRING(value),
                PyBytes_GET_SIZE(value)
            )
        for card_id in ids:
            out = _put_bulk(
                out, PyBytes_AS_STRING(tag), PyBytes_GET_SIZE(tag), text, _id_text(card_id, text)
            )
        for value in values:
            out = _put_bytes(out, value)
        return PyBytes_FromStringAndSize(<char *>start, out - start)
    finally:
        free(start)
