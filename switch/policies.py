"""The programmes' policies, as the tables have them."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import trio

from rules.lots import Origin
from rules.policy import DAY_S, Limits, Policies, Policy
from switch.config import Settings
from switch.journal.journal import JournalDown

__all__ = ["load_policies", "watch_policies"]

_PERIOD_S = 2.0
_PROGRAMMES = """
select p.*, array(select s.sponsor_id from sponsor s
    where s.programme_id = p.programme_id and s.open) as sponsors
from programme p
"""
_LIMITS = "select * from card_limit"

Rows = Callable[..., Awaitable[list[Any]]]


async def load_policies(rows: Rows, settings: Settings) -> Policies:
    """All of them; what a programme leaves open is as the settings have it."""
    default = Policy(
        pin_tries_max=settings.pin_tries_max,
        code_tries_max=settings.code_tries_max,
        horizon_s=settings.horizon_days * DAY_S,
        hold_s=settings.hold_lasts_s,
    )
    policies = Policies(default)
    await _refresh(policies, rows)
    return policies


async def watch_policies(policies: Policies, rows: Rows) -> None:
    """Take what has changed in the tables, every other second; as it was while Postgres is down."""
    while True:
        await trio.sleep(_PERIOD_S)
        with contextlib.suppress(JournalDown):
            await _refresh(policies, rows)


async def _refresh(policies: Policies, rows: Rows) -> None:
    limits = await rows(_LIMITS)
    policies.programmes = {
        row["programme_id"]: _policy(row, limits, policies.default)
        for row in await rows(_PROGRAMMES)
    }


def _policy(row: Any, limits: Iterable[Any], default: Policy) -> Policy:
    return Policy(
        pin_tries_max=row["pin_tries_max"] or default.pin_tries_max,
        code_tries_max=row["code_tries_max"] or default.code_tries_max,
        horizon_s=default.horizon_s,
        hold_s=row["hold_s"] or default.hold_s,
        utc_offset_min=row["utc_offset_min"],
        lot_days={origin: row[f"{origin.name.lower()}_days"] for origin in Origin},
        renewal_days=row["renewal_days"],
        refund_cashable=row["refund_cashable"],
        sponsors=frozenset(row["sponsors"]),
        dormancy_months=row["dormancy_months"],
        dormancy_fee_minor=row["dormancy_fee_minor"],
        dormancy_spares_promo=row["dormancy_spares_promo"],
        limits={
            limit["limit_class"]: Limits(
                transaction_minor=limit["transaction_max_minor"],
                return_minor=limit["return_max_minor"],
                day_minor=limit["day_max_minor"],
                day_count=limit["day_count_max"],
                balance_minor=limit["balance_max_minor"],
            )
            for limit in limits
            if limit["programme_id"] == row["programme_id"]
        },
    )
