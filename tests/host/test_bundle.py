"""Bundles: what loads, and what a damaged or lying one gets."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from wand_export.errors import BundleError, InputError
from wand_export.host.bundle import CHECKSUMS, MANIFEST, load_bundle
from wand_export.host.selftest import TextOutcome, golden_text, load_selftest, run_selftest, run_text_selftest
from wand_export.host.sentences import Unsayable, located
from wand_export.host.text import Frontend


def reseal(folder: Path, **changes: object) -> None:
    """Change the manifest, and the checksums with it, as an attacker would."""
    manifest = json.loads((folder / MANIFEST).read_text()) | changes
    (folder / MANIFEST).write_text(json.dumps(manifest))
    digest = hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest()
    lines = (folder / CHECKSUMS).read_text().splitlines()
    lines = [f"{digest}  {MANIFEST}" if line.endswith(f"  {MANIFEST}") else line for line in lines]
    (folder / CHECKSUMS).write_text("\n".join(lines) + "\n")


def test_contents(exported: Path) -> None:
    bundle = load_bundle(exported)
    assert bundle.targets == ["onnx-fp32", "onnx-int8", "onnx-int4"]
    assert bundle.head_ids.tolist() == [*range(31), 33, 34, 35, 36]
    assert bundle.embed("speech", [3, 36]).shape == (2, 64)
    on_disk = {p.relative_to(exported).as_posix() for p in exported.rglob("*") if p.is_file()}
    assert on_disk == {*bundle.manifest.files, MANIFEST, CHECKSUMS}


def test_checksums_are_what_sha256sum_reads(exported: Path) -> None:
    for line in (exported / CHECKSUMS).read_text().splitlines():
        digest, name = line.split("  ")
        assert hashlib.sha256((exported / name).read_bytes()).hexdigest() == digest


def test_a_flipped_byte_in_every_file(bundle: Path) -> None:
    for file in sorted(p for p in bundle.rglob("*") if p.is_file()):
        data = file.read_bytes()
        for place in {0, len(data) // 2, len(data) - 1}:
            file.write_bytes(data[:place] + bytes([data[place] ^ 0x01]) + data[place + 1 :])
            with pytest.raises(BundleError) as raised:
                load_bundle(bundle)
            assert "\n" not in str(raised.value)
        file.write_bytes(data)
    load_bundle(bundle)


def test_a_truncated_or_missing_file(bundle: Path) -> None:
    for file in sorted(p for p in bundle.rglob("*") if p.is_file()):
        data = file.read_bytes()
        file.write_bytes(data[:-1])
        for check in ("full", "size"):
            if check == "full" or file.name != CHECKSUMS:
                with pytest.raises(BundleError, match=file.name):
                    load_bundle(bundle, check=check)  # type: ignore[arg-type]
        file.unlink()
        with pytest.raises(BundleError):
            load_bundle(bundle)
        file.write_bytes(data)


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "a/../../b", "..\\b", "a//b"])
def test_a_path_outside_the_bundle(bundle: Path, name: str) -> None:
    files = json.loads((bundle / MANIFEST).read_text())["files"]
    reseal(bundle, files=files | {name: 1})
    with pytest.raises(BundleError, match="outside the bundle"):
        load_bundle(bundle)


@pytest.mark.parametrize(
    "changes",
    [
        {"schema_version": 1},
        {"schema_version": 3},
        {"schema_version": True},
        {"colour": "red"},
        {"family": 3},
        {"kv_cache": {}},
    ],
)
def test_a_manifest_that_is_not_of_the_schema(bundle: Path, changes: dict[str, object]) -> None:
    reseal(bundle, **changes)
    with pytest.raises(BundleError, match=MANIFEST):
        load_bundle(bundle)


def test_an_artifact_swapped_with_another(bundle: Path) -> None:
    (bundle / "onnx-int4" / "decoder.onnx").write_bytes((bundle / "onnx-int8" / "decoder.onnx").read_bytes())
    with pytest.raises(BundleError, match=r"onnx-int4/decoder\.onnx"):
        load_bundle(bundle)


def test_not_a_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=MANIFEST):
        load_bundle(tmp_path)


def test_targets_by_name_and_runtime(exported: Path) -> None:
    bundle = load_bundle(exported)
    assert bundle.resolve(None) == "onnx-fp32"
    with pytest.raises(BundleError, match="onnx-int8"):
        bundle.resolve("onnx")
    with pytest.raises(BundleError, match="coreml"):
        bundle.resolve("coreml")


@pytest.mark.parametrize(("table", "ids"), [("speech", [-1]), ("speech", [37]), ("music", [0])])
def test_ids_out_of_range(exported: Path, table: str, ids: list[int]) -> None:
    with pytest.raises(InputError):
        load_bundle(exported).embed(table, ids)


@pytest.mark.parametrize(
    "ids", [[1.7], [1.0], [float("nan")], 5, [[1, 2]], [True], ["1"], None, [None], [[1], [1, 2]], [2**70]]
)
def test_ids_that_are_no_whole_numbers_in_one_dimension(exported: Path, ids: object) -> None:
    bundle = load_bundle(exported)
    with pytest.raises(InputError, match="whole numbers in one dimension"):
        bundle.embed("speech", ids)  # type: ignore[arg-type]
    assert bundle.embed("speech", []).shape == (0, 64)
    assert np.array_equal(bundle.embed("speech", np.array([3], np.uint8)), bundle.embed("speech", (3,)))


def test_a_check_that_is_none(exported: Path) -> None:
    with pytest.raises(InputError, match=r"'fast' \(give \"full\" or \"size\"\)"):
        load_bundle(exported, check="fast")  # type: ignore[arg-type]


def test_selftest_passes_and_notices(exported: Path) -> None:
    bundle = load_bundle(exported)
    for target in bundle.targets:
        with bundle.open(target, threads=1) as session:
            assert run_selftest(bundle, target, session).passed
    with bundle.open("onnx-int4", threads=1) as session:  # the wrong weights for fp32's tolerance
        assert not run_selftest(bundle, "onnx-fp32", session).passed


def test_golden_texts_are_read_by_the_bundles_own_tables(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = load_bundle(exported)
    texts = load_selftest(bundle).texts
    assert len(texts) == 5 and all(golden.sentences for golden in texts)
    assert any(all(golden.ids) for golden in texts) and any("\x07" in golden.unsayable for golden in texts)
    assert run_text_selftest(bundle) == TextOutcome(5, [], True)
    monkeypatch.setattr(Frontend, "ids", lambda self, text: [1])
    changed = run_text_selftest(bundle)
    assert changed is not None and not changed.passed and changed.failed == [golden.text for golden in texts]


def test_a_golden_text_says_what_is_refused() -> None:
    class Encoder:
        def unsayable(self, text: str) -> list[Unsayable]:
            return located(text, [(i, i + 1) for i, character in enumerate(text) if character == "?"])

        def sentences(self, text: str) -> list[str]:
            return text.split()

        def ids(self, text: str) -> list[int]:
            if text == "b":
                raise ValueError("cannot say it")
            return [len(text)]

    golden = golden_text(Encoder(), "a?a? b")
    assert (golden.unsayable, golden.sentences, golden.ids) == (["?", "?"], ["aa", "b"], [[2], []])


def test_files_behind_links_are_read_as_the_hub_caches_them(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnxruntime

    wanted = load_bundle(bundle).open("onnx-int4", 1).prefill(np.ones((3, 64), np.float32)).logits
    for number, file in enumerate(sorted(file for file in bundle.rglob("*") if file.is_file())):
        file.rename(tmp_path / f"blob{number}")
        file.symlink_to(tmp_path / f"blob{number}")
    linked = load_bundle(bundle)
    assert np.array_equal(linked.open("onnx-int4", 1).prefill(np.ones((3, 64), np.float32)).logits, wanted)

    def refuse(*_: object, **__: object) -> None:  # as version 1.24.1 does
        raise RuntimeError("External data path validation failed: decoder.data escapes model directory")

    monkeypatch.setattr(onnxruntime, "InferenceSession", refuse)
    with pytest.raises(BundleError, match=r"escapes model directory \(take another version.*cp -rL\)"):
        linked.open("onnx-int4")


def test_a_file_that_onnx_runtime_refuses(bundle: Path) -> None:
    """Past the hashes, its own exceptions become one clear line."""
    opened = load_bundle(bundle)
    (bundle / "onnx-fp32" / "decoder.onnx").write_bytes(b"noise" * 100)
    with pytest.raises(BundleError, match=r"decoder\.onnx.*ONNX Runtime") as raised:
        opened.open("onnx-fp32")
    assert "\n" not in str(raised.value)
