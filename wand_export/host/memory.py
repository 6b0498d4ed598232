"""Memory of this process, as Linux tells it, and what makes reading weights from it fast."""

import ctypes
import sys
from pathlib import Path

HUGE_PAGE = 2 << 20
_MADV_COLLAPSE = 25
_WORTH_COLLAPSING = 8 * HUGE_PAGE


def collapse_pages() -> int:
    """Gather the large anonymous maps of this process into huge pages; returns their bytes, 0 where unsupported.

    Reading all weights at every step misses the TLB on small pages; MADV_COLLAPSE (Linux 6.1) needs no setting.
    """
    if sys.platform != "linux":
        return 0
    libc = ctypes.CDLL(None, use_errno=True)
    collapsed = 0
    for line in Path("/proc/self/maps").read_text().splitlines():
        fields = line.split()
        if len(fields) > 5 or not fields[1].startswith("rw"):  # named maps are files
            continue
        low, high = (int(bound, 16) for bound in fields[0].split("-"))
        start, end = -(-low // HUGE_PAGE) * HUGE_PAGE, high // HUGE_PAGE * HUGE_PAGE
        if end - start < _WORTH_COLLAPSING:
            continue
        if libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), _MADV_COLLAPSE) == 0:
            collapsed += end - start
    return collapsed


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
