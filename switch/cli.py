"""`cardswitch`: the command line."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

__all__ = ["main"]

_DEMO_CARDS = 1_000
_DEMO_CARDS_MAX = 10_000_000


def main(arguments: list[str] | None = None) -> int:
    """Run a verb; the exit code. Usage errors are 2."""
    parser = argparse.ArgumentParser(
        prog="cardswitch", description="Transaction switch for stored value."
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    _add_up(verbs)
    _add_pos(verbs)
    _add_verify(verbs)
    worker = verbs.add_parser("worker")  # started by `up`
    worker.add_argument("file", type=Path)
    worker.set_defaults(run=_worker)
    parsed = parser.parse_args(arguments)
    result = parsed.run(parsed)
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
    return supervise(options, Preparation(settings, demo_cards=demo_cards))


def _worker(arguments: argparse.Namespace) -> int:
    from switch.worker import run_worker

    return run_worker(arguments.file)


def _add_pos(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    from switch.pos import add_parser

    add_parser(verbs)


def _add_verify(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    from switch.verify import add_parser

    add_parser(verbs)


if __name__ == "__main__":
    sys.exit(main())
