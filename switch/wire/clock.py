"""DE 12 and DE 13 as instants: local time without a year, resolved to the nearest to receipt."""

from __future__ import annotations

import datetime

from fastpath.errors import FormatError
from fastpath.specs import DE

__all__ = ["LocalClock"]

_DAY_S = 86_400
_TIMES_MAX = 256


class LocalClock:
    """Resolves MMDD and hhmmss against the instant of receipt; remembers each MMDD for a day.

    And the last times: most messages of one second tell the same.
    """

    def __init__(self) -> None:
        self._today = -1
        self._midnights: dict[str, int] = {}
        self._times: dict[str, int] = {}

    def instant(self, date: str, time: str, utc_offset_min: int, now_s: int) -> int:
        """UTC seconds of a local date (MMDD) and time (hhmmss).

        FormatError for a date or time that does not exist.
        """
        passed_s = self._times.get(time)
        if passed_s is None:
            passed_s = self._passed(time)
        return self.midnight(date, now_s) + passed_s - utc_offset_min * 60

    def _passed(self, time: str) -> int:
        """Seconds since midnight."""
        hour, minute, second = int(time[:2]), int(time[2:4]), int(time[4:])
        if hour > 23 or minute > 59 or second > 59:
            raise FormatError("no such time", field=int(DE.LOCAL_TIME))
        if len(self._times) >= _TIMES_MAX:
            self._times.clear()
        self._times[time] = passed_s = hour * 3600 + minute * 60 + second
        return passed_s

    def midnight(self, date: str, now_s: int) -> int:
        """UTC seconds at which the day MMDD begins in UTC. FormatError for no such date."""
        today = now_s // _DAY_S
        if today != self._today:
            self._today = today
            self._midnights.clear()
        midnight = self._midnights.get(date)
        if midnight is None:
            midnight = self._midnights[date] = _nearest_midnight(date, now_s)
        return midnight


def _nearest_midnight(date: str, now_s: int) -> int:
    year = datetime.datetime.fromtimestamp(now_s, datetime.UTC).year
    candidates = []
    for candidate in (year - 1, year, year + 1):
        try:
            day = datetime.datetime(candidate, int(date[:2]), int(date[2:]), tzinfo=datetime.UTC)
        except ValueError:  # 29 February of a common year, or no date at all
            continue
        candidates.append(int(day.timestamp()))
    if not candidates:
        raise FormatError("no such date", field=int(DE.LOCAL_DATE))
    return min(candidates, key=lambda midnight: abs(midnight - now_s))
