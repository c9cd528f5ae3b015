"""`python -m bench.plots`: a picture for each question, from the JSON of the measurements.

    python -m bench.plots [--bench FILE] [--growth FILE] [--soak FILE] --to DIR

Writes one SVG per question; the same figures give the same bytes.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")

from matplotlib import pyplot as plt

__all__ = ["bench_plots", "growth_plots", "main", "soak_plots"]

_STYLE = {
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.figsize": (7, 3.6),
    "font.size": 10,
    "grid.color": "#dddddd",
    "legend.frameon": False,
    "lines.marker": "o",
    "lines.markersize": 4,
    "svg.fonttype": "none",
    "svg.hashsalt": "cardswitch",
}
_MILLION = 1_000_000

Line = tuple[str, Sequence[float], Sequence[float]]


def _plot(
    target: Path,
    title: str,
    x_label: str,
    y_label: str,
    lines: Sequence[Line],
    *,
    x_log: bool = False,
    x_ticks: Sequence[tuple[float, str]] = (),
) -> None:
    """One picture. The vertical axis begins at zero: what looks half as high is half as much."""
    with plt.rc_context(_STYLE):
        figure, axes = plt.subplots(layout="constrained")
        for name, across, up in lines:
            axes.plot(across, up, label=name)
        axes.set(title=title, xlabel=x_label, ylabel=y_label)
        if x_log:
            axes.set_xscale("log")
        if x_ticks:
            axes.set_xticks([at for at, _ in x_ticks], [text for _, text in x_ticks])
            axes.minorticks_off()
        axes.set_ylim(bottom=0)
        if len(lines) > 1:
            axes.legend()
        figure.savefig(target, metadata={"Date": None})
        plt.close(figure)


def _count(number: float) -> str:
    if number >= _MILLION:
        return f"{number / _MILLION:g} M"
    return f"{number / 1000:g} k" if number >= 1000 else f"{number:g}"


def growth_plots(result: dict[str, Any], directory: Path) -> None:
    """Speed and memory over cards, and speed over the links of the journal."""
    points = result["points"]
    least = min(point["links"] for point in points)
    by_cards = [point for point in points if point["links"] == least]
    most = max(point["cards"] for point in points)
    by_links = [point for point in points if point["cards"] == most]

    def column(some: list[dict[str, Any]], name: str) -> list[float]:
        return [float(point[name]) for point in some]

    cards = column(by_cards, "cards")
    ticks = [(at, _count(at)) for at in cards]
    over_cards: dict[str, Any] = {"x_log": True, "x_ticks": ticks}
    links = [at / _MILLION for at in column(by_links, "links")]
    latencies = (
        ("one in flight, p50", "one_in_flight_p50_ms"),
        ("open loop 2,000/s, p50", "open_p50_ms"),
        ("open loop 2,000/s, p99", "open_p99_ms"),
    )
    for some, across, label, name, options in (
        (by_cards, cards, "cards", "cards", over_cards),
        (by_links, links, f"million links in the journal ({_count(most)} cards)", "links", {}),
    ):
        _plot(
            directory / f"throughput-by-{name}.svg",
            f"Durable authorizations by {name}",
            label,
            "per second",
            [("", across, column(some, "per_second"))],
            **options,
        )
        _plot(
            directory / f"latency-by-{name}.svg",
            f"Latency by {name}",
            label,
            "milliseconds",
            [(text, across, column(some, key)) for text, key in latencies],
            **options,
        )
    _plot(
        directory / "memory-by-cards.svg",
        "Memory and disk by cards",
        "cards",
        "MB",
        [
            ("token table, shared by all workers", cards, column(by_cards, "token_table_mb")),
            ("a worker's own", cards, column(by_cards, "worker_mb")),
            ("cache", cards, column(by_cards, "redis_mb")),
            ("rows of cards, on disk", cards, column(by_cards, "card_rows_mb")),
        ],
        **over_cards,
    )


def soak_plots(result: dict[str, Any], directory: Path) -> None:
    """Latency, memory and the projector's lag over time."""
    minutes = result["minutes"]
    at = [sample["at_s"] / 60 for sample in minutes]

    def line(name: str, read: Callable[[dict[str, Any]], float]) -> Line:
        return name, at, [read(sample) for sample in minutes]

    rate = f"{result['rate']:,.0f} mixed messages a second"
    _plot(
        directory / "soak-latency.svg",
        f"Latency over time, {rate}",
        "minutes",
        "milliseconds",
        [line("p50", lambda one: one["p50_ms"]), line("p99", lambda one: one["p99_ms"])],
    )
    parts = minutes[0]["memory_mb"]
    _plot(
        directory / "soak-memory.svg",
        f"Resident memory over time, {rate}",
        "minutes",
        "MB",
        [line(part, lambda one, part=part: one["memory_mb"][part]) for part in parts],  # type: ignore[misc]
    )
    _plot(
        directory / "soak-lag.svg",
        f"Links that the projector has not read yet, {rate}",
        "minutes",
        "links",
        [line("", lambda one: one["lag_links"])],
    )


def bench_plots(result: dict[str, Any], directory: Path) -> None:
    """Latency over the rate of an open loop."""
    rates, turns = [], []
    for name, figures in result.items():
        if name.startswith("open loop "):
            rates.append(float(name.removeprefix("open loop ").removesuffix("/s").replace(",", "")))
            turns.append(figures["median"])
    _plot(
        directory / "latency-by-rate.svg",
        "Latency by rate, open loop: from the intended instant",
        "messages a second",
        "milliseconds",
        [
            (name, rates, [turn[key] for turn in turns])
            for name, key in (("p50", "p50_ms"), ("p99", "p99_ms"))
        ],
    )
    parts = result["cpu_us"]
    with plt.rc_context(_STYLE | {"axes.grid": False}):
        figure, axes = plt.subplots(layout="constrained")
        axes.barh(list(parts), list(parts.values()))
        for at, used in enumerate(parts.values()):
            axes.text(used, at, f" {used:g}", va="center")
        axes.set(title="CPU of one durable authorization", xlabel="microseconds")
        figure.savefig(directory / "cpu-by-part.svg", metadata={"Date": None})
        plt.close(figure)


def main() -> int:
    """Draw what there are figures for."""
    parser = argparse.ArgumentParser(prog="python -m bench.plots", description=__doc__)
    kinds = {"bench": bench_plots, "growth": growth_plots, "soak": soak_plots}
    for name in kinds:
        parser.add_argument(f"--{name}", type=Path, metavar="FILE", help=f"JSON of {name}")
    parser.add_argument("--to", type=Path, required=True, metavar="DIR")
    arguments = parser.parse_args()
    arguments.to.mkdir(parents=True, exist_ok=True)
    for name, draw in kinds.items():
        file: Path | None = getattr(arguments, name)
        if file is not None:
            draw(json.loads(file.read_text()), arguments.to)
    return 0


if __name__ == "__main__":
    sys.exit(main())
