"""`python -m tests.faults --rounds 20 --seed S --rows F1,F4`: faults for real, as many as wanted.

A round is one fault under load with its judgement. Each round that is over is one line in the
results; a run that was interrupted goes on where it was with the same seed. The first invariant
that does not hold ends the run, and everything that shows it is kept.
"""

from __future__ import annotations

import argparse
import datetime
import json
import shutil
import signal
import subprocess
import sys
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2])]

import rounds_books  # noqa: E402, F401
import rounds_cache  # noqa: E402, F401 -- each adds its faults
import rounds_messages  # noqa: E402, F401
import rounds_network  # noqa: E402, F401
import rounds_postgres  # noqa: E402, F401
import rounds_workers  # noqa: E402, F401
from fault_results import Results, report  # noqa: E402
from fault_round import Cannot, Fault, Scene, faults, play  # noqa: E402
from fault_stack import Apart, Stack, clear_scratch  # noqa: E402


class Run:
    """The rounds that are still to be played, on one stack after the other."""

    def __init__(self, results: Results, seed: str) -> None:
        self._results = results
        self._seed = seed
        self._stack: Stack | None = None
        self.cannot = 0

    def round(self, one: Fault, number: int) -> bool:
        """Play one round; False when something does not hold."""
        seed = f"{self._seed} {one.row} {number}"
        begun = time.monotonic()
        line: dict[str, Any] = {
            "at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "row": one.row,
            "fault": one.name,
            "seed": self._seed,
            "round": number,
            "counts": {},
            "measures": {},
            "outcome": "held",
        }
        scene: Scene | None = None
        try:
            scene = play(one, self._stack_for(one), seed)
        except Cannot as reason:
            line |= {"outcome": "cannot", "why": str(reason)}
            self.cannot += 1
        except Exception as error:
            line |= {"outcome": "broken", "why": f"{type(error).__name__}: {error}"[:2000]}
            line["evidence"] = str(self._keep(one, number, seed))
        if scene is not None:
            line |= {"counts": dict(scene.counts), "measures": scene.measures}
        line["took_s"] = round(time.monotonic() - begun, 2)
        self._results.add(line)
        say(line)
        if line["outcome"] != "broken" and self._stack is not None and self._stack.is_used_up:
            return self.close()
        return line["outcome"] != "broken"

    def _stack_for(self, one: Fault) -> Stack:
        if type(self._stack) is not one.on:
            self.close()
            self._stack = one.on()
            self._stack.start()
        assert self._stack is not None
        if isinstance(self._stack, Apart):
            self._stack.revive()
        return self._stack

    def close(self) -> bool:
        """The last look at a stack, then its end; False when that is not as it must be."""
        stack, self._stack = self._stack, None
        if stack is None:
            return True
        try:
            stack.switch.until_whole()
            stack.verify()
            stack.stop()
        except Exception as error:
            self._stack = stack
            print(f"at the end of a stack: {error}", flush=True)
            print(self._keep(None, 0, self._seed), flush=True)
            return False
        return True

    def _keep(self, one: Fault | None, number: int, seed: str) -> Path:
        """Seed, words, logs and database of what is broken; the stack is given up."""
        name = f"{one.row}-{number}" if one else "end"
        kept = self._results.directory / "evidence" / f"{int(time.time())}-{name}"
        kept.mkdir(parents=True)
        facts = {"seed": seed, "fault": one.name if one else "", "row": one.row if one else ""}
        (kept / "fault.json").write_text(json.dumps(facts, indent=1))
        (kept / "words.txt").write_text(traceback.format_exc())
        if self._stack is not None:
            directory = self._stack.directory
            for log in (*directory.glob("*.log"), *directory.glob("*/log/*")):
                shutil.copy(log, kept / f"{log.parent.name}-{log.name}")
            try:
                (kept / "database.sql").write_text(self._stack.dump())
            except (OSError, subprocess.SubprocessError) as error:
                (kept / "database.sql").write_text(f"-- no dump: {error}")
            self._stack.throw_away()
            self._stack = None
        return kept

    def give_up(self) -> None:
        """Leave nothing behind."""
        if self._stack is not None:
            self._stack.throw_away()


def say(line: dict[str, Any]) -> None:
    counts = line["counts"]
    figures = ", ".join(f"{count:,} {name}" for name, count in sorted(counts.items()))
    times = ", ".join(f"{name} {s:.2f} s" for name, s in sorted(line["measures"].items()))
    words = f"{line['outcome']}: {line.get('why', '')}" if "why" in line else line["outcome"]
    print(
        f"{line['row']} {line['round']} {line['fault']}: {words} ({line['took_s']} s)", flush=True
    )
    print(f"    {figures}; {times}".rstrip("; "), flush=True)


def wanted(rows: str, rounds: int) -> list[tuple[Fault, int]]:
    """All rounds, those on the same kind of stack together; each row's faults in turn."""
    known = faults()
    chosen = rows.split(",") if rows else list(known)
    unknown = [row for row in chosen if row not in known]
    if unknown:
        raise SystemExit(f"no such row: {', '.join(unknown)} (there are {', '.join(known)})")
    all_of_them = [
        (known[row][number % len(known[row])], number) for number in range(rounds) for row in chosen
    ]
    # a failover takes the small disk away: last of their kind
    return sorted(all_of_them, key=lambda item: (item[0].on.__name__, item[0].row == "F7"))


def main() -> int:
    """0 when everything held, 1 when something did not."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--rounds", type=int, default=20, help="rounds of each row")
    parser.add_argument("--seed", default="1", help="what chance begins with")
    parser.add_argument("--rows", default="", help="F1,F4: these rows only")
    parser.add_argument("--minutes", type=float, help="begin no further round after so many")
    parser.add_argument("--results", type=Path, default=Path(".faults"), metavar="DIR")
    parser.add_argument("--report", action="store_true", help="print the totals, and play nothing")
    options = parser.parse_args()
    results = Results(options.results)
    if options.report:
        print(report(results))
        return 0
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    warnings.filterwarnings("ignore", ".*TripleDES")  # what the terminals have
    clear_scratch()
    done = results.done(options.seed)
    deadline = time.monotonic() + 60 * (options.minutes or 1e6)
    run = Run(results, options.seed)
    held = True
    try:
        for one, number in wanted(options.rows, options.rounds):
            if (one.row, number) in done:
                continue
            if time.monotonic() > deadline:
                break
            held = run.round(one, number)
            if not held:
                break
        held = run.close() and held
    except KeyboardInterrupt:
        print("interrupted: the round that was being played does not count", flush=True)
        return 130
    finally:
        run.give_up()
    print(report(results))
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
