"""Signals, and standard streams that are full, closed or missing."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from wand_export.errors import WandError
from wand_export.process import Stopped, printing, stoppable

ASKING = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}


@pytest.mark.parametrize(("number", "code"), ASKING.items())
def test_signals_end_the_work_and_let_it_clean_up(number: int, code: int) -> None:
    before = {other: signal.getsignal(other) for other in ASKING}
    cleaned = False
    with pytest.raises(Stopped) as caught, stoppable():
        try:
            os.kill(os.getpid(), number)
            signal.pause()
        finally:
            for other in ASKING:  # impatience does not stop it
                os.kill(os.getpid(), other)
            cleaned = True
    assert caught.value.exit_code == code and cleaned
    assert {other: signal.getsignal(other) for other in ASKING} == before


def test_a_signal_that_the_caller_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stoppable():
            os.kill(os.getpid(), signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_full_standard_output_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", open("/dev/full", "w"))  # noqa: SIM115
    with pytest.raises(WandError, match="standard output: cannot be written: No space left") as caught, printing():
        print("words")
    assert caught.value.exit_code == 3
    sys.stdout.flush()  # nothing is left that could fail


def wand(words: str, redirected: str) -> subprocess.CompletedProcess[str]:
    command = f'"{sys.executable}" -m wand_export.cli {words} {redirected}'
    return subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("words", "redirected", "code", "lines"),
    [
        ("--help", ">/dev/full", 3, 1),
        ("--version", ">/dev/full", 3, 1),
        ("verify nowhere --json", ">/dev/full", 3, 1),
        ("--help", ">&-", 0, 0),
        ("verify nowhere", "2>&-", 2, 0),
        ("verify nowhere", "2>/dev/full", 2, 0),
        ("verify nowhere --json", "| true; exit ${PIPESTATUS[0]}", 141, 0),
        ("--help", "| true; exit ${PIPESTATUS[0]}", 141, 0),
    ],
)
def test_streams_that_take_nothing(words: str, redirected: str, code: int, lines: int) -> None:
    done = wand(words, redirected)
    assert (done.returncode, done.stderr.count("\n")) == (code, lines), done.stderr
    assert "Traceback" not in done.stderr


def test_a_closed_stream_does_not_lend_its_number_to_a_file(tmp_path: Path) -> None:
    """A file opened as number 1 would receive what a library prints."""
    code = (
        "import os, sys; from wand_export.process import open_closed_streams; open_closed_streams();"
        f"file = open({str(tmp_path / 'file')!r}, 'w'); os.write(1, b'noise'); print('words', flush=True)"
    )
    subprocess.run(["bash", "-c", f'"{sys.executable}" -c "{code}" <&- >&- 2>&-'], check=True)
    assert (tmp_path / "file").read_text() == ""
