"""The programmes' policies, as the tables have them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from rules.lots import Origin
from rules.policy import DAY_S, Limits, Policies, Policy
from switch.config import Settings

__all__ = ["load_policies"]

_PROGRAMMES = """
select p.*, coalesce(array_agg(s.sponsor_id) filter (where s.open), '{}') as sponsors
from programme p left join sponsor s using (programme_id) group by p.programme_id
"""


async def load_policies(rows: Callable[..., Awaitable[list[Any]]], settings: Settings) -> Policies:
    """All of them; what a programme leaves open is as the settings have it."""
    default = Policy(
        pin_tries_max=settings.pin_tries_max,
        code_tries_max=settings.code_tries_max,
        horizon_s=settings.horizon_days * DAY_S,
        hold_s=settings.hold_lasts_s,
    )
    programmes = {row["programme_id"]: _policy(row, default) for row in await rows(_PROGRAMMES)}
    return Policies(default, programmes)


def _policy(row: Any, default: Policy) -> Policy:
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
        limits=Limits(
            transaction_minor=row["transaction_max_minor"],
            day_minor=row["day_max_minor"],
            day_count=row["day_count_max"],
            balance_minor=row["balance_max_minor"],
        ),
    )
