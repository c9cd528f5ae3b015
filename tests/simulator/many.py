"""Many seeds, over all cores; and how much of their stories was looked at."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
from collections import Counter
from collections.abc import Iterator

from .judge import verdict
from .plan import Plan, draw
from .world import run

__all__ = ["fault_of", "judged", "spread", "told_of"]

_PORTION = 25
"""Seeds that a process takes at once."""


def told_of(plan: Plan) -> tuple[str, Counter[str]]:
    """What is wrong with a plan's story, judged or broken; and how much of it was looked at."""
    try:
        story = run(plan)
        fault = verdict(story)
    except Exception as error:
        return f"broke: {type(error).__name__}: {error}", Counter(stories=1)
    seen = Counter(
        stories=1,
        messages=len(story.deliveries),
        answers=sum(delivery.answer is not None for delivery in story.deliveries),
        links=len(story.database.links),
        faults=len(story.struck),
        kills=sum(line.endswith("is killed") for line in story.trace),
    )
    return fault, seen


def fault_of(plan: Plan) -> str:
    """What is wrong with a plan's story; "" when nothing is."""
    return told_of(plan)[0]


def judged(seeds: range) -> tuple[list[int], Counter[str]]:
    """The seeds that fail, and how much was looked at."""
    failed: list[int] = []
    seen: Counter[str] = Counter()
    for seed in seeds:
        fault, part = told_of(draw(seed))
        seen += part
        if fault:
            failed.append(seed)
    return failed, seen


def spread(seeds: range, jobs: int) -> Iterator[tuple[list[int], Counter[str]]]:
    """All seeds, portion by portion, over so many processes."""
    portions = [seeds[at : at + _PORTION] for at in range(0, len(seeds), _PORTION)]
    if jobs == 1 or len(portions) == 1:
        yield from map(judged, portions)
        return
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(jobs, mp_context=context) as pool:
        futures = [pool.submit(judged, portion) for portion in portions]
        try:
            for future in concurrent.futures.as_completed(futures):
                yield future.result()
        finally:
            pool.shutdown(cancel_futures=True)
