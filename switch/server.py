"""Listeners and their connections: bytes in, frames to the intake, in Trio."""

from __future__ import annotations

import errno
import logging
import socket
import ssl
from collections.abc import Callable
from pathlib import Path

import trio

from fastpath.framing import Header
from fastpath.specs import packagers
from switch.config import Settings
from switch.connection import Connection
from switch.logs import RateLimited
from switch.metrics import FrameRefusal, Metrics
from switch.poller import Poller
from switch.programme import AcquirerLink
from switch.tls import TlsEnd
from switch.wire.link import CloseReason, Frame, Link, LinkConfig, LinkState, Role

__all__ = ["Server", "link_config", "listening_socket", "private_listener"]

_BACKLOG = 4096
_ACCEPTS_PER_WAKE = 64
_READS_AT_ONCE = 128
"""Connections that are read before anything else has its turn."""
_ENDING = frozenset({LinkState.DRAINING, LinkState.CLOSED})
_LAST_REPLIES_S = 10.0
"""How long a peer that is done is waited for until it has taken what it is owed."""
_NO_DESCRIPTORS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

_REFUSALS = {
    CloseReason.FRAME_TOO_LONG: FrameRefusal.LENGTH,
    CloseReason.BAD_HEADER: FrameRefusal.LENGTH,
    CloseReason.KEEPALIVE_STORM: FrameRefusal.KEEPALIVES,
    CloseReason.IDLE: FrameRefusal.IDLE,
    CloseReason.HALF_FRAME: FrameRefusal.HALF_FRAME,
    CloseReason.SLOW_READER: FrameRefusal.SLOW_READER,
}

log = logging.getLogger(__name__)


def listening_socket(host: str, port: int) -> socket.socket:
    """A listening socket that other workers of the same port may have, too (SO_REUSEPORT)."""
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listener = socket.socket(family, kind, protocol)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if hasattr(socket, "SO_REUSEPORT"):
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind(address)
    listener.listen(_BACKLOG)
    listener.setblocking(False)
    return listener


class Server:
    """Accepts connections of all ports of a worker and reads them."""

    def __init__(
        self,
        metrics: Metrics,
        on_frames: Callable[[list[tuple[Connection, list[Frame]]], float], None],
        *,
        connections_max: int,
    ) -> None:
        self._metrics = metrics
        self._on_frames = on_frames
        self._connections_max = connections_max
        self._connections: set[Connection] = set()
        self._limited = RateLimited(log)
        self._draining = False

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._connections)

    async def serve(
        self,
        listener: socket.socket,
        config: Callable[[], LinkConfig],
        tls_context: ssl.SSLContext | None = None,
    ) -> None:
        """Accept on a listening socket until cancelled. No fault of one connection ends it.

        `config` is asked at each new connection.
        """
        poller: Poller[Connection] = Poller(at_once_max=_READS_AT_ONCE)
        try:
            with listener:
                await self._accept(listener, config, tls_context, poller)
        finally:
            for connection in [each for each in self._connections if each.poller is poller]:
                self._close(connection)
            poller.close()

    async def _accept(
        self,
        listener: socket.socket,
        config: Callable[[], LinkConfig],
        tls_context: ssl.SSLContext | None,
        poller: Poller[Connection],
    ) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._read_all, poller)
            while not self._draining:
                await trio.lowlevel.wait_readable(listener)
                for _ in range(_ACCEPTS_PER_WAKE):
                    try:
                        sock, _ = listener.accept()
                    except BlockingIOError:
                        break
                    except OSError as error:
                        if error.errno in _NO_DESCRIPTORS:
                            self._limited.event(logging.ERROR, "accept-failed", error=error.errno)
                            await trio.sleep(0.1)
                        break
                    self._admit(sock, config(), tls_context, nursery, poller)

    def _admit(
        self,
        sock: socket.socket,
        config: LinkConfig,
        tls_context: ssl.SSLContext | None,
        nursery: trio.Nursery,
        poller: Poller[Connection],
    ) -> None:
        if self._draining:
            sock.close()
            return
        if len(self._connections) >= self._connections_max:
            self._metrics.frame_refused(FrameRefusal.CONNECTIONS)
            self._limited.event(logging.WARNING, "too-many-connections", link=config.name)
            sock.close()
            return
        sock.setblocking(False)
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        link = Link(config, Role.SERVER, trio.current_time())
        tls = None if tls_context is None else TlsEnd(tls_context)
        try:
            connection = Connection(sock, link, nursery.start_soon, poller, self._see_off, tls)
        except OSError as error:  # the kernel watches no more sockets for us
            self._limited.event(logging.ERROR, "accept-failed", error=error.errno)
            sock.close()
            return
        self._connections.add(connection)
        self._metrics.link_up(config.name)

    async def _read_all(self, poller: Poller[Connection]) -> None:
        """Read what has come on any connection, and hand it on together."""
        while True:
            arrived: list[tuple[Connection, list[Frame]]] = []
            ready = await poller.ready()
            now = trio.current_time()
            for connection in ready:
                try:
                    frames = self._read(connection, now)
                except Exception as error:
                    self._give_up(connection, error)
                    frames = []
                if frames:
                    arrived.append((connection, frames))
                if connection.link.state in _ENDING:
                    connection.part()
            if arrived:
                try:
                    self._on_frames(arrived, now)
                except Exception as error:
                    for connection, _ in arrived:
                        self._give_up(connection, error)

    def _read(self, connection: Connection, now: float) -> list[Frame]:
        data = connection.receive()
        link = connection.link
        if data is None:
            return []
        if not data:
            link.receive_eof(now)
            return []
        keepalives = link.keepalives
        frames = link.receive_bytes(data, now)
        if link.keepalives != keepalives:
            self._metrics.keepalives.inc(link.keepalives - keepalives)
        if not link.may_read():
            connection.pause()
        return frames

    def _give_up(self, connection: Connection, error: Exception) -> None:
        self._limited.event(logging.ERROR, "connection-failed", exception=error)
        connection.give_up()

    async def _see_off(self, connection: Connection) -> None:
        """Wait until the peer has what it is owed, then close."""
        link = connection.link
        try:
            with trio.move_on_after(_LAST_REPLIES_S):
                while link.state is LinkState.DRAINING or connection.owes:
                    await trio.sleep(0.01)
        finally:
            self._close(connection)

    def _close(self, connection: Connection) -> None:
        link = connection.link
        if connection in self._connections:
            self._connections.discard(connection)
            self._metrics.link_down(link.config.name)
            self._tell(link)
            link.lost()
            connection.close()

    def _tell(self, link: Link) -> None:
        reason = link.close_reason
        if reason in _REFUSALS:
            self._metrics.frame_refused(_REFUSALS[reason])
            self._limited.event(
                logging.WARNING, "link-closed", link=link.config.name, reason=reason.value
            )

    async def watch_deadlines(self) -> None:
        """Once a second: idle peers, half frames, and log lines that were held back."""
        while True:
            await trio.sleep(1)
            now = trio.current_time()
            for connection in list(self._connections):
                connection.on_deadline(now)
            self._limited.flush()

    async def drain(self) -> None:
        """Accept and read nothing more; return when all that was read has been answered."""
        self._draining = True
        for connection in list(self._connections):
            connection.drain()
        while self._connections:
            await trio.sleep(0.01)


def private_listener(path: Path) -> trio.SocketListener:
    """A listening Unix socket for processes of the same user."""
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    path.chmod(0o600)
    listener.listen()
    return trio.SocketListener(trio.socket.from_stdlib_socket(listener))


def link_config(link: AcquirerLink, settings: Settings) -> LinkConfig:
    """A port's link as configured in the programme, with the limits of the settings."""
    return LinkConfig(
        name=link.name,
        header=Header(link.header),
        packager=packagers()[link.packager],
        acquirer_id=link.acquirer_id,
        foreign_acquirer_ids=link.foreign_acquirer_ids,
        sign_on_required=link.sign_on,
        frame_length_max=settings.frame_length_max,
        idle_timeout_s=settings.link_idle_timeout_s,
        half_frame_timeout_s=settings.link_half_frame_timeout_s,
        keepalives_per_minute_max=settings.keepalives_per_minute_max,
        in_flight_max=settings.link_in_flight_max,
        send_buffer_bytes_max=settings.link_send_buffer_bytes_max,
    )
