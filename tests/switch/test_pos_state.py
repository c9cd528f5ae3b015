"""The demo terminal's memory: one file, one lock, no STAN twice."""

from __future__ import annotations

import itertools
import stat
import threading
from pathlib import Path

import pytest

from switch.pos.state import STAN_MAX, Sent, StateError, StateFile, TerminalState

PAN = "9500001234567890128"


class TestStateFile:
    def test_only_the_owner_may_read_it(self, tmp_path: Path) -> None:
        file = StateFile(tmp_path, "00000001")
        for mode in (0o600, 0o644):
            with file.locked() as state:
                state.next_stan()
            assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
            file.path.chmod(mode)
        with file.locked() as state:
            assert state.next_stan() == 3
        assert stat.S_IMODE(file.path.stat().st_mode) == 0o600

    def test_what_is_recorded_comes_back(self, tmp_path: Path) -> None:
        file = StateFile(tmp_path, "00000001")
        with file.locked() as state:
            state.record("0200", {2: PAN, 11: "000007", 52: b"12345678"})
            state.answered(7, response="00", tx="0123456789AB", approved_amount="")
            state.answered(7, response="05", tx="", approved_amount="")
            state.answered(8, response="00", tx="", approved_amount="")
        with file.locked() as state:
            assert state.messages == [
                Sent("0200", {2: PAN, 11: "000007"}, b"12345678".hex(), "05", "0123456789AB")
            ]

    def test_two_commands_never_share_a_stan(self, tmp_path: Path) -> None:
        drawn: list[int] = []

        def draw() -> None:
            for _ in range(25):
                with StateFile(tmp_path, "00000001").locked() as state:
                    drawn.append(state.next_stan())

        threads = [threading.Thread(target=draw) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(drawn) == list(range(1, 101))

    def test_nothing_is_written_when_the_block_raises(self, tmp_path: Path) -> None:
        file = StateFile(tmp_path, "1")

        def fail() -> None:
            with file.locked() as state:
                state.next_stan()
                raise KeyError

        with pytest.raises(KeyError):
            fail()
        with file.locked() as state:
            assert state.last_stan == 0

    def test_an_id_is_never_a_path(self, tmp_path: Path) -> None:
        with StateFile(tmp_path, "../A B").locked() as state:
            state.next_stan()
        assert {path.name for path in tmp_path.iterdir()} == {
            "pos-..%2FA%20B.json",
            "pos-..%2FA%20B.lock",
        }

    def test_stans_begin_again(self) -> None:
        state = TerminalState(last_stan=STAN_MAX - 1)
        assert [state.next_stan(), state.next_stan()] == [STAN_MAX, 1]

    def test_memory_is_bounded_and_the_newest_of_a_stan_counts(self) -> None:
        state = TerminalState()
        for number in itertools.chain(range(1, 301), [300]):
            state.record("0200", {2: PAN, 3: "006000", 11: f"{number:06d}"})
        assert len(state.messages) == 256
        assert [sent.stan for sent in state.messages] == list(range(45, 301))
        assert TerminalState().messages == []

    def test_pin_and_code_are_kept_for_the_last_message_only(self) -> None:
        state = TerminalState()
        for number, private in enumerate(["CV0044711PA0011", "CV0044711", "PA0011CV0044711"]):
            fields: dict[int, str | bytes] = {2: PAN, 11: f"{number:06d}", 48: private}
            state.record("0200", fields | {52: b"\x01\x02\x03\x04\x05\x06\x07\x08"})
        first, second, last = state.messages
        assert first.fields == {2: PAN, 11: "000000", 48: "PA0011"}
        assert second.fields == {2: PAN, 11: "000001"}
        assert (first.pin_block, second.pin_block) == ("", "")
        assert last.pin_block == "0102030405060708"
        assert last.fields[48] == "PA0011CV0044711"

    def test_damage_is_said(self, tmp_path: Path) -> None:
        (tmp_path / "pos-1.json").write_text("{")
        with (
            pytest.raises(StateError, match=r"pos-1\.json is damaged; remove it to begin anew"),
            StateFile(tmp_path, "1").locked(),
        ):
            pass

    def test_a_place_that_cannot_be_written_is_said(self, tmp_path: Path) -> None:
        file = StateFile(tmp_path / "absent", "1")
        with pytest.raises(StateError, match="cannot be opened"), file.locked():
            pass
