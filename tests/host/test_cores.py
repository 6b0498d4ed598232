"""Which processors count, and which numbers of threads are refused."""

from pathlib import Path

import numpy as np
import pytest

from wand_export.errors import InputError
from wand_export.host import cores


@pytest.mark.parametrize(
    ("speeds", "big"),
    [
        ([2000, 2000, 2000, 2000], [0, 1, 2, 3]),
        ([1800, 1800, 2800, 3200], [2, 3]),  # little cores first, as on phones
        ([5300, 5400, 3900, 3900], [0, 1]),  # boosts differ among equals
        ([None, None, None, None], [0, 1, 2, 3]),
    ],
)
def test_big_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, speeds: list[int | None], big: list[int]) -> None:
    monkeypatch.setattr(cores, "_CPUS", tmp_path)
    monkeypatch.setattr(cores, "usable_cores", lambda: [0, 1, 2, 3])
    for number, speed in enumerate(speeds):
        if speed is not None:
            (tmp_path / f"cpu{number}" / "cpufreq").mkdir(parents=True)
            (tmp_path / f"cpu{number}" / "cpufreq" / "cpuinfo_max_freq").write_text(f"{speed * 1000}\n")
    assert cores.big_cores() == big
    assert cores.checked_threads(None) == (len(big) if len(big) < 4 else None)


def test_the_affinity_of_the_process_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores.os, "sched_getaffinity", lambda pid: {5, 3}, raising=False)
    assert cores.usable_cores() == [3, 5]
    assert (
        cores.checked_threads(2) == 2
        and cores.checked_threads(np.int64(1)) == 1
        and cores.checked_threads(None) is None
    )
    with pytest.raises(InputError, match="may use 2: give 1 to 2"):
        cores.checked_threads(3)


@pytest.mark.parametrize("threads", [-1, 0, 64_000, 2**70, "2", 1.5, 1.0, True, [1], float("nan")])
def test_what_is_no_number_of_threads(threads: object) -> None:
    with pytest.raises(InputError, match="threads"):
        cores.checked_threads(threads)  # type: ignore[arg-type]
