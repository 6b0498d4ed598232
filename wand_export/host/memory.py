"""Memory of this process, as Linux tells it, and what makes reading weights from it fast and light."""

import ctypes
import sys
from collections.abc import Iterator
from pathlib import Path

HUGE_PAGE = 2 << 20
_WORTH_COLLAPSING = 8 * HUGE_PAGE
_MADV_DONTNEED, _MADV_COLLAPSE = 4, 25


def collapse_pages() -> int:
    """Gather the large anonymous maps of this process into huge pages; returns their bytes, 0 where unsupported.

    Reading all weights at every step misses the TLB on small pages; MADV_COLLAPSE (Linux 6.1) needs no setting.
    """
    collapsed = 0
    for low, high, mode, file in _maps():
        start, end = -(-low // HUGE_PAGE) * HUGE_PAGE, high // HUGE_PAGE * HUGE_PAGE
        anonymous = mode.startswith("rw") and not file
        if anonymous and end - start >= _WORTH_COLLAPSING and _advise(start, end, _MADV_COLLAPSE):
            collapsed += end - start
    return collapsed


def release_pages(file: Path) -> None:
    """Let go of the resident pages of a mapped file; those that are needed again come back from it.

    The maps may be writable, as ONNX Runtime's are, but nobody may have written to them.
    """
    for low, high, _, name in _maps():
        if name == str(file.resolve()):
            _advise(low, high, _MADV_DONTNEED)


def resident_bytes() -> dict[str, int]:
    """Resident bytes of this process: `private` (anonymous), `file` (mapped files), `peak` (their largest sum).

    Empty where /proc/self/status does not exist.
    """
    status = Path("/proc/self/status")
    if not status.exists():
        return {}
    names = {"RssAnon": "private", "RssFile": "file", "VmHWM": "peak"}
    lines = (line.split(":") for line in status.read_text().splitlines())
    return {names[key]: int(value.split()[0]) * 1024 for key, value in lines if key in names}


def available_bytes() -> int | None:
    """Bytes that this process could still take, its control group's limit heeded; None where Linux is not."""
    info = Path("/proc/meminfo")
    if not info.exists():
        return None
    found = [int(line.split()[1]) * 1024 for line in info.read_text().splitlines() if line.startswith("MemAvailable:")]
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.exists() and (most := limit.read_text().strip()) != "max":
        found.append(max(0, int(most) - int(used.read_text())))
    return min(found, default=None)


def _maps() -> Iterator[tuple[int, int, str, str]]:
    """Start, end, mode and file ("" for none) of each map of this process; nothing where Linux is not."""
    if sys.platform != "linux":
        return
    for line in Path("/proc/self/maps").read_text().splitlines():
        bounds, mode, *rest = line.split(maxsplit=5)
        low, high = (int(bound, 16) for bound in bounds.split("-"))
        yield low, high, mode, rest[3] if len(rest) > 3 else ""


def _advise(start: int, end: int, advice: int) -> bool:
    libc = ctypes.CDLL(None, use_errno=True)
    return bool(libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), advice) == 0)
