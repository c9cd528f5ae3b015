"""Keys: the master key's file, one usage per key, derivation, keys of terminals and of cards."""

from __future__ import annotations

import hashlib
import hmac
import itertools
import os
import pickle
import stat
from pathlib import Path

import psec.pin
import pytest
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.cmac import CMAC
from hypothesis import given
from hypothesis import strategies as st

from fastpath.mac import MacAlgorithm
from switch import keyblock
from switch.keyblock import BlockUsage, KeyAlgorithm, KeyBlockError, KeyMode, ProtectionKey
from switch.keys import (
    MASTER_KEY_VARIABLE,
    CardSecrets,
    KeyUsage,
    MasterKey,
    MasterKeyError,
    WrongUsage,
    check_value,
    derive,
    unwrap_key,
    wrap_key,
)
from switch.terminal_keys import PinFormat, TerminalKeys

KEY = bytes(range(32))
TDES_KEY = bytes.fromhex("0123456789ABCDEFFEDCBA9876543210")


def _key_file(folder: Path, content: bytes, mode: int = 0o600) -> Path:
    path = folder / "master.key"
    path.write_bytes(content)
    path.chmod(mode)
    return path


def _opens(key: MasterKey) -> bool:
    """Whether it is the master key `KEY`."""
    block = MasterKey(KEY).wrap(b"m" * 16, KeyUsage.MAC, KeyAlgorithm.AES)
    return key.unwrap(block, KeyUsage.MAC) == b"m" * 16


@pytest.mark.parametrize(
    "content",
    [
        KEY,
        KEY.hex().encode(),
        KEY.hex().upper().encode() + b"\n",
        b" " + KEY.hex().encode() + b"\r\n",
    ],
)
@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_master_key_from_a_file(tmp_path: Path, content: bytes, mode: int) -> None:
    assert _opens(MasterKey.load(_key_file(tmp_path, content, mode), {}))


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o620, 0o602, 0o601, 0o666])
def test_an_open_file_is_refused(tmp_path: Path, mode: int) -> None:
    path = _key_file(tmp_path, KEY, mode)
    with pytest.raises(MasterKeyError, match=f"{mode:04o}.*0600"):
        MasterKey.load(path, {})


@pytest.mark.parametrize(
    "content", [b"", b"00" * 31, b"00" * 33, b"0" * 63, b"zz" * 32, b"\xff" * 64, KEY * 1000]
)
def test_a_malformed_file_is_refused_without_its_content(tmp_path: Path, content: bytes) -> None:
    path = _key_file(tmp_path, content)
    with pytest.raises(MasterKeyError) as caught:
        MasterKey.load(path, {})
    assert str(caught.value) == f"{path}: expected 64 hex digits"
    assert caught.value.__cause__ is None


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MasterKeyError, match="No such file"):
        MasterKey.load(tmp_path / "none", {})
    with pytest.raises(MasterKeyError, match="not a regular file"):
        MasterKey.load(tmp_path, {})
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(MasterKeyError, match="not a regular file"):
        MasterKey.load(tmp_path / "pipe", {})


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_another_users_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _key_file(tmp_path, KEY)
    os.chown(path, 12345, -1)
    with pytest.raises(MasterKeyError, match="another user"):
        MasterKey.load(path, {})
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    assert _opens(MasterKey.load(path, {}))


def test_master_key_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert _opens(MasterKey.load(None, {MASTER_KEY_VARIABLE: KEY.hex()}))
    monkeypatch.setenv(MASTER_KEY_VARIABLE, KEY.hex())
    assert _opens(MasterKey.load(None))
    # a file goes before the environment
    path = _key_file(tmp_path, bytes(32))
    assert MasterKey.load(path).check_value == check_value(KeyAlgorithm.AES, bytes(32))
    for wrong in ("", "00" * 31, "ü" * 64, KEY.hex() + "00"):
        with pytest.raises(MasterKeyError, match=f"{MASTER_KEY_VARIABLE}: expected 64 hex digits"):
            MasterKey.load(None, {MASTER_KEY_VARIABLE: wrong})
    with pytest.raises(MasterKeyError, match="no master key"):
        MasterKey.load(None, {})


def test_create_writes_a_private_file_once(tmp_path: Path) -> None:
    path = tmp_path / "master.key"
    old_mask = os.umask(0)
    try:
        created = MasterKey.create(path)
    finally:
        os.umask(old_mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]
    loaded = MasterKey.load(path, {})
    assert loaded.check_value == created.check_value
    content = path.read_bytes()
    with pytest.raises(FileExistsError):
        MasterKey.create(path)
    assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]
    assert MasterKey.create(tmp_path / "second").check_value != created.check_value


def test_create_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "master.key"
    synced: list[tuple[bool, bool, int]] = []  # directory? named? length

    def fsync(descriptor: int) -> None:
        status = os.fstat(descriptor)
        synced.append((stat.S_ISDIR(status.st_mode), path.exists(), status.st_size))

    monkeypatch.setattr(os, "fsync", fsync)
    before = len(os.listdir("/proc/self/fd"))
    MasterKey.create(path)
    MasterKey.load(path, {})
    assert len(os.listdir("/proc/self/fd")) == before
    assert synced[0] == (False, False, 65)
    assert [entry[:2] for entry in synced[1:]] == [(True, True)]


def test_the_master_key_is_not_shown_or_copied() -> None:
    key = MasterKey(KEY)
    assert repr(key) == "MasterKey(***)"
    assert not hasattr(key, "__dict__")
    with pytest.raises(TypeError):
        pickle.dumps(key)
    with pytest.raises(MasterKeyError, match="32 bytes"):
        MasterKey(KEY[:16])


def _sample(usage: KeyUsage, algorithm: KeyAlgorithm) -> str:
    return MasterKey(KEY).wrap(TDES_KEY, usage, algorithm)


ALLOWED = {
    (usage, algorithm): block_usage
    for usage in KeyUsage
    for algorithm, block_usage in usage.value.usages.items()
}


def test_the_spelling_of_usages() -> None:
    written = {
        (usage.name, algorithm.value): _sample(usage, algorithm)[5:9]
        for usage, algorithm in ALLOWED
    }
    assert written == {
        ("MAC", "T"): "M3TC",
        ("MAC", "A"): "M6AC",
        ("PIN", "T"): "P0TD",
        ("PIN", "A"): "P0AD",
        ("KEK", "T"): "K1TE",
        ("KEK", "A"): "K1AE",
        ("PVV", "T"): "V2TC",
        ("CODE", "A"): "C0AC",
        ("TOKEN", "A"): "10AC",
    }


def test_a_key_only_opens_for_its_usage() -> None:
    master = MasterKey(KEY)
    for (usage, algorithm), wanted in itertools.product(ALLOWED, KeyUsage):
        block = _sample(usage, algorithm)
        if wanted is usage:
            assert master.unwrap(block, wanted) == TDES_KEY
        else:
            with pytest.raises(WrongUsage, match=wanted.name):
                master.unwrap(block, wanted)


def test_usage_and_algorithm_belong_together() -> None:
    for usage, algorithm in itertools.product(KeyUsage, KeyAlgorithm):
        if (usage, algorithm) not in ALLOWED:
            with pytest.raises(KeyBlockError, match=usage.name):
                _sample(usage, algorithm)
    # M6 is CMAC with AES only, M3 the retail MAC with TDES only
    for block_usage, algorithm in (
        (BlockUsage.MAC_CMAC, KeyAlgorithm.TDES),
        (BlockUsage.MAC_ALGORITHM_3, KeyAlgorithm.AES),
    ):
        block = keyblock.wrap(KEY, TDES_KEY, block_usage, algorithm, KeyMode.GENERATE_AND_VERIFY)
        with pytest.raises(WrongUsage):
            MasterKey(KEY).unwrap(block, KeyUsage.MAC)


def test_modes_that_do_not_fit_are_refused() -> None:
    def block(mode: KeyMode) -> str:
        return keyblock.wrap(KEY, TDES_KEY, BlockUsage.PIN_ENCRYPTION, KeyAlgorithm.TDES, mode)

    taken = set()
    for mode in KeyMode:
        try:
            MasterKey(KEY).unwrap(block(mode), KeyUsage.PIN)
        except WrongUsage:
            continue
        taken.add(mode)
    assert taken == {KeyMode.DECRYPT, KeyMode.ENCRYPT_AND_DECRYPT, KeyMode.UNRESTRICTED}


def test_keys_under_another_key_or_tampered_with() -> None:
    block = _sample(KeyUsage.MAC, KeyAlgorithm.TDES)
    with pytest.raises(KeyBlockError) as caught:
        MasterKey(KEY[::-1]).unwrap(block, KeyUsage.MAC)
    assert not isinstance(caught.value, WrongUsage)
    # a changed usage is a broken block, not another usage
    with pytest.raises(KeyBlockError) as caught:
        MasterKey(KEY).unwrap(block.replace("M3TC", "P0TD"), KeyUsage.PIN)
    assert not isinstance(caught.value, WrongUsage)


def test_a_key_change_travels_under_the_terminals_kek() -> None:
    kek = ProtectionKey(b"terminal's kek..")
    block = wrap_key(kek, TDES_KEY, KeyUsage.MAC, KeyAlgorithm.TDES, key_version=2)
    assert unwrap_key(kek, block, KeyUsage.MAC) == TDES_KEY
    assert kek.unwrap(block).key_version == "02"
    unnumbered = wrap_key(kek, TDES_KEY, KeyUsage.MAC, KeyAlgorithm.TDES)
    assert kek.unwrap(unnumbered).key_version == "00"
    assert _sample(KeyUsage.MAC, KeyAlgorithm.TDES)[9:11] == "00"
    assert len(block) <= 999  # what a tag of DE 48 can carry
    with pytest.raises(WrongUsage):
        unwrap_key(kek, block, KeyUsage.PIN)


def test_check_values() -> None:
    # TDES: first bytes of E(0), as commonly published for this key; AES: of CMAC(16 zero bytes)
    assert check_value(KeyAlgorithm.TDES, TDES_KEY) == "08D7B4"
    context = CMAC(AES(KEY))
    context.update(bytes(16))
    assert check_value(KeyAlgorithm.AES, KEY) == context.finalize()[:3].hex().upper()


def _hkdf(master: bytes, label: str, length: int) -> bytes:
    """RFC 5869, section 2, by the standard library."""
    salt = b"cardswitch demo secrets, version 1"
    secret = hmac.new(salt, master, hashlib.sha256).digest()
    output, last, counter = b"", b"", 1
    while len(output) < length:
        last = hmac.new(secret, last + label.encode() + bytes([counter]), hashlib.sha256).digest()
        output, counter = output + last, counter + 1
    return output[:length]


@given(st.binary(min_size=16, max_size=32), st.text(max_size=20), st.integers(1, 100))
def test_derive_is_hkdf(master: bytes, label: str, length: int) -> None:
    derived = derive(master, label, length)
    assert derived == _hkdf(master, label, length)
    odd = derive(master, label, length, odd_parity=True)
    assert all(byte.bit_count() % 2 == 1 for byte in odd)
    assert [byte | 1 for byte in odd] == [byte | 1 for byte in derived]


def _keys(versions: dict[int, bytes], current: int, **options: object) -> TerminalKeys:
    return TerminalKeys(MacAlgorithm.RETAIL, versions, current, {}, **options)  # type: ignore[arg-type]


def _candidates(keys: TerminalKeys, version: int | None, now_s: float | None = 0) -> list[int]:
    return [keys.version_of(key) for key in keys.mac_candidates(version, now_s)]


VERSIONS = {number: bytes([number]) * 16 for number in (2, 3, 4)}
CHANGING = {"previous": 2, "previous_until_s": 1000.0, "pending": 4}


def test_a_named_version_is_that_one_alone() -> None:
    keys = _keys(VERSIONS, 3, **CHANGING)
    assert _candidates(keys, 3) == [3]
    assert _candidates(keys, 2, 999) == [2]
    assert _candidates(keys, 2, 1000) == []
    assert _candidates(keys, 4) == [4]  # handed out by a key change
    assert _candidates(keys, 1) == _candidates(keys, 5) == []
    assert _candidates(_keys(VERSIONS, 3), 2) == []  # a key, but none that is taken


@pytest.mark.parametrize("unnamed", [None, 0])
def test_unnamed_is_the_current_then_the_previous_in_its_window(unnamed: int | None) -> None:
    assert _candidates(_keys({1: b"k" * 16}, 1), unnamed, None) == [1]
    keys = _keys(VERSIONS, 3, **CHANGING)
    assert _candidates(keys, unnamed, 999) == [3, 2, 4]
    assert _candidates(keys, unnamed, 1000) == [3, 4]
    assert _candidates(keys, unnamed, None) == [3, 4]  # the wall clock is past 1970
    assert _candidates(_keys(VERSIONS, 3, pending=4), unnamed) == [3, 4]
    # after 99 comes 1: which was in force before is not a matter of numbers
    around = {99: b"a" * 16, 1: b"b" * 16}
    keys = _keys(around, 1, previous=99, previous_until_s=1000.0)
    assert _candidates(keys, unnamed, 999) == [1, 99]


def test_candidates_verify_what_their_key_signed() -> None:
    keys = _keys(VERSIONS, 3, **CHANGING)
    (current,) = keys.mac_candidates(3)
    (fresh,) = keys.mac_candidates(4)
    mac = current.sign(b"message")
    assert current.verify(b"message", mac)
    assert not fresh.verify(b"message", mac)
    with pytest.raises(LookupError):
        keys.version_of(_keys(VERSIONS, 3).mac_candidates(3)[0])


def test_reply_keys() -> None:
    keys = _keys(VERSIONS, 3, reply_keys={3: b"r" * 16}, **CHANGING)
    (request_key,) = keys.mac_candidates(3)
    assert keys.reply_key(3).sign(b"reply") != request_key.sign(b"reply")
    assert keys.reply_key(4) is keys.mac_candidates(4)[0]
    with pytest.raises(KeyError):
        keys.reply_key(9)


def _pins(keys: TerminalKeys, version: int | None, now_s: float | None = 0) -> list[int]:
    return [number for number, _ in keys.pin_candidates(version, now_s)]


def test_pin_keys() -> None:
    keys = TerminalKeys(MacAlgorithm.AES_CMAC, {1: b"m" * 16}, 1, {1: b"p" * 16, 2: b"q" * 16})
    assert keys.pin_format is PinFormat.FORMAT_0
    for unnamed in (None, 0):
        assert keys.pin_candidates(unnamed) == ((2, b"q" * 16),)
    assert _pins(keys, 2) == [2]
    assert _pins(keys, 1) == _pins(keys, 3) == []  # a key, but none that is taken
    older = TerminalKeys(
        MacAlgorithm.AES_CMAC,
        {1: b"m" * 16},
        1,
        {1: b"p" * 32, 2: b"q" * 32},
        PinFormat.FORMAT_4,
        current_pin=1,
    )
    assert older.pin_candidates() == ((1, b"p" * 32),)
    assert _keys(VERSIONS, 3).pin_candidates() == ()


def test_pin_keys_in_a_key_change() -> None:
    pins = {1: b"p" * 16, 2: b"q" * 16, 3: b"r" * 16}
    keys = TerminalKeys(
        *(MacAlgorithm.AES_CMAC, {1: b"m" * 16}, 1, pins),
        current_pin=2,
        pending_pin=3,
        previous_pin=1,
        previous_pin_until_s=1000.0,
    )
    for unnamed in (None, 0):
        assert _pins(keys, unnamed, 999) == [2, 1, 3]
        assert _pins(keys, unnamed, 1000) == [2, 3]
        assert _pins(keys, unnamed, None) == [2, 3]  # the wall clock is past 1970
    assert _pins(keys, 1, 999) == [1]
    assert _pins(keys, 1, 1000) == []
    assert (_pins(keys, 2, 1000), _pins(keys, 3, 1000)) == ([2], [3])
    assert _pins(keys, 4) == []


@pytest.mark.parametrize(("pin_format", "lengths"), [(0, {16, 24}), (4, {16, 24, 32})])
def test_pin_keys_have_the_length_of_their_format(pin_format: int, lengths: set[int]) -> None:
    taken = set()
    for length in range(40):
        try:
            TerminalKeys(
                MacAlgorithm.AES_CMAC,
                {1: b"m" * 16},
                1,
                {1: b"p" * length},
                PinFormat(pin_format),
            )
        except ValueError:
            continue
        taken.add(length)
    assert taken == lengths


@pytest.mark.parametrize(
    ("mac_keys", "current", "pin_keys", "options"),
    [
        ({0: b"m" * 16}, 0, {}, {}),
        ({100: b"m" * 16}, 100, {}, {}),
        ({1: b"m" * 16}, 2, {}, {}),
        ({1: b"m" * 16}, 1, {}, {"pending": 2}),
        ({1: b"m" * 16}, 1, {}, {"previous": 2}),
        ({1: b"m" * 16}, 1, {}, {"pending": 1}),
        ({1: b"m" * 16}, 1, {0: b"p" * 16}, {}),
        ({1: b"m" * 16}, 1, {1: b"p" * 32}, {}),
        ({1: b"m" * 16}, 1, {1: b"p" * 8}, {}),
        ({1: b"m" * 16}, 1, {1: b"p" * 16}, {"current_pin": 2}),
        ({1: b"m" * 16}, 1, {}, {"reply_keys": {100: b"r" * 16}}),
        ({1: b"m" * 15}, 1, {}, {}),
    ],
)
def test_impossible_terminal_keys(
    mac_keys: dict[int, bytes],
    current: int,
    pin_keys: dict[int, bytes],
    options: dict[str, object],
) -> None:
    with pytest.raises(ValueError):
        TerminalKeys(
            MacAlgorithm.AES_CMAC,
            mac_keys,
            current,
            pin_keys,
            **options,  # type: ignore[arg-type]
        )


def test_secrets_are_not_shown() -> None:
    keys = TerminalKeys(MacAlgorithm.RETAIL, {1: TDES_KEY}, 1, {1: TDES_KEY})
    cards = CardSecrets(TDES_KEY, KEY)
    for shown in (repr(keys), str(keys), repr(cards), repr(keys.mac_candidates(1))):
        assert TDES_KEY.hex() not in shown.lower()
        assert repr(TDES_KEY)[2:-1] not in shown
    assert repr(cards) == "CardSecrets(***)"


PAN = "9500001234567890128"
TOKEN = bytes(range(12))


@pytest.mark.filterwarnings("ignore:.*TripleDES")
@given(st.integers(0, 9999), st.integers(10**15, 10**19 - 1))
def test_pvv_against_psec(pin: int, pan: int) -> None:
    cards = CardSecrets(TDES_KEY, KEY)
    expected = psec.pin.generate_visa_pvv(TDES_KEY, "1", f"{pin:04d}", str(pan))
    assert cards.pvv(f"{pin:04d}", str(pan)) == expected
    assert cards.verify_pin(f"{pin:04d}", str(pan), expected)
    wrong = f"{(int(expected) + 1) % 10_000:04d}"
    assert not cards.verify_pin(f"{pin:04d}", str(pan), wrong)


@pytest.mark.parametrize("pin", ["", "12", "12a4", "١٢٣٤", "1234\n", "1234567890123"])
def test_a_malformed_pin_is_a_wrong_pin(pin: str) -> None:
    cards = CardSecrets(TDES_KEY, KEY)
    assert cards.verify_pin(pin, PAN, cards.pvv("1234", PAN)) is False


def test_a_missing_pvv_is_no_right_pin() -> None:
    assert not CardSecrets(TDES_KEY, KEY).verify_pin("1234", PAN, "")


@given(st.binary(min_size=12, max_size=12), st.text("0123456789", min_size=3, max_size=8))
def test_code_digest_is_a_cmac_of_token_and_code(token: bytes, code: str) -> None:
    cards = CardSecrets(TDES_KEY, KEY)
    context = CMAC(AES(KEY))
    context.update(token + code.encode())
    digest = cards.code_digest(token, code)
    assert digest == context.finalize()[:8]
    assert cards.verify_code(token, code, digest)
    assert not cards.verify_code(token, code + "0", digest)
    assert not cards.verify_code(token[::-1] + b"", code, digest) or token == token[::-1]
    assert not cards.verify_code(token, code, b"")
    assert not cards.verify_code(token, code, digest[:7])


def test_card_secrets_check_their_lengths() -> None:
    with pytest.raises(ValueError, match="PVV"):
        CardSecrets(TDES_KEY + TDES_KEY[:8], KEY)
    with pytest.raises(ValueError):
        CardSecrets(TDES_KEY, KEY[:15])
    for token in (b"", TOKEN[:11], TOKEN + b"1"):
        with pytest.raises(ValueError, match="12 bytes"):
            CardSecrets(TDES_KEY, KEY).code_digest(token, "1234")
