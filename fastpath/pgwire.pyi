from typing import Any, final

__all__ = [
    "MESSAGE_BYTES_MAX",
    "Messages",
    "bind_execute",
    "decode_row",
    "message",
    "parse_describe",
]

MESSAGE_BYTES_MAX: int

def bind_execute(statement: bytes, oids: tuple[int, ...], values: tuple[Any, ...]) -> bytes: ...
def message(kind: bytes, body: bytes) -> bytes: ...
def parse_describe(statement: bytes, query: str) -> bytes: ...
def decode_row(body: bytes, oids: tuple[int, ...]) -> list[Any]: ...

@final
class Messages:
    def feed(self, data: bytes | bytearray | memoryview) -> None: ...
    def next(self) -> tuple[int, bytes] | None: ...
