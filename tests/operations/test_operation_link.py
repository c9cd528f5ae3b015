"""Sign-on, echo, framing, pipelining, and the fields of replies."""

from __future__ import annotations

import itertools
import struct

import pytest

from tests.client.checks import assert_shape, available
from tests.client.demo import Cards, Demo
from tests.client.messages import Card, NetworkCode, Reply
from tests.client.terminal import Connection, Terminal

# Nothing on the page says which code a link gets that has not signed on. 58 (not permitted to
# terminal) and 91 (nothing done, come again) are what an acquirer can act on.
NOT_SIGNED_ON = {"58", "91"}


# -- network management -------------------------------------------------------------------


def test_the_network_port_serves_only_after_sign_on(switch: Demo, card: Card) -> None:
    with switch.network() as terminal:
        assert terminal.redeem(card, 1000).code in NOT_SIGNED_ON
        signed_on = terminal.sign_on()
        assert_shape(signed_on)
        assert (signed_on.code, signed_on.fields[70]) == ("00", "001")
        assert terminal.redeem(card, 1000).available_minor == 9000


def test_after_sign_off_nothing_is_served_until_the_next_sign_on(switch: Demo, card: Card) -> None:
    with switch.network() as terminal:
        assert terminal.sign_on().code == "00"
        assert available(terminal, card) == 10000
        signed_off = terminal.sign_off()
        assert_shape(signed_off)
        assert (signed_off.code, signed_off.fields[70]) == ("00", "002")
        assert terminal.redeem(card, 1000).code in NOT_SIGNED_ON
        assert terminal.sign_on().code == "00"
        assert available(terminal, card) == 10000


def test_a_new_connection_has_to_sign_on_again(switch: Demo, network: Terminal, card: Card) -> None:
    # Sign-on is taken as a state of the connection: a link that lost its line signs on anew.
    assert available(network, card) == 10000
    with switch.network() as other:
        assert other.balance(card).code in NOT_SIGNED_ON
    assert available(network, card) == 10000


def test_an_echo_comes_back(switch: Demo, pos: Terminal, network: Terminal) -> None:
    for terminal in (pos, network):
        echoed = terminal.echo()
        assert_shape(echoed)
        assert (echoed.mti, echoed.code, echoed.fields[70]) == ("0810", "00", "301")


@pytest.mark.parametrize(("mti", "reply"), [("0800", "0810"), ("0820", "0830")])
def test_network_management_comes_as_request_and_as_advice(
    network: Terminal, mti: str, reply: str
) -> None:
    echo = network.make.network(NetworkCode.ECHO)
    answered = network.exchange(network.make.build(mti, echo.fields, {}, {}, None))
    assert (answered.mti, answered.code) == (reply, "00")


def test_tills_need_no_sign_on(pos: Terminal, card: Card) -> None:
    assert pos.redeem(card, 1000).code == "00"


def test_a_sign_on_with_a_wrong_mac_does_not_sign_on(switch: Demo, card: Card) -> None:
    with switch.network() as terminal:
        other = switch.network_entries[1]
        borrowed = switch.identity({**switch.network_entries[0], "mac_key": other["mac_key"]})
        stranger = Terminal(borrowed, terminal.connection)
        assert stranger.sign_on().code == "63"
        assert terminal.balance(card).code in NOT_SIGNED_ON


# -- reply fields -------------------------------------------------------------------------


def test_what_is_to_be_echoed_comes_back_and_nothing_else(any_pos: Terminal, card: Card) -> None:
    version = f"{any_pos.identity.key_version:02d}00" + "0" * 12
    today = f"{any_pos.make.local_time():%m%d}"
    sale = any_pos.redeem(
        card,
        1000,
        de15=today,
        de24="200",
        de25="00",
        de37="000000123456",
        de43=f"{'TEST STREET 1':25}{'TEST TOWN':13}DE",
        de53=version,
        de59="carried back as it came",
    )
    assert_shape(sale)
    assert sale.code == "00"
    assert sale.fields[37] == "000000123456"
    declined = any_pos.redeem(card, 99999, de37="000000123457", de59="also on a decline")
    assert_shape(declined)
    assert declined.fields[37] == "000000123457"


def test_an_approval_code_comes_with_approvals_only(pos: Terminal, card: Card) -> None:
    approved, declined = pos.redeem(card, 1000), pos.redeem(card, 99999)
    assert 38 in approved.fields
    assert 38 not in declined.fields
    assert 54 not in declined.fields


def test_a_reversal_tells_no_balance(pos: Terminal, card: Card) -> None:
    undone = pos.reverse(pos.redeem(card, 1000))
    assert undone.code == "00"
    assert 54 not in undone.fields


def test_missing_local_time_is_filled_in(pos: Terminal, card: Card) -> None:
    # Without DE 12 and 13 the batch number takes their place in the key.
    sale = pos.redeem(card, 1000, de12=None, de13=None, BN="000001")
    assert_shape(sale)
    assert sale.code == "00"
    assert pos.repeat(sale).same_answer() == sale.same_answer()
    assert available(pos, card) == 9000


def test_every_transaction_has_an_id_of_its_own(pos: Terminal, cards: Cards) -> None:
    replies: list[Reply] = []
    for card in (cards.active(), cards.active()):
        requests = [
            pos.make.redeem(card, 10),
            pos.make.redeem(card, 99999),
            pos.make.load(card, 10),
            pos.make.balance(card),
            pos.make.redeem(card, 0),
            pos.make.redeem(card, 10, de49="840"),
        ]
        replies += pos.pipeline(requests)
        replies.append(pos.reverse(replies[-len(requests)]))
    ids = [reply.tx for reply in replies]
    assert {len(tx) for tx in ids} == {12}
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize(
    ("mti", "reply"),
    [("0200", "0210"), ("0201", "0210"), ("0100", "0110"), ("0101", "0110")],
)
def test_a_request_and_its_repeat_are_answered_alike(
    pos: Terminal, card: Card, mti: str, reply: str
) -> None:
    make = pos.make.balance(card) if mti[1] == "1" else pos.make.redeem(card, 100)
    answered = pos.exchange(pos.make.build(mti, make.fields, {}, {}, card))
    assert (answered.mti, answered.code) == (reply, "00")


# -- framing and order --------------------------------------------------------------------


def test_a_frame_may_arrive_in_any_cuts(pos: Terminal, cards: Cards) -> None:
    card = cards.active()
    for size in (1, 2, 3, 7, 50):
        sale = pos.make.redeem(card, 10)
        whole = struct.pack(">H", len(sale.frame)) + sale.frame
        for start in range(0, len(whole), size):
            pos.connection.send_raw(whole[start : start + size])
        assert pos.receive(sale).code == "00"
    assert available(pos, card) == 9950


def test_many_frames_in_one_read_are_all_answered(any_pos: Terminal, cards: Cards) -> None:
    chosen = [cards.active() for _ in range(10)]
    sales = [any_pos.make.redeem(card, 10) for _ in range(20) for card in chosen]
    replies = any_pos.pipeline(sales)
    assert {reply.code for reply in replies} == {"00"}
    for card in chosen:
        mine = [r for s, r in zip(sales, replies, strict=True) if s.card is card]
        assert [reply.available_minor for reply in mine] == list(range(9990, 9790, -10))


def test_frames_and_keep_alives_may_be_mixed(pos: Terminal, card: Card) -> None:
    sales = [pos.make.redeem(card, 10) for _ in range(4)]
    keep_alive = b"\x00\x00"
    pos.connection.send_raw(
        keep_alive + b"".join(struct.pack(">H", len(s.frame)) + s.frame + keep_alive for s in sales)
    )
    assert [pos.receive(sale).code for sale in sales] == ["00"] * 4


def test_several_terminals_share_a_connection(switch: Demo, cards: Cards) -> None:
    with Connection(switch.host, switch.port) as connection:
        tills = [Terminal(switch.identity(entry), connection) for entry in switch.pos_entries[:6]]
        sales = [till.make.redeem(cards.active(), 1000) for till in tills]
        connection.send_frames(sale.frame for sale in sales)
        for till, sale in zip(reversed(tills), reversed(sales), strict=True):
            assert till.receive(sale).available_minor == 9000


def test_one_stan_at_two_terminals_of_a_connection_is_answered_to_each(
    switch: Demo, cards: Cards
) -> None:
    with Connection(switch.host, switch.port) as connection:
        one, two = (
            Terminal(switch.identity(entry), connection) for entry in switch.pos_entries[:2]
        )
        first = one.make.redeem(cards.active(), 1000, de11="777777")
        second = two.make.redeem(cards.active(), 3000, de11="777777")
        connection.send_frames([first.frame, second.frame])
        assert two.receive(second).available_minor == 7000
        assert one.receive(first).available_minor == 9000


def test_all_tills_and_all_network_terminals_work(switch: Demo, cards: Cards) -> None:
    card = cards.active()
    left = itertools.count(9999, -1)
    for entry in switch.pos_entries:
        with switch.pos(entry) as till:
            sale = till.redeem(card, 1, pin=card.pin)
            assert (sale.code, sale.available_minor) == ("00", next(left))
    for entry in switch.network_entries:
        with switch.network(entry) as terminal:
            assert terminal.sign_on().code == "00"
            sale = terminal.redeem(card, 1, pin=card.pin)
            assert (sale.code, sale.available_minor) == ("00", next(left))


def test_the_demo_is_as_the_contract_says(switch: Demo) -> None:
    terminals = switch.json["terminals"]
    tills = [entry for entry in terminals if entry["link"] is None][:16]
    assert {entry["mac"] for entry in tills} == {"aes-cmac", "retail-mac"}
    assert len({entry["merchant"] for entry in tills}) == 2
    standard = tills + switch.network_entries
    assert {(entry["pin_format"], entry["floor_limit"]) for entry in standard} == {(0, 5000)}
    assert {len(bytes.fromhex(entry["pin_key"])) for entry in standard} == {16}
    assert len({entry["id"] for entry in terminals}) == len(terminals)
    statuses = [entry["status"] for entry in switch.json["cards"]]
    assert (statuses.count("active"), statuses.count("issued")) >= (1000, 1000)
    for status in ("lost", "stolen", "expired"):
        assert status in statuses
    active = [entry for entry in switch.json["cards"] if entry["status"] == "active"][:1000]
    assert {entry["balance"] for entry in active} == {10000}
    assert len({entry["pan"] for entry in switch.json["cards"]}) == len(switch.json["cards"])
    assert switch.json["switch"]["packager"] == "iso87-binary"
    assert switch.json["switch"]["network_packager"] == "iso87-ascii"
    assert switch.json["currency"] == "978"
