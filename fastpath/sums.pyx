# cython: language_level=3, boundscheck=False, wraparound=False
"""Sums over links and postings of the journal, taken from their images.

The projector's inner loop: every link passes here once. What a link's body and a card's state say is
read from their MessagePack as it stands (`switch.journal.rows.LinkBody`, `rules.cards.CardState`); no
object is made of what is only added up. What needs more than sums is handed back to be looked at.
"""

cimport cython
from libc.stdint cimport int8_t, int16_t, int32_t, int64_t, uint8_t, uint64_t

from fastpath.rows cimport RowImage, RowShape

__all__ = ["LinkSums", "cards_of"]

cdef enum:
    CARD = 1  # the account kind whose accounts are cards


cdef struct Reader:
    const uint8_t* at
    const uint8_t* end
    bint bad


cdef inline uint64_t _big(Reader* reader, int size) noexcept nogil:
    cdef uint64_t value = 0
    if reader.end - reader.at < size:
        reader.bad = True
        reader.at = reader.end
        return 0
    for _ in range(size):
        value = value << 8 | reader.at[0]
        reader.at += 1
    return value


cdef int64_t _whole(Reader* reader) noexcept nogil:
    """A whole number."""
    cdef uint64_t kind = _big(reader, 1), wide
    if kind < 0x80:
        return <int64_t>kind
    if kind >= 0xE0:
        return <int8_t>kind
    if kind == 0xCC:
        return <int64_t>_big(reader, 1)
    if kind == 0xCD:
        return <int64_t>_big(reader, 2)
    if kind == 0xCE:
        return <int64_t>_big(reader, 4)
    if kind == 0xD0:
        return <int8_t>_big(reader, 1)
    if kind == 0xD1:
        return <int16_t>_big(reader, 2)
    if kind == 0xD2:
        return <int32_t>_big(reader, 4)
    if kind == 0xD3:
        return <int64_t>_big(reader, 8)
    if kind == 0xCF:
        wide = _big(reader, 8)
        if wide >> 63 == 0:
            return <int64_t>wide
    reader.bad = True
    return 0


cdef bint _truth(Reader* reader) noexcept nogil:
    cdef uint64_t kind = _big(reader, 1)
    if kind != 0xC2 and kind != 0xC3:
        reader.bad = True
    return kind == 0xC3


cdef Py_ssize_t _count(Reader* reader) noexcept nogil:
    """How many elements an array has."""
    cdef uint64_t kind = _big(reader, 1)
    if 0x90 <= kind <= 0x9F:
        return kind & 15
    if kind == 0xDC:
        return <Py_ssize_t>_big(reader, 2)
    if kind == 0xDD:
        return <Py_ssize_t>_big(reader, 4)
    reader.bad = True
    return 0


cdef Reader _bytes(Reader* reader) noexcept nogil:
    """What is in a byte string."""
    cdef uint64_t kind = _big(reader, 1)
    cdef Py_ssize_t size = 0
    cdef Reader inner
    if 0xC4 <= kind <= 0xC6:
        size = <Py_ssize_t>_big(reader, 1 << (kind - 0xC4))
    else:
        reader.bad = True
    if size > reader.end - reader.at:
        reader.bad = True
        size = 0
    inner.at, inner.end, inner.bad = reader.at, reader.at + size, reader.bad
    reader.at += size
    return inner


cdef void _skip(Reader* reader, Py_ssize_t count) noexcept nogil:
    """Pass over so many values, whatever they are."""
    cdef uint64_t kind
    cdef Py_ssize_t size
    while count > 0 and not reader.bad:
        count -= 1
        kind = _big(reader, 1)
        size = 0
        if kind < 0x80 or kind >= 0xE0 or kind == 0xC0 or kind == 0xC2 or kind == 0xC3:
            pass
        elif 0x90 <= kind <= 0x9F:
            count += kind & 15
        elif kind == 0xDC:
            count += <Py_ssize_t>_big(reader, 2)
        elif kind == 0xDD:
            count += <Py_ssize_t>_big(reader, 4)
        elif 0xA0 <= kind <= 0xBF:
            size = kind & 31
        elif 0xC4 <= kind <= 0xC6:
            size = <Py_ssize_t>_big(reader, 1 << (kind - 0xC4))
        elif 0xD9 <= kind <= 0xDB:
            size = <Py_ssize_t>_big(reader, 1 << (kind - 0xD9))
        elif 0xCC <= kind <= 0xCF:
            size = 1 << (kind - 0xCC)
        elif 0xD0 <= kind <= 0xD3:
            size = 1 << (kind - 0xD0)
        else:
            reader.bad = True  # maps, floats, extensions: there are none in what is read here
        if size > reader.end - reader.at:
            reader.bad = True
        else:
            reader.at += size


cdef struct Purse:
    int64_t available_minor, held_minor, given_minor
    int64_t first_end


cdef Purse _purse(Reader* reader, uint64_t given) noexcept nogil:
    """A purse's sums, what sponsors gave of it, and the first last day of its lots."""
    cdef Purse purse
    cdef Py_ssize_t fields = _count(reader), lots, parts, i
    cdef int64_t available_minor, origin, expires_day
    purse.given_minor = purse.first_end = 0
    purse.available_minor = _whole(reader)
    purse.held_minor = _whole(reader)
    if fields > 2:
        lots = _count(reader)
        for i in range(lots):
            parts = _count(reader)
            if reader.bad or parts < 2:
                reader.bad = True
                break
            _skip(reader, 1)
            available_minor = _whole(reader)
            origin = _whole(reader) if parts > 2 else 1
            _skip(reader, 1 if parts > 3 else 0)
            expires_day = _whole(reader) if parts > 4 else 0
            _skip(reader, parts - 5)
            if 0 <= origin < 64 and given >> origin & 1:
                purse.given_minor += available_minor
            if expires_day and not 0 < purse.first_end <= expires_day:
                purse.first_end = expires_day
        _skip(reader, fields - 3)
    return purse


@cython.final
@cython.auto_pickle(False)
cdef class LinkSums:
    """What a stretch of the journal adds up to.

    `moved`: [amount, number] by debit kind and owner, credit kind and owner, purse and currency; a
    card's owner is its programme. `liability`: [available, held] by programme, purse, origin,
    cashable, last day and sponsor. `lives`: by card, the row of `card_life` after its last link. `held`:
    links by which what is held has changed. `odd`: links with an operation or a debit account that
    somebody asked for.
    """

    cdef readonly dict moved, liability, lives
    cdef readonly list held, odd
    cdef readonly RowImage unread
    cdef object _programme_of
    cdef uint64_t _given, _odd_kinds, _odd_operations
    cdef Py_ssize_t _card, _operation, _purse, _amount, _body
    cdef Py_ssize_t _debit_kind, _debit, _credit_kind, _credit, _moved, _in, _currency
    cdef dict _last

    def __init__(
        self, RowShape link, RowShape posting, programme_of, given, odd_kinds, odd_operations
    ):
        """`given`: origins of value from sponsors; all three are sets of numbers below 64."""
        self.moved, self.liability, self.lives = {}, {}, {}
        self.held, self.odd, self._last = [], [], {}
        self._programme_of = programme_of
        self._given = sum([1 << origin for origin in given])
        self._odd_kinds = sum([1 << kind for kind in odd_kinds])
        self._odd_operations = sum([1 << operation for operation in odd_operations])
        self._card, self._operation = link.place("card_id"), link.place("operation")
        self._purse, self._amount = link.place("purse"), link.place("amount_minor")
        self._body = link.place("body")
        self._debit_kind, self._debit = posting.place("debit_kind"), posting.place("debit_id")
        self._credit_kind, self._credit = posting.place("credit_kind"), posting.place("credit_id")
        self._moved, self._in = posting.place("amount_minor"), posting.place("purse")
        self._currency = posting.place("currency")

    def add(self, RowImage link, list postings):
        """One more link with its postings. ValueError where its bytes cannot be read."""
        cdef int64_t card_id = link.whole(self._card), operation = link.whole(self._operation)
        cdef int64_t held_minor = -link.whole(self._amount)
        cdef bint odd = 0 <= operation < 64 and self._odd_operations >> operation & 1
        cdef RowImage posting
        for posting in postings:
            held_minor += self._post(card_id, posting, &odd)
        self._read_body(link, card_id, held_minor)
        if held_minor:
            self.held.append(link)
        if odd:
            self.odd.append((link, postings))
        self._last[card_id] = link

    cdef int64_t _post(self, int64_t card_id, RowImage posting, bint* odd) except? -1:
        """Add a posting; what it moved to this card."""
        cdef int64_t debit_kind = posting.whole(self._debit_kind)
        cdef int64_t credit_kind = posting.whole(self._credit_kind)
        cdef int64_t amount_minor = posting.whole(self._moved), to_card_minor = 0
        cdef int64_t debit = posting.whole(self._debit), credit = posting.whole(self._credit)
        cdef list sums
        if 0 <= debit_kind < 64 and self._odd_kinds >> debit_kind & 1:
            odd[0] = True
        if debit_kind == CARD:
            if debit == card_id:
                to_card_minor -= amount_minor
            debit = self._programme_of(debit)
        if credit_kind == CARD:
            if credit == card_id:
                to_card_minor += amount_minor
            credit = self._programme_of(credit)
        key = (
            debit_kind, debit, credit_kind, credit, posting.whole(self._in),
            posting._at(self._currency),
        )
        sums = self.moved.get(key)
        if sums is None:
            self.moved[key] = [amount_minor, 1]
        else:
            sums[0] += amount_minor
            sums[1] += 1
        return to_card_minor

    cdef int _read_body(self, RowImage link, int64_t card_id, int64_t held_minor) except -1:
        cdef Reader body = _body_of(link, self._body)
        cdef Py_ssize_t moves
        cdef int64_t purse = link.whole(self._purse)
        if _count(&body) < 8:
            raise ValueError("a body without its parts")
        _skip(&body, 6)
        moves = _count(&body)
        if moves and not body.bad:
            self._add_moves(&body, moves, self._programme_of(card_id), purse, held_minor)
        _bytes(&body)
        if body.bad:
            raise ValueError("a body that cannot be read")
        return 0

    cdef int _add_moves(
        self, Reader* body, Py_ssize_t moves, int64_t programme_id, int64_t purse,
        int64_t held_minor
    ) except -1:
        """What is owed to the holder, by kind of lot.

        Value that is held has left its lots and is owed all the same. The link does not name the
        pins, but they follow: what a hold takes is held in the lots it was taken from, and what it
        gives back comes first into the very lots it had been pinned in.
        """
        cdef int64_t released_minor = max(-held_minor, 0), pinned_minor = max(held_minor, 0)
        cdef int64_t amount_minor, part_minor, origin, expires_day
        cdef Py_ssize_t parts, i
        cdef bint cashable
        cdef list sums
        for i in range(moves):
            parts = _count(body)
            _skip(body, 1)
            amount_minor = _whole(body)
            origin = _whole(body)
            cashable = _truth(body)
            expires_day = _whole(body)
            key = (programme_id, purse, origin, cashable, expires_day, _whole(body))
            if parts < 6 or body.bad:
                raise ValueError("a move that cannot be read")
            _skip(body, parts - 6)
            sums = self.liability.get(key)
            if sums is None:
                sums = self.liability[key] = [0, 0]
            sums[0] += amount_minor
            if amount_minor > 0 and released_minor:
                part_minor = min(amount_minor, released_minor)
                released_minor -= part_minor
                sums[1] -= part_minor
            elif amount_minor < 0 and pinned_minor:
                part_minor = min(-amount_minor, pinned_minor)
                pinned_minor -= part_minor
                sums[1] += part_minor
        return 0

    def finish(self):
        """Read the state of each card after its last link: `lives`.

        ValueError where its bytes cannot be read; `unread` is its link then.
        """
        cdef RowImage link
        for card_id, link in self._last.items():
            self.unread = link
            self._read_state(card_id, link)
        self.unread = None

    cdef int _read_state(self, object card_id, RowImage link) except -1:
        cdef Reader body = _body_of(link, self._body)
        cdef Reader state
        cdef Py_ssize_t fields
        cdef int64_t status, due_day = 0, last_active_day = 0, fee_month = 0
        cdef Purse ecash, voucher, points
        _count(&body)
        _skip(&body, 7)
        state = _bytes(&body)
        fields = _count(&state)
        _skip(&state, 2)
        status = _whole(&state)
        ecash = _purse(&state, self._given)
        voucher = _purse(&state, self._given)
        points = _purse(&state, self._given)
        if fields < 6 or state.bad:
            raise ValueError("a state that cannot be read")
        if fields > 13:
            _skip(&state, 7)
            last_active_day = _whole(&state)
        if fields > 14:
            fee_month = _whole(&state)
            _skip(&state, fields - 15)
        if state.bad:
            raise ValueError("a state that cannot be read")
        for end in (ecash.first_end, voucher.first_end, points.first_end):
            if end and not 0 < due_day <= end:
                due_day = end
        self.lives[card_id] = (
            card_id, self._programme_of(card_id), status, due_day, last_active_day, fee_month,
            ecash.available_minor > 0, ecash.available_minor > ecash.given_minor,
        )
        return 0


def cards_of(RowShape link, RowShape posting, entries):
    """The cards of these (link, postings), those of the postings' other sides with them."""
    cdef Py_ssize_t card = link.place("card_id")
    cdef Py_ssize_t debit_kind = posting.place("debit_kind"), debit = posting.place("debit_id")
    cdef Py_ssize_t credit_kind = posting.place("credit_kind"), credit = posting.place("credit_id")
    cdef RowImage row
    cdef set cards = set()
    for head, postings in entries:
        row = head
        cards.add(row.whole(card))
        for one in postings:
            row = one
            if row.whole(debit_kind) == CARD:
                cards.add(row.whole(debit))
            if row.whole(credit_kind) == CARD:
                cards.add(row.whole(credit))
    return cards


cdef Reader _body_of(RowImage link, Py_ssize_t place) except *:
    cdef Reader reader
    cdef Py_ssize_t size = 0
    reader.at = link.raw(place, &size)
    reader.end = reader.at + size
    reader.bad = False
    return reader
