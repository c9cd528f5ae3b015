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

# One message of a batch. `key` belongs to a MacKey that somebody holds a reference to; where there is
# an `expected` MAC (MAC_LENGTH bytes), `right` says whether it is the message's.
cdef struct job:
    const schedules *key
    const uint8_t *data
    const uint8_t *expected
    size_t size
    uint8_t kind
    uint8_t padding
    bint right
    uint8_t mac[16]

cdef class MacKey:
    cdef schedules schedule
    cdef uint8_t kind
    cdef uint8_t padding_method
    cdef readonly object algorithm

cdef void set_job(job *work, MacKey key, const uint8_t *data, size_t size) noexcept nogil
cdef void run_jobs(job *jobs, Py_ssize_t count) noexcept nogil
