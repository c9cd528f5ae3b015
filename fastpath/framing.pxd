# What other compiled modules use of framing.

cdef int form_of(object header) except -1
cdef object header_fault(Py_ssize_t reason)
