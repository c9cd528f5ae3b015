from collections.abc import Callable, Iterable
from typing import final

from fastpath.rows import RowImage, RowShape

__all__ = ["LinkSums", "cards_of"]

@final
class LinkSums:
    moved: dict[tuple[int, int, int, int, int, str], list[int]]
    liability: dict[tuple[int, int, int, bool, int, int], list[int]]
    lives: dict[int, tuple[int, int, int, int, int, int, bool, bool]]
    held: list[RowImage]
    odd: list[tuple[RowImage, list[RowImage]]]
    unread: RowImage | None
    def __init__(
        self,
        link: RowShape,
        posting: RowShape,
        programme_of: Callable[[int], int],
        given: Iterable[int],
        odd_kinds: Iterable[int],
        odd_operations: Iterable[int],
    ) -> None: ...
    def add(self, link: RowImage, postings: list[RowImage]) -> None: ...
    def finish(self) -> None: ...

def cards_of(
    link: RowShape, posting: RowShape, entries: Iterable[tuple[RowImage, list[RowImage]]]
) -> set[int]: ...
