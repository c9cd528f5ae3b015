"""What the bytes are: framing, ISO 8583 codec, MACs, PIN blocks and the token table, compiled.

There is no slow path in Python beside the compiled modules: without them the import fails.
"""

from importlib.machinery import EXTENSION_SUFFIXES
from importlib.util import find_spec

__all__ = ["compiled_modules"]

_COMPILED = (
    *("framing", "codec", "mac"),
    *("token_entries", "tokens"),
    *("directory", "batch", "reader", "replies"),
    *("pgwire", "rows", "sums", "cache"),
)


def compiled_modules() -> tuple[str, ...]:
    """The modules of this package that are compiled."""
    return _COMPILED


def _missing() -> list[str]:
    missing = []
    for name in _COMPILED:
        spec = find_spec(f"{__name__}.{name}")
        if spec is None or not (spec.origin or "").endswith(tuple(EXTENSION_SUFFIXES)):
            missing.append(name)
    return missing


if _absent := _missing():
    raise ImportError(
        f"the compiled modules of fastpath are not built: {', '.join(_absent)}. Build them in the "
        "checkout with `make setup`, or with `python setup.py build_ext --inplace` (needs Cython "
        "and a C compiler)",
        name=f"{__name__}.{_absent[0]}",
    )
