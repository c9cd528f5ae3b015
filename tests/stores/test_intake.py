"""What the intake does with messages that came together when one of them meets a fault."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio
from key_world import World, opened
from store_sessions import Stores

from fastpath.codec import decode
from fastpath.framing import Header, pack_many
from rules.ledger import Answer
from rules.requests import CardRequest, Operation, Terminal
from rules.responses import Response, Rule
from switch.batch import Ticket
from switch.wire.link import Frame
from switch.wire.replies import plain_answer
from tests.client.vocabulary import NetworkCode


@pytest.fixture
async def world(stores: Stores) -> AsyncIterator[World]:
    async with opened(stores) as one:
        yield one


async def test_a_message_that_meets_a_fault_costs_no_other_its_answer(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    till = await world.till()
    office = await world.office()
    echoes = [till.make().network(NetworkCode.ECHO) for _ in range(3)]
    answer = office.intake._network_management

    def failing(received: Any) -> Any:
        if received.message.get(11) == echoes[1].fields[11]:
            raise RuntimeError("what nobody expects")
        return answer(received)

    monkeypatch.setattr(office.intake, "_network_management", failing)
    office.deliver(*echoes)
    replies = [till.reply(frame, 1) for frame in office.replies()]
    assert {reply.fields[11]: reply.code for reply in replies} == {
        echoes[0].fields[11]: "00",
        echoes[1].fields[11]: "96",
        echoes[2].fields[11]: "00",
    }
    assert all(reply.mac_ok for reply in replies)


async def test_a_frame_that_cannot_even_be_looked_at_costs_its_own_connection_only(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    till = await world.till()
    office = await world.office()
    good, bad = office.line, type(office.line)()
    frame = Frame(till.make().network(NetworkCode.ECHO).frame, b"")

    def failing(packager: Any, data: bytes) -> Any:
        if data == b"bad":
            raise RuntimeError("what nobody expects")
        return decode(packager, data)

    monkeypatch.setattr("switch.intake.decode", failing)
    arrived: Any = [(bad, [Frame(b"bad", b"")]), (good, [frame])]
    for line, frames in arrived:
        line.link.receive_bytes(pack_many(Header.BINARY2, [each.message for each in frames]), 0)
    office.intake.receive(arrived, trio.current_time())
    assert [till.reply(each, 1).code for each in office.replies()] == ["00"]
    assert (good.given_up, bad.given_up) == (False, True)


async def test_what_can_be_decided_is_queued_before_refusals_are_told(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault while replying must not cost it its answer."""
    till = await world.till()
    office = await world.office()
    refused, asked = (till.make().network(NetworkCode.ECHO) for _ in range(2))
    request = CardRequest(
        operation=Operation.BALANCE,
        key=bytes(16),
        fingerprint=b"",
        transaction_id="",
        rrn="",
        terminal=Terminal(1, 1, network=False),
    )
    queued: list[Ticket] = []

    def translated(received: Any, *_: object) -> Ticket | Answer:
        if received.message.get(11) == asked.fields[11]:
            return Ticket(request, 1, 0, 1, received)
        return plain_answer("ABCDEFGHJKLM", Response.REFUSED, Rule.NONE)

    class Queue:
        def submit(self, tickets: list[Ticket]) -> None:
            queued.extend(tickets)

    def failing(answers: object) -> None:
        raise RuntimeError("what nobody expects")

    monkeypatch.setattr(office.intake, "_translate", translated)
    monkeypatch.setattr(office.intake, "pipeline", Queue())
    monkeypatch.setattr(office.intake, "reply", failing)
    with pytest.raises(RuntimeError, match="nobody expects"):
        office.deliver(refused, asked)
    assert [ticket.request for ticket in queued] == [request]
