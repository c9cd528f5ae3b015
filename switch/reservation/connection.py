"""The only file that knows Redis: a native connection for the hot path, redis-py for the library.

A call through redis-py's asyncio client and the bridge costs four to five times what it costs with
hiredis on a Trio socket (docs/performance.md). redis-py loads the function library.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import hiredis
import redis
import trio

from switch.store_socket import StoreSocket

__all__ = ["RedisConnection", "RedisDown", "load_library", "pack"]

LIBRARY = Path(__file__).with_name("library.lua")


def pack(*command: str | bytes | int) -> bytes:
    """A command as it is sent."""
    packed: bytes = hiredis.pack_command(command)  # type: ignore[arg-type] # says a tuple of one
    return packed


class RedisDown(Exception):
    """Redis cannot be reached, did not answer in time, or answered with an error."""


def load_library(url: str, timeout_s: float = 2.0) -> None:
    """Load the function library; blocking. RedisDown when that fails."""
    try:
        with redis.Redis.from_url(
            url, socket_timeout=timeout_s, socket_connect_timeout=timeout_s
        ) as client:
            client.function_load(LIBRARY.read_text(), replace=True)
    except (redis.RedisError, OSError) as error:
        raise RedisDown(type(error).__name__) from None


class RedisConnection:
    """One connection; one call at a time. Any failure closes it, the next call opens a new one."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._stream: StoreSocket | trio.SSLStream[trio.SocketStream] | None = None
        self._reader = hiredis.Reader()

    async def _open(self) -> None:
        parts = urlsplit(self._url)
        self._reader = hiredis.Reader()
        database = parse_qs(parts.query).get("db", [""])[0]
        if parts.scheme == "unix":
            self._stream = StoreSocket(await trio.open_unix_socket(unquote(parts.path)))
        else:
            stream = await trio.open_tcp_stream(parts.hostname or "localhost", parts.port or 6379)
            database = database or parts.path.strip("/")
            if parts.scheme == "rediss":
                context = ssl.create_default_context()
                self._stream = trio.SSLStream(stream, context, server_hostname=parts.hostname)
            else:
                self._stream = StoreSocket(stream)
        if parts.password is not None:
            user = (unquote(parts.username),) if parts.username else ()
            await self._roundtrip(pack("AUTH", *user, unquote(parts.password)))
        if database not in ("", "0"):
            await self._roundtrip(pack("SELECT", database))

    async def _roundtrip(self, command: bytes) -> object:
        assert self._stream is not None
        await self._stream.send_all(command)
        return await self._reply()

    async def _reply(self) -> object:
        assert self._stream is not None
        while True:
            reply = self._reader.gets()
            if reply is not False:
                return reply
            data = await self._stream.receive_some(65536)
            if not data:
                raise RedisDown("connection closed")
            self._reader.feed(bytes(data))

    async def call(self, command: bytes, *, timeout_s: float) -> object:
        """One command (`pack`) and its reply; RedisDown for everything that goes wrong."""
        finished = False
        try:
            with trio.move_on_after(timeout_s):
                if self._stream is None:
                    await self._open()
                reply = await self._roundtrip(command)
                finished = True
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise RedisDown(type(error).__name__) from None
        except hiredis.ProtocolError:
            raise RedisDown("protocol") from None
        finally:
            if not finished:
                self.discard()
        if not finished:
            raise RedisDown("silent")
        if isinstance(reply, hiredis.ReplyError):
            raise RedisDown(str(reply)[:80])
        return reply

    async def next_message(self) -> object:
        """The next message of a subscription."""
        try:
            return await self._reply()
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
            self.discard()
            raise RedisDown(type(error).__name__) from None
        except hiredis.ProtocolError:
            self.discard()
            raise RedisDown("protocol") from None
        except RedisDown:
            self.discard()
            raise

    def discard(self) -> None:
        """Close at once."""
        stream, self._stream = self._stream, None
        if isinstance(stream, StoreSocket):
            stream.close()
        elif stream is not None:
            stream.transport_stream.socket.close()
