"""Message authentication codes and the block ciphers under them (dialect, section 5).

DES and AES are in C (`csrc/`), without secret-dependent branches or memory addresses. A `MacKey`
keeps its schedules and wipes them when it dies; nothing reads a key back. `sign_many` and
`verify_many` work on a whole batch outside the GIL, many messages side by side in the widest
registers that the processor has: `paths` says which ways of computing run here.
"""

import enum

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t
from libc.stdlib cimport free, malloc

__all__ = [
    "MacAlgorithm",
    "MacKey",
    "MacPadding",
    "aes_cmac",
    "aes_decrypt_block",
    "aes_encrypt_block",
    "implementation",
    "key_check_value",
    "paths",
    "retail_mac",
    "sign_many",
    "tdes_cmac",
    "tdes_decrypt_cbc",
    "tdes_decrypt_ecb",
    "tdes_encrypt_cbc",
    "tdes_encrypt_ecb",
    "verify_many",
]

cdef extern from "secret.h" nogil:
    void wipe(void *memory, size_t size)
    int same_bytes(const uint8_t *one, const uint8_t *other, size_t size)

cdef extern from "des.h" nogil:
    ctypedef struct des_message:
        const tdes_key *key
        const uint8_t *data
        size_t size
        uint8_t *mac
        int padding
    int DES_MAC_1
    int DES_MAC_3
    int DES_PAD_1
    int DES_PAD_2
    void des_startup()
    const char *des_path_name(unsigned n)
    void des_use_path(unsigned n)
    const char *des_implementation()
    void tdes_schedule(tdes_key *key, const uint8_t *data, size_t length)
    void tdes_ecb(
        const tdes_key *key, int decrypt, const uint8_t *source, uint8_t *target, size_t blocks)
    void tdes_cbc(
        const tdes_key *key, int decrypt, const uint8_t *chain, const uint8_t *source,
        uint8_t *target, size_t blocks)
    void des_macs(const des_message *messages, size_t count, int algorithm)
    void tdes_cmac_of "tdes_cmac"(
        const tdes_key *key, const uint8_t *data, size_t size, uint8_t *mac)

cdef extern from "aes.h" nogil:
    ctypedef struct aes_key:
        pass
    ctypedef struct aes_message:
        const aes_cmac_key *key
        const uint8_t *data
        size_t size
        uint8_t *mac
    void aes_startup()
    void aes_force_portable(int portable)
    const char *aes_implementation()
    void aes_schedule(aes_key *key, const uint8_t *data, size_t length)
    void aes_encrypt(const aes_key *key, const uint8_t *source, uint8_t *target, size_t blocks)
    void aes_decrypt(const aes_key *key, const uint8_t *source, uint8_t *target, size_t blocks)
    void aes_cmac_schedule(aes_cmac_key *key, const uint8_t *data, size_t length)
    void aes_cmacs(const aes_message *messages, size_t count)

cdef enum:
    DES_BLOCK = 8
    AES_BLOCK = 16
    TOGETHER = 256  # messages that are looked at at once


des_startup()
aes_startup()


class MacAlgorithm(enum.Enum):
    """How a terminal or link authenticates its messages; the values are those of configuration."""

    RETAIL = "retail-mac"
    AES_CMAC = "aes-cmac"
    TDES = "tdes-mac"  # not one of the dialect's


class MacPadding(enum.Enum):
    """How ISO/IEC 9797-1 fills a message to whole blocks."""

    METHOD_1 = "zeros"  # as many as needed, perhaps none
    METHOD_2 = "one-bit"  # a one bit, then zeros


cdef inline const uint8_t *octets(bytes data) noexcept:
    return <const uint8_t *>PyBytes_AS_STRING(data)


cdef inline uint8_t *writable(bytes fresh) noexcept:
    """The memory of a bytes object that nobody else has seen yet."""
    return <uint8_t *>PyBytes_AS_STRING(fresh)


cdef inline bytes new_bytes(Py_ssize_t size):
    return PyBytes_FromStringAndSize(NULL, size)


cdef int check_tdes_key(bytes key) except -1:
    if PyBytes_GET_SIZE(key) not in (16, 24):
        raise ValueError("a Triple DES key has 16 or 24 bytes")
    return 0


cdef int check_aes_key(bytes key) except -1:
    if PyBytes_GET_SIZE(key) not in (16, 24, 32):
        raise ValueError("an AES key has 16, 24 or 32 bytes")
    return 0


cdef int check_retail_key(bytes key) except -1:
    if PyBytes_GET_SIZE(key) != 16:
        raise ValueError("a retail MAC key has 16 bytes")
    return 0


@cython.final
cdef class MacKey:
    """A key with its algorithm, scheduled once.

    `key`: 16 bytes for `RETAIL` (ISO/IEC 9797-1 MAC algorithm 3), 16 or 24 for `TDES` (MAC
    algorithm 1 with TDEA), 16, 24 or 32 for `AES_CMAC` (SP 800-38B); MACs are the leftmost 8
    bytes. `padding` is for the first two; CMAC has its own. ValueError otherwise. It cannot be
    pickled, copied or read back; its repr names the algorithm only.
    """

    def __cinit__(self, algorithm, bytes key not None, padding=MacPadding.METHOD_1):
        if not isinstance(padding, MacPadding):
            raise TypeError("padding must be a MacPadding")
        self.ref.schedule = &self.schedule
        self.ref.padding = DES_PAD_1 if padding is MacPadding.METHOD_1 else DES_PAD_2
        if algorithm is MacAlgorithm.RETAIL:
            check_retail_key(key)
            self.ref.kind = RETAIL_JOB
        elif algorithm is MacAlgorithm.TDES:
            check_tdes_key(key)
            self.ref.kind = TDES_JOB
        elif algorithm is MacAlgorithm.AES_CMAC:
            check_aes_key(key)
            if padding is not MacPadding.METHOD_1:
                raise ValueError("a CMAC has a padding of its own")
            self.ref.kind = CMAC_JOB
        else:
            raise TypeError("algorithm must be a MacAlgorithm")
        if self.ref.kind == CMAC_JOB:
            aes_cmac_schedule(&self.schedule.cmac, octets(key), PyBytes_GET_SIZE(key))
        else:
            tdes_schedule(&self.schedule.tdes, octets(key), PyBytes_GET_SIZE(key))
        self.algorithm = algorithm

    def __dealloc__(self):
        wipe(&self.schedule, sizeof(self.schedule))

    def __repr__(self):
        return f"MacKey({self.algorithm.value}, …)"

    def __reduce__(self):
        raise TypeError("a MacKey cannot be pickled or copied")

    def sign(self, bytes data not None):
        """The 8-byte MAC of `data`."""
        cdef job work
        set_job(&work, self.ref, octets(data), PyBytes_GET_SIZE(data))
        run_jobs(&work, 1)
        mac = PyBytes_FromStringAndSize(<char *>work.mac, MAC_LENGTH)
        wipe(&work, sizeof(work))
        return mac

    def verify(self, bytes data not None, bytes mac not None):
        """Whether `mac` is the MAC of `data`, compared in constant time; False if not 8 bytes."""
        cdef job work
        cdef bint right
        if PyBytes_GET_SIZE(mac) != MAC_LENGTH:
            return False
        set_job(&work, self.ref, octets(data), PyBytes_GET_SIZE(data))
        work.expected = octets(mac)
        run_jobs(&work, 1)
        right = work.right
        wipe(&work, sizeof(work))
        return right


cdef void set_job(job *work, key_ref key, const uint8_t *data, size_t size) noexcept nogil:
    """Makes `work` the MAC of `data`; nothing is expected of it yet."""
    work.key = key
    work.data = data
    work.size = size
    work.expected = NULL
    work.right = False


cdef void run_tdes_jobs(job *jobs, Py_ssize_t count, int kind) noexcept nogil:
    cdef des_message messages[TOGETHER]
    cdef Py_ssize_t i, taken = 0
    for i in range(count):
        if jobs[i].key.kind == kind:
            messages[taken].key = &jobs[i].key.schedule.tdes
            messages[taken].data = jobs[i].data
            messages[taken].size = jobs[i].size
            messages[taken].mac = jobs[i].mac
            messages[taken].padding = jobs[i].key.padding
            taken += 1
    des_macs(messages, taken, DES_MAC_3 if kind == RETAIL_JOB else DES_MAC_1)


cdef void run_aes_jobs(job *jobs, Py_ssize_t count) noexcept nogil:
    cdef aes_message messages[TOGETHER]
    cdef Py_ssize_t i, taken = 0
    for i in range(count):
        if jobs[i].key.kind == CMAC_JOB:
            messages[taken].key = &jobs[i].key.schedule.cmac
            messages[taken].data = jobs[i].data
            messages[taken].size = jobs[i].size
            messages[taken].mac = jobs[i].mac
            taken += 1
    aes_cmacs(messages, taken)


cdef void run_jobs(job *jobs, Py_ssize_t count) noexcept nogil:
    """Every MAC goes through here; those of one kind go side by side, whatever their keys."""
    cdef Py_ssize_t i, start = 0, size
    cdef int kinds
    while start < count:
        size = min(count - start, <Py_ssize_t>TOGETHER)
        kinds = 0
        for i in range(start, start + size):
            kinds |= 1 << jobs[i].key.kind
        if kinds & (1 << CMAC_JOB):
            run_aes_jobs(&jobs[start], size)
        if kinds & (1 << RETAIL_JOB):
            run_tdes_jobs(&jobs[start], size, RETAIL_JOB)
        if kinds & (1 << TDES_JOB):
            run_tdes_jobs(&jobs[start], size, TDES_JOB)
        for i in range(start, start + size):
            if jobs[i].expected is not NULL:
                jobs[i].right = same_bytes(jobs[i].mac, jobs[i].expected, MAC_LENGTH)
        start += size


cdef int fill_job(job *work, object key, object message) except -1:
    """Both checked: what the batch holds a reference to is a MacKey and bytes."""
    cdef bytes held = <bytes?>message
    set_job(work, (<MacKey?>key).ref, octets(held), PyBytes_GET_SIZE(held))
    return 0


cdef job *new_jobs(Py_ssize_t count) except NULL:
    cdef job *jobs = <job *>malloc(<size_t>(count + 1) * sizeof(job))
    if jobs is NULL:
        raise MemoryError
    return jobs


cdef void free_jobs(job *jobs, Py_ssize_t count) noexcept:
    wipe(jobs, <size_t>count * sizeof(job))  # right MACs of refused messages must not linger
    free(jobs)


def sign_many(list keys not None, list messages not None):
    """The MAC of each message under the key at the same place, in one call without the GIL.

    ValueError when the lists differ in length, TypeError for an element of another type.
    """
    # Tuples, so that no other thread can take an element away while the GIL is released.
    cdef tuple held_keys = tuple(keys)
    cdef tuple held_messages = tuple(messages)
    cdef Py_ssize_t i, count = len(held_keys)
    if len(held_messages) != count:
        raise ValueError("keys and messages differ in number")
    cdef job *jobs = new_jobs(count)
    cdef list macs = []
    try:
        for i in range(count):
            fill_job(&jobs[i], held_keys[i], held_messages[i])
        with nogil:
            run_jobs(jobs, count)
        for i in range(count):
            macs.append(PyBytes_FromStringAndSize(<char *>jobs[i].mac, MAC_LENGTH))
    finally:
        free_jobs(jobs, count)
    return macs


def verify_many(list keys not None, list messages not None, list macs not None):
    """Whether each MAC is right, in one call without the GIL; compared in constant time.

    A MAC that is not 8 bytes long is wrong. ValueError when the lists differ in length, TypeError
    for an element of another type.
    """
    cdef tuple held_keys = tuple(keys)
    cdef tuple held_messages = tuple(messages)
    cdef tuple held_macs = tuple(macs)
    cdef Py_ssize_t i, count = len(held_keys)
    if len(held_messages) != count or len(held_macs) != count:
        raise ValueError("keys, messages and MACs differ in number")
    cdef job *jobs = new_jobs(count)
    cdef bytes mac
    try:
        for i in range(count):
            fill_job(&jobs[i], held_keys[i], held_messages[i])
            mac = <bytes?>held_macs[i]
            if PyBytes_GET_SIZE(mac) == MAC_LENGTH:
                jobs[i].expected = octets(mac)
        with nogil:
            run_jobs(jobs, count)
        return [jobs[i].right != 0 for i in range(count)]
    finally:
        free_jobs(jobs, count)


def retail_mac(bytes key not None, bytes data not None):
    """ISO/IEC 9797-1 MAC algorithm 3 with padding method 1: 8 bytes under a 16-byte key.

    Empty data is taken as one block of zeros.
    """
    return MacKey(MacAlgorithm.RETAIL, key).sign(data)


def aes_cmac(bytes key not None, bytes data not None):
    """All 16 bytes of the AES-CMAC of SP 800-38B; `key` 16, 24 or 32 bytes."""
    cdef aes_message message
    cdef MacKey scheduled = MacKey(MacAlgorithm.AES_CMAC, key)
    cdef bytes mac = new_bytes(AES_BLOCK)
    message.key = &scheduled.schedule.cmac
    message.data = octets(data)
    message.size = PyBytes_GET_SIZE(data)
    message.mac = writable(mac)
    aes_cmacs(&message, 1)
    return mac


def tdes_cmac(bytes key not None, bytes data not None):
    """The 8-byte CMAC with TDEA of SP 800-38B; `key` 16 or 24 bytes."""
    check_tdes_key(key)
    cdef tdes_key schedule
    cdef bytes mac = new_bytes(DES_BLOCK)
    tdes_schedule(&schedule, octets(key), PyBytes_GET_SIZE(key))
    tdes_cmac_of(&schedule, octets(data), PyBytes_GET_SIZE(data), writable(mac))
    wipe(&schedule, sizeof(schedule))
    return mac


cdef bytes tdes(bytes key, bytes chain, bytes data, int decrypt):
    """ECB when `chain` is None, else CBC with that initial value."""
    check_tdes_key(key)
    if chain is not None and PyBytes_GET_SIZE(chain) != DES_BLOCK:
        raise ValueError("an initial value has 8 bytes")
    cdef Py_ssize_t size = PyBytes_GET_SIZE(data)
    if size % DES_BLOCK:
        raise ValueError("data must be whole blocks of 8 bytes")
    cdef tdes_key schedule
    cdef bytes result = new_bytes(size)
    tdes_schedule(&schedule, octets(key), PyBytes_GET_SIZE(key))
    if chain is None:
        tdes_ecb(&schedule, decrypt, octets(data), writable(result), size // DES_BLOCK)
    else:
        tdes_cbc(
            &schedule, decrypt, octets(chain), octets(data), writable(result), size // DES_BLOCK)
    wipe(&schedule, sizeof(schedule))
    return result


def tdes_encrypt_ecb(bytes key not None, bytes data not None):
    """Triple DES (SP 800-67), each 8-byte block by itself; `key` 16 or 24 bytes."""
    return tdes(key, None, data, 0)


def tdes_decrypt_ecb(bytes key not None, bytes data not None):
    """The inverse of `tdes_encrypt_ecb`."""
    return tdes(key, None, data, 1)


def tdes_encrypt_cbc(bytes key not None, bytes iv not None, bytes data not None):
    """Triple DES in CBC mode (SP 800-38A) from the 8-byte `iv`; no padding."""
    return tdes(key, iv, data, 0)


def tdes_decrypt_cbc(bytes key not None, bytes iv not None, bytes data not None):
    """The inverse of `tdes_encrypt_cbc`."""
    return tdes(key, iv, data, 1)


cdef bytes aes(bytes key, bytes block, bint decrypt):
    check_aes_key(key)
    if PyBytes_GET_SIZE(block) != AES_BLOCK:
        raise ValueError("an AES block has 16 bytes")
    cdef aes_key schedule
    cdef bytes result = new_bytes(AES_BLOCK)
    aes_schedule(&schedule, octets(key), PyBytes_GET_SIZE(key))
    if decrypt:
        aes_decrypt(&schedule, octets(block), writable(result), 1)
    else:
        aes_encrypt(&schedule, octets(block), writable(result), 1)
    wipe(&schedule, sizeof(schedule))
    return result


def aes_encrypt_block(bytes key not None, bytes block not None):
    """AES (FIPS 197) of one 16-byte block; `key` 16, 24 or 32 bytes."""
    return aes(key, block, False)


def aes_decrypt_block(bytes key not None, bytes block not None):
    """The inverse of `aes_encrypt_block`."""
    return aes(key, block, True)


def key_check_value(algorithm, bytes key not None):
    """The 3 bytes by which two sides see that they hold the same key.

    Triple DES keys ("tdes", `MacAlgorithm.RETAIL`): leftmost bytes of a block of zeros enciphered.
    AES keys ("aes", `MacAlgorithm.AES_CMAC`): leftmost bytes of the CMAC of 16 zero bytes
    (ANSI X9.24-1:2017, annex A). ValueError for a key of another length.
    """
    if algorithm is MacAlgorithm.RETAIL:
        check_retail_key(key)
    if algorithm is MacAlgorithm.RETAIL or algorithm == "tdes":
        return tdes(key, None, bytes(DES_BLOCK), 0)[:3]
    if algorithm is MacAlgorithm.AES_CMAC or algorithm == "aes":
        return aes_cmac(key, bytes(AES_BLOCK))[:3]
    raise TypeError('algorithm must be a MacAlgorithm, "tdes" or "aes"')


def implementation():
    """Which code runs: a name of `paths` for "aes" and for "des"."""
    return {"aes": aes_implementation().decode(), "des": des_implementation().decode()}


def paths():
    """The ways to compute AES and DES that this processor has, the fastest first.

    "portable" is everywhere. {"aes": ("aes-ni", "portable"), "des": ("avx512-vbmi", "avx512",
    "avx2", "portable")} on a processor that has all.
    """
    cdef unsigned n = 0
    cdef list names = []
    while des_path_name(n) is not NULL:
        names.append(des_path_name(n).decode())
        n += 1
    aes = dict.fromkeys((_fastest_aes, "portable"))
    return {"aes": tuple(aes), "des": tuple(names)}


def _use_paths(*, aes=None, des=None):
    """For tests: keys scheduled from now on use these paths; the fastest where None is given.

    ValueError for one that this processor does not have.
    """
    here = paths()
    aes = here["aes"][0] if aes is None else aes
    des = here["des"][0] if des is None else des
    if aes not in here["aes"] or des not in here["des"]:
        raise ValueError("not a path of this processor")
    aes_force_portable(aes == "portable")
    des_use_path(here["des"].index(des))


_fastest_aes = aes_implementation().decode()
