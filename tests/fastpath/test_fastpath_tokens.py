"""The token table: digests against OpenSSL's CMAC, look-ups against a dict, damage, generations."""

import copy
import os
import pickle
import random
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.cmac import CMAC
from hypothesis import given, settings
from hypothesis import strategies as st

from fastpath import tokens
from fastpath.tokens import TokenKey, TokenTable

KEY = TokenKey(bytes(range(16)))
HEADER_BYTES = 64
SLOT_BYTES = 16
MALFORMED = ["", "1" * 11, "1" * 20, "12345678901a", "123456789012 ", "-12345678901", "\uff11" * 16]

digits = st.characters(min_codepoint=0x30, max_codepoint=0x39)
pans = st.text(digits, min_size=12, max_size=19)
token_keys = st.one_of(st.binary(min_size=16, max_size=16), st.binary(min_size=32, max_size=32))


class MaskedPan(str):
    """As `rules.identity.Pan`: a str whose formatting is masked on purpose."""

    __slots__ = ()

    def __format__(self, spec: str) -> str:
        return "…"


@pytest.fixture(params=["fastest", "portable"], scope="module", autouse=True)
def core(request: pytest.FixtureRequest) -> Iterator[str]:
    tokens._force_portable(request.param == "portable")
    yield request.param
    tokens._force_portable(False)


def pan_of(number: int) -> str:
    return f"9500{number:012d}"


def cards(count: int, key: TokenKey = KEY, start: int = 0) -> dict[str, int]:
    return {pan_of(start + n): 1 + n for n in range(count)}


def build(path: Path, known: dict[str, int], key: TokenKey = KEY) -> TokenTable:
    TokenTable.build(path, ((key.digest(pan), card) for pan, card in known.items()))
    return TokenTable.open(path, key)


class TestDigests:
    @settings(deadline=None)
    @given(token_keys, pans)
    def test_is_a_cmac_over_length_and_digits(self, key: bytes, pan: str) -> None:
        block = bytes([len(pan)]) + bytes.fromhex(pan.ljust(30, "0"))
        other = CMAC(AES(key))
        other.update(block)
        digest = TokenKey(key).digest(pan)
        assert digest == other.finalize()[:12]
        assert TokenKey(key).digest(pan.encode()) == digest
        assert TokenKey(key).digest(MaskedPan(pan)) == digest

    def test_trailing_zeros_are_told_from_length(self) -> None:
        digests = {KEY.digest("1" + "0" * size) for size in range(11, 19)}
        assert len(digests) == 8

    @pytest.mark.parametrize("pan", MALFORMED)
    def test_malformed_numbers(self, pan: str) -> None:
        with pytest.raises(ValueError, match="12 to 19 digits") as caught:
            KEY.digest(pan)
        assert not pan or pan not in str(caught.value)
        with pytest.raises(ValueError, match="12 to 19 digits"):
            KEY.digest(pan.encode())

    @pytest.mark.parametrize("wrong", [None, 9500001234567890128, bytearray(16), ["1"] * 16])
    def test_other_types(self, wrong: object) -> None:
        with pytest.raises(TypeError):
            KEY.digest(wrong)  # type: ignore[arg-type]

    def test_both_codes_agree(self, core: str) -> None:
        here = TokenKey(bytes(32)).digest(pan_of(1))
        tokens._force_portable(core != "portable")
        try:
            assert TokenKey(bytes(32)).digest(pan_of(1)) == here
        finally:
            tokens._force_portable(core == "portable")
        if core == "portable":
            assert tokens._implementation() == "portable"

    @pytest.mark.parametrize("length", [0, 15, 17, 24, 31, 33])
    def test_key_lengths(self, length: int) -> None:
        with pytest.raises(ValueError, match="16 or 32 bytes"):
            TokenKey(bytes(length))

    def test_a_key_gives_nothing_away(self) -> None:
        assert repr(KEY) == "TokenKey(…)"
        for take in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(TypeError, match="cannot be pickled or copied"):
                take(KEY)
        assert {name for name in dir(KEY) if not name.startswith("_")} == {"digest"}


class TestLookUps:
    @settings(deadline=None, max_examples=40)
    @given(known=st.dictionaries(pans, st.integers(1, 2**32 - 1), max_size=60), key=token_keys)
    def test_as_a_dict(
        self, tmp_path_factory: pytest.TempPathFactory, known: dict[str, int], key: bytes
    ) -> None:
        table = build(tmp_path_factory.mktemp("table") / "t", known, TokenKey(key))
        others = [pan for pan in (pan_of(n) for n in range(50)) if pan not in known]
        asked = [*known, *others, *MALFORMED]
        expected = [known.get(pan, 0) for pan in asked]
        assert len(table) == len(known)
        assert [table.get(pan) for pan in asked] == expected
        assert table.get_many(asked) == expected

    @pytest.mark.parametrize("count", [0, 1, 15, 16, 17, 31, 33, 500])
    def test_batches_of_every_size(self, tmp_path: Path, count: int) -> None:
        table = build(tmp_path / "t", cards(1000))
        chance = random.Random(count)
        asked = [pan_of(chance.randrange(2000)) for _ in range(count)]
        expected = [number + 1 if number < 1000 else 0 for number in (int(p[4:]) for p in asked)]
        assert table.get_many(asked) == expected

    def test_a_large_table(self, tmp_path: Path) -> None:
        known = cards(100_000)
        table = build(tmp_path / "t", known)
        assert table.get_many(list(known)) == list(known.values())
        assert not any(table.get_many([pan_of(n) for n in range(100_000, 150_000)]))
        assert (tmp_path / "t").stat().st_size < 19 * len(known)

    def test_extreme_digests_and_ids(self, tmp_path: Path) -> None:
        """Digests that all want the first or the last slot, and ids at their bounds."""
        entries = {n.to_bytes(12): 2**32 - 1 - n for n in range(300)}
        entries |= {(2**96 - 1 - n).to_bytes(12): n + 1 for n in range(300)}
        TokenTable.build(tmp_path / "t", entries.items())
        table = TokenTable.open(tmp_path / "t", KEY)
        assert len(table) == 600
        for digest, card in entries.items():
            table.add(digest, card)  # the same again: nothing happens
        assert len(table) == 600
        for digest in entries:
            with pytest.raises(ValueError, match="another card"):
                table.add(digest, 12345)

    def test_the_number_may_be_a_subclass_or_bytes(self, tmp_path: Path) -> None:
        table = build(tmp_path / "t", cards(3))
        assert table.get(MaskedPan(pan_of(1))) == 2
        assert table.get(pan_of(1).encode()) == 2
        assert table.get_many([MaskedPan(pan_of(2)), pan_of(0)]) == [3, 1]

    @pytest.mark.parametrize("wrong", [None, 5, [pan_of(1)]])
    def test_other_types(self, tmp_path: Path, wrong: object) -> None:
        table = build(tmp_path / "t", cards(3))
        with pytest.raises(TypeError):
            table.get(wrong)  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            table.get_many([pan_of(1), wrong])  # type: ignore[list-item]
        with pytest.raises(TypeError):
            table.get_many((pan_of(1),))  # type: ignore[arg-type]

    def test_another_key_finds_nothing(self, tmp_path: Path) -> None:
        known = cards(200)
        build(tmp_path / "t", known)
        other = TokenTable.open(tmp_path / "t", TokenKey(bytes(16)))
        assert not any(other.get_many(list(known)))


class TestAdditions:
    def test_are_found_by_this_table_only(self, tmp_path: Path) -> None:
        table = build(tmp_path / "t", cards(10))
        table.add(table.digest(pan_of(77)), 4711)
        assert table.get(pan_of(77)) == 4711
        assert table.get_many([pan_of(3), pan_of(77), pan_of(78), "x"]) == [4, 4711, 0, 0]
        assert len(table) == 11
        assert TokenTable.open(tmp_path / "t", KEY).get(pan_of(77)) == 0

    def test_a_digest_has_one_card(self, tmp_path: Path) -> None:
        table = build(tmp_path / "t", cards(10))
        table.add(KEY.digest(pan_of(77)), 4711)
        table.add(KEY.digest(pan_of(77)), 4711)
        for number in (77, 3):
            with pytest.raises(ValueError, match="another card"):
                table.add(KEY.digest(pan_of(number)), 4712)
        assert table.get_many([pan_of(77), pan_of(3)]) == [4711, 4]
        assert len(table) == 11

    def test_arguments(self, tmp_path: Path) -> None:
        table = build(tmp_path / "t", {})
        for digest in (b"", bytes(11), bytes(13)):
            with pytest.raises(ValueError, match="12 bytes"):
                table.add(digest, 1)
        for card in (0, -1, 2**32, 1.0, "1", None):
            with pytest.raises(ValueError, match="card id"):
                table.add(bytes(12), card)  # type: ignore[arg-type]
        assert len(table) == 0


class TestBuilding:
    def test_the_order_of_entries_does_not_matter(self, tmp_path: Path) -> None:
        entries = [(KEY.digest(pan), card) for pan, card in cards(3000).items()]
        TokenTable.build(tmp_path / "one", entries)
        random.Random(4).shuffle(entries)
        TokenTable.build(tmp_path / "two", iter(entries))
        assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()

    def test_paths(self, tmp_path: Path) -> None:
        for path in (tmp_path / "t", str(tmp_path / "t"), os.fsencode(tmp_path / "t")):
            TokenTable.build(path, [(KEY.digest(pan_of(1)), 9)])
            assert TokenTable.open(path, KEY).get(pan_of(1)) == 9
        assert (tmp_path / "t").stat().st_mode & 0o777 == 0o600

    @pytest.mark.parametrize(
        ("entries", "reason"),
        [
            ([(bytes(12), 1), (b"a" * 12, 2), (bytes(12), 3)], "twice"),
            ([(bytes(11), 1)], "12 bytes"),
            ([("a" * 12, 1)], "12 bytes"),
            ([(bytes(12), 0)], "card id"),
            ([(bytes(12), 2**32)], "card id"),
            ([(bytes(12), None)], "card id"),
        ],
    )
    def test_wrong_entries_leave_everything_as_it_was(
        self, tmp_path: Path, entries: list[tuple[bytes, int]], reason: str
    ) -> None:
        before = build(tmp_path / "t", cards(5))
        content = (tmp_path / "t").read_bytes()
        with pytest.raises(ValueError, match=reason):
            TokenTable.build(tmp_path / "t", entries)
        assert (tmp_path / "t").read_bytes() == content
        assert [path.name for path in tmp_path.iterdir()] == ["t"]
        assert before.get(pan_of(4)) == 5

    def test_an_error_of_the_source_passes_through(self, tmp_path: Path) -> None:
        def source() -> Iterator[tuple[bytes, int]]:
            yield bytes(12), 1
            raise RuntimeError("the source broke")

        with pytest.raises(RuntimeError, match="the source broke"):
            TokenTable.build(tmp_path / "t", source())
        assert list(tmp_path.iterdir()) == []

    def test_a_table_in_use_survives_the_next_generation(self, tmp_path: Path) -> None:
        old = build(tmp_path / "t", cards(2000))
        new = build(tmp_path / "t", cards(5000, start=1000))
        assert old.get_many([pan_of(0), pan_of(1999), pan_of(5999)]) == [1, 2000, 0]
        assert new.get_many([pan_of(0), pan_of(1999), pan_of(5999)]) == [0, 1000, 5000]

    def test_a_left_over_temporary_file_is_no_hindrance(self, tmp_path: Path) -> None:
        (tmp_path / "t.tmp").write_bytes(b"x" * 100_000)
        assert build(tmp_path / "t", cards(1)).get(pan_of(0)) == 1
        assert [path.name for path in tmp_path.iterdir()] == ["t"]


def sealed_table(slots: list[bytes], capacity: int, count: int) -> bytes:
    """A file of these slots with the checksum that belongs to them."""
    one, two, mask = capacity, count, 2**64 - 1
    for slot in slots:
        one = (one ^ int.from_bytes(slot[:8])) * 0x9E3779B97F4A7C15 & mask
        two = (two ^ int.from_bytes(slot[8:])) * 0xC2B2AE3D27D4EB4F & mask
        one = (one << 29 | one >> 35) & mask
        two = (two << 31 | two >> 33) & mask
    checksum = one ^ ((two << 17 | two >> 47) & mask)
    header = (b"CSTOKENS", 1, SLOT_BYTES, count, capacity, len(slots), checksum)
    return struct.pack("<8sIIQQQQ16x", *header) + b"".join(slots)


class TestDamage:
    @pytest.fixture
    def content(self, tmp_path: Path) -> bytes:
        build(tmp_path / "t", cards(20))
        return (tmp_path / "t").read_bytes()

    def test_the_header_is_as_documented(self, content: bytes) -> None:
        magic, version, slot, count, capacity, total, _ = struct.unpack_from("<8sIIQQQQ", content)
        assert (magic, version, slot, count) == (b"CSTOKENS", 1, SLOT_BYTES, 20)
        assert count < capacity < total
        assert len(content) == HEADER_BYTES + SLOT_BYTES * total

    @pytest.mark.parametrize("check", [True, False])
    @pytest.mark.parametrize(
        ("at", "replacement", "reason"),
        [
            (0, b"X", "not a token table"),
            (8, b"\2", "another version"),
            (12, b"\x18", "another version"),
            (16, b"\xff\xff\xff", "damaged header"),
            (24, bytes(8), "damaged header"),
            (24, b"\xff" * 8, "damaged header"),
            (32, b"\x01", "damaged header"),
            (32, b"\xff" * 8, "damaged header"),
            (33, b"\x01", "wrong size"),
        ],
    )
    def test_headers(
        self, tmp_path: Path, content: bytes, at: int, replacement: bytes, reason: str, check: bool
    ) -> None:
        damaged = content[:at] + replacement + content[at + len(replacement) :]
        (tmp_path / "t").write_bytes(damaged)
        with pytest.raises(ValueError, match=reason):
            TokenTable.open(tmp_path / "t", KEY, check=check)

    @pytest.mark.parametrize("check", [True, False])
    def test_sizes(self, tmp_path: Path, content: bytes, check: bool) -> None:
        for damaged in (b"", content[:63], content[:64], content[:-1], content[:-16]):
            (tmp_path / "t").write_bytes(damaged)
            with pytest.raises(ValueError, match="token table"):
                TokenTable.open(tmp_path / "t", KEY, check=check)
        (tmp_path / "t").write_bytes(content + bytes(16))
        with pytest.raises(ValueError, match="wrong size"):
            TokenTable.open(tmp_path / "t", KEY, check=check)

    def test_every_damaged_byte_is_noticed(self, tmp_path: Path, content: bytes) -> None:
        for at in (*range(48), *range(HEADER_BYTES, len(content))):
            damaged = bytearray(content)
            damaged[at] ^= 0x10
            (tmp_path / "t").write_bytes(damaged)
            with pytest.raises(ValueError, match="token table"):
                TokenTable.open(tmp_path / "t", KEY)

    @pytest.mark.parametrize(
        ("slots", "capacity", "sound"),
        [
            ([(0, 1), (2**95, 2), None], 2, True),  # each at home
            ([(0, 1), (1, 2), (2, 3), None], 2, True),  # a run from one home
            ([None, None, None], 2, False),  # two are missing
            ([(2**95, 1), (0, 2), None], 2, False),  # neither at home
            ([(0, 1), (0, 2), None], 2, False),  # the same twice
            ([(1, 1), (0, 2), None], 2, False),  # not in order
            ([(0, 1), (0, 0), (1, 2), None], 3, False),  # a gap before it: never found
            ([(0, 1), (5, 0), None], 2, False),  # an empty slot that is not empty
            ([(0, 1), (1, 2), (2, 3)], 2, False),  # nothing to stop at
        ],
    )
    def test_structure_is_looked_at_besides_the_checksum(
        self, tmp_path: Path, slots: list[tuple[int, int] | None], capacity: int, sound: bool
    ) -> None:
        content = [
            digest.to_bytes(12, "big") + card.to_bytes(4, "little")
            for digest, card in (slot or (0, 0) for slot in slots)
        ]
        count = sum(card > 0 for _, card in filter(None, slots)) or 2
        (tmp_path / "t").write_bytes(sealed_table(content, capacity, count))
        if sound:
            assert len(TokenTable.open(tmp_path / "t", KEY)) == count
        else:
            with pytest.raises(ValueError, match=r"damaged (slots|header)"):
                TokenTable.open(tmp_path / "t", KEY)

    def test_unchecked_damage_never_reaches_beyond_the_file(
        self, tmp_path: Path, content: bytes
    ) -> None:
        chance = random.Random(8)
        asked = [pan_of(n) for n in range(80)]
        for _ in range(200):
            slots = chance.randbytes(len(content) - HEADER_BYTES)
            (tmp_path / "t").write_bytes(content[:HEADER_BYTES] + slots)
            table = TokenTable.open(tmp_path / "t", KEY, check=False)
            assert table.get_many(asked) == [table.get(pan) for pan in asked]

    def test_other_errors(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError):
            TokenTable.open(tmp_path / "absent", KEY)
        with pytest.raises(TypeError):
            TokenTable.open(tmp_path / "absent", bytes(16))  # type: ignore[arg-type]
        with pytest.raises(TypeError, match=r"use TokenTable\.open"):
            TokenTable()
        raw = TokenTable.__new__(TokenTable)
        for use in (len, repr, lambda t: t.get(pan_of(1)), lambda t: t.get_many([pan_of(1)])):
            with pytest.raises(TypeError, match=r"use TokenTable\.open"):
                use(raw)

    def test_a_table_is_not_copied(self, tmp_path: Path) -> None:
        table = build(tmp_path / "t", cards(2))
        assert repr(table) == "TokenTable(2 cards)"
        for take in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(TypeError, match="cannot be pickled or copied"):
                take(table)


class TestAdditionsInUse:
    def test_they_are_seen_at_once_and_counted(self, tmp_path: Path) -> None:
        table = build(tmp_path / "t", cards(100))
        for n in range(100, 3000):
            assert table.get(pan_of(n)) == 0
            table.add(KEY.digest(pan_of(n)), n + 1)
            assert table.get(pan_of(n)) == n + 1
        assert len(table) == 3000
        asked = [pan_of(n) for n in range(3500)]
        assert table.get_many(asked) == [*range(1, 3001), *[0] * 500]

    def test_digests_that_begin_alike(self, tmp_path: Path) -> None:
        """Same first 8 bytes: the last 4 decide; same place: the next free one is taken."""
        table = build(tmp_path / "t", {})
        alike = [b"12345678" + n.to_bytes(4) for n in range(200)]
        for n, digest in enumerate(alike, 1):
            table.add(digest, n)
        for n, digest in enumerate(alike, 1):
            table.add(digest, n)  # the same again changes nothing
            with pytest.raises(ValueError, match="another card"):
                table.add(digest, n + 1)
        assert len(table) == 200

    def test_look_ups_in_other_threads_meanwhile(self, tmp_path: Path) -> None:
        """A number is unknown or its own card, never another's: a hundred races."""
        numbers = [pan_of(n) for n in range(5000)]
        digests = [KEY.digest(number) for number in numbers]
        table = build(tmp_path / "t", cards(10))
        wrong: list[int] = []

        def look(stop: threading.Event) -> None:
            while not stop.is_set():
                found = table.get_many(numbers)
                wrong.extend(n for n, card in enumerate(found, 1) if card not in (0, n))

        for _ in range(100):
            table = TokenTable.open(tmp_path / "t", KEY)
            stop = threading.Event()
            threads = [threading.Thread(target=look, args=(stop,)) for _ in range(2)]
            for thread in threads:
                thread.start()
            for n in range(10, 5000):
                table.add(digests[n], n + 1)
            stop.set()
            for thread in threads:
                thread.join()
            assert wrong == []
            assert table.get_many(numbers) == list(range(1, 5001))


class TestGenerations:
    def test_a_table_knows_when_it_was_replaced(self, tmp_path: Path) -> None:
        old = build(tmp_path / "t", cards(10))
        assert old.is_current
        new = build(tmp_path / "t", cards(20))
        assert not old.is_current
        assert new.is_current
        (tmp_path / "t").unlink()
        assert new.is_current  # there is nothing newer

    def test_additions_go_on_into_the_next_one(self, tmp_path: Path) -> None:
        old = build(tmp_path / "t", cards(10))
        for n in range(10, 200):
            old.add(KEY.digest(pan_of(n)), n + 1)
        TokenTable.build(
            tmp_path / "t", ((KEY.digest(pan), card) for pan, card in cards(100).items())
        )
        new = TokenTable.open(tmp_path / "t", KEY, after=old)
        assert len(new) == len(old) == 200
        asked = [pan_of(n) for n in range(250)]
        assert new.get_many(asked) == old.get_many(asked) == [*range(1, 201), *[0] * 50]
        new.add(KEY.digest(pan_of(240)), 241)
        assert (new.get(pan_of(240)), old.get(pan_of(240))) == (241, 0)
