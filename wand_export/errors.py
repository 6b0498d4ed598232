"""The errors that reach a user, each with its exit code."""

from pathlib import Path

_LONGEST = 1000


class WandError(Exception):
    """An error told in one line: which file or value, what is wrong, and what to do about it."""

    exit_code = 3

    def __init__(self, file: Path | str, value: str, fix: str) -> None:
        self.file, self.value, self.fix = _line(str(file)), _line(value), _line(fix)
        super().__init__(f"{self.file}: {self.value} ({self.fix})" if fix else f"{self.file}: {self.value}")


def _line(text: str) -> str:
    """Text that may come from a hostile file, for a terminal: without control characters, and not endless."""
    plain = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    return plain if len(plain) <= _LONGEST else plain[:_LONGEST] + "..."


class InputError(WandError, ValueError):
    """Usage, missing, corrupt or refused input."""

    exit_code = 2


class CheckpointError(InputError):
    """A checkpoint that does not hold what its recipe says."""


class BundleError(InputError):
    """A bundle that is not what its manifest and checksums say."""


class ParityError(WandError):
    """An artifact below its target's thresholds."""

    exit_code = 1
