"""The supervisor's HTTP endpoint, its signals and ports, each by itself."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time

import pytest
from store_scratch import eventually

from switch import supervised_metrics
from switch.supervised_metrics import Board, MetricsServer, merge_pages
from switch.supervised_signals import StopSignals
from switch.supervised_workers import PortTaken, reserve_port


def test_silent_callers_do_not_keep_the_endpoint() -> None:
    bound = reserve_port("metrics", "127.0.0.1", 0, shared=False)
    server = MetricsServer(bound, Board())
    server.start()
    address = bound.getsockname()

    def served() -> bool:
        with contextlib.suppress(OSError), socket.create_connection(address, 5) as link:
            link.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
            return link.recv(100).startswith(b"HTTP/1.0 200")
        return False

    try:
        assert served()
        with contextlib.ExitStack() as silent:
            for _ in range(20):
                silent.enter_context(socket.create_connection(address, 5))
            assert eventually(lambda: not served(), 1)
            assert eventually(served, 5)
    finally:
        server.stop()


def test_a_caller_that_never_comes_to_an_end_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervised_metrics, "_CALLER_DEADLINE_S", 0.5)
    bound = reserve_port("metrics", "127.0.0.1", 0, shared=False)
    server = MetricsServer(bound, Board())
    server.start()
    try:
        with socket.create_connection(bound.getsockname(), 5) as link:
            link.setblocking(False)

            def cut() -> bool:
                with contextlib.suppress(BlockingIOError):
                    link.send(b"G")
                    return link.recv(1) == b""
                return False

            with contextlib.suppress(ConnectionError):
                assert eventually(cut, 3)
    finally:
        server.stop()


def test_a_standing_loop_is_unhealthy() -> None:
    board = Board()
    server = MetricsServer(reserve_port("metrics", "127.0.0.1", 0, shared=False), board)
    server.start()
    try:
        assert server.health()[::2] == (503, b"supervisor: starting\n")
        board.phase = "running"
        assert server.health()[::2] == (200, b"ok\n")
        board.last_turn -= 10
        assert server.health()[::2] == (503, b"supervisor: its loop stands still\n")
        board.turned()
        board.phase = "stopping"
        assert server.health()[0] == 200
        assert server.readiness()[::2] == (503, b"supervisor: stopping\n")
    finally:
        server.stop()


def test_pages_merge_without_harm() -> None:
    counter = "# HELP a_total A.\n# TYPE a_total counter\na_total 1.0\n"
    other = '# TYPE c gauge\nc 1.0\nb{worker="x"} 2.0\n'
    untyped = "c 5.0\n"
    faked = 'cardswitch_worker_up{worker="9"} 1.0\n'
    pages = {"0": counter + untyped, "1": None, "2": other + faked, "3": "a_total{", "4": counter}
    text = merge_pages(pages, {"redis": 2, "postgres": 0}).decode()
    lines = text.splitlines()
    assert 'a_total{worker="0"} 1.0' in lines and 'a_total{worker="4"} 1.0' in lines
    assert 'b{exported_worker="x",worker="2"} 2.0' in lines
    up = {line for line in lines if line.startswith("cardswitch_worker_up{")}
    assert up == {
        f'cardswitch_worker_up{{worker="{worker}"}} {value}'
        for worker, value in (("0", 1.0), ("1", 0.0), ("2", 1.0), ("3", 0.0), ("4", 1.0))
    }
    assert 'cardswitch_restarts_total{what="redis"} 2.0' in lines
    assert 'c{worker="0"} 5.0' in lines and 'c{worker="2"} 1.0' not in lines
    names = [line.split(" ")[2] for line in lines if line.startswith("# TYPE")]
    assert len(names) == len(set(names))


def test_signals_are_watched_from_the_main_thread_only() -> None:
    errors: list[Exception] = []

    def attempt() -> None:
        try:
            StopSignals().__enter__()
        except RuntimeError as error:
            errors.append(error)

    thread = threading.Thread(target=attempt)
    thread.start()
    thread.join()
    assert len(errors) == 1


def test_settled_signals_wake_and_count() -> None:
    handler = signal.getsignal(signal.SIGTERM)
    with StopSignals() as signals:
        with pytest.raises(RuntimeError):
            signals.wait(0)
        signals.settle()
        os.kill(os.getpid(), signal.SIGTERM)
        begun = time.monotonic()
        signals.wait(5)
        assert time.monotonic() - begun < 2
        assert signals.count == 1
        signals.wait(0)
        assert signals.count == 1
    assert signal.getsignal(signal.SIGTERM) == handler


def test_what_nohup_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignals():
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_two_reservations_of_one_port_exclude_each_other() -> None:
    with reserve_port("switch", "127.0.0.1", 0, shared=True) as first:
        port = first.getsockname()[1]
        with pytest.raises(PortTaken, match=str(port)):
            reserve_port("switch", "127.0.0.1", port, shared=True)
