import os
import struct
from typing import Final, NoReturn, final

__all__ = ["TokenEntries"]

LAYOUT: Final[struct.Struct]
MAGIC: Final[bytes]
VERSION: Final[int]

@final
class TokenEntries:
    def __len__(self) -> int: ...
    def __reduce__(self) -> NoReturn: ...
    def add(self, digest: bytes, card_id: int) -> None: ...
    def add_packed(self, packed: bytes) -> None: ...
    def write(self, path: str | bytes | os.PathLike[str]) -> None: ...
