"""C++ sources to shared libraries, with the compiler of this machine and for its processor; kept in the user's cache."""

from __future__ import annotations

import ctypes
import logging
import os
import platform
import shutil
import subprocess
from functools import cache
from hashlib import sha256
from pathlib import Path

from triagekit.files.atomic import atomic_path
from triagekit.modeling.packed_linear import KERNELS

_COMPILERS = ("c++", "g++", "clang++")
_FLAGS = ("-O3", "-march=native", "-std=c++17", "-shared", "-fPIC")
_PATIENCE = 120
"""Seconds after which a compiler is given up."""

logger = logging.getLogger(__name__)


@cache
def library(name: str) -> ctypes.CDLL | None:
    """The library made of `name`.cpp beside this file; None where it is not wanted or cannot be made, and a log line why.

    Calls through it leave Python's lock.
    """
    if os.environ.get(KERNELS) == "off":
        return None
    compiler = os.environ.get("CXX") or next((found for each in _COMPILERS if (found := shutil.which(each))), None)
    if compiler is None:
        logger.info("No C++ compiler here (%s): torch runs the loops of %s.", ", ".join(_COMPILERS), name)
        return None
    source = Path(__file__).with_name(f"{name}.cpp")
    try:
        target = cache_folder() / f"{name}-{_key(source, compiler)}.so"
        if not target.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            with atomic_path(target) as partial:
                _compile(compiler, source, partial)
        return ctypes.CDLL(str(target))
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", None) or str(error)
        logger.warning(
            "%s could not be made with %s in %s, torch runs its loops: %s. Let CXX name a C++17 compiler and XDG_CACHE_HOME "
            "a folder that can be written, or set %s=off.",
            *(source.name, compiler, cache_folder(), said.strip(), KERNELS),
        )
        return None


def cache_folder() -> Path:
    """`triagekit/kernels` below XDG_CACHE_HOME, else below ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "triagekit" / "kernels"


def _compile(compiler: str, source: Path, target: Path) -> None:
    words = [compiler, *_FLAGS, str(source), "-o", str(target)]
    subprocess.run(words, check=True, capture_output=True, text=True, timeout=_PATIENCE)


def _key(source: Path, compiler: str) -> str:
    """Of everything that the library depends on: a home folder may be shared by machines of several kinds."""
    headers = sorted(source.parent.glob("*.h"))
    texts = [path.read_text(encoding="utf-8") for path in (source, *headers)]
    parts = [*texts, compiler, *_FLAGS, platform.machine(), _processor()]
    return sha256("\0".join(parts).encode()).hexdigest()[:16]


def _processor() -> str:
    """What the processor is and can do, as Linux tells it; elsewhere its name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n", 1)[0].splitlines()
    except OSError:
        return platform.processor()
    told = ("model name", "flags", "Features", "CPU part")
    return "\n".join(line for line in lines if line.startswith(told))
