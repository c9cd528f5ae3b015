"""The messages of a plan: each as the request that the switch gets, and as a dict for the judge."""

from __future__ import annotations

import datetime
from typing import Any

import msgspec

from rules.identity import content_fingerprint, request_key
from rules.requests import CardRequest, Operation, ReversalReason, Terminal

from .plan import Action, Op, Plan

__all__ = ["CARD_BASE", "NO_CARD", "Maker", "Message", "Sent"]

Message = dict[str, Any]
CARD_BASE = 1000
"""Ids of cards count from here."""
NO_CARD = -77
"""The id of a number that no card has."""

_CODES = {
    Op.LOAD: "210060",
    Op.RETURN: "200060",
    Op.CASH_OUT: "616000",
    Op.BALANCE: "316000",
    Op.TRANSFER: "406060",
}
_CLASSES = {
    Op.HOLD: "10",
    Op.BALANCE: "10",
    Op.COMPLETION: "22",
    Op.ADVICE: "22",
    Op.REVERSAL: "40",
    Op.OUTCOME: "60",
    Op.EXPIRY: "sweeper",
}
_OPERATIONS = {
    Op.COMPLETION: Operation.ADVICE,
    Op.EXPIRY: Operation.HOLD_EXPIRY,
    Op.SWEEP: Operation.LOT_SWEEP,
    Op.FEE: Operation.DORMANCY_FEE,
}


class Sent:
    """A message that has got its name: the request (but for its own transaction id), the dict."""

    __slots__ = ("message", "request")

    def __init__(self, request: CardRequest, message: Message) -> None:
        self.request = request
        self.message = message


class Maker:
    """Gives the messages of a plan their names: instant, trace number, key."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._actions = {action.number: action for action in plan.actions}
        self.terminals = [
            Terminal(
                number,
                till.merchant,
                network=False,
                floor_limit_minor=till.floor_limit_minor,
                completion_tolerance_percent=till.tolerance_percent,
            )
            for number, till in enumerate(plan.setting.tills, 1)
        ]

    def action(self, number: int) -> Action:
        """The action of this number."""
        return self._actions[number]

    def parent(self, action: Action) -> Action | None:
        """The action that this one is about."""
        return None if action.parent is None else self._actions[action.parent]

    def _named_like(self, action: Action) -> Action:
        """Whose number and instant a message carries."""
        parent = self.parent(action)
        if parent is not None and action.copies:
            return self._named_like(parent)
        return action

    def _instant_s(self, action: Action) -> int:
        parent = self.parent(action)
        if parent is not None and (
            action.copies or action.op in (Op.REVERSAL, Op.OUTCOME) or action.names == "90"
        ):
            return self._instant_s(parent)
        till = self._plan.setting.tills[action.till]
        if till.by_batch:
            return 0
        begins_s = int(self._plan.setting.begins.timestamp())
        return begins_s + till.skew_s + action.at_ms // 1000

    def _code(self, action: Action) -> str:
        parent = self.parent(action)
        if parent is not None and action.op in (Op.REVERSAL, Op.OUTCOME):
            return self._code(parent)
        return _CODES.get(action.op, "006000")

    def _class(self, action: Action) -> str:
        return _CLASSES.get(action.op, "20")

    def key(self, action: Action, message_class: str | None = None) -> bytes:
        """The key of a message, or of the one that it would be in another class."""
        stan = self._named_like(action).number
        party = f"9|{action.till}|{self._code(action)}"
        message_class = message_class or self._class(action)
        return request_key(self._instant_s(action), f"{party}|{message_class}|{stan:06d}")

    def _original_key(self, action: Action) -> bytes:
        parent = self.parent(action)
        if parent is None or action.op not in (Op.REVERSAL, Op.OUTCOME, Op.COMPLETION):
            return b""
        stan = self._named_like(parent).number
        party = f"9|{action.till}|{self._code(action)}"
        return request_key(self._instant_s(action), f"{party}|{self._class(parent)}|{stan:06d}")

    def _sale_key(self, action: Action) -> str:
        """The key of the sale that a return is about."""
        parent = self.parent(action)
        return self.key(parent).hex() if action.op is Op.RETURN and parent is not None else ""

    def sweep(self, action: Action, now_s: int) -> Sent:
        """What a sweeper asks now: its key follows from card and period."""
        day = now_s // 86_400
        what, instant_s, month = f"lot|{day}", day * 86_400, 0
        if action.op is Op.FEE:
            first = datetime.datetime.fromtimestamp(now_s, datetime.UTC).replace(
                day=1, hour=0, minute=0, second=0
            )
            month = first.year * 12 + first.month - 1
            what, instant_s = f"dormancy|{month}", int(first.timestamp())
        made = self.make(action)
        request = msgspec.structs.replace(
            made.request,
            key=request_key(instant_s, f"sweeper|{what}|{action.card}"),
            fingerprint=content_fingerprint(f"sweeper|{what}"),
            terminal=Terminal(0, 0, network=True),
            amount_given=False,
            fee_month=month,
        )
        message = made.message | {"key": request.key.hex(), "content": request.fingerprint.hex()}
        return Sent(request, message | {"instant": 0, "merchant": 0, "month": month})

    def card_id(self, action: Action) -> int:
        """The card that a message names."""
        count = len(self._plan.setting.cards)
        if not action.misdirected:
            return CARD_BASE + action.card
        return CARD_BASE + (action.card + 1) % count if count > 1 else NO_CARD

    def to_id(self, action: Action) -> int:
        """The card that a message names as the other end of a transfer; 0 for none."""
        if action.to_card is None:
            return 0
        known = action.to_card < len(self._plan.setting.cards)
        to_id = CARD_BASE + action.to_card if known else NO_CARD
        return to_id if to_id != self.card_id(action) else 0

    def make(self, action: Action, *, tx: str = "", approval: str = "", hold: int = 0) -> Sent:
        """The message of an action; the rest is what the parent's answer has brought."""
        terminal = self.terminals[action.till]
        named_tx = tx if action.op is Op.RETURN or action.names == "OR" else ""
        approval_code = approval if action.names == "38" else ""
        advice = action.op in (Op.ADVICE, Op.COMPLETION)
        parent = self.parent(action)
        names_original = action.names == "90"
        original_key = self._original_key(action)
        nothing = parent is not None and parent.op in (Op.BALANCE, Op.REVERSAL)
        content = (
            *(self._code(action), action.amount_minor, action.final_minor, named_tx),
            action.to_card,
        )
        request = CardRequest(
            operation=_OPERATIONS.get(action.op) or Operation[action.op.name],
            key=self.key(action),
            fingerprint=content_fingerprint(repr(content)),
            transaction_id="",
            rrn="",
            terminal=terminal,
            amount_minor=action.amount_minor,
            amount_given=bool(action.amount_minor),
            partial_allowed=action.partial,
            original_transaction_id=named_tx,
            approval_code=approval_code,
            names_original=names_original,
            original_key=original_key,
            own_request_key=self.key(action, "20") if advice else b"",
            reverses_nothing=nothing and action.op in (Op.REVERSAL, Op.OUTCOME),
            reason=ReversalReason[action.reason.upper()],
            final_amount_minor=action.final_minor,
            bar_unknown=action.bars,
            hold_version=hold,
        )
        message = {
            "number": action.number,
            "op": action.op.value,
            "key": request.key.hex(),
            "content": request.fingerprint.hex(),
            "instant": self._instant_s(action),
            "card": self.card_id(action),
            "to": self.to_id(action),
            "merchant": terminal.merchant_id,
            "floor": terminal.floor_limit_minor,
            "tolerance": terminal.completion_tolerance_percent,
            "amount": action.amount_minor,
            "partial": action.partial,
            "names_tx": named_tx,
            "names_approval": approval_code,
            "names_key": original_key.hex() if not advice or names_original else "",
            "sale_key": self._sale_key(action),
            "own_request": request.own_request_key.hex(),
            "reverses_nothing": request.reverses_nothing,
            "reason": action.reason,
            "final": action.final_minor,
            "bars": action.bars,
            "hold": hold,
        }
        return Sent(request, message)
