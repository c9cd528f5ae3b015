"""The 1987 table row by row, what a Packager refuses, and the import without its compiled half."""

import copy
import dataclasses
import doctest
import pickle
import shutil
import subprocess
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

import fastpath
from fastpath import codec, errors, framing
from fastpath import packager as packager_module
from fastpath.codec import decode, encode
from fastpath.importers import from_moov_json, to_moov_json
from fastpath.packager import Count, Encoding, FieldSpec, Kind, Packager, Pad
from fastpath.specs import DE, ISO87_ASCII, ISO87_BINARY, packagers

TABLE = Path(__file__).parents[1] / "vectors" / "iso87_table.txt"
ROWS = [line.split() for line in TABLE.read_text().splitlines() if not line.startswith("#")]
SHIPPED = Path(fastpath.__file__).parent / "packagers"

# jPOS class without its family: kind and number of L's
CLASSES = {
    "NUMERIC": (Kind.N, 0),
    "LLNUM": (Kind.N, 2),
    "AMOUNT": (Kind.XN, 0),
    "CHAR": (Kind.ANS, 0),
    "LLCHAR": (Kind.ANS, 2),
    "LLLCHAR": (Kind.ANS, 3),
    "BINARY": (Kind.B, 0),
    "LLLBINARY": (Kind.B, 3),
}


def test_the_table_has_every_row():
    assert [int(row[0]) for row in ROWS] == list(range(129))
    for packager in (ISO87_ASCII, ISO87_BINARY):
        assert list(packager.fields) == list(range(2, 129))
        assert packager.version == "0"
        assert all(spec.name for spec in packager.fields.values())


@pytest.mark.parametrize("row", ROWS[2:], ids=lambda row: row[0])
def test_every_field_as_jpos_declares_it(row):
    number, length, ascii_class, binary_class, left = (*map(int, row[:2]), *row[2:])
    in_ascii, in_binary = ISO87_ASCII.fields[number], ISO87_BINARY.fields[number]
    kind, prefix_size = CLASSES[binary_class.partition("_")[2]]
    if number == 35:
        kind = Kind.Z  # jPOS has no class for it
    if number != 55:
        assert CLASSES[ascii_class.partition("_")[2]] == CLASSES[binary_class.partition("_")[2]]
    for spec in (in_ascii, in_binary):
        assert (spec.kind, spec.length, spec.prefix_size) == (kind, length, prefix_size)
    assert in_ascii.encoding is (Encoding.HEX if kind is Kind.B else Encoding.ASCII)
    assert in_ascii.prefix_encoding is (Encoding.ASCII if prefix_size else None)
    assert in_binary.prefix_encoding is (Encoding.BCD if prefix_size else None)
    written = {Kind.B: Encoding.BINARY, Kind.ANS: Encoding.ASCII}.get(kind, Encoding.BCD)
    assert in_binary.encoding is written
    digits = length - 1 if kind is Kind.XN else length
    odd = written is Encoding.BCD and (prefix_size > 0 or digits % 2 == 1)
    expected = (Pad.LEFT if left == "true" else Pad.RIGHT) if odd else Pad.NONE
    assert in_binary.pad is expected and in_ascii.pad is Pad.NONE
    assert in_ascii.count is (Count.WIRE if number == 55 else Count.VALUE)


def test_the_rows_of_type_and_bitmap():
    assert ROWS[0][1:] == ["4", "IFA_NUMERIC", "IFB_NUMERIC", "true"]
    assert ROWS[1][1:] == ["16", "IFA_BITMAP", "IFB_BITMAP", "-"]
    assert (ISO87_ASCII.mti_encoding, ISO87_ASCII.bitmap_encoding) == (Encoding.ASCII, Encoding.HEX)
    assert ISO87_BINARY.mti_encoding is Encoding.BCD
    assert ISO87_BINARY.bitmap_encoding is Encoding.BINARY


def test_names_of_the_data_elements():
    wanted = {
        "PAN": 2, "PROCESSING_CODE": 3, "AMOUNT": 4, "TRANSMISSION_TIME": 7, "STAN": 11,
        "LOCAL_TIME": 12, "LOCAL_DATE": 13, "EXPIRY": 14, "SETTLEMENT_DATE": 15, "ENTRY_MODE": 22,
        "NII": 24, "FEE": 28, "ACQUIRER": 32, "FORWARDER": 33, "TRACK2": 35, "RRN": 37,
        "APPROVAL_CODE": 38, "RESPONSE_CODE": 39, "TERMINAL": 41, "MERCHANT": 42, "TRACK1": 45,
        "PRIVATE": 48, "CURRENCY": 49, "SETTLEMENT_CURRENCY": 50, "PIN_BLOCK": 52,
        "SECURITY_CONTROL": 53, "ADDITIONAL_AMOUNTS": 54, "ICC": 55, "TRANSPORT": 59, "MAC": 64,
        "RECONCILIATION_CODE": 66, "NETWORK_CODE": 70, "CREDITS_NUMBER": 74, "DEBITS_NUMBER": 76,
        "CREDITS_AMOUNT": 86, "DEBITS_REVERSAL_AMOUNT": 89, "ORIGINAL": 90,
        "REPLACEMENT_AMOUNTS": 95, "NET_SETTLEMENT": 97, "TO_ACCOUNT": 103, "MAC2": 128,
    }  # fmt: skip
    assert {name: DE[name].value for name in wanted} == wanted
    assert all(2 <= element <= 128 for element in DE)


def test_packagers_by_name():
    assert packagers() == {"iso87-ascii": ISO87_ASCII, "iso87-binary": ISO87_BINARY}


@pytest.mark.parametrize("packager", packagers().values(), ids=lambda p: p.name)
def test_the_shipped_files_are_our_tables(packager):
    text = (SHIPPED / f"{packager.name}.json").read_text()
    assert from_moov_json(text) == packager
    assert to_moov_json(packager) == text
    names = [spec.name for spec in from_moov_json(text).fields.values()]
    assert names == [spec.name for spec in packager.fields.values()]


def packager_of(spec: FieldSpec, number: int = 48) -> Packager:
    return Packager("test", {number: spec}, Encoding.ASCII, Encoding.HEX)


A, B = Encoding.ASCII, Encoding.BCD


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        (FieldSpec(Kind.ANS, 8, B), "kind ans cannot be written in bcd"),
        (FieldSpec(Kind.N, 8, Encoding.HEX), "kind n cannot be written in hex"),
        (FieldSpec(Kind.B, 8, A), "kind b cannot be written in ascii"),
        (FieldSpec(Kind.N, 0, A), "length 0 is not in"),
        (FieldSpec(Kind.ANS, 70_000, A, 2, Encoding.BINARY), "length 70000 is not in"),
        (FieldSpec(Kind.ANS, 100, A, 2, A), "ends at 99"),
        (FieldSpec(Kind.ANS, 256, A, 1, Encoding.BINARY), "ends at 255"),
        (FieldSpec(Kind.ANS, 9, A, 2), "a length prefix is ASCII, BCD or binary"),
        (FieldSpec(Kind.ANS, 9, A, 2, Encoding.HEX), "a length prefix is ASCII, BCD or binary"),
        (FieldSpec(Kind.ANS, 9, A, 0, A), "a fixed field has no length prefix"),
        (FieldSpec(Kind.ANS, 9, A, 5, A), "size 5 is not in"),
        (FieldSpec(Kind.ANS, 9, A, 3, Encoding.BINARY), "size 3 is not in"),
        (FieldSpec(Kind.ANS, 9, A, -1, A), "size -1 is not in"),
        (FieldSpec(Kind.XN, 1, A), "one letter and at least one digit"),
        (FieldSpec(Kind.XN, 9, A, 2, A), "one letter and at least one digit"),
        (FieldSpec(Kind.N, 3, B), "where the padding half-byte goes"),
        (FieldSpec(Kind.N, 4, B, 2, B), "where the padding half-byte goes"),
        (FieldSpec(Kind.XN, 8, B), "where the padding half-byte goes"),
        (FieldSpec(Kind.B, 8, Encoding.HEX, count=Count.WIRE), "only a variable field in hex"),
        (FieldSpec(Kind.ANS, 8, A, 2, A, count=Count.WIRE), "only a variable field in hex"),
    ],
)
def test_a_declaration_that_cannot_work_is_refused_with_its_field(spec, problem):
    with pytest.raises(ValueError, match=f"^field 48: .*{problem}"):
        packager_of(spec)


def test_a_packager_checks_its_frame():
    good = FieldSpec(Kind.N, 4, A)
    for number in (0, 1, 129, -5):
        with pytest.raises(ValueError, match=f"field {number}: not in 2 .. 128"):
            packager_of(good, number)
    with pytest.raises(ValueError, match="field 0: a message type"):
        Packager("test", {4: good}, Encoding.HEX, Encoding.HEX)
    with pytest.raises(ValueError, match="field 1: a bitmap"):
        Packager("test", {4: good}, Encoding.ASCII, Encoding.ASCII)
    for version in ("", "00", "x", "\N{ARABIC-INDIC DIGIT ONE}"):
        with pytest.raises(ValueError, match="field 0: the version"):
            Packager("test", {4: good}, Encoding.ASCII, Encoding.HEX, version)


def test_a_padding_that_never_shows_is_dropped():
    assert FieldSpec(Kind.N, 4, B, pad=Pad.LEFT) == FieldSpec(Kind.N, 4, B)
    assert FieldSpec(Kind.N, 3, A, pad=Pad.LEFT) == FieldSpec(Kind.N, 3, A)
    assert FieldSpec(Kind.XN, 9, B, pad=Pad.RIGHT) == FieldSpec(Kind.XN, 9, B)
    assert FieldSpec(Kind.N, 3, B, pad=Pad.LEFT) != FieldSpec(Kind.N, 3, B, pad=Pad.RIGHT)


def test_a_packager_cannot_be_changed_and_compares_by_value():
    fields = {11: FieldSpec(Kind.N, 6, A), 4: FieldSpec(Kind.N, 12, A)}
    packager = Packager("test", fields, Encoding.ASCII, Encoding.HEX)
    assert list(packager.fields) == [4, 11]
    fields[12] = FieldSpec(Kind.N, 6, A)
    assert 12 not in packager.fields
    with pytest.raises(TypeError):
        packager.fields[12] = fields[12]
    with pytest.raises(dataclasses.FrozenInstanceError):
        packager.name = "other"
    encode(packager, "0200", {4: "1"})  # the codec has met it now
    for again in (pickle.loads(pickle.dumps(packager)), copy.deepcopy(packager)):
        assert again == packager and hash(again) == hash(packager)
        assert encode(again, "0200", {4: "1"}) == encode(packager, "0200", {4: "1"})
    assert dataclasses.replace(packager, name="other") != packager
    assert "_plan" not in repr(packager)


def test_versions_are_data():
    fields = {11: FieldSpec(Kind.N, 6, A)}
    later = Packager("1993", fields, Encoding.ASCII, Encoding.HEX, version="1")
    frame = encode(later, "1800", {11: "1"})
    assert decode(later, frame).mti == "1800"
    with pytest.raises(ValueError, match="wrong version"):
        decode(ISO87_ASCII, frame)


@pytest.mark.parametrize(
    ("told", "names"),
    [
        (codec.__doc__, vars(codec)),
        (errors.FormatError.__doc__, vars(errors)),
        (framing.swap_tpdu.__doc__, vars(framing)),
        (packager_module.__doc__, vars(packager_module)),
    ],
    ids=["codec", "errors", "framing", "packager"],
)
def test_the_examples_in_the_docstrings_run(told, names):
    test = doctest.DocTestParser().get_doctest(told, dict(names), "docstring", None, 0)
    assert test.examples
    assert doctest.DocTestRunner(verbose=False).run(test).failed == 0


# ---- no compiled modules, no import --------------------------------------------------------------


def run_import(folder: Path) -> subprocess.CompletedProcess[str]:
    code = "import fastpath; print(fastpath.__file__)"
    return subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False
    )


def test_the_import_fails_loudly_without_its_compiled_modules(tmp_path):
    package = tmp_path / "fastpath"
    package.mkdir()
    shutil.copy(fastpath.__file__, package)
    (package / "mac.py").write_text("")  # a Python twin would be a silent slow path
    for name in ("framing", "codec", "tokens"):
        (package / f"{name}{EXTENSION_SUFFIXES[0]}").touch()
    failed = run_import(tmp_path)
    assert failed.returncode == 1
    last = failed.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: the compiled modules of fastpath are not built: mac. ")
    assert "make setup" in last
    (package / f"mac{EXTENSION_SUFFIXES[0]}").touch()
    (package / "mac.py").unlink()
    assert run_import(tmp_path).stdout.strip() == str(package / "__init__.py")
