# Entries on their way into a token table, and the check of one.

cdef extern from "token_slots.h" nogil:
    ctypedef struct token_slot:
        pass

cdef int check_entry(object digest, object card_id) except -1

cdef class TokenEntries:
    cdef token_slot *slots
    cdef size_t count
    cdef size_t room
    cdef int make_room(self, size_t count) except -1
    cdef int sort(self) except -1
