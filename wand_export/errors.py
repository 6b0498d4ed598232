"""The errors that reach a user, each with its exit code."""

from operator import index
from pathlib import Path
from typing import Any

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


def whole_number(name: str, value: Any, least: int, most: int | None = None) -> int:
    """`value` as an int if it is a whole number from `least` to `most`, and no bool. Raises InputError."""
    try:
        number = least - 1 if isinstance(value, bool) else index(value)
    except TypeError:
        number = least - 1
    if number < least or (most is not None and number > most):
        wanted = f"at least {least}" if most is None else f"from {least} to {most}"
        raise InputError(name, repr(value), f"give a whole number, {wanted}")
    return number
