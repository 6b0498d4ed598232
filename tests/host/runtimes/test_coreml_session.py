"""How a session calls a package, and how Core ML is asked on a Mac, with a stand-in for it."""

import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest

from tests.host.conftest import DECODER, HIDDEN, manifest_with
from wand_export.errors import BundleError, InputError
from wand_export.failures import as_wand_error
from wand_export.host.runtimes import coreml
from wand_export.spec.audio import AudioDecoder
from wand_export.spec.manifest import Artifact

ROWS = np.random.default_rng(0).standard_normal((9, HIDDEN)).astype(np.float32)


def artifact() -> Artifact:
    document = manifest_with().artifacts["plain"].model_dump(mode="json")
    changes = {"runtime": "coreml", "prefill_chunk": 4, "max_position": 100, "audio_decoder": None}
    return Artifact.model_validate(document | changes | {"files": ["plain/decoder.mlpackage/Manifest.json"]})


class Model:
    """coremltools' MLModel of one function: it remembers its calls and gives the last row read out."""

    made: ClassVar[list["Model"]] = []

    def __init__(self, path: str, compute_units: str, function_name: str | None) -> None:
        if "absent" in path:
            raise RuntimeError("cannot compile\nat line 1")
        self.path, self.units, self.function = path, compute_units, function_name
        self.calls: list[tuple[dict[str, Any], Any]] = []
        Model.made.append(self)

    def make_state(self) -> object:
        return object()

    def predict(self, inputs: dict[str, Any], state: object = None) -> dict[str, Any]:
        self.calls.append((inputs, state))
        if "codes" in inputs:
            return {"audio": inputs["codes"] * 2.0}
        row = inputs["embeds"][0, inputs["last"][0]]
        return {"logits": row * 10, "hidden": row}


@pytest.fixture
def mac(monkeypatch: pytest.MonkeyPatch) -> None:
    units = {"CPU_AND_NE": "Neural Engine", "CPU_AND_GPU": "GPU"}
    stand_in = SimpleNamespace(models=SimpleNamespace(MLModel=Model), ComputeUnit=units)
    monkeypatch.setitem(sys.modules, "coremltools", stand_in)
    monkeypatch.setattr(sys, "platform", "darwin")
    Model.made = []


def test_prefix_in_padded_chunks_then_single_rows_over_one_state(mac: None) -> None:
    with coreml.open_decoder(Path("bundle"), "plain", manifest_with(), artifact(), None) as session:
        assert session.how == "ran"
        first = session.prefill(ROWS[:6])
        second = session.step(ROWS[6])
    prefill, decode = Model.made
    assert {model.path for model in Model.made} == {"bundle/plain/decoder.mlpackage"}
    assert [model.function for model in Model.made] == ["prefill", "decode"]
    assert {model.units for model in Model.made} == {"Neural Engine"}
    calls = [*prefill.calls, *decode.calls]
    assert len({id(state) for _, state in calls}) == 1
    assert [inputs["embeds"].shape for inputs, _ in calls] == [(1, 4, HIDDEN), (1, 4, HIDDEN), (1, 1, HIDDEN)]
    integers = [tuple(int(inputs[name][0]) for name in ("position", "prefix_len", "last")) for inputs, _ in calls]
    assert integers == [(0, 6, 3), (4, 6, 1), (6, 6, 0)]
    assert all(inputs["position"].dtype == np.int32 for inputs, _ in calls)
    assert not calls[1][0]["embeds"][0, 2:].any()  # padding
    assert np.array_equal(first.hidden, ROWS[5])
    assert np.array_equal(second.logits, ROWS[6] * 10)


def test_a_prefix_of_one_row_is_prefilled(mac: None) -> None:
    with coreml.open_decoder(Path("bundle"), "plain", manifest_with(), artifact(), None) as session:
        session.prefill(ROWS[:1])
    assert [len(model.calls) for model in Model.made] == [1, 0]


def decoder(**changes: Any) -> AudioDecoder:
    graph = DECODER.graphs[0].model_dump() | {"files": {"coreml": ["audio/coreml/float32.mlpackage/Manifest.json"]}}
    return AudioDecoder.model_validate(DECODER.model_dump() | {"graphs": [graph]} | changes)


def test_audio_on_a_mac(mac: None) -> None:
    """Each length of a chunk has its function; it comes with two codes before it and two behind."""
    chunk = {"first": 3, "later": 5}
    audio = coreml.open_audio(Path("bundle"), decoder(chunk=chunk), None)
    for length, function in ((7, "first"), (9, "later")):
        codes = np.ones((1, length), np.int32)
        assert np.array_equal(audio.run("fake", {"codes": codes})["audio"], codes * 2)
        model = next(model for model in Model.made if model.function == function)
        assert len(model.calls) == 1
        assert (model.path, model.units) == ("bundle/audio/coreml/float32.mlpackage", "GPU")


def test_what_core_ml_refuses_is_told_in_one_line(mac: None) -> None:
    with pytest.raises(BundleError, match=r"absent\.mlpackage: Core ML refuses it: cannot compile \("):
        coreml.load(Path("absent.mlpackage"), "decode", "CPU_AND_NE")


def test_without_coremltools_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = tmp_path / "audio" / "coreml" / "float32.mlpackage"
    folder.mkdir(parents=True)
    item = {"itemInfoEntries": {"x": {"path": "model.mlmodel"}}, "rootModelIdentifier": "x"}
    (folder / "Manifest.json").write_text(str(item).replace("'", '"'), encoding="utf-8")
    monkeypatch.delitem(sys.modules, "wand_export_coreml_proto", raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError) as caught:
        coreml.open_audio(tmp_path, decoder(), None)
    error = as_wand_error(caught.value)
    assert isinstance(error, InputError)
    assert str(error) == "coremltools: is not installed (pip install 'wand-export[coreml]')"
