"""Frames and MACs that are wrong, by the thousand, without a socket."""

from __future__ import annotations

import random
import struct

from fault_invariants import demand

from fastpath.codec import Message, decode
from fastpath.errors import FormatError
from fastpath.framing import Header
from fastpath.mac import MacAlgorithm, MacKey, sign_many, verify_many
from fastpath.specs import ISO87_BINARY
from switch.wire.link import Frame, Link, LinkConfig, LinkState, Role
from switch.wire.salvage import salvage

__all__ = ["mutated", "through_link", "wrong_macs"]

_LONGEST = 4096
_TOGETHER = 16
_LENGTHS = (0, 1, 2, 99, 255, 999, 1998, 4096, 4097, 32_767, 65_535)


def mutated(frame: bytes, chance: random.Random) -> bytes:
    """The frame with a few things wrong: bytes, bits, its bitmap, its length, its end."""
    data = bytearray(frame)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(data)) if data else 0
        way = chance.randrange(8)
        if not data or way == 0:
            data[at:at] = chance.randbytes(chance.randint(1, 12))
        elif way == 1:
            del data[at : at + chance.randint(1, 12)]
        elif way == 2:
            data[at] ^= 1 << chance.randrange(8)
        elif way == 3:
            data[at] = chance.choice((0x00, 0xFF, 0x99, 0x9A, 0x30, 0x3D, 0x7F, 0xA0))
        elif way == 4 and len(data) > 10:  # the bitmap says something else
            data[chance.randint(2, 9)] ^= 1 << chance.randrange(8)
        elif way == 5 and len(data) > at + 2:  # a length says something else
            data[at : at + 2] = struct.pack(">H", chance.choice(_LENGTHS))
        elif way == 6:
            del data[at:]
        else:
            data += data[at : at + chance.randint(1, 64)] * chance.randint(1, 3)
    return bytes(data)


def through_link(frames: list[bytes], chance: random.Random, count: int) -> int:
    """Mutants of the frames in any cuts through a server's link and the codec; how many.

    Nothing but FormatError may come of them, whatever is taken must say where its fields lie, and
    the link must owe exactly what it delivered.
    """
    done = 0
    while done < count:
        link = _link()
        stream, sent = bytearray(), 0
        for _ in range(_TOGETHER):
            one = mutated(chance.choice(frames), chance)
            length = len(one) if chance.random() > 0.03 else chance.choice(_LENGTHS)
            stream += struct.pack(">H", min(length, 65_535)) + one
            sent += 1
        delivered = 0
        while stream:
            cut = chance.randint(1, len(stream)) if chance.random() < 0.5 else len(stream)
            for frame in link.receive_bytes(bytes(stream[:cut]), 0.0):
                _look_at(frame)
                delivered += 1
            del stream[:cut]
        demand(link.in_flight == delivered, "a link owes another number", link, delivered)
        link.receive_eof(1.0)
        link.release(link.in_flight)
        demand(link.state is LinkState.CLOSED, "a link does not end", link)
        done += sent
    return done


def _link() -> Link:
    config = LinkConfig(
        name="fuzz",
        header=Header.BINARY2,
        packager=ISO87_BINARY,
        acquirer_id="1",
        frame_length_max=_LONGEST,
    )
    return Link(config, Role.SERVER, 0.0)


def _look_at(frame: Frame) -> None:
    demand(0 < len(frame.message) <= _LONGEST, "a frame of impossible length", frame)
    try:
        message: Message | None = decode(ISO87_BINARY, frame.message)
    except FormatError as error:
        message = salvage(ISO87_BINARY, frame.message, error)
    if message is not None:
        for number, _ in message.items():
            start, length = message.span(number)
            inside = 0 <= start <= start + length <= len(frame.message)
            demand(inside, "a field outside of its frame", number, start, length)


def wrong_macs(chance: random.Random, count: int) -> int:
    """Right MACs, and the same with one bit of message, MAC or key another: all told apart."""
    done = 0
    while done < count:
        keys, messages = [], []
        for _ in range(64):
            algorithm = chance.choice(list(MacAlgorithm))
            keys.append(MacKey(algorithm, chance.randbytes(16)))
            messages.append(chance.randbytes(chance.randint(20, 200)))
        macs = sign_many(keys, messages)
        demand(all(verify_many(keys, messages, macs)), "a right MAC is refused")
        broken = []
        for message, mac in zip(messages, macs, strict=True):
            both = bytearray(message + mac)
            spot = chance.randrange(len(both) * 8)
            both[spot // 8] ^= 1 << (spot % 8)
            broken.append((bytes(both[:-8]), bytes(both[-8:])))
        told = verify_many(keys, [one for one, _ in broken], [mac for _, mac in broken])
        demand(not any(told), "a wrong MAC is taken")
        short = verify_many(keys, messages, [mac[: chance.randrange(8)] for mac in macs])
        demand(not any(short), "a MAC cut short is taken")
        others = keys[1:] + keys[:1]
        demand(not any(verify_many(others, messages, macs)), "a MAC of another key is taken")
        done += 3 * len(keys)
    return done
