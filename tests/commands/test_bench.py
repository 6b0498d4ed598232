"""wand bench: what it tells of the speaking chain; from a plain script, on small machines, and when it is cut short."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from wand_export.commands import bench as module
from wand_export.commands.bench import _apart, _not_run, _speech, bench, read_bandwidth
from wand_export.errors import InputError, WandError
from wand_export.host import cores
from wand_export.host.bundle import load_bundle

SCRIPT = """
import json, sys
from wand_export.commands import bench
print("the script runs", file=sys.stderr)
bench._READ_BYTES, bench.ROUNDS = 1 << 26, 2
json.dump(bench.bench(sys.argv[1], steps=4, threads=1), sys.stdout)
"""


def test_a_script_without_a_guard_runs_once(exported: Path, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, str(tmp_path / "script.py"), str(exported)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    assert done.stderr.count("the script runs") == 1
    told = json.loads(done.stdout)
    assert told["machine"]["bandwidth_read_bytes"] == 1 << 26 and told["not_run"] == []
    assert all(a["how"] == "ran" and a["steady_bytes"] > 0 and a["real_time_factor"] > 0 for a in told["artifacts"])


@pytest.mark.parametrize(
    ("does", "told"),
    [
        ("kill -KILL $$", "ended by SIGKILL"),
        ("echo MemoryError: no room >&2; exit 1", "failed: MemoryError: no room"),
        ("exit 7", "failed: exit code 7"),
    ],
)
def test_a_worker_that_dies_is_told_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, does: str, told: str
) -> None:
    worker = tmp_path / "worker"
    worker.write_text(f"#!/bin/sh\n{does}\n")
    worker.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(worker))
    with pytest.raises(WandError, match=told) as caught:
        _apart(tmp_path, "onnx-fp32", 1)
    assert caught.value.exit_code == 3


@pytest.mark.parametrize(("available", "read"), [(1 << 30, 1 << 28), (1 << 20, 1 << 26), (1 << 28, 1 << 26)])
def test_little_memory_is_read_in_part(monkeypatch: pytest.MonkeyPatch, available: int, read: int) -> None:
    monkeypatch.setattr(module, "available_bytes", lambda: available)
    speed, found = read_bandwidth(1)
    assert found == read and speed > 0


@pytest.mark.parametrize(
    "options", [{"threads": 0}, {"threads": 64_000}, {"steps": 0}, {"steps": 1.5}, {"output": "file"}, {"output": None}]
)
def test_what_is_refused_before_the_work(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    """Also the bundle itself as the folder of the report, which has one of its own."""
    if "output" in options:
        (tmp_path / "file").write_text("kept")
        options = {"output": exported if options["output"] is None else tmp_path / "file"}
    monkeypatch.setattr(module, "_why_not", lambda bundle, target: pytest.fail("it began"))
    with pytest.raises(InputError):
        bench(exported, **options)


def test_the_default_is_the_fast_cores(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def stop(path: Path, target: str, threads: int) -> None:
        asked.append(threads)
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "_apart", stop)
    monkeypatch.setattr(module, "big_cores", lambda: [2, 3, 7])
    with pytest.raises(KeyboardInterrupt):
        bench(exported)
    assert asked == [3] and len(cores.big_cores()) >= 1


def test_the_chain_is_measured_with_audio_and_without(exported: Path) -> None:
    bundle = load_bundle(exported)
    with bundle.open("onnx-int4", 1) as session:
        found = _speech(bundle, session, "onnx-int4", 1)
    assert 0 < found["tokens_real_time_factor"] < found["real_time_factor"]
    assert 0 < found["audio_share"] < 1
    decoder = found["audio_ms_per_second"] / 1e3
    assert decoder < found["real_time_factor"] and found["first_audio_ms"] > 0
    assert set(found) < set(_not_run(bundle, "onnx-int4"))
