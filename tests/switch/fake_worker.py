"""A worker without a switch: what the supervisor's tests start in its place.

It binds and listens at both ports, greets every caller with its process number, serves a tiny
/metrics, /healthz and /readyz on its unix socket, and reports readiness. What it shall do
wrong is told by files in the data directory: `unready`, `die`, `stubborn`, `broken-page`.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import socket
import sys
import time
from pathlib import Path

PAGE = """# HELP cardswitch_messages_total Messages answered.
# TYPE cardswitch_messages_total counter
cardswitch_messages_total{{link="pos"}} {pid}.0
# HELP cardswitch_answer_seconds Time to answer.
# TYPE cardswitch_answer_seconds histogram
cardswitch_answer_seconds_bucket{{le="0.01"}} 3.0
cardswitch_answer_seconds_bucket{{le="+Inf"}} 4.0
cardswitch_answer_seconds_count 4.0
cardswitch_answer_seconds_sum 0.5
"""


def listen(host: str, port: int) -> socket.socket:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind((host, port))
    listener.listen()
    return listener


def serve_page(caller: socket.socket, data_dir: Path) -> None:
    path = caller.recv(4096).split(b" ")[1].decode()
    status, body = "200 OK", "ok\n"
    if path == "/metrics":
        body = PAGE.format(pid=os.getpid())
        if (data_dir / "broken-page").exists():
            body = "no { metrics at all"
    elif path == "/readyz" and (data_dir / "unready").exists():
        status, body = "503 Unavailable", "postgres: no answer\n"
    head = f"HTTP/1.0 {status}\r\nContent-Length: {len(body)}\r\n\r\n"
    caller.sendall((head + body).encode())


def main(settings_file: str) -> int:
    settings = json.loads(Path(settings_file).read_text())
    data_dir = Path(settings["data_dir"])
    if (data_dir / "die").exists():
        return 3
    asked_to_stop = False

    def ask(number: int, frame: object) -> None:
        nonlocal asked_to_stop
        asked_to_stop = not (data_dir / "stubborn").exists()

    signal.signal(signal.SIGTERM, ask)
    metrics = socket.socket(socket.AF_UNIX)
    metrics.bind(settings["metrics_socket"])
    metrics.listen()
    selector = selectors.DefaultSelector()
    selector.register(metrics, selectors.EVENT_READ)
    for port in (settings["switch_port"], settings["network_port"]):
        selector.register(listen(settings["host"], port), selectors.EVENT_READ)
    parent = int(os.environ["CARDSWITCH_PARENT_FD"])
    selector.register(parent, selectors.EVENT_READ)
    os.write(int(os.environ["CARDSWITCH_READY_FD"]), b"ready\n")
    while not asked_to_stop:
        for key, _ in selector.select(0.05):
            if key.fd == parent:
                return 4
            caller, _ = key.fileobj.accept()
            with caller, contextlib.suppress(OSError):
                if key.fileobj is metrics:
                    serve_page(caller, data_dir)
                else:
                    caller.sendall(f"{os.getpid()}\n".encode())
    time.sleep(0.1)
    (data_dir / f"drained-{settings['index']}").touch()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
