from collections.abc import Iterable, Mapping
from typing import final

from fastpath.batch import MessageBatch
from fastpath.codec import Message
from fastpath.framing import Header
from fastpath.mac import MacKey

__all__ = ["Replies"]

@final
class Replies:
    def __new__(cls, echoed: Iterable[int] = ()) -> Replies: ...
    def __len__(self) -> int: ...
    def add(
        self,
        group: int,
        request: Message,
        mti: str,
        fields: Mapping[int, str | bytes],
        key: MacKey | None = None,
        *,
        header: Header = ...,
        tpdu: bytes = b"",
    ) -> None: ...
    def add_to(
        self,
        group: int,
        batch: MessageBatch,
        n: int,
        mti: str,
        fields: Mapping[int, str | bytes],
        key: MacKey | None = None,
        *,
        header: Header = ...,
        tpdu: bytes = b"",
    ) -> None: ...
    def finish(self) -> list[bytes]: ...
