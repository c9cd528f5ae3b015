"""The compiled modules of fastpath/. All other metadata is in pyproject.toml."""

import os
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

CSRC = "fastpath/csrc"
# -O1 for builds that are not to be fast, like that of `make sanitize`
OPTIMIZE = os.environ.get("FASTPATH_OPTIMIZE", "-O3")
COMPILE = [OPTIMIZE, "-Wall", "-Wno-unused-function", "-fno-strict-aliasing"]


def module(name: str, *sources: str) -> Extension:
    """One extension `fastpath.name` from its .pyx and the C files it stands on.

    They are built at the same time: a C file is compiled for one module, and another one that needs
    it takes it in (`tokens` does so with aes.c).
    """
    return Extension(
        f"fastpath.{name}",
        [f"fastpath/{name}.pyx", *(f"{CSRC}/{source}" for source in sources)],
        include_dirs=[CSRC],
        depends=[str(source) for source in sorted(Path(CSRC).glob("*.[ch]"))],
        extra_compile_args=COMPILE,
    )


setup(
    ext_modules=cythonize(
        [
            module("framing"),
            module("codec"),
            module("mac", "des.c", "aes.c"),
            module("token_entries"),
            module("tokens"),
            module("directory"),
            module("batch"),
            module("reader"),
            module("replies"),
            module("pgwire"),
            module("rows"),
            module("cache"),
            module("sums"),
        ],
        compiler_directives={"language_level": "3", "embedsignature": True},
    ),
    options={"build_ext": {"parallel": os.cpu_count()}},
)
