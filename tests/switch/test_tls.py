"""TLS on a link: a real handshake against the real server, with and without a certificate."""

from __future__ import annotations

import math
import socket
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from fastpath.framing import Header, pack_many
from fastpath.specs import ISO87_BINARY
from switch.config import SettingsError, load_settings
from switch.connection import Connection
from switch.metrics import Metrics
from switch.server import Server, listening_socket
from switch.tls import TlsEnd, TlsFailed, server_context
from switch.wire.link import Frame, LinkConfig
from tests.client.identity import Identity, issue

CONFIG = LinkConfig(
    name="network",
    header=Header.BINARY2,
    packager=ISO87_BINARY,
    acquirer_id="1",
    idle_timeout_s=math.inf,
)


@pytest.fixture
def switch_identity(tmp_path: Path) -> Identity:
    return issue(tmp_path, "switch")


@pytest.fixture
def peer_identity(tmp_path: Path) -> Identity:
    return issue(tmp_path, "peer")


def client_context(switch: Identity, own: Identity | None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(switch.certificate))
    if own is not None:
        context.load_cert_chain(own.certificate, own.key)
    return context


async def serve_echo(
    nursery: trio.Nursery, context: ssl.SSLContext
) -> tuple[int, list[Frame], Callable[[], int]]:
    """A server whose replies are its requests; its port, what it got, how many are connected."""
    got: list[Frame] = []

    def echo(arrived: list[tuple[Connection, list[Frame]]], _now: float) -> None:
        for connection, frames in arrived:
            got.extend(frames)
            messages = [frame.message for frame in frames]
            connection.send(pack_many(CONFIG.header, messages), len(messages))

    server = Server(Metrics(), echo, connections_max=10)
    listener = listening_socket("127.0.0.1", 0)
    nursery.start_soon(server.serve, listener, lambda: CONFIG, context)
    return listener.getsockname()[1], got, lambda: server.connections


async def talk(port: int, context: ssl.SSLContext, frames: bytes, reply_length: int) -> bytes:
    """Connect, handshake, send, read so many bytes."""
    stream = await trio.open_ssl_over_tcp_stream("127.0.0.1", port, ssl_context=context)
    async with stream:
        await stream.send_all(frames)
        reply = b""
        while len(reply) < reply_length:
            part = await stream.receive_some()
            if not part:
                break
            reply += part
        return reply


def with_name(context: ssl.SSLContext) -> ssl.SSLContext:
    context.check_hostname = False  # reached by address; the certificate itself is still checked
    return context


async def test_frames_pass_both_ways_under_mutual_tls(
    switch_identity: Identity, peer_identity: Identity
) -> None:
    context = server_context(*switch_identity, peer_identity.certificate)
    client = with_name(client_context(switch_identity, peer_identity))
    frames = b"".join(len(text).to_bytes(2, "big") + text for text in (b"one", b"x" * 3000, b"3"))
    async with trio.open_nursery() as nursery:
        port, got, _ = await serve_echo(nursery, context)
        with trio.fail_after(5):
            assert await talk(port, client, frames, len(frames)) == frames
        assert [frame.message for frame in got] == [b"one", b"x" * 3000, b"3"]
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("stranger", [False, True], ids=["no-certificate", "unknown-authority"])
async def test_a_peer_without_a_certificate_of_the_authority_reaches_no_frame(
    switch_identity: Identity, peer_identity: Identity, tmp_path: Path, stranger: bool
) -> None:
    context = server_context(*switch_identity, peer_identity.certificate)
    own = issue(tmp_path, "stranger") if stranger else None
    client = with_name(client_context(switch_identity, own))
    async with trio.open_nursery() as nursery:
        port, got, connected = await serve_echo(nursery, context)
        with trio.fail_after(5):
            with pytest.raises((trio.BrokenResourceError, AssertionError)):
                assert await talk(port, client, b"\x00\x03abc", 5) == b"\x00\x03abc"
            while connected():
                await trio.sleep(0.01)
        assert got == []
        nursery.cancel_scope.cancel()


async def test_plain_bytes_on_a_tls_port_close_that_connection_alone(
    switch_identity: Identity, peer_identity: Identity
) -> None:
    context = server_context(*switch_identity, peer_identity.certificate)
    client = with_name(client_context(switch_identity, peer_identity))
    async with trio.open_nursery() as nursery:
        port, got, _ = await serve_echo(nursery, context)
        with trio.fail_after(5):
            async with await trio.open_tcp_stream("127.0.0.1", port) as plain:
                await plain.send_all(b"\x00\x03abc" + bytes(100))
                while await plain.receive_some():
                    pass
            assert await talk(port, client, b"\x00\x03abc", 5) == b"\x00\x03abc"
        assert [frame.message for frame in got] == [b"abc"]
        nursery.cancel_scope.cancel()


def test_an_older_version_is_refused(switch_identity: Identity) -> None:
    context = server_context(*switch_identity, None)
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2


def test_records_that_are_none_are_a_failure(switch_identity: Identity) -> None:
    end = TlsEnd(server_context(*switch_identity, None))
    with pytest.raises(TlsFailed):
        end.receive(b"GET / HTTP/1.1\r\n\r\n")


def test_any_cut_of_the_stream_gives_the_same_bytes(switch_identity: Identity) -> None:
    end = TlsEnd(server_context(*switch_identity, None))
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = with_name(client_context(switch_identity, None)).wrap_bio(incoming, outgoing)
    plain = b""
    message = bytes(range(256)) * 20
    sent = False
    for _ in range(10):
        try:
            client.do_handshake()
            if not sent:
                client.write(message)
                sent = True
        except ssl.SSLWantReadError:
            pass
        for byte in outgoing.read():
            plain += end.receive(bytes([byte]))
        incoming.write(end.outgoing())
    assert plain == message
    incoming.write(end.send(b"answer"))
    assert client.read() == b"answer"


def test_tls_is_a_table_of_the_settings_file(tmp_path: Path) -> None:
    path = tmp_path / "switch.toml"
    path.write_text('[network_tls]\ncertificate = "a.pem"\nkey = "a.key"\npeers = "ca.pem"\n')
    settings = load_settings(path)
    assert settings.network_tls is not None
    assert settings.network_tls.peers == Path("ca.pem")
    assert settings.switch_tls is None
    path.write_text('[network_tls]\ncertificate = "a.pem"\nkey = "a.key"\npeer = "ca.pem"\n')
    with pytest.raises(SettingsError, match="network_tls"):
        load_settings(path)


def test_a_listener_shares_its_port_with_other_workers() -> None:
    first = listening_socket("127.0.0.1", 0)
    second = listening_socket("127.0.0.1", first.getsockname()[1])
    assert first.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT)
    first.close()
    second.close()
