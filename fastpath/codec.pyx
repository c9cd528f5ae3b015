"""ISO 8583 messages to bytes and back, lazily and strictly.

`decode` checks a whole frame once and keeps only offsets; a field becomes an object when asked for.
It accepts exactly what `encode` writes: for every frame it takes,
`encode(packager, message.mti, dict(message.items())) == frame`. So it refuses lower-case hex,
idle half-bytes that do not hold their padding, a secondary bitmap with no bit set, and DE 65, which
would announce a third bitmap. A fixed field keeps its blanks and zeros. In text fields bytes are
Latin-1 and control characters are refused, also NUL, which no text column takes.

A frame has at most 65,535 bytes. Neither errors nor reprs show a value.

>>> from fastpath.specs import DE, ISO87_ASCII
>>> frame = encode(ISO87_ASCII, "0800", {DE.STAN: "7", DE.NETWORK_CODE: "301"})
>>> frame
b'080080200000000000000400000000000000000007301'
>>> decode(ISO87_ASCII, frame).get(DE.STAN)
'000007'
"""

cimport cython
from cpython.bytes cimport (
    PyBytes_AS_STRING,
    PyBytes_Check,
    PyBytes_FromStringAndSize,
    PyBytes_GET_SIZE,
)
from cpython.dict cimport PyDict_Next
from cpython.long cimport PyLong_AsLongAndOverflow, PyLong_Check
from cpython.object cimport PyObject
from cpython.unicode cimport PyUnicode_Check, PyUnicode_DecodeLatin1
from libc.stdint cimport uint8_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcpy, memset

from fastpath._bytes cimport bcd_to_text, cs_leading_zeros, fails, hex_to_bytes, not_digits
from fastpath._frame cimport *
from fastpath._shape cimport SHAPES
from fastpath._wire cimport *

from collections.abc import Mapping

from fastpath.errors import FormatError
from fastpath.packager import Count, Encoding, Kind, Packager, Pad

__all__ = ["Message", "decode", "encode", "encode_unsealed", "seal"]

cdef extern from "Python.h":
    object PyUnicode_New(Py_ssize_t size, Py_UCS4 maxchar)
    uint8_t* PyUnicode_1BYTE_DATA(PyObject* text)
    int PyUnicode_KIND(PyObject* text)
    int PyUnicode_1BYTE_KIND
    Py_ssize_t PyUnicode_GET_LENGTH(PyObject* text)

# the sentence for every Reason of _wire.pxd, in its order
cdef tuple _REASONS = (
    "fine",
    "frame ends inside the field",
    "length is not a number",
    "longer than the field allows",
    "not digits",
    "not track 2 characters",
    "sign is neither C nor D",
    "control character in text",
    "not upper-case hex",
    "odd number of hex characters",
    "idle half-byte does not hold its padding",
    "field is not in the packager",
    "wrong version of the standard",
    "secondary bitmap announced but empty",
    "a third bitmap is not supported",
    "bytes left after the last field",
    "frame is too long",
    "value has the wrong length",
    "number without digits",
    "text is not Latin-1",
    "no such field",
    "set when the message is sealed",
    "the packager has no MAC there",
    "not an unsealed message",
)


cdef object format_error(int reason, int field, Py_ssize_t offset):
    number = None if field == NO_FIELD else field
    return FormatError(_REASONS[reason], field=number, offset=offset)


# ---- the packager, flattened ---------------------------------------------------------------------

cdef dict _CHECKS = {
    (Kind.N, Encoding.ASCII): DIGITS,
    (Kind.N, Encoding.BCD): DIGITS_BCD,
    (Kind.Z, Encoding.ASCII): TRACK,
    (Kind.Z, Encoding.BCD): TRACK_BCD,
    (Kind.XN, Encoding.ASCII): SIGNED,
    (Kind.XN, Encoding.BCD): SIGNED_BCD,
    (Kind.ANS, Encoding.ASCII): TEXT,
    (Kind.B, Encoding.BINARY): RAW,
    (Kind.B, Encoding.HEX): HEX_TEXT,
}
cdef dict _PADS = {
    Pad.NONE: NO_PAD, Pad.LEFT: LEFT_ZERO, Pad.RIGHT: RIGHT_ZERO, Pad.RIGHT_F: RIGHT_F
}
cdef dict _LENGTH_FORMS = {
    None: FIXED,
    Encoding.ASCII: LENGTH_ASCII,
    Encoding.BCD: LENGTH_BCD,
    Encoding.BINARY: LENGTH_BINARY,
}


cdef int _fill(Row* row, int number, spec) except -1:
    """One row from its FieldSpec."""
    row.check = _CHECKS[spec.kind, spec.encoding]
    row.pad = _PADS[spec.pad]
    row.length_form = _LENGTH_FORMS[spec.prefix_encoding]
    row.length_bytes = spec.prefix_size
    if row.length_form == LENGTH_BCD:
        row.length_bytes = (spec.prefix_size + 1) // 2
    row.counts_wire = spec.count is Count.WIRE
    row.length = spec.length
    row.fixed_bytes = wire_bytes(row, row.length) if row.length_form == FIXED else 0
    row.holds_mac = (
        number in (FIRST_MAC, SECOND_MAC)
        and spec.kind is Kind.B
        and row.length_form == FIXED
        and row.length == MAC_BYTES
    )
    return 0


@cython.final
cdef class Plan:
    """Holds the flattened table of one packager. Made once, never changed."""

    def __cinit__(self, packager):
        memset(&self.table, 0, sizeof(Table))
        self.table.mti_bcd = packager.mti_encoding is Encoding.BCD
        self.table.bitmap_raw = packager.bitmap_encoding is Encoding.BINARY
        self.table.version = int(packager.version)
        for number, spec in packager.fields.items():
            _fill(&self.table.rows[<int>number], number, spec)

    def __dealloc__(self):
        for i in range(SHAPES):
            free(self.table.shapes[i])


# the packagers of the last two calls: a process rarely speaks more than two
cdef object _last_packager = None, _older_packager = None
cdef Plan _last_plan = None, _older_plan = None


cdef Plan plan_of(object packager):
    global _last_packager, _older_packager, _last_plan, _older_plan
    if packager is _last_packager and _last_plan is not None:
        return _last_plan
    if packager is _older_packager and _older_plan is not None:
        _older_packager, _last_packager = _last_packager, _older_packager
        _older_plan, _last_plan = _last_plan, _older_plan
        return _last_plan
    if not isinstance(packager, Packager):
        raise TypeError("packager must be a Packager")
    plan = packager._plan
    if plan is None:
        plan = Plan(packager)
        object.__setattr__(packager, "_plan", plan)
    _older_packager, _older_plan = _last_packager, _last_plan
    _last_packager, _last_plan = packager, plan
    return plan


# ---- decoding ------------------------------------------------------------------------------------


cdef object _digits_text(const uint8_t* data, Py_ssize_t count, int pad, int sign):
    """Text of `count` BCD digits, behind their sign where there is one."""
    cdef Py_ssize_t lead = 1 if sign else 0
    text = PyUnicode_New(count + lead, 127)
    cdef uint8_t* out = PyUnicode_1BYTE_DATA(<PyObject*>text)
    if sign:
        out[0] = sign
    bcd_to_text(data, count, 1 if count & 1 and pad == LEFT_ZERO else 0, out + lead)
    return text


cdef object mti_text(const Table* table, const uint8_t* data):
    if table.mti_bcd:
        return _digits_text(data, 4, NO_PAD, 0)
    return PyUnicode_DecodeLatin1(<char*>data, 4, NULL)


cdef object field_text(
    const Table* table, const uint8_t* data, const Layout* layout, int de, bint normal
):
    """The text of a field that is there; `normal` shows every separator of a track as '='."""
    cdef const Row* row = &table.rows[de]
    cdef const uint8_t* value = value_of(table, data, layout, de)
    cdef Py_ssize_t count = count_of(table, value, de)
    if row.check == DIGITS_BCD or row.check == TRACK_BCD:
        return _digits_text(value, count, row.pad, 0)
    if row.check == SIGNED_BCD:
        return _digits_text(value + 1, count - 1, row.pad, value[0])
    if row.check == RAW or row.check == HEX_TEXT:
        raise TypeError(f"field {de} is binary: use get_bytes")
    text = PyUnicode_DecodeLatin1(<char*>value, count, NULL)
    return text.replace("D", "=") if normal and row.check == TRACK else text


cdef bytes field_bytes(const Table* table, const uint8_t* data, const Layout* layout, int de):
    """The bytes of a field that is there: of a b field opened, of text in Latin-1."""
    cdef const Row* row = &table.rows[de]
    cdef const uint8_t* value = value_of(table, data, layout, de)
    cdef Py_ssize_t count = count_of(table, value, de)
    if row.check == RAW:
        return PyBytes_FromStringAndSize(<const char*>value, count)
    if row.check != HEX_TEXT:
        return field_text(table, data, layout, de, True).encode("latin-1")
    if row.counts_wire:
        count >>= 1
    opened = PyBytes_FromStringAndSize(NULL, count)
    hex_to_bytes(value, count, <uint8_t*>PyBytes_AS_STRING(opened))
    return opened


cdef object field_amount(const Table* table, const uint8_t* data, const Layout* layout, int de):
    """An n field that is there, as a number; None when it is empty."""
    if table.rows[de].check not in (DIGITS, DIGITS_BCD):
        raise TypeError(f"field {de} is not numeric")
    if count_of(table, value_of(table, data, layout, de), de) == 0:
        return None
    return int(field_text(table, data, layout, de, False))


cdef Message new_message(bytes raw, object packager, Plan plan, const Layout* layout):
    """The message in `raw`, whose layout is known."""
    cdef Message message = Message.__new__(Message)
    message.raw = raw
    message.packager = packager
    message.plan = plan
    memcpy(message.starts, layout.start, layout.count * sizeof(uint16_t))
    message.layout = layout[0]
    message.layout.start = message.starts
    return message


@cython.final
@cython.no_gc
@cython.freelist(256)
cdef class Message:
    """A checked frame: offsets only, values when asked for. Made by `decode`."""

    def __init__(self):
        raise TypeError("a Message is made by decode()")

    cdef const uint8_t* data(self) noexcept:
        return <const uint8_t*>PyBytes_AS_STRING(self.raw)

    cdef object text_of(self, int de, bint normal):
        return field_text(&self.plan.table, self.data(), &self.layout, de, normal)

    cdef bytes bytes_of(self, int de):
        return field_bytes(&self.plan.table, self.data(), &self.layout, de)

    cdef bint is_binary(self, int de) noexcept:
        return self.plan.table.rows[de].check == RAW or self.plan.table.rows[de].check == HEX_TEXT

    cdef list numbers(self):
        cdef list found = []
        cdef int half, field
        cdef uint64_t bits
        for half in range(2):
            bits = self.layout.bits[half]
            while bits:
                field = 64 * half + 1 + cs_leading_zeros(bits)
                bits ^= bit_of(field)
                found.append(field)
        return found

    @property
    def mti(self):
        """The message type: four digits."""
        if self.raw is None:
            return ""
        return mti_text(&self.plan.table, self.data())

    @property
    def fields(self):
        """The data elements present, ascending, without 1."""
        return tuple(self.numbers())

    @property
    def mac(self):
        """The 8 bytes of DE 64 or DE 128 where that is the last field, else None."""
        if self.mac_covers == 0:
            return None
        return self.bytes_of(self.layout.last)

    @property
    def mac_covers(self):
        """How many bytes of `raw` the MAC is over: all before it; 0 where there is no MAC."""
        return 0 if self.plan is None else mac_covers(&self.plan.table, &self.layout)

    def __contains__(self, int de):
        return has_field(&self.layout, de)

    def get(self, int de):
        """The text of a field as sent, or None. TypeError for a b field: those are `get_bytes`.

        n: digits; x+n: the letter and digits; z: digits and '=', however its separator was sent.
        """
        return self.text_of(de, True) if has_field(&self.layout, de) else None

    def get_bytes(self, int de):
        """The bytes of a b field (hex opened), or of a text field in Latin-1, or None."""
        if not has_field(&self.layout, de):
            return None
        return self.bytes_of(de)

    def amount(self, int de):
        """An n field as a number; None when absent or empty. TypeError for another kind."""
        if not has_field(&self.layout, de):
            return None
        return field_amount(&self.plan.table, self.data(), &self.layout, de)

    def span(self, int de):
        """Offset and length in `raw` of a field with its length prefix. KeyError when absent."""
        if not has_field(&self.layout, de):
            raise KeyError(de)
        cdef Py_ssize_t start = start_of(&self.layout, de)
        return start, field_size(&self.plan.table, self.data() + start, de)

    def items(self):
        """All fields, ascending, as `encode` takes them: bytes for b fields, else text.

        As `get` says, but for a z field in ASCII, which keeps the separator that was sent.
        """
        return [
            (de, self.bytes_of(de) if self.is_binary(de) else self.text_of(de, False))
            for de in self.numbers()
        ]

    def __repr__(self):
        return f"<Message {self.mti} fields={self.fields}>"


def decode(packager, bytes frame not None):
    """The message in `frame` (without its length header).

    Raises FormatError with field and offset for whatever is malformed; see the top of this module
    for how strict that is.
    """
    cdef Plan plan = plan_of(packager)
    cdef Message message = Message.__new__(Message)
    cdef Fault fault
    cdef const uint8_t* data = <const uint8_t*>PyBytes_AS_STRING(frame)
    message.layout.start = message.starts
    cdef int reason = read_frame(
        &plan.table, data, PyBytes_GET_SIZE(frame), &message.layout, &fault
    )
    if reason != FINE:
        raise format_error(reason, fault.field, fault.offset)
    message.raw = frame
    message.packager = packager
    message.plan = plan
    return message


# ---- encoding ------------------------------------------------------------------------------------

# filled and copied out under the GIL without a call into Python in between
cdef uint8_t _frame[LONGEST_FRAME]


cdef int collect(dict fields, Draft* draft) except -1:
    """Puts the caller's values into their places."""
    cdef Py_ssize_t position = 0
    cdef PyObject* key
    cdef PyObject* value
    cdef long number
    cdef int overflow
    draft.bits[0] = draft.bits[1] = 0
    while PyDict_Next(fields, &position, &key, &value):
        if not PyLong_Check(<object>key):
            raise TypeError("field numbers must be int")
        number = PyLong_AsLongAndOverflow(<object>key, &overflow)
        if overflow or number < 2 or number > 128:
            raise format_error(OUT_OF_RANGE, NO_FIELD, 0)
        if number == THIRD_BITMAP:
            raise format_error(HAS_THIRD_BITMAP, THIRD_BITMAP, 0)
        draft.values[number] = value
        draft.bits[(number - 1) >> 6] |= bit_of(number)
    return 0


cdef int take_mti(const Table* table, object mti, uint8_t* digits) except -1:
    """The four digits of a message type that this packager may write."""
    cdef PyObject* text = <PyObject*>mti
    if not PyUnicode_Check(mti):
        raise TypeError("mti must be str")
    if PyUnicode_GET_LENGTH(text) != 4 or PyUnicode_KIND(text) != PyUnicode_1BYTE_KIND:
        raise format_error(WRONG_LENGTH, 0, 0)
    memcpy(digits, PyUnicode_1BYTE_DATA(text), 4)
    if fails(not_digits, digits, 4):
        raise format_error(BAD_DIGITS, 0, 0)
    if digits[0] - 48 != table.version:
        raise format_error(BAD_VERSION, 0, 0)
    return 0


cdef int put_object(
    const Row* row, int field, PyObject* value, uint8_t* frame, Py_ssize_t* position
) except -1:
    """Writes one value at `position` of a buffer of LONGEST_FRAME; returns a reason."""
    cdef bint binary = row.check == RAW or row.check == HEX_TEXT
    cdef const uint8_t* data
    cdef Py_ssize_t size
    if PyUnicode_Check(<object>value) and not binary:
        if PyUnicode_KIND(value) != PyUnicode_1BYTE_KIND:
            return NOT_LATIN
        data = PyUnicode_1BYTE_DATA(value)
        size = PyUnicode_GET_LENGTH(value)
    elif PyBytes_Check(<object>value):
        data = <const uint8_t*>PyBytes_AS_STRING(<object>value)
        size = PyBytes_GET_SIZE(<object>value)
    elif row.check == UNDECLARED:
        return NOT_DECLARED
    else:
        raise TypeError(f"field {field} takes {'bytes' if binary else 'str or bytes'}")
    return put_field(row, data, size, frame, LONGEST_FRAME, position)


cdef bytes _compose(const Table* table, object mti, Draft* draft, int unsealed):
    """The finished frame; `unsealed` is the MAC's field whose value is left out, or 0."""
    cdef uint8_t digits[4]
    cdef Py_ssize_t at
    cdef uint64_t bits
    cdef int reason, half, field
    take_mti(table, mti, digits)
    at = put_head(table, digits, draft.bits, _frame)
    for half in range(2):
        bits = draft.bits[half]
        while bits:
            field = 64 * half + 1 + cs_leading_zeros(bits)
            bits ^= bit_of(field)
            if field == unsealed:
                continue
            reason = put_object(&table.rows[field], field, draft.values[field], _frame, &at)
            if reason != FINE:
                raise format_error(reason, field, at)
    return PyBytes_FromStringAndSize(<const char*>_frame, at)


cdef dict as_dict(object fields):
    if isinstance(fields, dict):
        return <dict>fields
    if not isinstance(fields, Mapping):
        raise TypeError("fields must be a mapping of field numbers to values")
    return dict(fields)


def encode(packager, mti, fields):
    """The frame of a message type and its fields, a mapping of DE to str, or bytes for b fields.

    Fixed text is filled with blanks on the right, a fixed number (also behind its C or D) with
    zeros on the left; the bitmaps are made here. Text may come as Latin-1 bytes too.
    Raises FormatError where a value does not fit its field, TypeError where it is of another type.
    """
    cdef Plan plan = plan_of(packager)
    cdef const Table* table = &plan.table
    cdef Draft draft
    # held here: the draft only borrows from it
    cdef dict held = as_dict(fields)
    collect(held, &draft)
    return _compose(table, mti, &draft, 0)


cdef int announce_mac(const Table* table, uint64_t* bits) except -1:
    """Sets the bit of the MAC's field, and returns its number."""
    cdef int field = SECOND_MAC if bits[1] else FIRST_MAC
    if (bits[0] | bits[1]) & 1:
        raise format_error(SEALED_LATER, FIRST_MAC if bits[0] & 1 else SECOND_MAC, 0)
    if not table.rows[field].holds_mac:
        raise format_error(NO_MAC_FIELD, field, 0)
    bits[(field - 1) >> 6] |= 1
    return field


def encode_unsealed(packager, mti, fields):
    """Like `encode`, with the MAC's bit set and its bytes missing: what the MAC is computed over.

    The MAC goes into DE 128 where any field is above 64, else into DE 64. Neither may be among
    `fields`: FormatError, as where the packager has no 8-byte b field there.
    """
    cdef Plan plan = plan_of(packager)
    cdef const Table* table = &plan.table
    cdef Draft draft
    cdef dict held = as_dict(fields)
    cdef int field
    collect(held, &draft)
    field = announce_mac(table, draft.bits)
    return _compose(table, mti, &draft, field)


def seal(packager, bytes unsealed not None, bytes mac not None):
    """The finished frame: `unsealed`, then the 8 MAC bytes as the packager writes b fields.

    FormatError where `mac` is not 8 bytes or `unsealed` announces no MAC.
    """
    cdef Plan plan = plan_of(packager)
    cdef const Table* table = &plan.table
    cdef const uint8_t* data = <const uint8_t*>PyBytes_AS_STRING(unsealed)
    cdef Py_ssize_t size = PyBytes_GET_SIZE(unsealed), width
    cdef Layout layout
    cdef Fault fault
    cdef int field
    if read_head(table, data, size, &layout, &fault) != FINE:
        raise format_error(NOT_UNSEALED, NO_FIELD, 0)
    field = SECOND_MAC if layout.bits[1] else FIRST_MAC
    if not layout.bits[(field - 1) >> 6] & 1 or not table.rows[field].holds_mac:
        raise format_error(NOT_UNSEALED, field, size)
    if PyBytes_GET_SIZE(mac) != MAC_BYTES:
        raise format_error(WRONG_LENGTH, field, size)
    width = wire_bytes(&table.rows[field], MAC_BYTES)
    if size + width > LONGEST_FRAME:
        raise format_error(FRAME_TOO_LONG, field, size)
    frame = PyBytes_FromStringAndSize(NULL, size + width)
    cdef uint8_t* out = <uint8_t*>PyBytes_AS_STRING(frame)
    memcpy(out, data, size)
    put_value(
        &table.rows[field], <const uint8_t*>PyBytes_AS_STRING(mac), MAC_BYTES, MAC_BYTES, out + size
    )
    return frame
