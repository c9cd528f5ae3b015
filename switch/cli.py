"""`cardswitch`: the command line."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

__all__ = ["main"]

_DEMO_CARDS = 1_000
_DEMO_CARDS_MAX = 10_000_000
_NOBODY_READS = 141
"""What a shell reports of a program that SIGPIPE (13) has ended."""


def main(arguments: list[str] | None = None) -> int:
    """Run a verb; the exit code. Usage errors are 2; 141 where nobody reads what is printed."""
    parser = argparse.ArgumentParser(
        prog="cardswitch", description="Transaction switch for stored value."
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    _add_up(verbs)
    _add_pos(verbs)
    _add_verify(verbs)
    _add_projections(verbs)
    _add_describe(verbs)
    worker = verbs.add_parser("worker")  # started by `up`
    worker.add_argument("file", type=Path)
    worker.set_defaults(run=_worker)
    projector = verbs.add_parser("projector")  # started by the first worker
    projector.set_defaults(run=_projector)
    parsed = parser.parse_args(arguments)
    try:
        result = parsed.run(parsed)
        sys.stdout.flush()
    except BrokenPipeError:  # as behind `| head`: what is left has nowhere to go
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _NOBODY_READS
    return int(result)


def _add_up(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    from switch.config import add_arguments

    up = verbs.add_parser("up", help="start the switch and whatever it needs; serve until SIGTERM")
    add_arguments(up)
    up.add_argument("--demo", action="store_true", help="create and serve the demo programme")
    up.add_argument(
        "--demo-cards",
        type=_card_count,
        default=_DEMO_CARDS,
        metavar="N",
        help="how many active cards a new demo programme gets (default %(default)s)",
    )
    up.add_argument(
        "--demo-issued",
        type=_card_count,
        metavar="N",
        help="how many cards of it wait for their activation",
    )
    up.set_defaults(run=_up)


def _card_count(text: str) -> int:
    count = int(text)
    if not 1 <= count <= _DEMO_CARDS_MAX:
        raise argparse.ArgumentTypeError(f"expected 1 to {_DEMO_CARDS_MAX}")
    return count


def _up(arguments: argparse.Namespace) -> int:
    from switch.config import SettingsError, from_arguments
    from switch.prepare import Preparation
    from switch.supervisor import SupervisorOptions, supervise

    try:
        settings = from_arguments(arguments)
    except SettingsError as error:
        print(f"cardswitch: {error}", file=sys.stderr)
        return 2
    options = SupervisorOptions(
        data_dir=settings.data_dir,
        host=settings.host,
        switch_port=settings.switch_port,
        network_port=settings.network_port,
        metrics_port=settings.metrics_port,
        workers=settings.worker_count,
        postgres_url=settings.postgres,
        redis_url=settings.redis,
        demo=arguments.demo,
    )
    demo_cards = arguments.demo_cards if arguments.demo else None
    preparation = Preparation(settings, demo_cards=demo_cards, demo_issued=arguments.demo_issued)
    return supervise(options, preparation)


def _worker(arguments: argparse.Namespace) -> int:
    from switch.worker import run_worker

    return run_worker(arguments.file)


def _projector(_: argparse.Namespace) -> int:
    from switch.projections.process import project

    return project()


def _add_pos(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    from switch.pos import add_parser

    add_parser(verbs)


def _add_verify(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = verbs.add_parser(
        "verify",
        help="check the whole journal; 1 when something is broken",
        description="Check the journal, also while the switch runs. Exit 0: everything holds, 1: "
        "something is broken and named, 2: it could not be checked.",
    )
    _add_database(parser)
    parser.add_argument("--full", action="store_true", help="replay all cards, not a sample")
    parser.add_argument(
        "--export", type=Path, metavar="FILE", help="add a signed checkpoint when all holds"
    )
    parser.add_argument(
        "--against",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="checkpoints exported earlier; those in DIR are always compared",
    )
    parser.add_argument(
        "--archive",
        type=Path,
        metavar="DIR",
        help="archived months, checked with the rest; else those in DIR/archive, if there are any",
    )
    parser.set_defaults(run=_verify)
    archive = verbs.add_parser(
        "archive",
        help="write months older than the horizon into files and take them out of the database",
        description="Write all months up to one into signed files, check them, and detach their "
        "partitions, while the switch runs. Exit 0: done, 1: refused, with the reason, and nothing "
        "was taken away, 2: it could not be done.",
    )
    _add_database(archive)
    archive.add_argument("--month", required=True, metavar="YYYY-MM", help="the last month")
    archive.add_argument("--to", type=Path, metavar="DIR", help="else DIR/archive of --data")
    archive.add_argument("--drop", action="store_true", help="drop what is detached, too")
    archive.set_defaults(run=_archive)


def _verify(arguments: argparse.Namespace) -> int:
    from switch.verify import run_verify

    return run_verify(arguments)


def _archive(arguments: argparse.Namespace) -> int:
    from switch.archive.command import run_archive

    return run_archive(arguments)


def _add_projections(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    rebuild = verbs.add_parser(
        "rebuild",
        help="make all projections anew and compare them with the live ones",
        description="Make all projections anew from the journal and compare them with the live "
        "ones, also while the switch runs. Exit 0: equal (or replaced), 1: they differ, 2: it "
        "could not be done.",
    )
    _add_database(rebuild)
    rebuild.add_argument("--replace", action="store_true", help="put the new ones in their place")
    rebuild.add_argument(
        "--archive",
        type=Path,
        metavar="DIR",
        help="begin with the links in DIR; else with DIR/archive of --data, else with openings",
    )
    rebuild.set_defaults(run=_rebuild)
    open_items = verbs.add_parser(
        "open-items",
        help="list what a person has to look at, or clear an item of it",
        description="Late reversals, suspense and shortfalls that nobody has cleared, the oldest "
        "first. With --clear: takes one off the list, and moves nothing. Exit 0; 1 where there is "
        "no such open item; 2 when it could not be done.",
    )
    _add_database(open_items)
    open_items.add_argument("--json", action="store_true", help="one JSON list, for scripts")
    open_items.add_argument("--clear", metavar="TX", help="take an item of this transaction off it")
    kinds = ("late", "suspense", "shortfall", "upload", "missing")
    open_items.add_argument("--kind", choices=kinds, help="which item, with --clear")
    open_items.add_argument("--note", metavar="TEXT", help="who has settled it, and how")
    open_items.set_defaults(run=_open_items)


def _add_describe(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = verbs.add_parser(
        "describe", help="say which versions these are, and which compiled code runs here"
    )
    parser.add_argument("--json", action="store_true", help="as JSON, for scripts")
    parser.set_defaults(run=_describe)


def _describe(arguments: argparse.Namespace) -> int:
    from switch.describe import run_describe

    return run_describe(as_json=arguments.json)


def _rebuild(arguments: argparse.Namespace) -> int:
    from switch.projections.rebuild import run_rebuild

    return run_rebuild(arguments)


def _open_items(arguments: argparse.Namespace) -> int:
    from switch.projections.open_items import run_open_items

    return run_open_items(arguments)


def _add_database(parser: argparse.ArgumentParser) -> None:
    """How a verb that works on the database finds it."""
    parser.add_argument("--data", type=Path, default=Path(".data"), metavar="DIR")
    parser.add_argument("--postgres", metavar="URL", help="else that of the switch running on DIR")


if __name__ == "__main__":
    sys.exit(main())
