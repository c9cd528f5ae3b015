"""Key blocks: vectors of the standards, an independent implementation both ways, tampering."""

from __future__ import annotations

import copy
import pickle
import secrets
import string

import psec.aes
import psec.tr31
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from switch.keyblock import (
    BlockUsage,
    BlockVersion,
    Exportability,
    KeyAlgorithm,
    KeyBlockError,
    KeyMode,
    ProtectionKey,
    unwrap,
    wrap,
)

# psec uses TDES in ways that cryptography warns of
pytestmark = pytest.mark.filterwarnings("ignore:.*TripleDES")

AES_KBPK = bytes.fromhex("88E1AB2A2E3DD38C1FA039A536500CC8A87AB9D62DC92C01058FA79F44657DE6")
PIN_KEY = bytes.fromhex("3F419E1CB7079442AA37474C2EFBF8B8")

# ANSI X9.143:2021, 8.1: the key length is hidden (48 bytes of key data)
X9143_8_1 = (
    "D0144P0AE00E00002C77FA3F4A553BED6E88AE5C172A4166E3D4ACA8E2AC71C158A476FAC12C13C3"
    "829DE55D3AB54C48F4C4FEF7AC75E90FC47F1B77E7B19A73ED46E64410082557"
)
X9143_8_1_PADDING = bytes.fromhex("1A87BBFA2CFE78D383E5F4C6AA83473C1C2965473CE206BB855B01533782")

# (source, KBPK, block, key)
VECTORS = [
    ("X9.143:2021, 8.1", AES_KBPK.hex(), X9143_8_1, PIN_KEY.hex()),
    (
        "TR-31:2018, A.7.4",
        AES_KBPK.hex(),
        "D0112P0AE00E0000B82679114F470F540165EDFBF7E250FCEA43F810D215F8D207E2E417C07156A2"
        "7E8E31DA05F7425509593D03A457DC34",
        PIN_KEY.hex(),
    ),
    (
        "TR-31:2018, A.7.2.2",
        "DD7515F2BFC17F85CE48F3CA25CB21F6",
        "B0080P0TE00E000094B420079CC80BA3461F86FE26EFC4A3B8E4FA4C5F5341176EED7B727B8A248E",
        PIN_KEY.hex(),
    ),
    (
        "TR-31:2018, A.7.3.2: with a key serial number",
        "1D22BF32387C600AD97F9B97A51311AC",
        "B0104B0TX12S0100KS1800604B120F9292800000BB68BE8680A400D9191AD4ECE45B6E6C0D21C473"
        "8A52190E248719E24B433627",
        "E8BC63E5479455E26577F715D587FE68",
    ),
    (
        "X9.143:2021, 8.4.2: with a key serial number, key length hidden",
        "1D22BF32387C600AD97F9B97A51311AC",
        "B0120B0TX12S0100KS1800604B120F929280000015CEB14B76D551F21EC43A75390FA118A98C6CB0"
        "49E3B9E864A5F4A8B9A5108A6DB5635C95B042D7",
        "E8BC63E5479455E26577F715D587FE68",
    ),
    (
        "ISO 20038:2017, B.3 (key as in its MAC input)",
        "3235362D62697420414553207772617070696E67202849534F20323030333829",
        "D0112M3TV16N000018462FA5903B8D2B82FEE26B29713C0BE7ED81601087F12252093D06FC0A012C"
        "1CF769AD0E3E9E4877166AB013FC22B4",
        "767361707064642032454552206B6479",
    ),
    (
        "Thales payShield 10k, from the tests of openemv/tr31",
        "EFE0853B256B583D868F251CE99EA1D9",
        "B0080K0TN00N00001C414014375212C24995E405B5EE052CB92B67F455EA2680F6751088F9F1C228",
        "5DB50B454F8389ADCE573BE50861F2BF",
    ),
    (
        "Thales payShield 10k, from the tests of openemv/tr31",
        "41" * 32,
        "D0144D0AN00N0000127862F945C2DED04530FAF7CDBC8B0BA10C7AA79BD5E0C2C5D6AC173BF588E4"
        "B19ACF1357178D50EA0AB193228E13958304FC6149632DFDCADF3A5B3D57E814",
        "BE19E6A07A760F10EF8E83A226B63AAD141F463FDDD4F47DB244B4023EC3CACC",
    ),
]

keys_aes = st.sampled_from([16, 24, 32]).flatmap(lambda n: st.binary(min_size=n, max_size=n))
keys_tdes = st.sampled_from([16, 24]).flatmap(lambda n: st.binary(min_size=n, max_size=n))
modes = st.sampled_from(KeyMode)
usages = st.sampled_from(BlockUsage)


@pytest.mark.parametrize(("kbpk", "block", "key"), [v[1:] for v in VECTORS], ids=lambda _: "")
def test_vectors_open(kbpk: str, block: str, key: str) -> None:
    opened = unwrap(bytes.fromhex(kbpk), block)
    assert opened.key == bytes.fromhex(key)
    header = (
        f"{opened.version.value}{len(block):04d}{opened.usage.value}{opened.algorithm.value}"
        f"{opened.mode.value}{opened.key_version}{opened.exportability.value}"
    )
    assert block.startswith(header)


def test_optional_blocks_are_given() -> None:
    _, kbpk, block, _ = VECTORS[3]
    assert unwrap(bytes.fromhex(kbpk), block).optional == (("KS", "00604B120F9292800000"),)


def test_wrapping_makes_the_standards_own_block(monkeypatch: pytest.MonkeyPatch) -> None:
    def given_padding(length: int) -> bytes:
        assert length == len(X9143_8_1_PADDING)
        return X9143_8_1_PADDING

    monkeypatch.setattr(secrets, "token_bytes", given_padding)
    block = wrap(
        AES_KBPK,
        PIN_KEY,
        BlockUsage.PIN_ENCRYPTION,
        KeyAlgorithm.AES,
        KeyMode.ENCRYPT,
        exportability=Exportability.EXPORTABLE,
    )
    assert block == X9143_8_1


def _stronger(key: bytes, kbpk: bytes) -> bool:
    return len(key) > len(kbpk)


@settings(max_examples=60)
@given(keys_aes, keys_aes | keys_tdes, st.booleans(), usages, modes)
def test_version_d_against_psec(
    kbpk: bytes, key: bytes, tdes: bool, usage: BlockUsage, mode: KeyMode
) -> None:
    algorithm = KeyAlgorithm.TDES if tdes and len(key) != 32 else KeyAlgorithm.AES
    header = f"D0000{usage.value}{algorithm.value}{mode.value}07N0000"
    theirs = psec.tr31.wrap(kbpk, header, key)
    if algorithm is KeyAlgorithm.AES and _stronger(key, kbpk):
        with pytest.raises(KeyBlockError, match="stronger"):
            wrap(kbpk, key, usage, algorithm, mode)
        with pytest.raises(KeyBlockError, match="stronger"):
            unwrap(kbpk, theirs)
        return
    ours = wrap(kbpk, key, usage, algorithm, mode, key_version="07")
    their_header, their_key = psec.tr31.unwrap(kbpk, ours)
    assert their_key == key
    assert (their_header.key_usage, their_header.mode_of_use) == (usage.value, mode.value)
    assert (their_header.version_num, their_header.exportability) == ("07", "N")
    opened = unwrap(kbpk, theirs)
    assert (opened.key, opened.usage, opened.algorithm) == (key, usage, algorithm)
    assert (opened.mode, opened.key_version, opened.version) == (mode, "07", BlockVersion.AES)
    assert len(ours) == len(theirs)


@settings(max_examples=60)
@given(keys_tdes, keys_tdes, usages, modes, st.sampled_from(Exportability))
def test_version_b_against_psec(
    kbpk: bytes, key: bytes, usage: BlockUsage, mode: KeyMode, exportability: Exportability
) -> None:
    theirs = psec.tr31.wrap(kbpk, f"B0000{usage.value}T{mode.value}00E0000", key)
    if _stronger(key, kbpk):
        with pytest.raises(KeyBlockError, match="stronger"):
            unwrap(kbpk, theirs)
        return
    ours = wrap(
        kbpk,
        key,
        usage,
        KeyAlgorithm.TDES,
        mode,
        version=BlockVersion.TDES,
        exportability=exportability,
    )
    their_header, their_key = psec.tr31.unwrap(kbpk, ours)
    assert their_key == key
    assert their_header.exportability == exportability.value
    opened = unwrap(kbpk, theirs)
    assert (opened.key, opened.version) == (key, BlockVersion.TDES)
    assert opened.exportability is Exportability.EXPORTABLE
    assert len(ours) == len(theirs)


@settings(max_examples=30)
@given(st.lists(st.text("0123456789ABCDEF", min_size=0, max_size=260), min_size=1, max_size=3))
def test_optional_blocks_of_psec_are_read(data: list[str]) -> None:
    header = psec.tr31.Header("D", "M6", "A", "C", "00", "N")
    for number, text in enumerate(data):
        header.blocks[f"{number}1"] = text
    opened = unwrap(AES_KBPK, psec.tr31.wrap(AES_KBPK, header, PIN_KEY))
    assert opened.key == PIN_KEY
    # a padding block may follow
    assert [block[1] for block in opened.optional][: len(data)] == data


@pytest.mark.parametrize("version", BlockVersion)
def test_every_changed_character_is_refused(version: BlockVersion) -> None:
    kbpk = secrets.token_bytes(16)
    protection = ProtectionKey(kbpk, version)
    block = protection.wrap(
        secrets.token_bytes(16),
        BlockUsage.MAC_ALGORITHM_3,
        KeyAlgorithm.TDES,
        KeyMode.GENERATE_AND_VERIFY,
    )
    assert protection.unwrap(block).usage is BlockUsage.MAC_ALGORITHM_3
    for place, old in enumerate(block):
        for new in {*"0159ABCDENTX", old.lower(), " ", "é", "٣"} - {old}:
            with pytest.raises(KeyBlockError):
                protection.unwrap(block[:place] + new + block[place + 1 :])


@settings(max_examples=200)
@given(st.data())
def test_nothing_but_a_key_block_error(data: st.DataObject) -> None:
    alphabet = string.printable + "é٣"
    place = data.draw(st.integers(0, len(X9143_8_1) - 1))
    cut = data.draw(st.integers(0, 30))
    inserted = data.draw(st.text(alphabet, max_size=30))
    block = X9143_8_1[:place] + inserted + X9143_8_1[place + cut :]
    if block == X9143_8_1:
        assert unwrap(AES_KBPK, block).key == PIN_KEY
        return
    with pytest.raises(KeyBlockError) as caught:
        unwrap(AES_KBPK, block)
    assert caught.value.__cause__ is None


@given(st.text(string.hexdigits + " KS\x00é", max_size=60), st.integers(0, 99))
def test_malformed_optional_blocks_are_refused(text: str, count: int) -> None:
    body = "A" * 128
    block = f"D{16 + len(text) + len(body):04d}P0AE00E{count:02d}00{text}{body}"
    with pytest.raises(KeyBlockError):
        unwrap(AES_KBPK, block)


def _forge(header: str, clear: bytes) -> str:
    """A block whose MAC is right, whatever it says."""
    block = psec.tr31.KeyBlock(AES_KBPK, "D0000P0AE00E0000")
    encryption, authentication = block._d_derive()
    mac = block._d_generate_mac(authentication, header, clear)
    sealed: bytes = psec.aes.encrypt_aes_cbc(encryption, mac, clear)
    return header + (sealed + mac).hex().upper()


CLEAR = b"\x00\x80" + PIN_KEY + bytes(14)


def _with_optional(text: str, count: int = 1, length: int | None = None) -> str:
    length = 16 + len(text) + 96 if length is None else length
    return _forge(f"D{length:04d}P0AE00E{count:02d}00{text}", CLEAR)


@pytest.mark.parametrize(
    ("text", "optional"),
    [
        ("KS10" + "0" * 12, [("KS", "0" * 12)]),
        ("TS04PB0C" + "0" * 8, [("TS", ""), ("PB", "0" * 8)]),
        ("KS00020010" + "0" * 6, [("KS", "0" * 6)]),  # extended length
        ("KS0002000APB0600", [("KS", ""), ("PB", "00")]),
        ("CT00020110" + "x" * 262, [("CT", "x" * 262)]),
    ],
)
def test_optional_blocks(text: str, optional: list[tuple[str, str]]) -> None:
    opened = unwrap(AES_KBPK, _with_optional(text, len(optional)))
    assert list(opened.optional) == optional
    assert opened.key == PIN_KEY


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("KS03" + "0" * 12, "length"),  # shorter than its own head
        ("KS00020009" + "0" * 6, "length"),
        ("KS00040010" + "0" * 6, "length"),  # a length of four bytes
        ("KS000200AG" + "0" * 6, "length"),
        ("KSF0" + "0" * 12, "length"),  # longer than all that is left
        ("ks10" + "0" * 12, "malformed"),
        ("KS1" + "\x01" * 13, "malformed"),
        ("KS10" + "\x01" * 12, "printable"),
        ("KS0C" + "0" * 8, "whole"),  # header of 28 characters
        ("KS18" + "0" * 20, "whole"),
    ],
)
def test_optional_blocks_that_are_none(text: str, complaint: str) -> None:
    with pytest.raises(KeyBlockError, match=complaint):
        unwrap(AES_KBPK, _with_optional(text))


def test_an_optional_block_may_not_reach_over_the_end() -> None:
    with pytest.raises(KeyBlockError, match="length"):
        unwrap(AES_KBPK, "D0026P0AE00E0100KS00020010")
    with pytest.raises(KeyBlockError, match="length"):
        unwrap(AES_KBPK, "D0022P0AE00E0100KS0002")


@pytest.mark.parametrize("length", [111, 113, 0])
def test_a_length_that_differs_is_refused_even_when_authentic(length: int) -> None:
    assert unwrap(AES_KBPK, _with_optional("", 0, 112)).key == PIN_KEY
    with pytest.raises(KeyBlockError, match="length"):
        unwrap(AES_KBPK, _with_optional("", 0, length))


@pytest.mark.parametrize(
    "clear",
    [
        b"\x00\x81" + PIN_KEY + bytes(14),  # 129 bits
        b"\x00\x7f" + PIN_KEY + bytes(14),
        b"\x01\x00" + PIN_KEY + bytes(14),  # 256 bits of 240
        b"\x00\x80" + PIN_KEY[:14],
        bytes(32),
    ],
)
def test_key_lengths_that_cannot_be(clear: bytes) -> None:
    with pytest.raises(KeyBlockError, match="length"):
        unwrap(AES_KBPK, _forge(f"D{16 + 32 + 2 * len(clear):04d}P0AE00E0000", clear))


@pytest.mark.parametrize("body", [0, 16, 32, 48, 64 + 16, 64 + 2])
def test_bodies_that_are_too_short(body: int) -> None:
    with pytest.raises(KeyBlockError, match=r"body|whole"):
        unwrap(AES_KBPK, f"D{16 + body:04d}P0AE00E0000" + "0" * body)


def test_another_protection_key_is_refused() -> None:
    other = bytes([AES_KBPK[0] ^ 1]) + AES_KBPK[1:]
    with pytest.raises(KeyBlockError, match="MAC"):
        unwrap(other, X9143_8_1)


@pytest.mark.parametrize("version", "AC0E")
def test_other_versions_are_refused(version: str) -> None:
    with pytest.raises(KeyBlockError, match="version"):
        unwrap(AES_KBPK, version + X9143_8_1[1:])
    with pytest.raises(KeyBlockError, match="version"):
        unwrap(AES_KBPK, "")
    with pytest.raises(KeyBlockError, match="version"):
        ProtectionKey(AES_KBPK).unwrap("B" + X9143_8_1[1:])


def test_attributes_the_switch_does_not_know_are_refused() -> None:
    for header in ("D0000E4AX00N0000", "D0000M6AY00N0000", "D0000M7HC00N0000", "D0000M6AC00X0000"):
        block = psec.tr31.wrap(AES_KBPK, header, PIN_KEY)
        with pytest.raises(KeyBlockError, match="attribute"):
            unwrap(AES_KBPK, block)


@pytest.mark.parametrize(
    ("kbpk", "version"),
    [(b"k" * 32, BlockVersion.TDES), (b"k" * 8, BlockVersion.TDES), (b"k" * 20, BlockVersion.AES)],
)
def test_protection_keys_have_the_algorithms_length(kbpk: bytes, version: BlockVersion) -> None:
    with pytest.raises(KeyBlockError, match="length"):
        ProtectionKey(kbpk, version)


@pytest.mark.parametrize(
    ("key", "algorithm"),
    [(b"k" * 8, KeyAlgorithm.TDES), (b"k" * 32, KeyAlgorithm.TDES), (b"", KeyAlgorithm.AES)],
)
def test_keys_have_the_algorithms_length(key: bytes, algorithm: KeyAlgorithm) -> None:
    with pytest.raises(KeyBlockError, match="length"):
        wrap(AES_KBPK, key, BlockUsage.MAC_CMAC, algorithm, KeyMode.GENERATE)
    block = psec.tr31.wrap(AES_KBPK, f"D0000M6{algorithm.value}G00N0000", key)
    with pytest.raises(KeyBlockError, match="length"):
        unwrap(AES_KBPK, block)


def test_no_key_is_put_under_a_weaker_one() -> None:
    by_strength = [
        (KeyAlgorithm.TDES, 16),
        (KeyAlgorithm.TDES, 24),
        (KeyAlgorithm.AES, 16),
        (KeyAlgorithm.AES, 24),
        (KeyAlgorithm.AES, 32),
    ]
    for above, (kbpk_algorithm, kbpk_length) in enumerate(by_strength):
        version = BlockVersion[kbpk_algorithm.name]
        protection = ProtectionKey(b"p" * kbpk_length, version)
        for below, (algorithm, length) in enumerate(by_strength):
            key = b"k" * length
            if below <= above:
                block = protection.wrap(key, BlockUsage.MAC_CMAC, algorithm, KeyMode.GENERATE)
                assert protection.unwrap(block).key == key
            else:
                with pytest.raises(KeyBlockError, match="stronger"):
                    protection.wrap(key, BlockUsage.MAC_CMAC, algorithm, KeyMode.GENERATE)


def test_blocks_do_not_tell_the_key_length() -> None:
    def length(size: int, algorithm: KeyAlgorithm) -> int:
        return len(
            wrap(AES_KBPK, b"k" * size, BlockUsage.KEY_ENCRYPTION, algorithm, KeyMode.ENCRYPT)
        )

    assert {length(size, KeyAlgorithm.AES) for size in (16, 24, 32)} == {144}
    assert {length(size, KeyAlgorithm.TDES) for size in (16, 24)} == {112}


@pytest.mark.parametrize("key_version", ["0", "001", "é1", "٣٣", "0 "])
def test_key_versions_are_two_letters_or_digits(key_version: str) -> None:
    with pytest.raises(KeyBlockError, match="version"):
        wrap(
            AES_KBPK,
            PIN_KEY,
            BlockUsage.MAC_CMAC,
            KeyAlgorithm.AES,
            KeyMode.GENERATE,
            key_version=key_version,
        )


def test_keys_are_not_shown_or_copied() -> None:
    opened = unwrap(AES_KBPK, X9143_8_1)
    assert repr(PIN_KEY) not in repr(opened)
    assert PIN_KEY.hex() not in repr(opened).lower()
    protection = ProtectionKey(AES_KBPK)
    assert repr(protection) == "ProtectionKey(***, version=D)"
    for copier in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError):
            copier(protection)
