from collections.abc import Iterable

from fastpath.mac import MacKey

__all__ = ["function_call", "open_states", "seal_states"]

def seal_states(
    key: MacKey, card_ids: Iterable[int], parts: Iterable[tuple[bytes, bytes, bytes]]
) -> list[bytes]: ...
def open_states(
    key: MacKey, card_ids: Iterable[int], states: Iterable[bytes]
) -> list[tuple[bytes, bytes, bytes] | None]: ...
def function_call(
    function: bytes,
    tag: bytes,
    keys: Iterable[bytes],
    card_ids: Iterable[int],
    arguments: Iterable[bytes],
) -> bytes: ...
