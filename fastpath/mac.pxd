# What other compiled modules use of MACs: keys, and batches of messages without the GIL.

from libc.stdint cimport uint8_t

cdef extern from "des.h" nogil:
    ctypedef struct tdes_key:
        pass

cdef extern from "aes.h" nogil:
    ctypedef struct aes_cmac_key:
        pass

cdef enum:
    MAC_LENGTH = 8

cdef enum JobKind:
    CMAC_JOB = 0
    RETAIL_JOB
    TDES_JOB

cdef union schedules:
    tdes_key tdes
    aes_cmac_key cmac

# A MacKey as it is used without the GIL, by whoever holds a reference to the object.
cdef struct key_ref:
    const schedules *schedule
    uint8_t kind
    uint8_t padding

# One message of a batch. `key` belongs to a MacKey that somebody holds a reference to; where there is
# an `expected` MAC (MAC_LENGTH bytes), `right` says whether it is the message's.
cdef struct job:
    key_ref key
    const uint8_t *data
    const uint8_t *expected
    size_t size
    bint right
    uint8_t mac[16]

cdef class MacKey:
    cdef schedules schedule
    cdef key_ref ref
    cdef readonly object algorithm

cdef void set_job(job *work, key_ref key, const uint8_t *data, size_t size) noexcept nogil
cdef void run_jobs(job *jobs, Py_ssize_t count) noexcept nogil
