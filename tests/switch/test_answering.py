"""Replies on their way out: each to the connection that its request came on, or to nobody."""

from __future__ import annotations

import datetime
from typing import Any

import pytest

from fastpath.codec import decode, encode
from fastpath.errors import FormatError
from fastpath.framing import FrameBuffer, Header
from fastpath.specs import ISO87_BINARY
from rules.responses import Response, Rule
from switch.answering import Answering
from switch.authentication import Received
from switch.metrics import Metrics
from switch.wire.link import Link, LinkConfig, Role
from switch.wire.replies import plain_answer

CONFIG = LinkConfig(name="pos", header=Header.BINARY2, packager=ISO87_BINARY, acquirer_id="1")
NOW = datetime.datetime(2026, 3, 14, 12, 0, tzinfo=datetime.UTC)


class Line:
    """A connection as far as replies need it."""

    def __init__(self) -> None:
        self.link = Link(CONFIG, Role.SERVER, 0)
        self.sent: list[str] = []

    def send(self, data: bytes, replies: int) -> None:
        frames = FrameBuffer(Header.BINARY2).feed(data)
        assert len(frames) == replies
        self.sent += [decode(ISO87_BINARY, frame).get(11) or "" for frame in frames]


def asked(line: Any, stan: str) -> Received:
    frame = encode(ISO87_BINARY, "0200", {3: "006000", 11: stan, 41: "T1"})
    return Received(line, decode(ISO87_BINARY, frame), b"", 0)


def test_each_reply_goes_where_its_request_came_from() -> None:
    answering = Answering(Metrics(), lambda: NOW, lambda: 1.0)
    one, other = Line(), Line()
    answer = plain_answer("000000000001", Response.APPROVED, Rule.NONE)
    requests = [(one, "000001"), (other, "000002"), (one, "000003")]
    answering.reply([(asked(line, stan), answer) for line, stan in requests])
    assert one.sent == ["000001", "000003"]
    assert other.sent == ["000002"]


def test_a_reply_that_cannot_be_written_leaves_nothing_behind() -> None:
    answering = Answering(Metrics(), lambda: NOW, lambda: 1.0)
    one, other = Line(), Line()
    answer = plain_answer("000000000001", Response.APPROVED, Rule.NONE)
    unwritable = plain_answer("000000000001", Response.APPROVED, Rule.NONE, rrn="7" * 13)
    with pytest.raises(FormatError):
        answering.reply([(asked(one, "000001"), answer), (asked(one, "000002"), unwritable)])
    answering.reply([(asked(other, "000003"), answer)])
    assert one.sent == []
    assert other.sent == ["000003"]
