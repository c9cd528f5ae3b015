"""PIN, code and expiry: what is said, what is counted, and what must never be told apart."""

from __future__ import annotations

import pytest
from builders import (
    CODE_DIGEST,
    PVV,
    Chain,
    again,
    make_chain,
    make_facts,
    make_request,
)

from rules.booking import Policy, unknown_card
from rules.cards import CardStatus
from rules.identity import content_fingerprint
from rules.ledger import Answer
from rules.requests import CardRequest, Entry, Operation
from rules.responses import Response, Rule

WRONG = b"wrong"


def asked(**changes: object) -> CardRequest:
    return make_request(Operation.REDEEM, 100, **changes)


def tries(chain: Chain) -> tuple[int, int]:
    return chain.card_state.pin_tries, chain.card_state.code_tries


def said(answer: Answer) -> tuple[str, str]:
    return answer.response.value, answer.rule.value


# A card that was read


def test_a_read_card_needs_neither_pin_nor_code() -> None:
    chain = make_chain()
    assert said(chain.send(asked())) == ("00", "")
    assert said(chain.send(make_request(Operation.BALANCE))) == ("00", "")


@pytest.mark.parametrize(
    ("entered", "heard", "counted"),
    [
        ({"pvv": PVV}, ("00", ""), (0, 0)),
        ({"pvv": WRONG}, ("55", "PIN"), (1, 0)),
        ({"pvv": b""}, ("55", "PIN"), (1, 0)),
        ({"code_digest": CODE_DIGEST}, ("00", ""), (0, 0)),
        ({"code_digest": WRONG}, ("82", "CODE"), (0, 1)),
        ({"code_digest": b""}, ("82", "CODE"), (0, 1)),
        ({"expiry": "3012"}, ("00", ""), (0, 0)),
        ({"expiry": "3011"}, ("82", "CODE"), (0, 1)),
        ({"expiry": "3011", "code_digest": CODE_DIGEST}, ("82", "CODE"), (0, 1)),
        ({"pvv": WRONG, "code_digest": WRONG}, ("82", "CODE"), (0, 1)),
        ({"pvv": WRONG, "code_digest": CODE_DIGEST}, ("55", "PIN"), (1, 0)),
        ({"pvv": PVV, "code_digest": WRONG}, ("82", "CODE"), (0, 1)),
    ],
)
def test_what_is_entered_is_checked(
    entered: dict[str, object], heard: tuple[str, str], counted: tuple[int, int]
) -> None:
    chain = make_chain(available_minor=1_000)
    assert said(chain.send(asked(**entered))) == heard
    assert tries(chain) == counted
    assert chain.available_minor == (900 if heard[0] == "00" else 1_000)
    assert len(chain.journal) == 1


@pytest.mark.parametrize(
    ("entered", "heard"),
    [
        ({"pvv": b""}, ("55", "PIN")),
        ({"pvv": PVV}, ("55", "PIN")),
        ({"code_digest": b""}, ("82", "CODE")),
        ({"code_digest": CODE_DIGEST}, ("82", "CODE")),
    ],
)
def test_no_secret_fits_a_card_that_has_none(
    entered: dict[str, object], heard: tuple[str, str]
) -> None:
    chain = make_chain(facts=make_facts(pvv=b"", code_digest=b""))
    assert said(chain.send(asked(**entered))) == heard


@pytest.mark.parametrize(
    ("wrong", "right", "before", "locked"),
    [
        ({"pvv": WRONG}, {"pvv": PVV}, ("55", "PIN"), ("75", "PINLOCKED")),
        (
            {"code_digest": WRONG},
            {"code_digest": CODE_DIGEST},
            ("82", "CODE"),
            ("82", "CODELOCKED"),
        ),
        ({"expiry": "2912"}, {"code_digest": CODE_DIGEST}, ("82", "CODE"), ("82", "CODELOCKED")),
    ],
)
def test_five_wrong_ones_lock(
    wrong: dict[str, object],
    right: dict[str, object],
    before: tuple[str, str],
    locked: tuple[str, str],
) -> None:
    chain = make_chain()
    for _ in range(5):
        assert said(chain.send(asked(**wrong))) == before
    assert said(chain.send(asked(**wrong))) == locked
    assert said(chain.send(asked(**right))) == locked
    assert max(tries(chain)) == 5
    # The lock bars the secret's entry, not the card.
    assert said(chain.send(asked())) == ("00", "")


@pytest.mark.parametrize(
    ("wrong", "right"),
    [({"pvv": WRONG}, {"pvv": PVV}), ({"code_digest": WRONG}, {"code_digest": CODE_DIGEST})],
)
def test_a_right_one_starts_the_count_again(
    wrong: dict[str, object], right: dict[str, object]
) -> None:
    chain = make_chain()
    for _ in range(3):
        for _ in range(4):
            chain.send(asked(**wrong))
        assert max(tries(chain)) == 4
        assert said(chain.send(asked(**right))) == ("00", "")
        assert tries(chain) == (0, 0)


def test_a_right_one_counts_though_the_operation_is_refused() -> None:
    chain = make_chain(available_minor=5)
    chain.send(asked(pvv=WRONG))
    assert said(chain.send(asked(pvv=PVV))) == ("51", "FUNDS")
    assert tries(chain) == (0, 0)


def test_a_right_pin_leaves_the_codes_count_alone() -> None:
    chain = make_chain()
    chain.send(asked(pvv=WRONG))
    chain.send(asked(code_digest=WRONG))
    chain.send(asked(pvv=PVV))
    assert tries(chain) == (0, 1)
    chain.send(asked(pvv=WRONG))
    chain.send(asked(code_digest=CODE_DIGEST))
    assert tries(chain) == (1, 0)


def test_a_fitting_expiry_is_no_right_code() -> None:
    """Who knows the expiry alone must not get five more tries for the code with it."""
    chain = make_chain()
    chain.send(asked(code_digest=WRONG))
    chain.send(asked(expiry="3012"))
    assert tries(chain) == (0, 1)


def test_a_repeat_is_never_counted_twice() -> None:
    chain = make_chain()
    request = asked(pvv=WRONG)
    first = chain.send(request)
    assert [chain.send(again(request)) for _ in range(9)] == [first] * 9
    assert chain.batch(*(again(request) for _ in range(9))) == [first] * 9
    assert tries(chain) == (1, 0)


def test_tries_are_counted_within_a_batch() -> None:
    chain = make_chain()
    answers = chain.batch(*(asked(pvv=WRONG) for _ in range(6)))
    assert [answer.response for answer in answers] == ["55"] * 5 + ["75"]


def test_the_programme_says_how_many_tries() -> None:
    chain = make_chain(policy=Policy(pin_tries_max=1, code_tries_max=2))
    assert said(chain.send(asked(pvv=WRONG))) == ("55", "PIN")
    assert said(chain.send(asked(pvv=PVV))) == ("75", "PINLOCKED")
    answers = [chain.send(asked(code_digest=WRONG)) for _ in range(3)]
    assert [answer.rule for answer in answers] == [Rule.CODE, Rule.CODE, Rule.CODE_LOCKED]


def test_secrets_are_judged_before_status_and_funds() -> None:
    chain = make_chain(CardStatus.BLOCKED)
    assert said(chain.send(asked(pvv=WRONG))) == ("55", "PIN")
    assert said(chain.send(asked(pvv=PVV))) == ("62", "STATUS")


# Enquiries


def test_a_wrong_enquiry_is_counted_and_a_link() -> None:
    chain = make_chain()
    assert said(chain.send(make_request(Operation.BALANCE, pvv=WRONG))) == ("55", "PIN")
    assert said(chain.send(make_request(Operation.BALANCE, code_digest=WRONG))) == ("82", "CODE")
    assert tries(chain) == (1, 1)
    assert len(chain.journal) == 2


def test_a_right_enquiry_changes_nothing() -> None:
    chain = make_chain()
    chain.send(asked(pvv=WRONG))
    chain.send(asked(code_digest=WRONG))
    enquiry = make_request(Operation.BALANCE, pvv=PVV, code_digest=CODE_DIGEST)
    assert said(chain.send(enquiry)) == ("00", "")
    assert tries(chain) == (1, 1)
    assert len(chain.journal) == 2


def test_an_enquiry_in_a_batch_does_not_reset_the_count_of_the_next_link() -> None:
    chain = make_chain()
    chain.send(asked(pvv=WRONG))
    chain.batch(make_request(Operation.BALANCE, pvv=PVV), make_request(Operation.LOAD, 5))
    assert tries(chain) == (1, 0)


# No oracle


def keyed(operation: Operation = Operation.REDEEM, **changes: object) -> CardRequest:
    amount_minor = 0 if operation is Operation.BALANCE else 100
    return make_request(operation, amount_minor, entry=Entry.KEYED, **changes)


def locked_card(**entered: object) -> Chain:
    chain = make_chain()
    for _ in range(5):
        chain.send(asked(**entered))
    return chain


CANNOT_BE_TOLD_APART = {
    "neither code nor PIN": (make_chain, {}),
    "only the right expiry": (make_chain, {"expiry": "3012"}),
    "only a wrong expiry": (make_chain, {"expiry": "2912"}),
    "a wrong code": (make_chain, {"code_digest": WRONG}),
    "an unreadable code": (make_chain, {"code_digest": b""}),
    "a wrong PIN": (make_chain, {"pvv": WRONG}),
    "an unreadable PIN block": (make_chain, {"pvv": b""}),
    "a right code, a wrong expiry": (make_chain, {"code_digest": CODE_DIGEST, "expiry": "2912"}),
    "a right code, a wrong PIN": (make_chain, {"code_digest": CODE_DIGEST, "pvv": WRONG}),
    "a wrong code, a right PIN": (make_chain, {"code_digest": WRONG, "pvv": PVV}),
    "a locked code": (lambda: locked_card(code_digest=WRONG), {"code_digest": CODE_DIGEST}),
    "a locked PIN": (lambda: locked_card(pvv=WRONG), {"pvv": PVV}),
    "a lost card": (lambda: make_chain(CardStatus.LOST), {"code_digest": WRONG}),
    "an issued card": (lambda: make_chain(CardStatus.ISSUED), {}),
    "a card without a code": (
        lambda: make_chain(facts=make_facts(code_digest=b"")),
        {"code_digest": CODE_DIGEST},
    ),
}


@pytest.mark.parametrize(
    "operation", [Operation.REDEEM, Operation.BALANCE, Operation.ACTIVATE, Operation.HOLD]
)
@pytest.mark.parametrize("case", CANNOT_BE_TOLD_APART)
@pytest.mark.parametrize("rrn", ["", "000000000042"])
def test_a_keyed_card_looks_like_an_unknown_one(case: str, operation: Operation, rrn: str) -> None:
    make, entered = CANNOT_BE_TOLD_APART[case]
    chain = make()
    links = len(chain.journal)
    request = keyed(operation, rrn=rrn, **entered)
    answer = chain.send(request)
    unknown = unknown_card(request)
    assert answer == unknown
    assert said(answer) == ("14", "CARD")
    assert len(chain.journal) == links + 1
    # Sent again it still does: the same, with other content, with another DE 37, or with none.
    fingerprint = content_fingerprint("other")
    for sent in (
        again(request),
        again(request, fingerprint=fingerprint, amount_minor=7),
        again(request, rrn="000000000077"),
        again(request, rrn=""),
    ):
        assert chain.send(sent) == unknown_card(sent)
    assert len(chain.journal) == links + 1


def test_the_right_code_sent_again_under_a_refused_key_tells_nothing() -> None:
    chain = make_chain()
    request = keyed(code_digest=WRONG)
    chain.send(request)
    assert chain.send(again(request, code_digest=CODE_DIGEST)) == unknown_card(request)
    assert chain.available_minor == 10_000


def test_the_ids_of_unknown_cards_are_as_many_as_their_messages() -> None:
    """One and the same for a message and its repeat, another for each card and message."""
    request = keyed(card_digest=b"one")
    ids = [
        unknown_card(sent).transaction_id
        for sent in (request, again(request), again(request, card_digest=b"two"), keyed())
    ]
    assert ids[0] == ids[1]
    assert len(set(ids)) == 3
    assert request.transaction_id not in ids


def test_a_keyed_wrong_code_is_counted_though_nothing_is_said() -> None:
    chain = make_chain()
    for _ in range(5):
        chain.send(keyed(code_digest=WRONG))
    assert tries(chain) == (0, 5)
    assert said(chain.send(keyed(code_digest=CODE_DIGEST))) == ("14", "CARD")
    assert said(chain.send(asked(code_digest=CODE_DIGEST))) == ("82", "CODELOCKED")


@pytest.mark.parametrize("entered", [{"pvv": PVV}, {"code_digest": CODE_DIGEST}])
def test_code_or_pin_is_enough_for_a_keyed_card(entered: dict[str, object]) -> None:
    chain = make_chain()
    assert said(chain.send(keyed(**entered))) == ("00", "")
    assert said(chain.send(keyed(Operation.BALANCE, **entered))) == ("00", "")


def test_missing_code_is_no_try() -> None:
    chain = make_chain()
    chain.send(keyed())
    chain.send(keyed(expiry="3012"))
    assert tries(chain) == (0, 0)


def test_a_refused_keyed_request_is_refused_still_after_a_top_up() -> None:
    chain = make_chain(available_minor=0)
    request = keyed(code_digest=WRONG)
    first = chain.send(request)
    chain.send(make_request(Operation.LOAD, 500))
    assert chain.send(again(request)) == first
    assert chain.last.answer.response is Response.APPROVED
