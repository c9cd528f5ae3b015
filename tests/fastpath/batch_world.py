"""A small world for batches: terminals with keys, cards, and messages signed, or not quite."""

from __future__ import annotations

import random
from pathlib import Path

from fastpath.codec import Message, decode, encode, encode_unsealed, seal
from fastpath.directory import TerminalKeyTable
from fastpath.errors import FormatError
from fastpath.mac import MacAlgorithm, MacKey
from fastpath.packager import Packager
from fastpath.specs import DE
from fastpath.tokens import TokenKey, TokenTable

NOW_S = 1_000_000
TOKEN_KEY = TokenKey(bytes(range(16)))


def pan_of(n: int) -> str:
    return f"9500{n:015d}" if n % 2 else f"9500{n:012d}"


class World:
    """20 terminals: of each kind of key, with one to three versions; 50 cards, two of them new."""

    def __init__(self, seed: int, directory: Path) -> None:
        self.chance = random.Random(seed)
        self.keys: dict[str, list[tuple[int, MacKey, float | None]]] = {}
        for n in range(20):
            algorithm = MacAlgorithm.RETAIL if n % 2 else MacAlgorithm.AES_CMAC
            versions = [(2, None), (1, NOW_S + (5 if n % 3 else 0)), (3, None)][: 1 + n % 3]
            self.keys[f"{n:08d}" if n % 4 else f"T{n}"] = [
                (version, MacKey(algorithm, self.chance.randbytes(16)), until_s)
                for version, until_s in versions
            ]
        self.table = TerminalKeyTable((code, keys, code) for code, keys in self.keys.items())
        cards = {pan_of(n): 1000 + n for n in range(48)}
        path = directory / "tokens"
        TokenTable.build(path, ((TOKEN_KEY.digest(pan), card) for pan, card in cards.items()))
        self.tokens = TokenTable.open(path, TOKEN_KEY)
        for n in (48, 49):
            self.tokens.add(TOKEN_KEY.digest(pan_of(n)), 1000 + n)

    def candidates(self, message: Message) -> list[tuple[int, MacKey]]:
        """The keys that a message may be signed with, in order: what the batch is to agree with."""
        code = message.get(DE.TERMINAL)
        keys = self.keys.get(code.strip(" ")) if code is not None else None
        control = message.get(DE.SECURITY_CONTROL)
        named = int(control[:2]) if control else 0
        return [
            (version, key)
            for version, key, until_s in keys or ()
            if named in (0, version) and (until_s is None or until_s > NOW_S)
        ]

    def fields(self) -> dict[int, str | bytes]:
        chance = self.chance
        fields: dict[int, str | bytes] = {DE.STAN: f"{chance.randrange(10**6):06}"}
        optional: dict[int, str | bytes] = {
            DE.PAN: pan_of(chance.randrange(60)),
            DE.TRACK2: f"{pan_of(chance.randrange(60))}=29120000",
            DE.AMOUNT: f"{chance.randrange(10**6)}",
            DE.TERMINAL: chance.choice([*self.keys, "UNKNOWN", " "]),
            DE.SECURITY_CONTROL: f"{chance.choice((0, 1, 2, 3, 77)):02}" + "0" * 14,
            DE.ICC: chance.randbytes(chance.randrange(40)),
            DE.PRIVATE: "TX004" + "x" * chance.randrange(100),
            DE.TO_ACCOUNT: pan_of(1),
        }
        common = (DE.PAN, DE.TERMINAL)
        for de, value in optional.items():
            if chance.random() < (0.9 if de in common else 0.4):
                fields[de] = value
        return fields

    def message(self, packager: Packager) -> bytes:
        """Signed rightly, under another key, not at all, or malformed."""
        chance, fields = self.chance, self.fields()
        unsealed = encode_unsealed(packager, "0200", fields)
        code = str(fields.get(DE.TERMINAL, "")).strip()
        action = chance.random()
        if action < 0.1:
            return encode(packager, "0200", fields)
        keys = self.keys.get(code) or next(iter(self.keys.values()))
        frame = seal(packager, unsealed, chance.choice(keys)[1].sign(unsealed))
        if action < 0.2:
            return frame[:-1] + bytes([frame[-1] ^ (1 if frame[-1] != 0x40 else 3)])
        if action < 0.3:
            at = chance.randrange(len(frame))
            return frame[:at] + chance.randbytes(1) + frame[at + 1 :]
        if action < 0.35:
            return frame[: chance.randrange(1, len(frame))]
        return frame


def one_by_one(packager: Packager, frame: bytes) -> Message | FormatError:
    try:
        return decode(packager, frame)
    except FormatError as error:
        return error
