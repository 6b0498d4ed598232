"""wand verify of golden texts, and wand verify and bench where a runtime is not installed."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from wand_export.cli import main

WITHOUT = """
import sys
for name in ("torch", "executorch", "coremltools"):
    sys.modules[name] = None
from wand_export.cli import main
sys.exit(main())
"""


def hand_over(bundle: Path, targets: list[str]) -> None:
    """Say that these artifacts belong to another runtime: it is asked for before their files are."""
    file = bundle / "manifest.json"
    document = json.loads(file.read_text(encoding="utf-8"))
    for target in targets:
        document["artifacts"][target] |= {"runtime": "executorch", "audio_decoder": None}
    rewrite(file, json.dumps(document))


def rewrite(file: Path, text: str) -> None:
    """Another text for a file of a bundle, with the right checksum."""
    before = hashlib.sha256(file.read_bytes()).hexdigest()
    file.write_text(text, encoding="utf-8")
    sums = file.parent / "SHA256SUMS"
    after = hashlib.sha256(file.read_bytes()).hexdigest()
    sums.write_text(sums.read_text().replace(before, after))


def test_a_text_that_is_read_otherwise_fails(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each artifact passes, and the bundle does not."""
    assert main(["verify", str(bundle), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["text"] == {"texts": 5, "failed": [], "passed": True}
    file = bundle / "selftest.json"
    rewrite(file, file.read_text(encoding="utf-8").replace("on the mat", "on the bat"))
    assert main(["verify", str(bundle), "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert not told["ok"] and all(artifact["passed"] for artifact in told["artifacts"])
    assert told["text"] == {"texts": 5, "failed": ["The cat sat on the bat, didn't it? It did."], "passed": False}
    assert main(["verify", str(bundle)]) == 1
    assert "text read otherwise" in capsys.readouterr().out


def wand(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", WITHOUT, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_what_can_run_is_verified_and_the_rest_is_told(bundle: Path) -> None:
    hand_over(bundle, ["onnx-int8"])
    done = wand("verify", bundle, "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["ok"] and [a["how"] for a in told["artifacts"]] == ["ran", "not_run", "ran"]
    ran, absent, _ = told["artifacts"]
    assert set(absent) == set(ran) and (ran["passed"], absent["passed"]) == (True, None)
    assert told["not_run"] == ["onnx-int8: torch is not installed (pip install 'wand-export[executorch]')"]
    assert "not run" in wand("verify", bundle).stdout


def test_where_nothing_can_run_it_says_what_to_install(bundle: Path) -> None:
    hand_over(bundle, ["onnx-fp32", "onnx-int8", "onnx-int4"])
    done = wand("verify", bundle, "--json")
    assert done.returncode == 2
    error = json.loads(done.stdout)["error"]
    assert error["value"] == "none of its targets can run here" and "wand-export[executorch]" in error["fix"]


def test_bench_measures_what_can_run(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from wand_export.commands import bench as module

    hand_over(bundle, ["onnx-int8", "onnx-int4"])
    monkeypatch.setitem(sys.modules, "wand_export.host.runtimes.executorch", None)
    monkeypatch.setattr(
        module, "absent_runtime", lambda bundle, target: None if target == "onnx-fp32" else "torch is not installed"
    )
    monkeypatch.setattr(module, "_apart", lambda path, target, threads: {"load_ms": 1.0})
    monkeypatch.setattr(module, "_READ_BYTES", 1 << 20)
    told = module.bench(bundle, steps=20, threads=1)
    assert [a["how"] for a in told["artifacts"]] == ["ran", "not_run", "not_run"]
    assert told["not_run"] == [f"{target}: torch is not installed" for target in ("onnx-int8", "onnx-int4")]
