"""From frames to requests: decode, authenticate, translate. The way back is `switch.answering`.

All frames that came together go through together, their MACs in one call. What needs no card is
answered here at once; the rest goes into the pipeline as tickets.
"""

from __future__ import annotations

import datetime
import logging
from collections import deque
from collections.abc import Callable, Sequence

from fastpath.codec import decode
from fastpath.errors import FormatError
from fastpath.specs import DE
from rules.ledger import Answer
from rules.responses import Response, Rule
from switch.answering import Answering
from switch.authentication import (
    Received,
    first_uses,
    lacks_named_pin_key,
    may_have_new_mac_key,
    may_have_new_pin_key,
    terminal_of,
    verify,
)
from switch.connection import Connection
from switch.journal.rows import Refusal
from switch.logs import RateLimited
from switch.metrics import FrameRefusal, Metrics
from switch.pipeline import Pipeline, Ticket
from switch.programme import AcquirerLink, Programme
from switch.refusal_row import refusal_row, tell_refusal
from switch.settlement import Desk, DeskTicket
from switch.sweeper import Swept
from switch.wire.link import Frame
from switch.wire.replies import plain_answer, reply_mti
from switch.wire.salvage import salvage
from switch.wire.settling import concerns_no_card, is_cut_over, read_request
from switch.wire.translate import Refused, Translator

__all__ = ["Intake"]

_TERMINAL, _MERCHANT = int(DE.TERMINAL), int(DE.MERCHANT)
_ACQUIRER, _STAN, _RRN = int(DE.ACQUIRER), int(DE.STAN), int(DE.RRN)
_NETWORK_CODE = int(DE.NETWORK_CODE)
_CARD_CLASSES = frozenset("12346")
_SIGN_ON, _SIGN_OFF, _KEY_CHANGE, _ECHO = "001", "002", "101", "301"
_DOUBTS_MAX = 4_096
"""Messages that wait until it has been looked for a newer key; one more is told 91."""
_KEY_CHANGES_MAX, _REFUSALS_WAITING_MAX = 1_000, 10_000
_LINES_PER_SECOND_MAX = 100

log = logging.getLogger(__name__)


class Intake:
    """One worker's door for messages."""

    def __init__(
        self,
        translator: Translator,
        metrics: Metrics,
        next_transaction_id: Callable[[], str],
        utc_now: Callable[[], datetime.datetime],
        monotonic: Callable[[], float],
        *,
        answer_within_s: float,
    ) -> None:
        self._translator = translator
        self._metrics = metrics
        self._next_transaction_id = next_transaction_id
        self._utc_now = utc_now
        self._answering = Answering(metrics, utc_now, monotonic)
        self._answer_within_s = answer_within_s
        self._limited = RateLimited(log, lines_per_second_max=_LINES_PER_SECOND_MAX)
        self.pipeline: Pipeline | None = None
        self.doubts: deque[Received] | None = None
        """Wrong MACs that may be right under a key that this worker does not know yet."""
        self.key_changes: deque[Received] | None = None
        """Requests for a new key; answered by who takes them out of here."""
        self.first_uses: set[tuple[int, str, int]] = set()
        """(terminal, usage, version) of pending keys that were used: they are current from now."""
        self.on_key_work: Callable[[], None] = lambda: None
        self.desk: Desk | None = None
        self.refusals: deque[Refusal] = deque(maxlen=_REFUSALS_WAITING_MAX)
        """What is to go into the refusal log; the oldest are dropped when it cannot be written."""

    @property
    def programme(self) -> Programme:
        """The programme in force."""
        return self._translator.programme

    @programme.setter
    def programme(self, programme: Programme) -> None:
        self._translator.programme = programme

    # Frames in

    def receive(self, arrived: Sequence[tuple[Connection, list[Frame]]], now: float) -> None:
        """Take what came on connections of one port all the way to tickets or replies."""
        link = self.programme.links[arrived[0][0].link.config.name]
        answers: list[tuple[Received, Answer]] = []
        decoded: list[Received] = []
        for connection, frames in arrived:
            try:
                decoded += self._decode(connection, frames, now, answers)
            except Exception as error:
                self.fault("intake", error)
                connection.give_up()
        verified = self._authenticate(decoded, link, answers, looked=False)
        self._go_on(verified, link, answers, looked=False)

    def resume(self, doubtful: Sequence[Received]) -> None:
        """It has been looked for newer keys: these MACs are right by now, or wrong."""
        for received in doubtful:
            link = self.programme.links[received.connection.link.config.name]
            answers: list[tuple[Received, Answer]] = []
            verified = self._authenticate([received], link, answers, looked=True)
            self._go_on(verified, link, answers, looked=True)

    def cannot_look(self, doubtful: Sequence[Received]) -> None:
        """Postgres is down: whether these MACs are right cannot be said now."""
        answer = Response.CANNOT_DECIDE
        self.reply([(each, self._plain(each, answer, Rule.STORE)) for each in doubtful])

    def _go_on(
        self,
        verified: list[Received],
        link: AcquirerLink,
        answers: list[tuple[Received, Answer]],
        looked: bool,
    ) -> None:
        """From authenticated messages to tickets or replies."""
        now_s = int(self._utc_now().timestamp())
        tickets: list[Ticket] = []
        desk_tickets: list[DeskTicket] = []
        for received in verified:
            try:
                ticket = self._ticket_or_answer(received, link, now_s)
            except Exception as error:  # it must not cost those that came with it their answers
                self.fault("intake", error)
                answers.append((received, self._plain(received, Response.FAULT, Rule.FAULT)))
            else:
                if isinstance(ticket, Ticket):
                    # A PIN block that none of the known keys opens may be made with a new one.
                    unopened = not looked and ticket.request.pvv == b""
                    if not (unopened and self._doubt(received, answers, may_have_new_pin_key)):
                        tickets.append(ticket)
                elif isinstance(ticket, DeskTicket):
                    desk_tickets.append(ticket)
                elif ticket is not None:
                    answers.append((received, ticket))
        if tickets:
            assert self.pipeline is not None
            self.pipeline.submit(tickets)
        for desk_ticket in desk_tickets:
            assert self.desk is not None
            self.desk.submit(desk_ticket)
        if answers:
            self.reply(answers)

    def _ticket_or_answer(
        self, received: Received, link: AcquirerLink, now_s: int
    ) -> Ticket | DeskTicket | Answer | None:
        try:
            return self._translate(received, link, now_s)
        except Refused as refused:
            return self._refusal(received, refused.response, refused.rule)
        except FormatError as error:
            return self._format_refusal(received, error)

    def _decode(
        self,
        connection: Connection,
        frames: list[Frame],
        now: float,
        answers: list[tuple[Received, Answer]],
    ) -> list[Received]:
        packager = connection.link.config.packager
        decoded = []
        for frame in frames:
            try:
                message = decode(packager, frame.message)
            except FormatError as error:
                self._metrics.frame_refused(FrameRefusal.FORMAT)
                salvaged = salvage(packager, frame.message, error)
                if salvaged is None or reply_mti(salvaged.mti) is None:
                    self._limited.event(logging.WARNING, "unreadable", error=str(error))
                    connection.settle(1)  # nobody could tell what a reply would answer
                    continue
                received = Received(connection, salvaged, frame.tpdu, now)
                answers.append((received, self._format_refusal(received, error)))
                continue
            if reply_mti(message.mti) is None:  # a reply or a notification: never answered
                self._metrics.frame_refused(FrameRefusal.FORMAT)
                connection.settle(1)
                continue
            decoded.append(Received(connection, message, frame.tpdu, now))
        return decoded

    def _authenticate(
        self,
        decoded: list[Received],
        link: AcquirerLink,
        answers: list[tuple[Received, Answer]],
        looked: bool,
    ) -> list[Received]:
        """Those whose terminal is known (else 58) and whose MAC is right (else 63)."""
        known: list[Received] = []
        for received in decoded:
            received.terminal = terminal_of(received.message, self.programme, link)
            if received.terminal is not None:
                known.append(received)
            elif received.message.get(_TERMINAL) is None:
                error = FormatError("missing", field=_TERMINAL)
                answers.append((received, self._format_refusal(received, error)))
            else:
                self._metrics.frame_refused(FrameRefusal.TERMINAL)
                refusal = self._refusal(received, Response.NOT_PERMITTED_TO_TERMINAL, Rule.TERMINAL)
                answers.append((received, refusal))
        verified, wrong = verify(known)
        if not looked:
            doubt = self._doubt
            wrong = [each for each in wrong if not doubt(each, answers, may_have_new_mac_key)]
            verified = [each for each in verified if not doubt(each, answers, lacks_named_pin_key)]
        for received in wrong:
            self._metrics.frame_refused(FrameRefusal.MAC)
            answers.append((received, self._refusal(received, Response.MAC_WRONG, Rule.MAC)))
        for received in verified:
            assert received.terminal is not None
            if received.terminal.keys.awaits_use:
                self._use(received)
        return verified

    def _doubt(
        self,
        received: Received,
        answers: list[tuple[Received, Answer]],
        may_be_newer: Callable[[Received], bool],
    ) -> bool:
        """Whether a message is put aside, or told 91, until it has been looked for newer keys."""
        if self.doubts is None or not may_be_newer(received):
            return False
        if len(self.doubts) >= _DOUBTS_MAX:
            answers.append((received, self._plain(received, Response.CANNOT_DECIDE, Rule.BUSY)))
        else:
            self.doubts.append(received)
            self.on_key_work()
        return True

    def _use(self, received: Received, pin_version: int = 0) -> None:
        """Note the first use of keys that a key change handed out."""
        if used := first_uses(received, pin_version):
            self.first_uses.update(used)
            self.on_key_work()

    def _translate(
        self, received: Received, link: AcquirerLink, now_s: int
    ) -> Ticket | DeskTicket | Answer | None:
        """A ticket for the pipeline or the desk, or the answer where neither is needed.

        None for what is answered later.
        """
        message, terminal = received.message, received.terminal
        assert terminal is not None
        acquirer = message.get(_ACQUIRER)
        if acquirer is not None and acquirer not in (link.acquirer_id, *link.foreign_acquirer_ids):
            raise Refused(Response.NOT_PERMITTED_TO_TERMINAL, Rule.ACQUIRER)
        cuts_over = is_cut_over(message)
        if message.mti[1] == "8" and not cuts_over:
            return self._network_management(received)
        if not received.connection.link.may_transact():
            raise Refused(Response.NOT_PERMITTED_TO_TERMINAL, Rule.SIGN_ON)
        if not terminal.merchant_open:
            raise Refused(Response.UNKNOWN_MERCHANT, Rule.MERCHANT)
        cardless = concerns_no_card(message)
        if message.mti[1] not in _CARD_CLASSES and not cardless:
            raise Refused(Response.INVALID_TRANSACTION, Rule.OPERATION)
        if message.get(_MERCHANT) is None and not cuts_over:
            raise FormatError("missing", field=_MERCHANT)
        deadline = received.arrived + self._answer_within_s
        parts = (message, terminal, link, self._next_transaction_id(), now_s)
        if cardless:
            request_of_desk = read_request(self._translator, *parts)
            return DeskTicket(request_of_desk, received.arrived, deadline, received)
        translated = self._translator.translate(*parts)
        if terminal.keys.awaits_use:
            self._use(received, translated.pin_version)
        request, card_id = translated.request, translated.card_id
        return Ticket(request, card_id, received.arrived, deadline, received, translated.other_id)

    def _network_management(self, received: Received) -> Answer | None:
        """0800: sign-on, sign-off, echo, and a new key."""
        code = received.message.get(_NETWORK_CODE)
        if received.message.get(_STAN) is None:
            raise FormatError("missing", field=_STAN)
        if code is None:
            raise FormatError("missing", field=_NETWORK_CODE)
        link = received.connection.link
        if code == _SIGN_ON:
            link.signed_on()
        elif code == _SIGN_OFF:
            link.signed_off()
        elif code == _KEY_CHANGE and self.key_changes is not None:
            if len(self.key_changes) >= _KEY_CHANGES_MAX:
                return self._plain(received, Response.CANNOT_DECIDE, Rule.BUSY)
            self.key_changes.append(received)
            self.on_key_work()
            return None
        elif code != _ECHO:
            raise Refused(Response.INVALID_TRANSACTION, Rule.OPERATION)
        return self._plain(received, Response.APPROVED, Rule.NONE)

    # Refusals

    def _plain(self, received: Received, response: Response, rule: Rule) -> Answer:
        rrn = received.message.get(_RRN) or ""
        return plain_answer(self._next_transaction_id(), response, rule, rrn)

    def _refusal(self, received: Received, response: Response, rule: Rule) -> Answer:
        self.refusals.append(refusal_row(received, response, rule))
        self._tell(received, response, rule)
        return self._plain(received, response, rule)

    def _format_refusal(self, received: Received, error: FormatError) -> Answer:
        self._tell(received, Response.FORMAT_ERROR, Rule.FORMAT, error=str(error))
        self.refusals.append(refusal_row(received, Response.FORMAT_ERROR, Rule.FORMAT))
        return self._plain(received, Response.FORMAT_ERROR, Rule.FORMAT)

    def _tell(self, received: Received, response: Response, rule: Rule, **more: object) -> None:
        tell_refusal(self._limited, self._metrics, received, response, rule, **more)

    # Answers out: the pipeline's observer

    def answered(self, answers: Sequence[tuple[Ticket, Answer]]) -> None:
        """Answers of the pipeline, final and durable: sign and send them."""
        self.settled([(ticket.context, answer) for ticket, answer in answers])

    def settled(self, answers: Sequence[tuple[object, Answer]]) -> None:
        """The same for answers that come with the message they are to."""
        replies = []
        for received, answer in answers:
            if isinstance(received, Swept):
                received.answered(answer)
                continue
            assert isinstance(received, Received)
            replies.append((received, answer))
            if answer.rule:
                if answer.response is Response.CANNOT_DECIDE:
                    self._metrics.frame_refused(FrameRefusal.OVERLOAD)
                self._tell(received, answer.response, answer.rule, tx=answer.transaction_id)
        if replies:
            self.reply(replies)

    def refusal_of(self, ticket: Ticket, answer: Answer) -> Refusal:
        """The refusal log's row for a card that does not exist."""
        received = ticket.context
        assert isinstance(received, Received)
        return refusal_row(received, answer.response, answer.rule, ticket.request.card_digest)

    def batch_committed(self, size: int, seconds: float) -> None:
        """Count a batch."""
        self._metrics.batch_size.observe_many((size,))

    def batch_stale(self) -> None:
        """Count a batch that was refused as stale."""
        self._metrics.batch_refusals.inc()

    def fault(self, where: str, error: BaseException) -> None:
        """Log what broke; its requests are answered 96."""
        self._limited.event(logging.ERROR, "fault", where=where, exception=error)

    def reply(self, answers: Sequence[tuple[Received, Answer]]) -> None:
        """Build, sign and send replies, to messages that may have come on any connection."""
        self._answering.reply(answers)
