"""wand export, verify, inspect and speak as a user calls them, and what bad input leaves behind: nothing."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wand_export.commands.export import _below, export
from wand_export.commands.inspect import inspect
from wand_export.commands.speak import speak
from wand_export.commands.verify import verify
from wand_export.errors import InputError, ParityError
from wand_export.graph import ladder
from wand_export.graph.checkpoint import open_checkpoint
from wand_export.host.bundle import Bundle, load_bundle, read_manifest
from wand_export.host.output import alone
from wand_export.host.prompt import load_reader
from wand_export.host.selftest import run_audio_selftest
from wand_export.spec.schema import shipped
from wand_export.spec.target import load_target


def wand(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "wand_export.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload]


def left_in(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_the_ladder(exported: Path, tiny: Path) -> None:
    result = verify(exported, tiny / "checkpoint")
    assert result["ok"] and result["decoder"]["psnr_db"] > 100
    exact, int8, int4 = result["artifacts"]
    assert exact["psnr_db"] > 100 and exact["greedy_equal"] and exact["steps"] >= 4 * 8
    assert int8["psnr_db"] > int4["psnr_db"] > 20
    assert set(int4["components"]) == {"attention", "mlp", "head"} and not exact["components"]
    assert all(c["psnr_db"] > int4["psnr_db"] - 3 for c in int4["components"].values())
    for artifact in result["artifacts"]:
        audio = artifact["audio"]
        floor = 50 if artifact["target"] == "onnx-int4" else 70
        assert audio["passed"] and audio["how"] == "ran" and (audio["psnr_db"] is None or audio["psnr_db"] > floor)
        assert audio["log_mel_db"] < 0.15 and (audio["click_db"] is None or audio["click_db"] < 6)
        assert audio["samples"] == 24 * 200  # a chunk of 4, two of 8 and half a one


def test_the_selftest_without_a_checkpoint(exported: Path) -> None:
    result = verify(exported)
    assert result["ok"] and [a["how"] for a in result["artifacts"]] == ["ran"] * 3
    assert all(a["psnr_db"] is None and a["steps"] > 8 for a in result["artifacts"])
    assert all(a["audio"]["passed"] and a["audio"]["samples"] > 20 for a in result["artifacts"])


def test_a_wrong_audio_decoder_fails(bundle: Path, tiny: Path) -> None:
    """One emitted from other weights: whole, and loaded without complaint."""
    from wand_export.backends import onnx
    from wand_export.graph.vocoder import load_vocoder

    vocoder = load_vocoder(tiny / "recipe" / "vocoder")
    vocoder.mean += 1
    opened = Bundle(bundle, read_manifest(bundle))
    onnx.emit_audio(vocoder, opened.manifest.audio.decoders["float32"], bundle / "audio" / "onnx")
    assert not run_audio_selftest(opened, "onnx-fp32").passed  # type: ignore[union-attr]
    expected = ladder.expect_audio(opened.manifest.audio, open_checkpoint(tiny / "checkpoint"))
    assert not ladder.hold_audio(opened, expected, "onnx-fp32").passed


def test_verify_wants_the_same_checkpoint(exported: Path, tiny: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny / "checkpoint", tmp_path / "other")
    from safetensors.torch import load_file, save_file

    tensors = load_file(tmp_path / "other" / "model.safetensors")
    tensors["head.bias"] += 1
    save_file(tensors, tmp_path / "other" / "model.safetensors")
    with pytest.raises(InputError, match="not the checkpoint"):
        verify(exported, tmp_path / "other")


def test_inspect(exported: Path, tiny: Path) -> None:
    bundle, checkpoint = inspect(exported), inspect(tiny / "checkpoint")
    assert bundle["kv_bytes"] == checkpoint["kv_bytes"]
    assert bundle["kv_bytes"]["wand"] == 32 * 2 * 2 * 2 * 16 * 4 and bundle["kv_bytes"]["dtype"] == "float32"
    assert (checkpoint["window"], checkpoint["head_rows"], checkpoint["layers"]) == (8, 35, 2)


def test_speech_is_reproducible_and_long_text_is_chunked(exported: Path, tmp_path: Path) -> None:
    text = "A cab, a bad cab. A bad bad cab.\nA cab."
    results = [
        speak(
            exported,
            text,
            tmp_path / f"{n}.wav",
            target="onnx-fp32",
            seed=5,
            threads=1,
            tokens_out=tmp_path / f"{n}.npy",
        )
        for n in "ab"
    ]
    assert (tmp_path / "a.wav").read_bytes() == (tmp_path / "b.wav").read_bytes()
    assert len(np.load(tmp_path / "a.npy")) == results[0]["tokens"] > 0
    assert results[0]["sentences"] == 3


@pytest.mark.parametrize(("text", "words"), [("", "nothing to say"), ("\u4f60", "\u4f60"), (" ., ", "nothing to say")])
def test_texts_that_cannot_be_said(exported: Path, tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        speak(exported, text, tmp_path / "out.wav")
    assert left_in(tmp_path) == []


def test_an_existing_output_is_refused(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    done = wand("export", tiny / "checkpoint", "-o", tmp_path / "out", "--target", "onnx-fp32")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1) and "already exists" in done.stderr
    assert left_in(tmp_path / "out") == []


def test_a_users_own_words_are_kept_in_the_bundle(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "own.tsv").write_text("# mine\r\nZoo\tdˈab\r\ncab\tbˈad\r\n", encoding="utf-8-sig")
    (tmp_path / "words.tsv").write_text("犬\tzoo\nA CAB\tdab\n", encoding="utf-8")
    options: dict[str, Any] = {"lexicon": str(tmp_path / "own.tsv"), "replace": tmp_path / "words.tsv"}
    told = export(tiny / "checkpoint", tmp_path / "out", "onnx-fp32", **options)
    assert told["replaces"] and {"text/lexicon.tsv", "text/replace.tsv"} <= set(told["files"])
    text = tmp_path / "out" / "text"
    assert (text / "lexicon.tsv").read_bytes().decode() == "zoo\tdˈab\ncab\tbˈad\na\ta\n"
    assert (text / "replace.tsv").read_bytes().decode() == "犬\tzoo\na cab\tdab\n"
    assert verify(tmp_path / "out", tiny / "checkpoint")["ok"]

    bundle = load_bundle(tmp_path / "out")
    reader = load_reader(bundle)
    assert reader.replaced("A cab, 犬 dab.") == "dab, zoo dab." and reader.encoder.ids("zoo") == [5, 7, 3, 4, 1]
    (tmp_path / "words.tsv").write_text("dab\tx\na cab\ta zoo\n", encoding="utf-8")
    (tmp_path / "own.tsv").write_text("zoo\tkˈab\n", encoding="utf-8")
    own = load_reader(bundle, tmp_path / "own.tsv", tmp_path / "words.tsv")
    assert own.replaced("A cab, 犬 dab.") == "a zoo, zoo x." and own.encoder.ids("zoo") == [6, 7, 3, 4, 1]
    speak(bundle.path, "A cab and 犬.", tmp_path / "a.wav", threads=1)

    (text / "replace.tsv").unlink()
    with pytest.raises(InputError, match=r"replace\.tsv: missing"):
        load_bundle(bundle.path)


def test_without_own_words_a_bundle_has_the_voices_alone(exported: Path, tiny: Path, tmp_path: Path) -> None:
    assert (exported / "text" / "lexicon.tsv").read_bytes() == (tiny / "recipe" / "text" / "lexicon.tsv").read_bytes()
    assert not read_manifest(exported).replaces and not (exported / "text" / "replace.tsv").exists()
    (tmp_path / "empty.tsv").write_text("# nothing yet\n")
    options: dict[str, Any] = {"lexicon": tmp_path / "empty.tsv", "replace": tmp_path / "empty.tsv"}
    assert not export(tiny / "checkpoint", tmp_path / "out", "onnx-fp32", dry_run=True, **options)["replaces"]


@pytest.mark.parametrize(
    ("option", "line", "why"),
    [
        ("lexicon", "zoo\tzˈu", "own.tsv: line 2: phoneme 'z'"),
        ("lexicon", "two words\tˈab", "own.tsv: line 2: 'two words' is not one word"),
        ("lexicon", "zoo", "own.tsv: line 2: no tab"),
        ("replace", "zoo\t犬", "own.tsv: line 2: cannot say '犬'"),
        ("replace", "zoo\ta\nZOO\tb", "own.tsv: line 3: 'zoo' comes twice"),
    ],
)
def test_own_words_that_cannot_be_said_are_refused_before_the_work(
    tiny: Path, tmp_path: Path, option: str, line: str, why: str
) -> None:
    (tmp_path / "own.tsv").write_text(f"# mine\n{line}\n", encoding="utf-8")
    options: dict[str, Any] = {option: tmp_path / "own.tsv"}
    for dry_run in (True, False):
        with pytest.raises(InputError) as raised:
            export(tiny / "checkpoint", tmp_path / "out", ["onnx-fp32"], dry_run=dry_run, **options)
        assert why in str(raised.value) and left_in(tmp_path) == ["own.tsv"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--target", "onnx-int3"], "onnx-int3"),
        (["--target", "onnx-fp32", "--window", "0"], "--window"),
        (["--target", "onnx-fp32", "--layers", "1"], "--random-weights"),
        (["--target", "onnx-fp32", "--recipe", "nobody"], "nobody"),
    ],
)
def test_refused_arguments(tiny: Path, tmp_path: Path, arguments: list[str], words: str) -> None:
    done = wand("export", tiny / "checkpoint", "-o", tmp_path / "out", *arguments, "--json")
    told = json.loads(done.stdout)["error"]
    assert done.returncode == 2 and words in f"{told['file']} {told['value']} {told['fix']}"
    assert left_in(tmp_path) == []


def test_logits_that_are_not_finite_are_never_written(exported: Path) -> None:
    parity = load_bundle(exported).manifest.artifacts["onnx-fp32"].parity
    assert parity is not None
    broken = parity.model_copy(update={"max_abs_dlogit": float("nan"), "psnr_db": float("nan"), "passed": False})
    with pytest.raises(ParityError, match="not finite"):
        _below(load_target("onnx-fp32"), broken, True, [])


def test_a_recipe_that_makes_no_bundle_is_refused_before_the_work(tiny: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny / "recipe", tmp_path / "recipe")
    recipe = tmp_path / "recipe" / "recipe.toml"
    recipe.write_text(recipe.read_text().replace("ids = [27, 28, 29, 30, 33, 34, 35, 36]", "ids = [38]"))
    with pytest.raises(InputError, match=r"tiny: stop\.ids: none of them is in head\.ranges"):
        export(None, tmp_path / "out", ["onnx-fp32"], recipe=str(recipe), random_weights=True, dry_run=True)


def test_low_parity_writes_nothing_unless_allowed(tiny: Path, tmp_path: Path) -> None:
    text = (shipped("targets") / "onnx-int4.toml").read_text().replace("min_psnr_db = 22.0", "min_psnr_db = 90.0")
    strict = tmp_path / "strict.toml"
    strict.write_text(text)
    with pytest.raises(ParityError, match="below its 90"):
        export(tiny / "checkpoint", tmp_path / "out", [str(strict)])
    assert left_in(tmp_path) == ["strict.toml"]
    done = export(tiny / "checkpoint", tmp_path / "out", [str(strict)], allow_low_parity=True)
    parity = load_bundle(tmp_path / "out").manifest.artifacts["onnx-int4"].parity
    assert parity is not None and not parity.passed and any("below" in w for w in done["warnings"])
    assert "below" in (tmp_path / "out" / "report.md").read_text()


def test_a_window_that_nothing_tuned_is_told(tiny: Path, tmp_path: Path) -> None:
    plan = export(tiny / "checkpoint", tmp_path / "out", ["onnx-fp32"], window=16, prefix=20, dry_run=True)
    assert plan["kv_cache"]["capacity"] == 64 and not plan["source"]["tuned_for_window"]
    assert any("tuned for a window of 8" in w for w in plan["warnings"]) and any(
        "rounded up to 48" in w for w in plan["warnings"]
    )
    assert left_in(tmp_path) == []


def test_an_output_place_that_is_read_only(tiny: Path, tmp_path: Path) -> None:
    """A file stands where a folder must be: root may write to read-only folders, but not here."""
    (tmp_path / "file").write_text("")
    done = wand("export", tiny / "checkpoint", "-o", tmp_path / "file" / "out", "--target", "onnx-fp32")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1) and "file" in done.stderr


def test_a_full_disk(tiny: Path, tmp_path: Path) -> None:
    """A limit on file size stands in for the disk: writing fails in the middle, and nothing is left."""
    script = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000));"
        "sys.argv = ['wand', *sys.argv[1:]]; from wand_export.cli import main; sys.exit(main())"
    )
    arguments = ["export", tiny / "checkpoint", "-o", tmp_path / "out", "--target", "onnx-fp32"]
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr.count("\n")) == (3, 1), done.stderr
    assert left_in(tmp_path) == []


def test_kill_in_the_middle(tiny: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "wand_export.cli", "export", str(tiny / "checkpoint"), "-o", str(tmp_path / "out")]
    process = subprocess.Popen(
        [*command, "--target", "onnx-fp32"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while process.poll() is None and not (tmp_path / ".out.partial" / "onnx-fp32").exists():
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert left_in(tmp_path) == [".out.lock", ".out.partial"]
    export(tiny / "checkpoint", tmp_path / "out", ["onnx-fp32"])
    assert left_in(tmp_path) == ["out"]
    load_bundle(tmp_path / "out")


def test_asked_to_end_it_leaves_nothing(tiny: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "wand_export.cli", "export", str(tiny / "checkpoint"), "-o", str(tmp_path / "out")]
    process = subprocess.Popen([*command, "--target", "onnx-fp32"], stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not (tmp_path / ".out.partial" / "onnx-fp32").exists():
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate()
    assert (process.returncode, said) == (143, "") and left_in(tmp_path) == []


def test_another_export_into_the_same_place_is_refused_at_once(tiny: Path, tmp_path: Path) -> None:
    with alone(tmp_path / "out"), pytest.raises(InputError, match="another run is writing it"):
        export(tiny / "checkpoint", tmp_path / "out", ["onnx-fp32"], report=lambda stage: pytest.fail("it began"))


def test_plain_strings_and_single_ones(tiny: Path, tmp_path: Path) -> None:
    plan = export(str(tiny / "checkpoint"), str(tmp_path / "out"), "onnx-fp32", dry_run=True)
    assert plan["kv_cache"]["window"] == 8 and left_in(tmp_path) == []


@pytest.mark.parametrize("options", [{"window": 0}, {"prefix": 0}, {"window": 1.5}, {"prefix": "8"}, {"window": True}])
def test_sizes_that_are_no_whole_numbers(tiny: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=f"--{next(iter(options))}"):
        export(tiny / "checkpoint", tmp_path / "out", ["onnx-fp32"], dry_run=True, **options)


@pytest.mark.parametrize("name", ["onnx-fp32", "audio", "text", "voices"])
def test_targets_that_would_share_a_folder(tiny: Path, tmp_path: Path, name: str) -> None:
    file = tmp_path / "own.toml"
    file.write_text((shipped("targets") / "onnx-fp32.toml").read_text().replace('"onnx-fp32"', f'"{name}"'))
    with pytest.raises(InputError, match=f"the name '{name}' is taken"):
        export(tiny / "checkpoint", tmp_path / "out", ["onnx-fp32", str(file)], dry_run=True)


def test_components_at_precisions_of_their_own(tiny: Path, tmp_path: Path) -> None:
    mixed = tmp_path / "mixed.toml"
    text = (shipped("targets") / "onnx-int4.toml").read_text().replace("onnx-int4", "mixed")
    text = text.replace("attention = { bits = 4, block = 32 }", "attention = { bits = 8, block = 64 }")
    mixed.write_text(text.replace("head = { bits = 4, block = 32 }", "head = { bits = 32 }"))
    export(tiny / "checkpoint", tmp_path / "out", [str(mixed)])
    parity = load_bundle(tmp_path / "out").manifest.artifacts["mixed"].parity
    assert parity is not None and parity.passed and set(parity.components) == {"attention", "mlp"}
    attention, mlp = (parity.components[name].psnr_db or 0.0 for name in ("attention", "mlp"))
    assert attention > mlp + 10
