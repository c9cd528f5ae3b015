"""Rounds that were played, one line of JSON each; and what they come to."""

from __future__ import annotations

import json
import os
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["Results", "report"]

_TOTALS = ("rounds", "kills", "messages", "approvals", "repeats", "unanswered")


class Results:
    """The file of results in a directory. A line is there whole or not at all."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._path = directory / "results.jsonl"
        directory.mkdir(parents=True, exist_ok=True)
        with self._path.open("a+b") as file:  # what a kill has left of a line ends here
            if file.tell():
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    file.write(b"\n")

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for line in self._path.read_text().splitlines():
            try:
                yield json.loads(line)
            except json.JSONDecodeError:
                continue

    def done(self, seed: str) -> set[tuple[str, int]]:
        """Rows and numbers of the rounds that this seed has behind it."""
        return {
            (line["row"], line["round"])
            for line in self
            if line["seed"] == seed and line["outcome"] in ("held", "cannot")
        }

    def add(self, line: dict[str, Any]) -> None:
        """Append a round."""
        text = json.dumps(line, sort_keys=True) + "\n"
        with self._path.open("a") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())


def _figures(seconds: list[float]) -> str:
    median, longest = statistics.median(seconds), max(seconds)
    return f"{1000 * median:.0f} | {1000 * longest:.0f} | {len(seconds)}"


def report(results: Results) -> str:
    """Totals over all runs, as Markdown."""
    rows: dict[str, Counter[str]] = defaultdict(Counter)
    other: dict[str, Counter[str]] = defaultdict(Counter)
    measures: dict[str, list[float]] = defaultdict(list)
    cannot: dict[str, set[str]] = defaultdict(set)
    for line in results:
        key = line["row"]
        if line["outcome"] == "cannot":
            cannot[key].add(line["why"])
            continue
        rows[key]["broken"] += line["outcome"] == "broken"
        for name, count in line["counts"].items():
            (rows if name in _TOTALS else other)[key][name] += count
        for name, seconds in line["measures"].items():
            measures[name].append(seconds)
    lines = [f"| row | {' | '.join(_TOTALS)} | also | broken |", "|---" * (len(_TOTALS) + 3) + "|"]
    total: Counter[str] = Counter()
    for key in sorted({*rows, *cannot}, key=lambda name: int(name[1:])):
        counts = rows[key]
        total.update(counts)
        also = ", ".join(f"{count:,} {name}" for name, count in sorted(other[key].items()))
        also = "; ".join([also, *(f"cannot here: {why}" for why in sorted(cannot[key]))])
        figures = " | ".join(f"{counts[name]:,}" for name in _TOTALS)
        lines.append(f"| {key} | {figures} | {also.strip('; ')} | {counts['broken']} |")
    figures = " | ".join(f"{total[name]:,}" for name in _TOTALS)
    lines.append(f"| all | {figures} | | {total['broken']} |")
    lines += ["", "| measured | median ms | longest ms | rounds |", "|---|---|---|---|"]
    lines += [f"| {name} | {_figures(measures[name])} |" for name in sorted(measures)]
    return "\n".join(lines)
