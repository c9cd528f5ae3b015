"""`cardswitch pos keychange`: the new key is opened, checked, kept, and named from then on."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

import pretend_switch
import psec
import pytest
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.cmac import CMAC
from pretend_switch import PAN, Pos, PretendSwitch, answer_to, sealed, write_demo

from fastpath.codec import Message
from fastpath.mac import MacAlgorithm, MacKey
from fastpath.pinblock import decode_format0

pytestmark = pytest.mark.filterwarnings("ignore:.*TripleDES")
KEK = pretend_switch.CMAC_KEY
NEW = bytes.fromhex("13579BDF02468ACECE8A64201F1F1F1F")
AES_MAC = ("D", "M6", "A", "C")
TDES_MAC = ("B", "M3", "T", "C")
PIN = ("D", "P0", "T", "E")


@pytest.fixture
def switch() -> Iterator[PretendSwitch]:
    pretend = PretendSwitch()
    yield pretend
    pretend.close()


@pytest.fixture
def pos(tmp_path: Path, switch: PretendSwitch, capsys: pytest.CaptureFixture[str]) -> Pos:
    write_demo(tmp_path, *switch.ports)
    return Pos(tmp_path, capsys)


def block(kind: tuple[str, str, str, str], version: str = "02", kek: bytes = KEK) -> str:
    """A key block by a library that is not the switch's."""
    first, usage, algorithm, mode = kind
    header = psec.tr31.Header(first, usage, algorithm, mode, version, "N")
    return psec.tr31.wrap(kek, header, NEW)


def damaged(key_block: str) -> str:
    return key_block[:-1] + ("1" if key_block[-1] == "0" else "0")


def check_value(kind: tuple[str, str, str, str]) -> str:
    if kind[2] == "T":
        return psec.des.encrypt_tdes_ecb(NEW, bytes(8))[:3].hex().upper()
    context = CMAC(AES(NEW))
    context.update(bytes(16))
    return context.finalize()[:3].hex().upper()


def give(switch: PretendSwitch, key_block: str, check: str) -> None:
    switch.answers("00", KB=key_block, KC=check)


@pytest.mark.parametrize(
    ("number", "kind", "algorithm"),
    [
        ("00000001", AES_MAC, MacAlgorithm.AES_CMAC),
        ("00000002", TDES_MAC, MacAlgorithm.RETAIL),
    ],
)
def test_a_new_mac_key_is_kept_and_used(
    pos: Pos,
    switch: PretendSwitch,
    monkeypatch: pytest.MonkeyPatch,
    number: str,
    kind: tuple[str, str, str, str],
    algorithm: MacAlgorithm,
) -> None:
    at = ("--terminal", number)
    key_block = block(kind)
    give(switch, key_block, check_value(kind))
    assert pos("keychange", *at) == 0
    [request] = switch.requests
    assert (request.mti, request.get(70), request.get(48)) == ("0800", "101", None)
    assert pos.row("New key") == f"version 02, check value {check_value(kind)}"
    assert NEW.hex() not in pos.out.lower()
    assert key_block not in pos.out
    path = pos.data_dir / f"pos-{number}.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    held = pos.state(number).keys["mac"]
    assert (held.version, held.key) == (2, NEW.hex())
    assert NEW.hex() not in repr(pos.state(number))
    # what follows is under the new key, in both directions: the pretend switch checks its side
    monkeypatch.setitem(pretend_switch.MAC_KEYS, number, MacKey(algorithm, NEW))
    switch.answers("00")
    assert pos("echo", *at) == 0
    assert switch.requests[-1].get(53) == "0200000000000000"


def test_a_reply_under_another_key_than_the_request_s_is_none(
    pos: Pos, switch: PretendSwitch, monkeypatch: pytest.MonkeyPatch
) -> None:
    give(switch, block(AES_MAC), check_value(AES_MAC))
    assert pos("keychange") == 0
    monkeypatch.setitem(pretend_switch.MAC_KEYS, "00000001", MacKey(MacAlgorithm.AES_CMAC, NEW))
    old = MacKey(MacAlgorithm.AES_CMAC, pretend_switch.CMAC_KEY)

    def under_the_old(request: Message) -> bytes:
        with monkeypatch.context() as patch:
            patch.setitem(pretend_switch.MAC_KEYS, "00000001", old)
            return sealed(request, answer_to(request))

    switch.answerer = under_the_old
    assert pos("echo") == 3
    assert "a wrong MAC" in pos.out


@pytest.mark.parametrize(
    ("key_block", "check", "reason"),
    [
        (block(AES_MAC), "000000", "check value"),
        (block(AES_MAC), "", "check value"),
        (block(AES_MAC, kek=NEW), check_value(AES_MAC), "cannot be opened"),
        (damaged(block(AES_MAC)), check_value(AES_MAC), "cannot be opened"),
        ("", check_value(AES_MAC), "cannot be opened"),
        (block(PIN), "000000", "something else"),
        (block(("D", "M6", "A", "G")), check_value(AES_MAC), "another use"),
        (block(AES_MAC, "00"), check_value(AES_MAC), "no version"),
        (block(AES_MAC, "A1"), check_value(AES_MAC), "no version"),
    ],
)
def test_what_is_no_key_of_this_terminal_changes_nothing(
    pos: Pos, switch: PretendSwitch, key_block: str, check: str, reason: str
) -> None:
    give(switch, key_block, check)
    assert pos("keychange") == 3
    assert "the old key stays" in pos.err
    assert reason in pos.err
    assert NEW.hex() not in (pos.out + pos.err).lower()
    assert pos.state().keys == {}
    switch.answers("00")
    assert pos("echo") == 0
    assert switch.requests[-1].get(53) is None


def test_a_lost_answer_leaves_the_old_key(pos: Pos, switch: PretendSwitch) -> None:
    switch.answerer = lambda request: None
    assert pos("keychange") == 3
    assert f"cardswitch pos keychange --data {pos.data_dir}" in pos.out
    assert pos.state().keys == {}
    give(switch, block(AES_MAC), check_value(AES_MAC))
    assert pos("keychange") == 0
    first, second = switch.requests
    assert first.get(11) != second.get(11)
    assert pos.state().keys["mac"].version == 2


def test_a_refusal_leaves_the_old_key(pos: Pos, switch: PretendSwitch) -> None:
    switch.answers("12", WY="OPERATION")
    assert pos("keychange") == 1
    assert pos.state().keys == {}


def test_a_new_pin_key(pos: Pos, switch: PretendSwitch) -> None:
    sale = ("redeem", "--card", PAN, "--amount", "1")
    assert pos(*sale, "--pin", "1234") == 0
    give(switch, block(PIN), check_value(PIN))
    assert pos("keychange", "--key", "pin") == 0
    assert switch.requests[-1].get(48) == "KU003PIN"
    switch.answers("00")
    # a repeat has its block still under the old key, and says nothing of the new one
    assert pos("repeat") == 0
    repeat = switch.requests[-1]
    assert repeat.get(53) is None
    assert decode_format0(repeat.get_bytes(52) or b"", PAN, pretend_switch.RETAIL_KEY) == "1234"
    assert pos(*sale, "--pin", "1234") == 0
    fresh = switch.requests[-1]
    assert fresh.get(53) == "0002000000000000"
    assert decode_format0(fresh.get_bytes(52) or b"", PAN, NEW) == "1234"


def test_a_key_block_is_not_shown_to_scripts(pos: Pos, switch: PretendSwitch) -> None:
    give(switch, block(AES_MAC), check_value(AES_MAC))
    status, _, reply = pos.json("keychange")
    assert status == 0
    assert reply["48"] == {"TX": "0123456789AB", "KB": "****", "KC": check_value(AES_MAC)}


def test_only_a_key_change_takes_a_kind_of_key(pos: Pos) -> None:
    assert pos("echo", "--key", "pin") == 2
    assert "takes no --key" in pos.err
