"""`python -m tests.simulator --seeds 1-20000`: run many seeds, show the shortest failing story."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter

from .many import fault_of, spread
from .plan import Plan, draw
from .reduce import shortened
from .world import run

_EVERY_S = 5


def show(plan: Plan) -> None:
    """The shortest story of a failing plan: the plan, what happened, what is wrong with it."""
    kind = fault_of(plan).split(":")[0]
    short = shortened(plan, lambda smaller: fault_of(smaller).split(":")[0] == kind)
    print("\n".join(short.lines()))
    print("--")
    try:
        print("\n".join(run(short).trace))
    except Exception as error:
        print(f"broke: {error!r}")
    print(f"seed {plan.seed}: {fault_of(short)}\n", flush=True)


def trace(seeds: range) -> None:
    """Each story in full."""
    for seed in seeds:
        plan = draw(seed)
        print("\n".join([*plan.lines(), "--", *run(plan).trace]))


def main() -> int:
    """1 when a seed failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulator", description=__doc__)
    parser.add_argument("--seeds", default="1-2000", help="A-B, or one seed")
    parser.add_argument("--failures", type=int, default=3, help="stop after so many")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--trace", action="store_true", help="print each story")
    options = parser.parse_args()
    first, _, last = options.seeds.partition("-")
    seeds = range(int(first), int(last or first) + 1)
    if options.trace:
        trace(seeds)
    failed: list[int] = []
    seen: Counter[str] = Counter()
    started = told = time.monotonic()
    for portion, part in spread(seeds, options.jobs):
        failed += portion
        seen += part
        now = time.monotonic()
        if now - told > _EVERY_S:
            told = now
            rate = seen["stories"] / (now - started)
            print(f"{seen['stories']} of {len(seeds)}, {rate:.1f}/s, failed: {failed}", flush=True)
        if len(failed) >= options.failures:
            break
    for seed in sorted(failed)[: options.failures]:
        show(draw(seed))
    took_s = time.monotonic() - started
    counts = ", ".join(f"{count:,} {name}" for name, count in seen.items())
    print(f"{counts} in {took_s:.1f} s; {len(failed)} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
