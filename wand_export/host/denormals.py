"""Denormal floats: zero while a graph runs, since they double its time, and kept in the program around it."""

import ctypes
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_MXCSR, _FLUSH = 7, 0x8040
"""Word of C's fenv_t on x86-64 that rules SSE, and its bits that take and give zero for a denormal."""
_Environment = ctypes.c_uint32 * 8
_KNOWN = sys.platform == "linux" and platform.machine() == "x86_64"
_libc = ctypes.PyDLL(None) if _KNOWN else None  # PyDLL: too short to be worth letting go of the interpreter's lock


@contextmanager
def flushed_denormals() -> Iterator[None]:
    """Flush them in this thread meanwhile; its floating-point environment is afterwards what it was before.

    ONNX Runtime does so for its own threads and, once and for good, for the one that opens the first session.
    Elsewhere than on Linux with x86-64 nothing is changed here.
    """
    if _libc is None:
        yield
        return
    before, within = _Environment(), _Environment()
    _libc.fegetenv(before)
    _libc.fegetenv(within)
    within[_MXCSR] |= _FLUSH
    _libc.fesetenv(within)
    try:
        yield
    finally:
        _libc.fesetenv(before)
