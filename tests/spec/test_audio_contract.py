"""What the streaming contract refuses."""

from typing import Any

import pytest
from pydantic import ValidationError

from wand_export.spec.audio import AudioDecoder


def contract(**changes: Any) -> AudioDecoder:
    """A decoder of two codes a unit in windows, with these keys changed."""
    document = {
        "mode": "window", "unit": 2, "hop": 4, "chunk": {"first": 2, "later": 4}, "look_back": 2, "look_ahead": 1,
        "inputs": [{"name": "codes", "source": "codes", "dtype": "int64", "shape": [1, "n"]}],
        "graphs": [{"name": "decoder", "inputs": ["codes"], "outputs": ["audio"], "files": {"onnx": ["a.onnx"]}}],
        "samples": "audio",
    }  # fmt: skip
    return AudioDecoder.model_validate(document | changes)


STATE = {"input": "s", "output": "s_out", "shape": [1, 2], "dtype": "float32", "initial": 0.0}
NOISE = {"name": "noise", "shape": [1, 0], "axis": 1, "per_unit": 4, "distribution": "uniform"}
LOOP = {"graph": "decoder", "times": [0.0, 1.0], "time": "t", "carried": {"x": "x_out"}}


def graph(inputs: list[str], outputs: list[str]) -> list[dict[str, Any]]:
    return [{"name": "decoder", "inputs": inputs, "outputs": outputs, "files": {}}]


def test_every_mode() -> None:
    assert contract().files == ["a.onnx"]
    assert contract(mode="prefix").hop == 4
    assert contract(mode="whole", chunk=None, hop=None).chunk is None
    assert contract(mode="state", states=[STATE], graphs=graph(["codes", "s"], ["audio", "s_out"])).states
    looped = graph(["codes", "x", "t"], ["x_out", "audio"])
    assert contract(noise=[{**NOISE, "name": "x"}], loop=LOOP, graphs=looped).loop is not None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mode": "whole"}, "whole utterances has no chunk"),
        ({"chunk": None}, "mode window needs chunk"),
        ({"hop": None}, "mode window needs chunk"),
        ({"mode": "state"}, "states are for mode state"),
        ({"states": [STATE], "graphs": graph(["codes", "s"], ["audio", "s_out"])}, "states are for mode state"),
        ({"crossfade": 5}, "crossfade 5 is longer"),
        ({"align": 4, "outside": -1}, "multiples of align 4"),
        ({"samples": "sound"}, "'sound' is made by nothing"),
        ({"graphs": graph(["codes", "mel"], ["audio"])}, "reads 'mel', which nothing made"),
        ({"graphs": graph(["codes"], ["codes"])}, "two values are called 'codes'"),
        ({"noise": [{**NOISE, "shape": [0, 0]}]}, "0 at its axis 1, and nowhere else"),
        ({"loop": {**LOOP, "graph": "other"}}, "graph 'other', which is not there"),
        ({"loop": LOOP}, "'x' is made by nothing"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_contradictions_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        contract(**changes)
