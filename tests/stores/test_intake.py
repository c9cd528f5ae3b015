"""What the intake does with messages that came together when one of them meets a fault."""

from __future__ import annotations

from typing import Any

import pytest
from key_world import World
from store_sessions import Stores

from tests.client.vocabulary import NetworkCode


async def test_a_message_that_meets_a_fault_costs_no_other_its_answer(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(stores)
    await world.prepare()
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
    await world.close()
