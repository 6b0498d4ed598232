"""How many threads this process can use, and how many it is worth using."""

import os
from pathlib import Path

from wand_export.errors import InputError, whole_number

_CPUS = Path("/sys/devices/system/cpu")
_BIG = 0.8
"""A core is a big one if its highest frequency comes this near to the fastest: little ones stay below it."""


def usable_cores() -> list[int]:
    """The processors that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def big_cores() -> list[int]:
    """Those of them that are not of a slower kind; all where the system does not tell, or all are alike."""
    cores = usable_cores()
    files = [_CPUS / f"cpu{core}" / "cpufreq" / "cpuinfo_max_freq" for core in cores]
    if not all(file.is_file() for file in files):
        return cores
    speeds = [int(file.read_text()) for file in files]
    return [core for core, speed in zip(cores, speeds, strict=True) if speed >= _BIG * max(speeds)]


def checked_threads(threads: int | None) -> int | None:
    """`threads` if the process has as many processors. Raises InputError.

    None is the number of big cores where there are little ones too, of which runtimes know nothing; else None, their
    own choice. They take any number: some end the process, or wait for ever, on what makes no sense.
    """
    count = len(usable_cores())
    if threads is None:
        big = len(big_cores())
        return big if big < count else None
    if isinstance(threads, int) and threads > count:
        raise InputError("threads", str(threads), f"this process may use {count}: give 1 to {count}")
    return whole_number("threads", threads, 1, count)
