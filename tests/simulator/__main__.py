"""`python -m tests.simulator --seeds 1-2000`: run many seeds, show the shortest failing story."""

from __future__ import annotations

import argparse
import sys
import time

from .judge import verdict
from .plan import Plan, draw
from .reduce import shortened
from .world import run

_EVERY_S = 5


def fault_of(plan: Plan) -> str:
    """What is wrong with a plan's story, whether the judge says so or it breaks."""
    try:
        return verdict(run(plan))
    except Exception as error:
        return f"broke: {type(error).__name__}: {error}"


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


def main() -> int:
    """1 when a seed failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulator", description=__doc__)
    parser.add_argument("--seeds", default="1-2000", help="A-B, or one seed")
    parser.add_argument("--failures", type=int, default=3, help="stop after so many")
    parser.add_argument("--trace", action="store_true", help="print each story")
    options = parser.parse_args()
    first, _, last = options.seeds.partition("-")
    failed = 0
    started = told = time.monotonic()
    for done, seed in enumerate(range(int(first), int(last or first) + 1), 1):
        plan = draw(seed)
        if options.trace:
            print("\n".join([*plan.lines(), "--", *run(plan).trace]))
        if fault_of(plan):
            failed += 1
            show(plan)
            if failed >= options.failures:
                break
        now = time.monotonic()
        if now - told > _EVERY_S:
            told = now
            print(f"{done} seeds, {done / (now - started):.1f}/s, {failed} failed", flush=True)
    took_s = time.monotonic() - started
    print(f"{done} seeds in {took_s:.1f} s, {done / took_s:.1f}/s, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
