"""What every reply must look like, whatever the operation: dialect page, sections 3 and 5."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from .dialect import Amounts
from .messages import Card, Reply
from .terminal import Terminal

__all__ = [
    "assert_accepted",
    "assert_outcome",
    "assert_refused_alike",
    "assert_shape",
    "assert_undone",
    "available",
    "funds",
    "purse",
]

ECHOED = {2, 3, 4, 11, 12, 13, 15, 24, 32, 33, 41, 42, 49, 53, 59, 66, 70, 103}
RECONCILED = {66, *range(74, 78), *range(86, 90), 97}
REPLY_TAGS = {"TX", "RS", "WY", "RT", "RQ", "OC", "OS", "LR", "LB", "OF", "PR", "KB", "KC"}
CURRENCY = "978"
_CLOCK_TOLERANCE = timedelta(minutes=2)


def assert_shape(reply: Reply) -> None:
    """Exactly the listed fields, in their forms; the MAC right.

    Not for 30, 58 and 63: those may come before the request is understood.
    """
    request = reply.request
    assert request is not None
    assert reply.mti == request.reply_key[0]
    assert reply.mac_ok is True
    sent = set(request.fields)
    mac_de = 128 if any(number > 64 for number in reply.fields if number != 128) else 64
    required = {7, 39, 48, mac_de} | (ECHOED & sent)
    optional: set[int] = set()
    if reply.mti == "0810":
        # Nothing in a sign-on or an echo is about a transaction: these may be there or not.
        optional |= {12, 13, 37, 38}
    else:
        required |= {12, 13, 37}
    if reply.approved:
        if reply.mti in {"0110", "0210"}:
            required.add(54)
        if reply.mti == "0210" or (reply.mti == "0110" and request.fields[3][:2] == "00"):
            required |= {38} | _own_amount(request.fields[3])
        else:
            # An enquiry, an advice or a reversal is granted rather than approved; both readings
            # are met.
            optional.add(38)
        if reply.mti in {"0510", "0530"}:
            required |= RECONCILED | ({50} & sent)
        if reply.mti == "0610":
            optional |= {4, 54}  # the original's, as `assert_outcome` says
    if reply.code == "95":
        required |= RECONCILED | ({50} & sent)
    present = set(reply.fields)
    assert required <= present, f"missing: DE {sorted(required - present)} in {reply}"
    extra = present - required - optional
    assert not extra, f"not in the list of reply fields: DE {sorted(extra)} in {reply}"
    for number in (ECHOED & sent) - {4, 66}:
        assert reply.fields[number] == request.fields[number], f"DE {number} is no echo"
    _assert_forms(reply)


def _own_amount(processing: str) -> set[int]:
    """DE 4 that the switch fills in: what was paid out, or a card's face value."""
    return {4} if processing[:2] in {"61", "93"} else set()


def _assert_forms(reply: Reply) -> None:
    assert set(reply.private) <= REPLY_TAGS, f"unknown tags in {reply}"
    assert len(reply.tx) == 12
    assert len(reply.code) == 2
    now = datetime.now(UTC)
    stamp = reply.fields[7]
    sent = datetime.strptime(f"{now.year}{stamp}", "%Y%m%d%H%M%S").replace(tzinfo=UTC)
    assert abs(sent - now) < _CLOCK_TOLERANCE or now.month != sent.month
    if 37 in reply.fields:
        assert len(reply.fields[37].strip()) > 0
    if 38 in reply.fields:
        assert reply.fields[38].strip().isalnum()
    if 54 in reply.fields:
        assert len(reply.fields[54]) <= 120
        for amounts in reply.purses.values():
            assert amounts.currency == ("999" if amounts.account == "90" else CURRENCY)
            assert 0 <= amounts.available_minor <= amounts.ledger_minor
    if reply.mti in {"0410", "0430"} and reply.code == "00":
        assert reply.state in {"REVERSED", "PARTIAL", "ALREADY", "NOTHING"}


def assert_accepted(reply: Reply) -> None:
    """An advice that was accepted, whatever was made of it."""
    assert_shape(reply)
    assert (reply.mti, reply.code) == ("0230", "00"), reply


def assert_undone(reply: Reply, state: str) -> None:
    """A reversal that was accepted and ended in `state`."""
    assert_shape(reply)
    assert (reply.code, reply.state) == ("00", state), reply


def assert_outcome(reply: Reply, original: Reply, state: str) -> None:
    """An outcome query that found `original`: its stored code and its DE 4, 38 and 54."""
    assert_shape(reply)
    assert reply.code == "00", reply
    assert (reply.original_code, reply.original_state) == (original.code, state), reply
    for number in (4, 38, 54):
        assert reply.fields.get(number) == original.fields.get(number), f"DE {number} in {reply}"


def purse(reply: Reply, account: str = "60") -> Amounts:
    """What an approval's DE 54 says of one purse. Fails where there is none."""
    assert account in reply.purses, f"no purse {account} in {reply}"
    return reply.purses[account]


def available(terminal: Terminal, card: Card, **changes: Any) -> int:
    """Available e-cash value by an enquiry with a read card."""
    reply = terminal.balance(card, **changes)
    assert reply.code == "00", reply
    return reply.available_minor


def funds(
    terminal: Terminal, card: Card, account: str = "60", currency: str = CURRENCY
) -> tuple[int, int]:
    """Available and held value of a purse, by an enquiry with a read card."""
    reply = terminal.exchange(terminal.make.balance(card, de3=f"31{account}00", de49=currency))
    assert reply.code == "00", reply
    amounts = purse(reply, account)
    return amounts.available_minor, amounts.ledger_minor - amounts.available_minor


def assert_refused_alike(replies: list[Reply], code: str) -> None:
    """All say `code` and nothing tells them apart: same fields, same tags, same rule, same MTI."""
    assert replies
    assert [reply.code for reply in replies] == [code] * len(replies)
    assert len({reply.mti for reply in replies}) == 1
    assert len({reply.why for reply in replies}) == 1, {reply.why for reply in replies}
    assert len({frozenset(reply.private) for reply in replies}) == 1
    echoes = ECHOED | {64, 128}
    assert len({frozenset(set(reply.fields) - echoes) for reply in replies}) == 1
    assert len({len(reply.frame) for reply in replies}) == 1
