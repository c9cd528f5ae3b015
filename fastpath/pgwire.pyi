from collections.abc import Iterator, Sequence
from typing import Any, final

__all__ = [
    "MESSAGE_BYTES_MAX",
    "Messages",
    "RowImage",
    "RowShape",
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

@final
class RowShape:
    def __init__(self, names: Sequence[str], oids: Sequence[int]) -> None: ...
    def open(self, image: bytes) -> RowImage: ...

@final
class RowImage:
    image: bytes
    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Any]: ...
    def __getitem__(self, key: str | int | slice) -> Any: ...
