"""The process around a command: its standard streams and text files, and the signals that ask it to end."""

import codecs
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

from wand_export.errors import InputError, WandError

_ASKING = ("SIGINT", "SIGTERM", "SIGHUP")
PIPE_CLOSED = 141
"""What a shell tells of a command that a closed pipe ended: 128 + SIGPIPE."""


class Stopped(BaseException):
    """The command ends without a word, with this exit code; on its way out it removes what it made half."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(exit_code)
        self.exit_code = exit_code


class OutputError(WandError):
    """Standard output does not take the result."""


@contextmanager
def stoppable() -> Iterator[None]:
    """Let the signals that ask the process to end raise Stopped(128 + number): once, so that nothing stops the removal.

    Those that the caller ignores, as nohup does, or handles stay as they are.
    """
    before: dict[int, Any] = {}

    def stop(number: int, frame: FrameType | None) -> None:
        for other in before:
            signal.signal(other, signal.SIG_IGN)
        raise Stopped(128 + number)

    if threading.current_thread() is threading.main_thread():
        for number in (getattr(signal, name) for name in _ASKING if hasattr(signal, name)):
            if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
                before[number] = signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def open_closed_streams() -> None:
    """Point standard streams that the caller has closed nowhere: else the next file takes their number and text."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # takes the lowest number that is free
    for name, mode in ("stdin", "r"), ("stdout", "w"), ("stderr", "w"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115


@contextmanager
def printing() -> Iterator[None]:
    """For what goes to standard output: a full one is an error, one whose reader is gone is the end of the command."""
    try:
        yield
        sys.stdout.flush()
    except OSError as error:
        forget_unwritten()
        if isinstance(error, BrokenPipeError):
            raise Stopped(PIPE_CLOSED) from error
        fix = "send it to another place, or free some space, and run it again"
        raise OutputError("standard output", f"cannot be written: {error.strerror}", fix) from error


def forget_unwritten() -> None:
    """Send nowhere what the standard streams did not take, else the interpreter complains of it when it ends."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            with suppress(OSError):  # of a stream that is no file
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, stream.fileno())
                os.close(null)


def complain(line: str) -> None:
    """Print a line to standard error, if that takes it."""
    with suppress(OSError):
        print(line, file=sys.stderr, flush=True)


def read_text(file: Path) -> str:
    """The text of a file, or of standard input for `-`. A byte order mark is no part of it.

    Raises InputError naming the line that is not UTF-8 or holds a NUL character.
    """
    data = sys.stdin.buffer.read() if file == Path("-") else file.read_bytes()
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise InputError(file, "is UTF-16", "save it as UTF-8")
    if b"\0" in data:
        line = data.count(b"\n", 0, data.index(b"\0")) + 1
        raise InputError(file, f"a NUL character in line {line}", "save it as UTF-8 text")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(file, f"line {line} is not UTF-8", "save it as UTF-8") from error
