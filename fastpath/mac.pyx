"""Message authentication codes and the block ciphers under them (dialect, section 5).

DES and AES are in C (`csrc/`), without secret-dependent branches or memory addresses. A `MacKey`
keeps its schedules and wipes them when it dies; nothing reads a key back. `sign_many` and
`verify_many` work on a whole batch outside the GIL.
"""

import enum

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t
from libc.stdlib cimport free, malloc

__all__ = [
    "MacAlgorithm",
    "MacKey",
    "aes_cmac",
    "aes_decrypt_block",
    "aes_encrypt_block",
    "implementation",
    "key_check_value",
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
    ctypedef struct tdes_key:
        pass
    void des_startup()
    void des_force_portable(int portable)
    const char *des_implementation()
    void tdes_schedule(tdes_key *key, const uint8_t *data, size_t length)
    void tdes_ecb(
        const tdes_key *key, int decrypt, const uint8_t *source, uint8_t *target, size_t blocks)
    void tdes_cbc(
        const tdes_key *key, int decrypt, const uint8_t *chain, const uint8_t *source,
        uint8_t *target, size_t blocks)
    void des_retail_mac(const tdes_key *key, const uint8_t *data, size_t size, uint8_t *mac)
    void tdes_cmac_of "tdes_cmac"(
        const tdes_key *key, const uint8_t *data, size_t size, uint8_t *mac)

cdef extern from "aes.h" nogil:
    ctypedef struct aes_key:
        pass
    ctypedef struct aes_cmac_key:
        pass
    void aes_startup()
    void aes_force_portable(int portable)
    const char *aes_implementation()
    void aes_schedule(aes_key *key, const uint8_t *data, size_t length)
    void aes_encrypt(const aes_key *key, const uint8_t *source, uint8_t *target, size_t blocks)
    void aes_decrypt(const aes_key *key, const uint8_t *source, uint8_t *target, size_t blocks)
    void aes_cmac_schedule(aes_cmac_key *key, const uint8_t *data, size_t length)
    void aes_cmac_of "aes_cmac"(
        const aes_cmac_key *key, const uint8_t *data, size_t size, uint8_t *mac)

cdef enum:
    MAC_LENGTH = 8
    DES_BLOCK = 8
    AES_BLOCK = 16

cdef union schedules:
    tdes_key tdes
    aes_cmac_key cmac

# One message of a batch. `key` is borrowed from a MacKey that the batch holds a reference to.
cdef struct job:
    const schedules *key
    const uint8_t *data
    const uint8_t *expected
    size_t size
    bint cmac
    bint right
    uint8_t mac[MAC_LENGTH]


des_startup()
aes_startup()


class MacAlgorithm(enum.Enum):
    """How a terminal or link authenticates its messages; the values are those of configuration."""

    RETAIL = "retail-mac"
    AES_CMAC = "aes-cmac"


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


cdef inline void compute(
    const schedules *key, bint cmac, const uint8_t *data, size_t size, uint8_t *mac
) noexcept nogil:
    cdef uint8_t whole[AES_BLOCK]
    if cmac:
        aes_cmac_of(&key.cmac, data, size, whole)
        for i in range(MAC_LENGTH):
            mac[i] = whole[i]
    else:
        des_retail_mac(&key.tdes, data, size, mac)


@cython.final
cdef class MacKey:
    """A key with its algorithm, scheduled once.

    `key`: 16 bytes for `RETAIL` (ISO/IEC 9797-1 MAC algorithm 3, padding method 1, 8 bytes), 16,
    24 or 32 for `AES_CMAC` (SP 800-38B, leftmost 8 bytes); ValueError otherwise. It cannot be
    pickled, copied or read back; its repr names the algorithm only.
    """

    cdef schedules schedule
    cdef bint cmac
    cdef readonly object algorithm

    def __cinit__(self, algorithm, bytes key not None):
        if algorithm is MacAlgorithm.RETAIL:
            check_retail_key(key)
            self.cmac = False
            tdes_schedule(&self.schedule.tdes, octets(key), 16)
        elif algorithm is MacAlgorithm.AES_CMAC:
            check_aes_key(key)
            self.cmac = True
            aes_cmac_schedule(&self.schedule.cmac, octets(key), PyBytes_GET_SIZE(key))
        else:
            raise TypeError("algorithm must be a MacAlgorithm")
        self.algorithm = algorithm

    def __dealloc__(self):
        wipe(&self.schedule, sizeof(self.schedule))

    def __repr__(self):
        return f"MacKey({self.algorithm.value}, …)"

    def __reduce__(self):
        raise TypeError("a MacKey cannot be pickled or copied")

    def sign(self, bytes data not None):
        """The 8-byte MAC of `data`."""
        cdef bytes mac = new_bytes(MAC_LENGTH)
        compute(&self.schedule, self.cmac, octets(data), PyBytes_GET_SIZE(data), writable(mac))
        return mac

    def verify(self, bytes data not None, bytes mac not None):
        """Whether `mac` is the MAC of `data`, compared in constant time; False if not 8 bytes."""
        cdef uint8_t right[MAC_LENGTH]
        if PyBytes_GET_SIZE(mac) != MAC_LENGTH:
            return False
        compute(&self.schedule, self.cmac, octets(data), PyBytes_GET_SIZE(data), right)
        return same_bytes(right, octets(mac), MAC_LENGTH) != 0


cdef void fill_job(job *work, MacKey key, bytes message) noexcept:
    work.key = &key.schedule
    work.cmac = key.cmac
    work.data = octets(message)
    work.size = PyBytes_GET_SIZE(message)
    work.expected = NULL
    work.right = False


cdef void run_jobs(job *jobs, Py_ssize_t count) noexcept nogil:
    """Every path of a batch goes through here: this is where wider paths take several at once."""
    cdef job *work
    for i in range(count):
        work = &jobs[i]
        compute(work.key, work.cmac, work.data, work.size, work.mac)
        if work.expected is not NULL:
            work.right = same_bytes(work.mac, work.expected, MAC_LENGTH)


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
            fill_job(&jobs[i], <MacKey?>held_keys[i], <bytes?>held_messages[i])
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
            fill_job(&jobs[i], <MacKey?>held_keys[i], <bytes?>held_messages[i])
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
    check_retail_key(key)
    cdef tdes_key schedule
    cdef bytes mac = new_bytes(DES_BLOCK)
    tdes_schedule(&schedule, octets(key), 16)
    des_retail_mac(&schedule, octets(data), PyBytes_GET_SIZE(data), writable(mac))
    wipe(&schedule, sizeof(schedule))
    return mac


def aes_cmac(bytes key not None, bytes data not None):
    """All 16 bytes of the AES-CMAC of SP 800-38B; `key` 16, 24 or 32 bytes."""
    check_aes_key(key)
    cdef aes_cmac_key schedule
    cdef bytes mac = new_bytes(AES_BLOCK)
    aes_cmac_schedule(&schedule, octets(key), PyBytes_GET_SIZE(key))
    aes_cmac_of(&schedule, octets(data), PyBytes_GET_SIZE(data), writable(mac))
    wipe(&schedule, sizeof(schedule))
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
    """Which code runs: {"aes": "aes-ni" or "portable", "des": "avx512-vbmi" or "portable"}."""
    return {"aes": aes_implementation().decode(), "des": des_implementation().decode()}


def _force_portable(bint portable):
    """For tests: keys scheduled from now on use the portable code (or again the fastest)."""
    aes_force_portable(portable)
    des_force_portable(portable)
