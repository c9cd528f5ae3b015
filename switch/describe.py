"""What this installation is: versions, processor, and which compiled code runs on it."""

from __future__ import annotations

import json
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import fastpath
from fastpath import mac

__all__ = ["describe", "run_describe"]

_LIBRARIES = ("asyncpg", "cryptography", "hiredis", "msgspec", "redis", "trio")


def describe() -> dict[str, object]:
    """Versions, processor, the paths that run, the compiled modules: for people and for reports."""
    running, here = mac.implementation(), mac.paths()
    return {
        "cardswitch": _version("cardswitch"),
        "python": platform.python_version(),
        "system": platform.platform(),
        "processor": _processor(),
        "libraries": {name: _version(name) for name in _LIBRARIES},
        "paths": {
            name: {"runs": running[name], "here": list(here[name])} for name in sorted(running)
        },
        "compiled": list(fastpath.compiled_modules()),
    }


def run_describe(*, as_json: bool) -> int:
    """Print it."""
    found = describe()
    if as_json:
        print(json.dumps(found, indent=1))
        return 0
    for name, value in found.items():
        print(f"{name:<14}{_line(name, value)}")
    return 0


def _line(name: str, value: object) -> str:
    if name == "paths" and isinstance(value, dict):
        each = (f"{k}: {v['runs']} (of {', '.join(v['here'])})" for k, v in value.items())
        return "; ".join(each)
    if isinstance(value, dict):
        return ", ".join(f"{name} {text}" for name, text in value.items())
    return ", ".join(value) if isinstance(value, list) else str(value)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _processor() -> str:
    """Its name as Linux has it, else what Python knows."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine() or sys.platform)
