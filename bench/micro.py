"""`python -m bench.micro`: every piece of the fast path against its peer, in the same run.

Both sides run in turn (A B A B ...), at least five times; medians of CPU time are shown, and their
ratio. On a shared machine only the ratio is worth anything.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import platform
import random
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from bench.micro_peers import (
    CITED,
    HashedCards,
    Iso8583Peer,
    OpenSslCore,
    psec_retail_mac,
    pyca_aes_cmac,
    pyca_retail_mac,
    pyca_tdes_mac,
)
from bench.micro_table import Bench, Work, each
from fastpath import mac
from fastpath.codec import decode, encode, encode_unsealed, seal
from fastpath.directory import TerminalKeyTable
from fastpath.framing import FrameBuffer, Header, pack_many
from fastpath.mac import MacAlgorithm, MacKey, sign_many
from fastpath.reader import BatchReader
from fastpath.replies import Replies
from fastpath.specs import DE, ISO87_ASCII
from fastpath.tokens import TokenKey, TokenTable

__all__ = ["main"]

_SIZE = 160
_BATCH = 256
_ECHOED = (DE.PAN, DE.PROCESSING_CODE, DE.AMOUNT, DE.STAN, DE.LOCAL_TIME, DE.LOCAL_DATE)
_ECHOED += (DE.TERMINAL, DE.MERCHANT, DE.CURRENCY)


def measure_macs(bench: Bench) -> None:
    """Batches of messages of 160 bytes, each under its own key, on every path."""
    chance = random.Random(1)
    keys = [chance.randbytes(16) for _ in range(_BATCH)]
    long_keys = [key + key[:8] for key in keys]
    data = [chance.randbytes(_SIZE) for _ in range(_BATCH)]
    few = slice(0, 32)
    core = OpenSslCore(_SIZE)
    for des in mac.paths()["des"]:
        mac._use_paths(des=des, aes="portable" if des == "portable" else None)
        for algorithm, name in (
            (MacAlgorithm.RETAIL, "retail MAC"),
            (MacAlgorithm.TDES, "TDES MAC (algorithm 1)"),
        ):
            retail = algorithm is MacAlgorithm.RETAIL
            scheduled = [MacKey(algorithm, key) for key in keys]
            peers: dict[str, Work] = {}
            if core.library is not None:
                peers["OpenSSL core"] = _core_work(core, retail=retail)
            if retail:
                peers["pyca"] = each(pyca_retail_mac, long_keys[few], data[few])
                peers["psec"] = each(psec_retail_mac, keys[few], data[few])
            else:
                peers["pyca"] = each(pyca_tdes_mac, long_keys[few], data[few])
            for size in (_BATCH, 64):
                bench.compare(
                    f"{name}, batch of {size}, {des}", _signing(scheduled, data, size), peers
                )
            if retail:
                one = scheduled[0]
                bench.compare(f"{name}, alone, {des}", each(one.sign, data[few]), peers)
    for aes in mac.paths()["aes"]:
        mac._use_paths(aes=aes)
        scheduled = [MacKey(MacAlgorithm.AES_CMAC, key) for key in keys]
        bench.compare(
            f"AES-CMAC, batch of {_BATCH}, {aes}",
            _signing(scheduled, data, _BATCH),
            {"pyca": each(pyca_aes_cmac, keys[few], data[few])},
        )
    mac._use_paths()


def _signing(keys: list[MacKey], data: list[bytes], size: int) -> Work:
    keys, data = keys[:size], data[:size]

    def work() -> int:
        sign_many(keys, data)
        return size

    return work


class _Share:
    """Blocks of the core, counted as messages: a MAC is so many blocks."""

    def __init__(self, chain: Callable[[], int], blocks: float) -> None:
        self.chain = chain
        self.blocks = blocks

    def __call__(self) -> int:
        return max(1, round(self.chain() / self.blocks))


def _core_work(core: OpenSslCore, *, retail: bool) -> Work:
    if retail:
        return _Share(core.chain_des, core.blocks + 2)
    return _Share(core.chain_tdes, core.blocks)


def sale() -> dict[int, str | bytes]:
    """A 0200 of 21 fields, about 350 bytes."""
    return {
        DE.PAN: "9500001234567890128",
        DE.PROCESSING_CODE: "006000",
        DE.AMOUNT: "000000001250",
        DE.TRANSMISSION_TIME: "1122093015",
        DE.STAN: "000042",
        DE.LOCAL_TIME: "093015",
        DE.LOCAL_DATE: "1122",
        DE.EXPIRY: "2912",
        DE.MERCHANT_TYPE: "5411",
        DE.ENTRY_MODE: "021",
        DE.CONDITION_CODE: "00",
        DE.ACQUIRER: "12345678901",
        DE.TRACK2: "9500001234567890128=29121010000",
        DE.RRN: "631009000042",
        DE.TERMINAL: "00000001",
        DE.MERCHANT: "000000000000001",
        DE.CURRENCY: "978",
        DE.PIN_BLOCK: bytes(range(8)),
        DE.ICC: bytes(range(50)),
        DE.PRIVATE: "PA0011CS0041234",
    }


def measure_codec(bench: Bench) -> None:
    """One message and batches, on the same bytes as the peer."""
    key = MacKey(MacAlgorithm.AES_CMAC, bytes(16))
    unsealed = encode_unsealed(ISO87_ASCII, "0200", sale())
    frame = seal(ISO87_ASCII, unsealed, key.sign(unsealed))
    message, peer = decode(ISO87_ASCII, frame), Iso8583Peer()
    opened = peer.decode(frame)
    if peer.encode(opened) != frame or len(message.fields) != 21:
        raise RuntimeError("the peer reads other bytes")
    stream = pack_many(Header.BINARY2, [frame] * _BATCH)
    decode_peer: dict[str, Work] = {"pyiso8583": each(peer.decode, [frame] * 8)}

    def read() -> int:
        return len(BatchReader(ISO87_ASCII).feed(stream))

    def one() -> int:
        for _ in range(_BATCH):
            decode(ISO87_ASCII, frame)
        return _BATCH

    bench.compare("decode a 0200 of 21 fields, alone", one, decode_peer)
    bench.compare(f"split and decode, {_BATCH} in one read", read, decode_peer)
    measure_replies(bench, message, key, peer)
    measure_framing(bench, stream)


def measure_replies(bench: Bench, message: object, key: MacKey, peer: Iso8583Peer) -> None:
    """A 0210 of 15 fields with its MAC; the peer only packs."""
    request = decode(ISO87_ASCII, message.raw)  # type: ignore[attr-defined]
    new = {
        DE.TRANSMISSION_TIME: "1122093016",
        DE.RRN: "631009000042",
        DE.APPROVAL_CODE: "A1B2C3",
        DE.RESPONSE_CODE: "00",
        DE.PRIVATE: "TX012000040Y6XWV3",
        DE.ADDITIONAL_AMOUNTS: "6001978C000000001250" * 2,
    }
    whole = {de: request.get(de) or "" for de in _ECHOED} | new
    text = {"t": "0210", **{str(int(de)): value for de, value in whole.items()}}
    replies = Replies(_ECHOED)

    def build() -> int:
        for _ in range(_BATCH):
            replies.add(0, request, "0210", new, key)
        replies.finish()
        return _BATCH

    def one() -> int:
        for _ in range(_BATCH):
            encode(ISO87_ASCII, "0210", whole)
        return _BATCH

    def packing() -> int:
        for _ in range(8):
            peer.encode(text)
        return 8

    peers: dict[str, Work] = {"pyiso8583 (no MAC)": packing}
    bench.compare("encode a 0210, alone, no MAC", one, peers)
    bench.compare(f"replies with CMAC and framing, {_BATCH}", build, peers)


def measure_framing(bench: Bench, stream: bytes) -> None:
    """Splitting alone."""

    def ours() -> int:
        return len(FrameBuffer(max_length=4096).feed(stream))

    def python() -> int:
        at, found = 0, []
        while at < len(stream):
            end = at + 2 + int.from_bytes(stream[at : at + 2])
            found.append(stream[at + 2 : end])
            at = end
        return len(found)

    bench.compare("framing into bytes", ours, {"Python slices": python})


def _pan(n: int) -> str:
    return f"9500{n * 7:012d}"


def _numbers(chance: random.Random, cards: int) -> list[str]:
    return [_pan(chance.randrange(cards)) for _ in range(_BATCH)]


def measure_tokens(bench: Bench, cards: int, directory: Path) -> dict[str, float]:
    """Look-ups of random known numbers; what a card takes, and how long it takes to attach."""
    key = TokenKey(bytes(16))
    path = directory / "tokens"
    pans = [_pan(n) for n in range(cards)]
    TokenTable.build(path, ((key.digest(pan), n) for n, pan in enumerate(pans, 1)))
    begun = time.perf_counter()
    table = TokenTable.open(path, key, check=False)
    attach_ms = (time.perf_counter() - begun) * 1e3
    known = pans[: min(cards, 1_000_000)]
    peer = HashedCards(bytes(16), known)
    chance = random.Random(2)
    # new strings, as those of messages are; so many that the tables' lines are not in the cache
    asked = [_numbers(chance, cards) for _ in range(2000)]
    asked_peer = [_numbers(chance, len(known)) for _ in range(100)]

    def ours() -> int:
        for batch in asked:
            table.get_many(batch)
        return _BATCH * len(asked)

    def hashed() -> int:
        for batch in asked_peer:
            for pan in batch:
                peer.get(pan)
        return _BATCH * len(asked_peer)

    bench.compare(
        f"token look-up, {cards:,} cards, batch of {_BATCH}",
        ours,
        {f"dict of {len(known):,} HMACs": hashed},
    )
    entry = sys.getsizeof(peer.ids) / len(known) + sys.getsizeof(bytes(16)) + sys.getsizeof(1 << 20)
    return {
        "token_bytes_per_card": path.stat().st_size / cards,
        "dict_bytes_per_card": entry,
        "attach_ms": attach_ms,
    }


def measure_read(bench: Bench, directory: Path) -> None:
    """A whole read: split, decoded, MACs checked, cards looked up; against its parts in Python."""
    key_bytes = [random.Random(n).randbytes(16) for n in range(64)]
    peer, frames, padded = Iso8583Peer(), [], []
    token_key = TokenKey(bytes(16))
    pans = [f"9500{n:015d}" for n in range(64)]
    path = directory / "few"
    TokenTable.build(path, ((token_key.digest(pan), n) for n, pan in enumerate(pans, 1)))
    tokens, hashed = TokenTable.open(path, token_key), HashedCards(bytes(16), pans)
    terminals = []
    for n, key in enumerate(key_bytes):
        scheduled = MacKey(MacAlgorithm.RETAIL, key)
        terminals.append((f"{n:08d}", [(1, scheduled, None)], n))
        fields = {**sale(), DE.TERMINAL: f"{n:08d}", DE.PAN: pans[n]}
        unsealed = encode_unsealed(ISO87_ASCII, "0200", fields)
        frames.append(seal(ISO87_ASCII, unsealed, scheduled.sign(unsealed)))
        padded.append(unsealed)
    table = TerminalKeyTable(terminals)
    stream = pack_many(Header.BINARY2, frames * 4)

    def ours() -> int:
        return len(BatchReader(ISO87_ASCII).feed(stream, table, tokens))

    def python() -> int:
        for n in range(16):
            opened = peer.decode(frames[n])
            pyca_retail_mac(key_bytes[n] + key_bytes[n][:8], padded[n])
            hashed.get(opened["2"])
        return 16

    bench.compare(
        f"a read of {_BATCH}: split, decode, MAC, card", ours, {"pyiso8583, pyca, dict": python}
    )


def conditions(core: OpenSslCore) -> dict[str, object]:
    """What the figures depend on."""
    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    packages = ("cardswitch", "cryptography", "psec", "pyiso8583")
    return {
        "date": time.strftime("%Y-%m-%d"),
        "processor": f"{names[0] if names else platform.machine()}, {len(names)} cores",
        "load_average": Path("/proc/loadavg").read_text().split()[:3],
        "python": platform.python_version(),
        "openssl_core": core.name,
        "paths": mac.paths(),
        "versions": {name: version(name) for name in packages},
        "pointer_bits": 8 * ctypes.sizeof(ctypes.c_void_p),
    }


def main() -> int:
    """Measure, print one table, write JSON if asked."""
    parser = argparse.ArgumentParser(prog="python -m bench.micro")
    parser.add_argument("--turns", type=int, default=7, help="of each side; medians are shown")
    parser.add_argument("--seconds", type=float, default=0.05, help="of each turn, about")
    parser.add_argument("--cards", type=int, default=1_000_000, help="in the token table")
    parser.add_argument("--json", type=Path, help="write all figures here")
    arguments = parser.parse_args()
    if arguments.turns < 5:
        parser.error("at least 5 turns, or a median says nothing")
    bench = Bench(arguments.turns, arguments.seconds)
    found = conditions(OpenSslCore(_SIZE))
    for name, value in found.items():
        print(f"{name:<16}{value}")
    print(f"\n{'piece (us for one)':<42}{'ours':>9}  {'peer':<26}{'us':>9}{'ratio':>9}")
    with tempfile.TemporaryDirectory() as directory:
        measure_macs(bench)
        measure_codec(bench)
        measure_read(bench, Path(directory))
        sizes = measure_tokens(bench, arguments.cards, Path(directory))
    for name, value in sizes.items():
        print(f"{name:<42}{value:>9.2f}")
    for name, text in CITED.items():
        print(f"cited: {name}: {text}")
    if arguments.json is not None:
        rows = [{**asdict(row), "ratio": row.ratio} for row in bench.rows]
        arguments.json.write_text(
            json.dumps({"conditions": found, "rows": rows, **sizes, "cited": CITED}, indent=1)
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
