"""`cardswitch pos`: a terminal at the command line; it speaks to the port as any other would."""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import os
import re
import sys
from pathlib import Path
from typing import Final

from fastpath.codec import Message, decode
from fastpath.errors import FormatError
from fastpath.specs import DE
from rules.identity import Pan
from rules.money import POINTS_CURRENCY, Counts
from rules.responses import APPROVALS, Response
from rules.settlement import Totals
from switch.pos.demo import UsageError, load_demo
from switch.pos.fields import parse_amount, read_private
from switch.pos.keys import KeyUnusable, take_key, with_keys
from switch.pos.messages import (
    EntryMode,
    Order,
    Outgoing,
    build,
    may_be_original,
    seal_message,
)
from switch.pos.originals import FINDERS, find_original
from switch.pos.state import STAN_MAX, Sent, StateError, StateFile, TerminalState
from switch.pos.tally import add_answer, parse_line, totals_of
from switch.pos.text import MEANINGS, Style, as_json, reply_rows, request_rows, verdict
from switch.pos.verbs import VERBS, Option, Verb
from switch.pos.wire import NoAnswer, Reply, Wire
from switch.wire.settling import TOTALS

__all__ = ["add_parser", "run"]

EXIT_APPROVED: Final = 0
EXIT_DECLINED: Final = 1
EXIT_USAGE: Final = 2
EXIT_NO_ANSWER: Final = 3

REASONS: Final = {"timeout": "4021", "customer": "4000", "void": "4351"}
ENTRIES: Final = {
    "read": EntryMode.READ,
    "barcode": EntryMode.BARCODE,
    "keyed": EntryMode.KEYED,
}
UNSEALED_REFUSALS: Final = frozenset(
    {
        Response.FORMAT_ERROR,
        Response.NOT_PERMITTED_TO_TERMINAL,
        Response.MAC_WRONG,
    }
)
"""What the switch says without a MAC to those it does not know: shown, but never believed."""

_KEPT_CLASSES: Final = frozenset({"01", "02", "04", "05"})
_OPTION_NAMES: Final = {Option.ORIGINAL_TX: "--or", Option.TO_CARD: "--to"}


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command `pos` and its options to the program's parser."""
    verbs = "\n".join(f"  {verb.value:<12}{_summary(verb)}" for verb in Verb)
    parser = subparsers.add_parser(
        "pos",
        help="a demo terminal at the command line",
        description="Send one message to a running demo switch, as a terminal would.",
        epilog=f"verbs:\n{verbs}\n\nexit status: 0 approved, 1 declined, 2 usage, 3 no answer",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("verb", metavar="VERB", choices=[verb.value for verb in Verb], help="see below")
    add("--data", type=Path, default=Path(".data"), metavar="DIR", help="default: .data")
    add("--terminal", metavar="ID", help="default: the first of the demo's that fits")
    add("--card", metavar="PAN", help="the card number")
    add("--amount", help="such as 12.50; points without decimals")
    add("--purse", choices=["60", "80", "90", "all"], help="e-cash (default), voucher, points")
    add("--entry", choices=list(ENTRIES), help="how the card came in (default: read)")
    add("--expiry", metavar="YYMM", help="expiry date on the card (DE 14)")
    add("--pin", help="sent as a PIN block of the terminal's format")
    add("--cv", metavar="CODE", help="the card's verification code")
    add("--partial", action="store_true", help="less than the amount will do (PA)")
    add("--or", dest="original_tx", metavar="TX", help="the sale or hold that is meant")
    add("--to", dest="to_card", metavar="PAN", help="the card that receives (transfer)")
    add("--stan", type=int, help="reverse, repeat, outcome, complete: the message meant; else own")
    add("--reason", choices=[*REASONS, *REASONS.values()], help="of a reversal; default: timeout")
    add("--final-amount", metavar="AMOUNT", help="reverse only down to this amount (DE 95)")
    add("--bar", action="store_true", help="outcome: bar an unknown original for good (TB)")
    add("--key", choices=["mac", "pin"], help="key change: which key (default: mac)")
    add("--batch", metavar="NUMBER", help="reconcile: default is the terminal's own open batch")
    for line in ("debits", "debit-reversals", "credits", "credit-reversals"):
        add(f"--{line}", metavar="N:AMOUNT", help="reconcile: instead of the terminal's own totals")
    add("--date", metavar="MMDD", help="cutover: the business date that begins; default: today")
    add("--timeout", type=float, default=10.0, metavar="SECONDS", help="default: 10")
    add("--json", action="store_true", help="request and reply by DE numbers")
    parser.set_defaults(run=run)


def _summary(verb: Verb) -> str:
    """A line of the help: what a verb is for and what it needs."""
    spec = VERBS[verb]
    needed = " ".join(_name(option) for option in Option if option in spec.needs)
    return f"{spec.words} ({needed})" if needed else spec.words


def _name(option: Option) -> str:
    return _OPTION_NAMES.get(option, f"--{option.value.replace('_', '-')}")


def run(args: argparse.Namespace) -> int:
    """Do what the command line says and return its exit status."""
    try:
        return _Exchange(args).run()
    except (UsageError, StateError) as error:
        print(f"cardswitch pos: {error}", file=sys.stderr)
        return EXIT_USAGE


class _Exchange:
    """One command: what is sent, what came back, and how it is shown."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.verb = Verb(args.verb)
        self.spec = VERBS[self.verb]
        _check_options(args, self.verb)
        self.data_dir: Path = args.data
        self.demo = load_demo(self.data_dir)
        self.terminal = self.demo.terminal(args.terminal, network=self.spec.network_only)
        self.state_file = StateFile(self.data_dir, self.terminal.terminal_id)
        coloured = sys.stdout.isatty() and "NO_COLOR" not in os.environ
        self.style = Style(coloured)

    def run(self) -> int:
        sign_on, message = self._prepare()
        sealed = seal_message(self.terminal, message)
        request = decode(self.terminal.packager, sealed)
        if not self.args.json:
            self._show_request(request)
        try:
            with Wire(self.terminal, self.args.timeout) as wire:
                reply = wire.ask(sign_on) if sign_on is not None else None
                refused = reply is not None and not _granted(reply)
                if reply is None or not refused:
                    reply = wire.ask(message)
        except NoAnswer as reason:
            self._show_no_answer(request, str(reason))
            return EXIT_NO_ANSWER
        if not reply.mac_right:
            self._show_unbelieved(request, reply)
            return EXIT_NO_ANSWER
        if not refused:
            self._remember(message, reply)
        self._show_reply(request, reply.message, at_sign_on=refused)
        if self.verb is Verb.KEY_CHANGE and _granted(reply):
            return self._take_key(reply)
        return EXIT_APPROVED if _granted(reply) else EXIT_DECLINED

    def _prepare(self) -> tuple[Outgoing | None, Outgoing]:
        """The messages to send, with STANs of their own, written down before they are sent."""
        now = datetime.datetime.now(datetime.UTC)
        sign_on = None
        with self.state_file.locked() as state:
            self.terminal = with_keys(self.terminal, state.keys)
            original = find_original(self.verb, self.args, state)
            order = _order(self.args, self.verb, self._currency(original))
            if self.verb is Verb.RECONCILE:
                order = self._with_totals(order, state)
            if self.terminal.network and (not self.spec.network_code or self.verb is Verb.CUT_OVER):
                sign_on = self._build(Order(verb=Verb.SIGN_ON), state.next_stan(), now)
            if self.verb is Verb.REPEAT:
                return sign_on, self._build(order, 0, now, original)  # under its first STAN
            own_stan = None if self.verb in FINDERS else self.args.stan
            message = self._build(order, own_stan or state.next_stan(), now, original)
            if message.mti[:2] in _KEPT_CLASSES:
                state.record(message.mti, message.fields)
        return sign_on, message

    def _with_totals(self, order: Order, state: TerminalState) -> Order:
        """The totals on the command line if any stand there, else what the terminal has counted."""
        currency = self.demo.currency
        lines = {
            side: parse_line(text, f"--{side.name.lower().replace('_', '-')}s", currency)
            for side, text in _given_lines(self.args).items()
        }
        own = all(text is None for text in _given_lines(self.args).values())
        totals = Totals(*state.totals) if own else totals_of(lines)
        number = self.args.batch or f"{state.batch_number:06d}"
        return dataclasses.replace(order, totals=totals, batch_number=number)

    def _currency(self, original: Sent | None) -> str:
        """The currency in which the amounts on the command line are meant."""
        if original is not None:
            return original.fields.get(DE.CURRENCY, self.demo.currency)
        return POINTS_CURRENCY if self.args.purse == "90" else self.demo.currency

    def _build(
        self, order: Order, stan: int, now: datetime.datetime, original: Sent | None = None
    ) -> Outgoing:
        message = build(
            order,
            self.terminal,
            currency=self.demo.currency,
            stan=stan,
            now=now,
            original=original,
        )
        try:
            seal_message(self.terminal, message)
        except FormatError as error:
            raise UsageError(f"this cannot be put into a message: {error}") from None
        return message

    def _remember(self, message: Outgoing, reply: Reply) -> None:
        if message.mti[:2] not in _KEPT_CLASSES:
            return
        answer = reply.message
        private = read_private(answer.get(DE.PRIVATE) or "")
        amount = answer.get(DE.AMOUNT) or ""
        with self.state_file.locked() as state:
            sent = state.answered(
                int(message.stan),
                response=reply.response,
                tx=private.get("TX", ""),
                approved_amount=amount,
            )
            if sent is None:
                return
            if sent.mti.startswith("05"):
                _close_batch(state, sent)
            else:
                add_answer(state, sent, private, amount, self.demo.currency)

    def _take_key(self, reply: Reply) -> int:
        """The new key is in force from the next message on, when it is kept and not before."""
        usage = self.args.key or "mac"
        try:
            private = read_private(reply.message.get(DE.PRIVATE) or "")
            key = take_key(self.terminal, usage, private)
        except KeyUnusable as error:
            print(f"cardswitch pos: the old key stays: {error}", file=sys.stderr)
            return EXIT_NO_ANSWER
        with self.state_file.locked() as state:
            state.keys[usage] = key
        return EXIT_APPROVED

    # What is shown

    def _show_request(self, request: Message) -> None:
        style, terminal = self.style, self.terminal
        at = f"terminal {terminal.terminal_id}, merchant {terminal.merchant_id}"
        codes = " ".join(filter(None, (request.mti, request.get(DE.PROCESSING_CODE))))
        print(f"{style.title(self.spec.words)}  {style.dim(f'{codes} · {at}')}")
        print(style.table(request_rows(request, self.demo.currency)), flush=True)

    def _show_reply(self, request: Message, reply: Message, *, at_sign_on: bool = False) -> None:
        if self.args.json:
            self._print_json(request, reply)
            return
        where = self.style.dim("  (at sign-on; the message was not sent)") if at_sign_on else ""
        print(f"\n{verdict(reply, self.style)}{where}")
        print(self.style.table(reply_rows(request, reply, self.demo.currency)))

    def _show_unbelieved(self, request: Message, reply: Reply) -> None:
        """An answer without a right MAC is none; the codes that may lack one are worth showing."""
        if reply.mac_right is None and reply.response in UNSEALED_REFUSALS:
            words = f"{reply.response} {MEANINGS[reply.response]}"
            reason = f"a refusal came without a MAC, which proves nothing: {words}"
            self._show_no_answer(request, reason, reply.message)
            return
        fault = "no MAC" if reply.mac_right is None else "a wrong MAC"
        self._show_no_answer(request, f"what came has {fault}")

    def _show_no_answer(
        self, request: Message, reason: str, unbelieved: Message | None = None
    ) -> None:
        if self.args.json:
            self._print_json(request, unbelieved)
            print(f"cardswitch pos: no answer: {reason}", file=sys.stderr)
            return
        print(f"\n{self.style.doubt('NO ANSWER')}  {reason}")
        where = f"--data {self.data_dir} --terminal {self.terminal.terminal_id}"
        again = f"    cardswitch pos repeat {where}"
        if self.verb is Verb.KEY_CHANGE:
            print("  The old key stays. Ask again, and the same new one comes:")
            print(f"    cardswitch pos keychange {where}")
        elif request.mti[:2] == "04":
            print(f"  Whether it was undone is not known. Ask again:\n{again}")
        elif may_be_original(request.mti, request.get(DE.PROCESSING_CODE) or ""):
            print(f"  What became of it is not known. Ask again, or undo it:\n{again}")
            print(f"    cardswitch pos reverse {where}")

    def _print_json(self, request: Message, reply: Message | None) -> None:
        shown = {"request": as_json(request), "reply": as_json(reply) if reply else None}
        print(json.dumps(shown, indent=2))


def _given_lines(args: argparse.Namespace) -> dict[Counts, str | None]:
    return {
        Counts.DEBIT: args.debits,
        Counts.DEBIT_REVERSAL: args.debit_reversals,
        Counts.CREDIT: args.credits,
        Counts.CREDIT_REVERSAL: args.credit_reversals,
    }


def _close_batch(state: TerminalState, sent: Sent) -> None:
    """Begin the next batch when the terminal's own was closed, once."""
    number = read_private(sent.fields[DE.PRIVATE])["BN"]
    if sent.response == Response.APPROVED and number == f"{state.batch_number:06d}":
        state.close_batch(list(map(int, (sent.fields[de] for de in TOTALS))))


def _granted(reply: Reply) -> bool:
    return bool(reply.mac_right) and reply.response in APPROVALS


# From the command line to an order


def _check_options(args: argparse.Namespace, verb: Verb) -> None:
    """Every option must mean something to the verb, and what it needs must be there."""
    spec = VERBS[verb]
    for option in Option:
        given = getattr(args, option.value) not in {None, False}
        if given and option not in spec.takes:
            raise UsageError(f"{verb} takes no {_name(option)}")
        if not given and option in spec.needs:
            raise UsageError(f"{verb} needs {_name(option)}")
    if args.purse == "all" and verb is not Verb.BALANCE:
        raise UsageError("--purse all is for balance only")
    if args.stan is not None and not 1 <= args.stan <= STAN_MAX:
        raise UsageError(f"--stan must be 1 to {STAN_MAX}")
    if not 0 < args.timeout <= 3600:
        raise UsageError("--timeout must be above 0 and at most 3600 seconds")


def _order(args: argparse.Namespace, verb: Verb, currency: str) -> Order:
    entry = ENTRIES[args.entry or "read"]
    if entry is EntryMode.KEYED and args.pin is not None:
        entry = EntryMode.KEYED_WITH_PIN
    return Order(
        verb=verb,
        card=_card(args.card, "--card"),
        amount_minor=_amount(args.amount, "--amount", currency),
        purse=args.purse or "60",
        entry=entry,
        expiry=_matching(args.expiry, r"[0-9]{2}(0[1-9]|1[0-2])", "--expiry must be YYMM"),
        pin=_matching(args.pin, r"[0-9]{4,12}", "--pin must have 4 to 12 digits"),
        code=_matching(args.cv, r"[0-9A-Za-z]{1,16}", "--cv must be letters and digits"),
        original_tx=_matching(args.original_tx, r"[0-9A-Za-z]{1,32}", "--or must be a TX"),
        to_card=_card(args.to_card, "--to"),
        partial_allowed=args.partial,
        reason=REASONS.get(args.reason, args.reason),
        final_amount_minor=_amount(args.final_amount, "--final-amount", currency),
        bar_unknown=args.bar,
        key=args.key,
        date=_matching(args.date, r"(0[1-9]|1[0-2])[0-3][0-9]", "--date must be MMDD"),
    )


def _matching(text: str | None, form: str, complaint: str) -> str | None:
    """The text if it has this form. What was typed is not shown again: it may be a secret."""
    if text is not None and re.fullmatch(form, text, re.ASCII) is None:
        raise UsageError(complaint)
    return text


def _card(text: str | None, option: str) -> Pan | None:
    number = _matching(text, r"[0-9]{12,19}", f"{option} must be a card number of 12 to 19 digits")
    return None if number is None else Pan(number)


def _amount(text: str | None, option: str, currency: str) -> int | None:
    if text is None:
        return None
    try:
        return parse_amount(text, currency)
    except ValueError as error:
        raise UsageError(f"{option}: {error}") from None
