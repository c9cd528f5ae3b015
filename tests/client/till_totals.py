"""What a till counts for its reconciliation: written from the dialect page, in plain numbers."""

from __future__ import annotations

from dataclasses import dataclass, fields

from .messages import Reply

__all__ = ["TillTotals", "told_totals"]

_NUMBERS = {74: "credits", 75: "credits_undone", 76: "debits", 77: "debits_undone"}
_AMOUNTS = {86: "credits", 87: "credits_undone", 88: "debits", 89: "debits_undone"}


@dataclass
class TillTotals:
    """Numbers and amounts (minor units) of a batch: sales and payouts are debits, loads credits."""

    credits: int = 0
    credits_minor: int = 0
    credits_undone: int = 0
    credits_undone_minor: int = 0
    debits: int = 0
    debits_minor: int = 0
    debits_undone: int = 0
    debits_undone_minor: int = 0

    def debit(self, amount_minor: int) -> None:
        self.debits += 1
        self.debits_minor += amount_minor

    def credit(self, amount_minor: int) -> None:
        self.credits += 1
        self.credits_minor += amount_minor

    def undo_debit(self, amount_minor: int) -> None:
        self.debits_undone += 1
        self.debits_undone_minor += amount_minor

    def undo_credit(self, amount_minor: int) -> None:
        self.credits_undone += 1
        self.credits_undone_minor += amount_minor

    @property
    def net(self) -> str:
        """DE 97: C or D and |86 + 89 - 88 - 87|."""
        net_minor = (
            self.credits_minor
            + self.debits_undone_minor
            - self.debits_minor
            - self.credits_undone_minor
        )
        return f"{'D' if net_minor < 0 else 'C'}{abs(net_minor):016d}"

    def fields(self) -> dict[int, str]:
        """DE 74 to 77, 86 to 89 and 97."""
        said = {de: f"{getattr(self, name):010d}" for de, name in _NUMBERS.items()}
        said |= {de: f"{getattr(self, name + '_minor'):016d}" for de, name in _AMOUNTS.items()}
        return {**said, 97: self.net}

    def plus(self, other: TillTotals) -> TillTotals:
        return TillTotals(
            **{one.name: getattr(self, one.name) + getattr(other, one.name) for one in fields(self)}
        )


def told_totals(reply: Reply) -> TillTotals:
    """The switch's totals in a 0510; its DE 97 must be what they amount to."""
    said = {name: int(reply.fields[de]) for de, name in _NUMBERS.items()}
    said |= {f"{name}_minor": int(reply.fields[de]) for de, name in _AMOUNTS.items()}
    totals = TillTotals(**said)
    assert reply.fields[97] == totals.net, reply
    return totals
