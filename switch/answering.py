"""Answers on their way out: replies made from the bytes of their requests, signed, sent.

All replies of one batch are made together: their MACs in one call, and one piece of bytes for
each connection.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence

from fastpath.framing import swap_tpdu
from fastpath.replies import Replies
from fastpath.specs import DE
from rules.ledger import Answer
from switch.authentication import Received
from switch.connection import Connection
from switch.metrics import Metrics
from switch.wire.link import LinkState
from switch.wire.private import build_private
from switch.wire.replies import ECHOED, ReplyTime, reply_fields, reply_mti

__all__ = ["Answering"]

_PRIVATE = int(DE.PRIVATE)


class Answering:
    """Makes and sends the replies of one worker."""

    def __init__(
        self,
        metrics: Metrics,
        utc_now: Callable[[], datetime.datetime],
        monotonic: Callable[[], float],
    ) -> None:
        self._metrics = metrics
        self._utc_now = utc_now
        self._monotonic = monotonic

    def reply(self, answers: Sequence[tuple[Received, Answer]]) -> None:
        """Build, sign and send replies: all of one connection in one piece."""
        time = ReplyTime(self._utc_now())
        # New for each batch: what fails half-way leaves no reply behind for the next one to send.
        replies = Replies(ECHOED)
        groups: dict[Connection, int] = {}
        counts: list[int] = []
        told: list[tuple[str, str]] = []
        for received, answer in answers:
            message, connection = received.message, received.connection
            group = groups.get(connection)
            if group is None:
                group = groups[connection] = len(groups)
                counts.append(0)
            counts[group] += 1
            mti = message.mti
            told.append((mti, answer.response))
            offset_min = received.terminal.utc_offset_min if received.terminal else 0
            fields = reply_fields(message, mti, answer, time, offset_min)
            if received.private:
                fields[_PRIVATE] = f"{fields[_PRIVATE]!s}{build_private(received.private)}"
            replies.add(
                group,
                message,
                reply_mti(mti) or "0810",
                fields,
                received.mac_key,
                header=connection.link.config.header,
                tpdu=swap_tpdu(received.tpdu) if received.tpdu else b"",
            )
        for connection, count, piece in zip(groups, counts, replies.finish(), strict=True):
            if connection.link.state is LinkState.CLOSED:
                self._metrics.replies_dropped.inc(count)
            connection.send(piece, count)
        sent = self._monotonic()
        self._metrics.answered(told)
        self._metrics.latency.observe_many([sent - received.arrived for received, _ in answers])
