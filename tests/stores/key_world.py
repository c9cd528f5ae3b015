"""Workers that change keys over a real Postgres; a terminal with a key block library of its own.

A worker here is the intake and the key desk, turned by hand: what is not turned stays where it is.
"""

from __future__ import annotations

import contextlib
import datetime
import itertools
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import psec
import trio
from store_sessions import Stores

from fastpath.framing import FrameBuffer, Header
from fastpath.specs import packagers
from switch.intake import Intake
from switch.journal.journal import JournalSession
from switch.key_desk import KeyDesk
from switch.keyblock import KeyAlgorithm
from switch.keys import KeyUsage, MasterKey
from switch.metrics import Metrics
from switch.programme import Programme, ProgrammeSource
from switch.wire.link import Frame, Link, LinkConfig, Role
from switch.wire.translate import Translator
from tests.client import dialect
from tests.client.dialect import MacKind, Packager
from tests.client.messages import Reply, Request, RequestBuilder
from tests.client.vocabulary import Identity

__all__ = ["MASTER_KEY", "WINDOW_S", "Office", "Till", "World", "opened"]

MASTER_KEY = MasterKey(bytes(range(32)))
WINDOW_S = 3600
_KINDS = {
    MacKind.AES_CMAC: ("aes-cmac", KeyAlgorithm.AES),
    MacKind.RETAIL: ("retail-mac", KeyAlgorithm.TDES),
}
_PROGRAMME_KEYS = {
    "pvv": (KeyUsage.PVV, KeyAlgorithm.TDES),
    "code": (KeyUsage.CODE, KeyAlgorithm.AES),
    "token": (KeyUsage.TOKEN, KeyAlgorithm.AES),
}


class _Line:
    """The worker's end of a connection, as far as the intake needs it."""

    def __init__(self) -> None:
        config = LinkConfig(
            name="pos",
            header=Header.BINARY2,
            packager=packagers()["iso87-binary"],
            acquirer_id="1",
        )
        self.link = Link(config, Role.SERVER, 0)
        self.sent: list[bytes] = []
        self.given_up = False
        self.dropped = 0
        """Messages that nobody could have told what to answer."""

    def send(self, data: bytes, replies: int) -> None:
        frames = FrameBuffer(Header.BINARY2).feed(data)
        assert len(frames) == replies
        self.sent += frames

    def settle(self, count: int) -> None:
        self.dropped += count

    def give_up(self) -> None:
        self.given_up = True


class Office:
    """One worker."""

    def __init__(
        self, session: Any, programme: Programme, source: ProgrammeSource, **options: Any
    ) -> None:
        self.session = session
        self.source = source
        self.metrics = Metrics(["pos"])
        self.line = _Line()
        ids = (f"{secrets.token_hex(4).upper()}{number:04d}" for number in itertools.count())
        translator = Translator(programme, None, horizon_s=86_400, clock_ahead_s=86_400)  # type: ignore[arg-type]
        self.intake = Intake(
            *(translator, self.metrics, ids.__next__),
            lambda: datetime.datetime.now(datetime.UTC),
            trio.current_time,
            answer_within_s=30,
        )
        self.desk = KeyDesk(
            *(session, MASTER_KEY, source, self.intake, self.metrics, ids.__next__),
            **({"window_s": WINDOW_S, "answer_within_s": 30} | options),
        )

    @classmethod
    async def open(cls, session: JournalSession, **options: Any) -> Office:
        source = ProgrammeSource(session.rows, MASTER_KEY)
        return cls(session, await source.load(), source, **options)

    def deliver(self, *requests: Request) -> None:
        frames = [Frame(request.frame, b"") for request in requests]
        self.intake.receive([(self.line, frames)], trio.current_time())  # type: ignore[list-item]

    def replies(self) -> list[bytes]:
        """What was sent since it was asked before."""
        sent, self.line.sent = self.line.sent, []
        return sent

    async def turn(self) -> None:
        self.desk._looked = -1e9  # no pause: it is the clock's business, and tested apart
        await self.desk.turn()


@dataclass
class Till:
    """A terminal: its keys by version, and the version that it works with."""

    number: int
    kind: MacKind
    kek: bytes
    keys: dict[int, bytes]
    version: int = 1
    order: list[int] = field(default_factory=lambda: [1])
    """Versions in the order in which this terminal put them to use."""

    @property
    def code(self) -> str:
        return f"{self.number:08d}"

    def make(self, version: int | None = None, key: bytes | None = None) -> RequestBuilder:
        """Builds messages under one of its keys (or a foreign one)."""
        key = key or self.keys[version or self.version]
        identity = Identity(
            self.code, "000000000000001", Packager.BINARY, self.kind, key, bytes(16)
        )
        return RequestBuilder(identity)

    def reply(self, frame: bytes, version: int) -> Reply:
        """A reply to a message under this version; its MAC must be that of the same key."""
        mti, fields = dialect.unpack(Packager.BINARY, frame)
        mac_ok = None
        if 64 in fields or 128 in fields:
            expected = dialect.mac(self.kind, self.keys[version], frame[:-8])
            mac_ok = expected == frame[-8:]
        return Reply(mti, fields, dialect.parse_private(fields.get(48, "")), mac_ok, frame)

    def take(self, block: str) -> int:
        """Opens `KB` and keeps its key; the version that it has."""
        header, key = psec.tr31.unwrap(self.kek, block)
        wanted = ("D", "M6", "A") if self.kind is MacKind.AES_CMAC else ("B", "M3", "T")
        assert (header.version_id, header.key_usage, header.algorithm) == wanted
        version = int(header.version_num)
        self.keys[version] = key
        return version

    def put_to_use(self, version: int) -> None:
        self.version = version
        if self.order[-1] != version:
            self.order.append(version)


class World:
    """The database with its owner, and whoever works on it."""

    def __init__(self, stores: Stores) -> None:
        self.stores = stores
        self.owner = JournalSession(stores.owner_url, 1)
        self._opened = [self.owner]

    async def run(self, statement: str, *args: Any) -> list[Any]:
        """As the owner."""
        return await self.owner.rows(statement, *args)

    async def prepare(self) -> None:
        for usage, (as_usage, algorithm) in _PROGRAMME_KEYS.items():
            await self.run(
                "insert into programme_key values ($1, $2) on conflict (usage) do update"
                " set block = excluded.block returning 1 as done",
                *(usage, MASTER_KEY.wrap(bytes(range(16)), as_usage, algorithm)),
            )
        await self.run(
            "insert into acquirer_link values ('pos', '1', '{}', 'iso87-binary', 'binary2', false)"
            " on conflict (name) do update set enabled = true returning 1 as done"
        )

    async def till(self, kind: MacKind = MacKind.AES_CMAC, version: int = 1) -> Till:
        """A new terminal with its keys."""
        rows = await self.run("select coalesce(max(terminal_id), 50000) + 1 as id from terminal")
        till = Till(
            rows[0]["id"], kind, secrets.token_bytes(16), {version: secrets.token_bytes(16)}
        )
        till.version, till.order = version, [version]
        word, _ = _KINDS[kind]
        await self.run(
            "insert into terminal (terminal_id, code, merchant_id, link, mac_algorithm, pin_format,"
            " key_version) values ($1, $2, 1, 'pos', $3, 0, $4) returning 1 as done",
            *(till.number, till.code, word, version),
        )
        await self.issue(till, version, till.keys[version])
        await self.give_kek(till)
        return till

    async def give_kek(self, till: Till, version: int = 1) -> None:
        block = MASTER_KEY.wrap(till.kek, KeyUsage.KEK, _KINDS[till.kind][1])
        await self._keep(till, "kek", version, block)

    async def issue(self, till: Till, version: int, key: bytes, usage: str = "mac") -> None:
        """A key that the owner gives the terminal by hand."""
        algorithm = _KINDS[till.kind][1] if usage == "mac" else KeyAlgorithm.TDES
        as_usage = KeyUsage.MAC if usage == "mac" else KeyUsage.PIN
        await self._keep(till, usage, version, MASTER_KEY.wrap(key, as_usage, algorithm))

    async def _keep(self, till: Till, usage: str, version: int, block: str) -> None:
        await self.run(
            "insert into terminal_key values ($1, $2, $3, $4)"
            " on conflict (terminal_id, usage, version) do update set block = excluded.block"
            " returning 1 as done",
            *(till.number, usage, version, block),
        )

    async def office(self, **options: Any) -> Office:
        session = JournalSession(self.stores.app_url, 2)
        self._opened.append(session)
        return await Office.open(session, **options)

    async def close(self) -> None:
        for session in self._opened:
            await session.close()


@contextlib.asynccontextmanager
async def opened(stores: Stores) -> AsyncIterator[World]:
    """A world that is ready for work, and closed afterwards."""
    world = World(stores)
    try:
        await world.prepare()
        yield world
    finally:
        await world.close()
