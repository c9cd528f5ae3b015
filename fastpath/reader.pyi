from typing import final

from fastpath.batch import MessageBatch
from fastpath.directory import TerminalKeyTable
from fastpath.errors import FormatError
from fastpath.framing import Header
from fastpath.packager import Packager
from fastpath.tokens import TokenTable

__all__ = ["BatchReader"]

@final
class BatchReader:
    def __new__(
        cls, packager: Packager, header: Header = ..., max_length: int = 4096
    ) -> BatchReader: ...
    @property
    def pending(self) -> int: ...
    @property
    def keepalives(self) -> int: ...
    @property
    def error(self) -> FormatError | None: ...
    def feed(
        self,
        data: bytes | bytearray | memoryview,
        keys: TerminalKeyTable | None = None,
        tokens: TokenTable | None = None,
        *,
        now_s: float = 0.0,
    ) -> MessageBatch: ...
