from collections.abc import Iterable
from typing import NoReturn, final

from fastpath.mac import MacKey

__all__ = ["TerminalKeyTable"]

@final
class TerminalKeyTable:
    def __new__(
        cls,
        terminals: Iterable[tuple[str, Iterable[tuple[int, MacKey, float | None]], object]],
    ) -> TerminalKeyTable: ...
    def __reduce__(self) -> NoReturn: ...
    def __len__(self) -> int: ...
    def __contains__(self, key: str, /) -> bool: ...
    @property
    def count(self) -> int: ...
