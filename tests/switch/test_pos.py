"""`cardswitch pos` from its command line to its exit status, against a pretend switch."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pretend_switch import (
    BALANCE,
    OTHER_PAN,
    PAN,
    Pos,
    PretendSwitch,
    answer_to,
    sealed,
    write_demo,
)

from fastpath.codec import Message, encode
from fastpath.specs import ISO87_ASCII
from switch.pos.verbs import Verb
from switch.wire.private import parse_private


@pytest.fixture
def switch() -> Iterator[PretendSwitch]:
    pretend = PretendSwitch()
    yield pretend
    pretend.close()


@pytest.fixture
def data_dir(tmp_path: Path, switch: PretendSwitch) -> Path:
    write_demo(tmp_path, *switch.ports)
    return tmp_path


@pytest.fixture
def pos(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> Pos:
    return Pos(data_dir, capsys)


class TestApproved:
    def test_redeem_in_clear_words(self, pos: Pos, switch: PretendSwitch) -> None:
        assert pos("redeem", "--card", PAN, "--amount", "12.50") == 0
        [request] = switch.requests
        assert request.mti == "0200"
        assert request.amount(4) == 1250
        title = pos.out.splitlines()[0]
        assert title == "Redeem  0200 006000 · terminal 00000001, merchant 000000000000001"
        assert "\nAPPROVED  00 approved\n" in pos.out
        assert pos.row("Card") == "950000…0128"
        assert pos.row("Amount") == "12.50 EUR"
        assert pos.row("STAN") == "000001"
        assert pos.row("Approval code") == "A1B2C3"
        assert pos.row("TX") == "0123456789AB"
        assert pos.row("RRN") == "632609000042"
        assert pos.row("E-cash balance") == "87.50 EUR"
        assert pos.row("E-cash available") == "87.50 EUR"
        assert PAN not in pos.out
        assert "\x1b" not in pos.out
        assert pos.err == ""

    def test_partial_approval(self, pos: Pos, switch: PretendSwitch) -> None:
        def part(request: Message) -> bytes:
            answer = answer_to(request, "10", RQ="000000001250") | {4: "000000001000"}
            return sealed(request, answer)

        switch.answerer = part
        assert pos("redeem", "--card", PAN, "--amount", "12.50", "--partial") == 0
        assert switch.requests[0].get(48) == "PA0011"
        assert "APPROVED  10 approved in part" in pos.out
        assert "10.00 EUR of 12.50 EUR asked" in pos.out

    def test_amount_that_only_the_answer_names(self, pos: Pos, switch: PretendSwitch) -> None:
        switch.answerer = lambda request: sealed(
            request, answer_to(request) | {4: "000000008750", 28: "D00000025"}
        )
        assert pos("cashout", "--card", PAN) == 0
        assert pos.row("Amount") == "87.50 EUR"
        assert pos.row("Fee") == "0.25 EUR"
        assert pos.state().messages[-1].approved_amount == "000000008750"

    def test_points(self, pos: Pos, switch: PretendSwitch) -> None:
        assert pos("redeem", "--card", PAN, "--amount", "250", "--purse", "90") == 0
        assert switch.requests[0].get(49) == "999"
        assert switch.requests[0].amount(4) == 250
        assert pos.row("Amount") == "250 points"
        assert pos.row("Purse") == "points"

    def test_balances_of_all_purses(self, pos: Pos, switch: PretendSwitch) -> None:
        amounts = "8002978C000000000250" + "9002999C000000000040"
        switch.answerer = lambda request: sealed(request, answer_to(request) | {54: amounts})
        assert pos("balance", "--card", PAN, "--purse", "all") == 0
        assert switch.requests[0].get(3) == "310000"
        assert pos.row("Voucher available") == "2.50 EUR"
        assert pos.row("Points available") == "40 points"

    def test_json(self, pos: Pos, switch: PretendSwitch) -> None:
        status, request, reply = pos.json(
            "transfer",
            *("--card", PAN, "--to", OTHER_PAN, "--amount", "1", "--pin", "1234", "--cv", "98765"),
        )
        assert status == 0
        assert request["0"] == "0200"
        assert request["2"] == "950000…0128"
        assert request["4"] == "000000000100"
        assert request["11"] == reply["11"] == "000001"
        assert request["48"] == {"CV": "****"}
        assert request["52"] == "****"
        assert request["103"] == "950000…0123"
        assert len(bytes.fromhex(request["128"])) == 8
        assert reply["0"] == "0210"
        assert reply["39"] == "00"
        assert reply["48"] == {"TX": "0123456789AB"}
        assert reply["54"] == BALANCE
        block = switch.requests[0].get_bytes(52)
        assert block is not None
        for secret in (PAN, OTHER_PAN, "98765", block.hex()):
            assert secret not in pos.out
            assert secret.upper() not in pos.out

    def test_the_other_kind_of_mac(self, pos: Pos, switch: PretendSwitch) -> None:
        assert pos("balance", "--card", PAN, "--terminal", "00000002") == 0
        assert switch.requests[0].get(41) == "00000002"

    @pytest.mark.parametrize(
        ("words", "mode"),
        [
            ((), "021"),
            (("--cv", "1234"), "021"),
            (("--entry", "keyed", "--cv", "1234"), "012"),
            (("--entry", "keyed", "--pin", "1234"), "011"),
            (("--entry", "barcode"), "031"),
        ],
    )
    def test_entry_mode(
        self, pos: Pos, switch: PretendSwitch, words: tuple[str, ...], mode: str
    ) -> None:
        assert pos("balance", "--card", PAN, *words) == 0
        assert switch.requests[0].get(22) == mode

    def test_expiry_and_activation_with_and_without_amount(
        self, pos: Pos, switch: PretendSwitch
    ) -> None:
        assert pos("activate", "--card", PAN, "--amount", "25", "--expiry", "2912") == 0
        assert pos("activate", "--card", PAN) == 0
        with_amount, without = switch.requests
        assert (with_amount.get(3), with_amount.amount(4)) == ("900060", 2500)
        assert with_amount.get(14) == "2912"
        assert (without.get(3), without.amount(4)) == ("930060", None)

    def test_colours_only_on_a_screen(self, pos: Pos, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("NO_COLOR", raising=False)
        monkeypatch.setattr("sys.stdout.isatty", lambda: True)
        assert pos("echo") == 0
        assert "\x1b[1;32mAPPROVED\x1b[0m" in pos.out
        monkeypatch.setenv("NO_COLOR", "1")
        assert pos("echo") == 0
        assert "\x1b" not in pos.out


class TestNetwork:
    def test_network_verbs_sign_on_at_the_network_port_first(
        self, pos: Pos, switch: PretendSwitch
    ) -> None:
        assert pos("block", "--card", PAN) == 0
        sign_on, block = switch.requests
        assert (sign_on.mti, sign_on.get(70)) == ("0800", "001")
        assert (block.mti, block.get(3)) == ("0200", "940060")
        assert {sign_on.get(41), block.get(41)} == {"10000001"}
        assert (sign_on.get(11), block.get(11)) == ("000001", "000002")
        assert block.packager is ISO87_ASCII

    def test_refused_sign_on_ends_it(self, pos: Pos, switch: PretendSwitch) -> None:
        switch.answers("96")
        assert pos("unblock", "--card", PAN) == 1
        assert [request.mti for request in switch.requests] == ["0800"]
        assert "DECLINED  96 fault in the switch" in pos.out
        assert "at sign-on" in pos.out
        assert pos.state("10000001").messages[-1].response == ""

    @pytest.mark.parametrize(
        ("verb", "code"), [("signon", "001"), ("signoff", "002"), ("echo", "301")]
    )
    def test_network_management_goes_out_alone(
        self, pos: Pos, switch: PretendSwitch, verb: str, code: str
    ) -> None:
        assert pos(verb, "--terminal", "10000001") == 0
        [request] = switch.requests
        assert (request.mti, request.get(70)) == ("0800", code)
        assert pos.state("10000001").messages == []


class TestDeclined:
    @pytest.mark.parametrize(
        ("code", "words"),
        [
            ("51", "51 not enough value on the card"),
            ("14", "14 no such card, or wrong code"),
            ("58", "58 not permitted to this terminal"),
            ("77", "77 a code this terminal does not know"),
        ],
    )
    def test_in_plain_words(self, pos: Pos, switch: PretendSwitch, code: str, words: str) -> None:
        switch.answers(code, WY="FUNDS", RT="2026-11-23")
        assert pos("redeem", "--card", PAN, "--amount", "1") == 1
        assert f"\nDECLINED  {words}\n" in pos.out
        assert pos.row("Rule") == "FUNDS"
        assert pos.row("Resets") == "2026-11-23"


class TestReferring:
    def test_reverse_undoes_the_last_message(self, pos: Pos, switch: PretendSwitch) -> None:
        pos("redeem", "--card", PAN, "--amount", "12.50")
        pos("balance", "--card", PAN)
        switch.answers("00", RS="REVERSED")
        assert pos("reverse", "--reason", "customer") == 0
        redeem, _, reversal = switch.requests
        assert reversal.mti == "0400"
        assert reversal.get(90) == f"0200000001{redeem.get(7)}{0:022d}"
        assert reversal.get(11) == "000003"
        assert reversal.get(48) == "RE0044000"
        for number in (2, 3, 4, 12, 13):
            assert reversal.get(number) == redeem.get(number)
        assert pos.row("Original") == "0200, STAN 000001"
        assert pos.row("Reversal") == "REVERSED: undone"

    def test_by_stan_by_card_and_in_part(self, pos: Pos, switch: PretendSwitch) -> None:
        pos("redeem", "--card", PAN, "--amount", "40", "--purse", "90")
        pos("load", "--card", OTHER_PAN, "--amount", "7")
        pos("load", "--card", OTHER_PAN, "--amount", "8")
        assert pos("reverse", "--stan", "1", "--final-amount", "15") == 0
        assert pos("reverse", "--card", PAN) == 0
        assert switch.requests[-1].amount(4) == 40
        assert pos("reverse", "--card", OTHER_PAN, "--reason", "4351") == 0
        assert pos("reverse", "--stan", "2", "--final-amount", "0.50") == 0
        by_stan, _, by_card, of_load = switch.requests[-4:]
        assert str(by_stan.get(90))[4:10] == "000001"
        assert by_stan.get(95) == "000000000015" + "0" * 12 + "C00000000" * 2
        assert by_card.amount(4) == 800
        assert by_card.get(48) == "RE0044351"
        assert str(of_load.get(95))[:12] == "000000000050"

    def test_repeat_sends_the_last_message_again(self, pos: Pos, switch: PretendSwitch) -> None:
        switch.answerer = lambda request: b""
        words = ("--card", PAN, "--amount", "12.50", "--pin", "1234", "--cv", "4711")
        assert pos("redeem", *words, "--timeout", "0.05") == 3
        assert "cardswitch pos repeat --data" in pos.out
        switch.answers("00")
        assert pos("repeat") == 0
        first, again = switch.requests
        assert again.mti == "0201"
        for number in set(first.fields) - {7, 64}:
            assert again.get_bytes(number) == first.get_bytes(number)
        state = pos.state()
        assert [message.mti for message in state.messages] == ["0200"]
        assert state.messages[0].tx == "0123456789AB"
        assert state.last_stan == 1

    def test_repeat_of_an_older_message_needs_its_secrets_again(
        self, pos: Pos, switch: PretendSwitch
    ) -> None:
        pos("redeem", "--card", PAN, "--amount", "1", "--pin", "1234", "--cv", "4711")
        pos("redeem", "--card", PAN, "--amount", "2")
        assert pos("repeat", "--stan", "1") == 0
        assert 52 not in switch.requests[-1]
        assert 48 not in switch.requests[-1]
        assert pos("repeat", "--stan", "1", "--pin", "1234", "--cv", "4711") == 0
        assert switch.requests[-1].get_bytes(52) == switch.requests[0].get_bytes(52)
        assert switch.requests[-1].get(48) == "CV0044711"

    def test_hold_and_completion(self, pos: Pos, switch: PretendSwitch) -> None:
        assert pos("hold", "--card", PAN, "--amount", "50") == 0
        assert pos("redeem", "--card", OTHER_PAN, "--amount", "1") == 0
        assert pos("complete", "--amount", "40") == 0
        completion = switch.requests[-1]
        assert completion.mti == "0220"
        assert completion.get(2) == PAN
        assert completion.amount(4) == 4000
        assert parse_private(str(completion.get(48))) == {"OR": "0123456789AB"}

    def test_outcome(self, pos: Pos, switch: PretendSwitch) -> None:
        pos("redeem", "--card", PAN, "--amount", "1")
        switch.answers("00", OC="51", OS="DECLINED")
        assert pos("outcome") == 0
        assert switch.requests[-1].mti == "0600"
        assert pos.row("Original's answer") == "51 not enough value on the card"
        assert pos.row("State of original") == "DECLINED"

    def test_what_is_not_remembered(self, pos: Pos, switch: PretendSwitch) -> None:
        assert pos("reverse") == 2
        assert "nothing that could be reversed" in pos.err
        pos("balance", "--card", PAN)
        assert pos("reverse", "--stan", "1") == 2
        assert "no such message with STAN 000001" in pos.err
        assert pos("repeat", "--stan", "7") == 2
        assert pos("complete", "--amount", "1", "--card", PAN) == 2
        # what could not be built has used no STAN
        assert pos.state().last_stan == 1

    def test_a_stan_of_ones_own(self, pos: Pos, switch: PretendSwitch) -> None:
        assert pos("redeem", "--card", PAN, "--amount", "1", "--stan", "4711") == 0
        assert switch.requests[0].get(11) == "004711"
        assert pos("redeem", "--card", PAN, "--amount", "1") == 0
        assert switch.requests[1].get(11) == "000001"


class TestNoAnswer:
    def test_silence(self, pos: Pos, switch: PretendSwitch) -> None:
        switch.answerer = lambda request: b""
        assert pos("redeem", "--card", PAN, "--amount", "1", "--timeout", "0.05") == 3
        assert "NO ANSWER  none within 0.05 s" in pos.out
        assert "cardswitch pos reverse" in pos.out
        assert pos.state().messages[0].stan == 1
        assert pos("reverse", "--timeout", "0.05") == 3
        assert "Whether it was undone is not known." in pos.out
        assert "cardswitch pos reverse" not in pos.out

    def test_closed_connection(self, pos: Pos, switch: PretendSwitch) -> None:
        switch.answerer = lambda request: None
        assert pos("echo") == 3
        assert "NO ANSWER  the switch closed the connection\n" in pos.out
        assert "What became of it" not in pos.out

    def test_nobody_there(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        write_demo(tmp_path, port, port)
        pos = Pos(tmp_path, capsys)
        assert pos("echo") == 3
        assert f"nobody listens at 127.0.0.1:{port}" in pos.out

    def test_what_is_no_message(self, pos: Pos, switch: PretendSwitch) -> None:
        switch.answerer = lambda request: b"HTTP/1.1 400 Bad Request"
        assert pos("echo") == 3
        assert "NO ANSWER  what came cannot be read: " in pos.out

    @pytest.mark.parametrize("code", ["00", "58"])
    def test_wrong_mac(self, pos: Pos, switch: PretendSwitch, code: str) -> None:
        def flipped(request: Message) -> bytes:
            reply = sealed(request, answer_to(request, code))
            return reply[:-1] + bytes([reply[-1] ^ 1])

        switch.answerer = flipped
        status, _, reply = pos.json("redeem", "--card", PAN, "--amount", "1")
        assert (status, reply) == (3, None)
        assert "no answer: what came has a wrong MAC" in pos.err
        assert pos.state().messages[0].tx == ""

    def test_missing_mac(self, pos: Pos, switch: PretendSwitch) -> None:
        switch.answerer = lambda request: encode(request.packager, "0210", answer_to(request))
        assert pos("redeem", "--card", PAN, "--amount", "1") == 3
        assert "NO ANSWER  what came has no MAC" in pos.out

    @pytest.mark.parametrize("code", ["30", "58", "63"])
    def test_refusals_that_carry_no_mac_are_shown_but_prove_nothing(
        self, pos: Pos, switch: PretendSwitch, code: str
    ) -> None:
        switch.answerer = lambda request: encode(request.packager, "0810", {11: "000001", 39: code})
        assert pos("echo") == 3
        assert f"a refusal came without a MAC, which proves nothing: {code} " in pos.out
        switch.answerer = lambda request: encode(request.packager, "0810", {39: code})
        status, _, reply = pos.json("echo")
        assert (status, reply) == (3, {"0": "0810", "39": code})

    def test_answers_to_others_are_passed_over(self, pos: Pos, switch: PretendSwitch) -> None:
        switch.answerer = lambda request: sealed(request, answer_to(request) | {11: "000999"})
        assert pos("redeem", "--card", PAN, "--amount", "1", "--timeout", "0.1") == 3
        assert "none within 0.1 s" in pos.out


class TestUsage:
    @pytest.mark.parametrize(
        ("words", "complaint"),
        [
            (("redeem", "--amount", "1"), "redeem needs --card"),
            (("redeem", "--card", PAN), "redeem needs --amount"),
            (("transfer", "--card", PAN, "--amount", "1"), "transfer needs --to"),
            (("echo", "--card", PAN), "echo takes no --card"),
            (("balance", "--card", PAN, "--or", "X"), "balance takes no --or"),
            (("load", "--card", PAN, "--amount", "1", "--partial"), "load takes no --partial"),
            (("redeem", "--card", PAN, "--amount", "12,50"), "--amount: '12,50' is not an amount"),
            (("redeem", "--card", "95000012", "--amount", "1"), "12 to 19 digits"),
            (("balance", "--card", PAN, "--pin", "12"), "--pin must have 4 to 12 digits"),
            (("balance", "--card", PAN, "--cv", "12 4"), "--cv must be"),
            (("balance", "--card", PAN, "--expiry", "2913"), "--expiry must be YYMM"),
            (("load", "--card", PAN, "--amount", "1", "--purse", "all"), "for balance only"),
            (("echo", "--stan", "0"), "--stan must be 1 to 999999"),
            (("echo", "--timeout", "0"), "--timeout must be above 0"),
            (("echo", "--terminal", "99"), "no terminal '99' (it has 00000001, "),
        ],
    )
    def test_complaints_are_clear(
        self, pos: Pos, switch: PretendSwitch, words: tuple[str, ...], complaint: str
    ) -> None:
        assert pos(*words) == 2
        assert complaint in pos.err
        assert pos.out == ""
        assert switch.requests == []

    def test_secrets_are_not_shown_again(self, pos: Pos) -> None:
        assert pos("balance", "--card", f"{PAN}9") == 2
        assert PAN not in pos.err

    @pytest.mark.parametrize("words", [("steal",), ("echo", "--sta", "1"), ("echo", "--stan", "x")])
    def test_argparse_refuses_with_the_same_status(self, pos: Pos, words: tuple[str, ...]) -> None:
        with pytest.raises(SystemExit) as caught:
            pos(*words)
        assert caught.value.code == 2

    def test_missing_demo(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        pos = Pos(tmp_path, capsys)
        assert pos("echo") == 2
        assert f"is the switch running? cardswitch up --demo --data {tmp_path}" in pos.err

    @pytest.mark.parametrize(
        "change",
        [
            lambda demo: demo.pop("switch"),
            lambda demo: demo["switch"].update(packager="iso87-ebcdic"),
            lambda demo: demo["terminals"][0].update(mac_key="secret!"),
            lambda demo: demo["terminals"][0].update(mac="rot13"),
        ],
    )
    def test_broken_demo(self, pos: Pos, change: Callable[[dict[str, Any]], Any]) -> None:
        path = pos.data_dir / "demo.json"
        demo = json.loads(path.read_text())
        change(demo)
        path.write_text(json.dumps(demo))
        assert pos("echo") == 2
        assert "is not a demo.json" in pos.err
        assert "secret" not in pos.err

    def test_demo_without_the_kind_of_terminal(self, pos: Pos) -> None:
        path = pos.data_dir / "demo.json"
        demo = json.loads(path.read_text())
        demo["terminals"].pop()
        path.write_text(json.dumps(demo))
        assert pos("block", "--card", PAN) == 2
        assert "demo.json has no network terminal" in pos.err

    def test_help_names_every_verb(self, pos: Pos) -> None:
        with pytest.raises(SystemExit) as caught:
            pos("--help")
        assert caught.value.code == 0
        out = pos.capsys.readouterr().out
        assert "\n  redeem      Redeem (--card --amount)\n" in out
        assert all(f"\n  {verb.value} " in out for verb in Verb)
        assert "exit status: 0 approved" in out
