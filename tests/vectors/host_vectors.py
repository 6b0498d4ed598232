"""prompt.json, audio.json and wav.json: what a host makes of ids, of an audio decoder's words, and of samples."""

import io
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from small_manifest import DECODER, MANIFEST, manifest_with

from wand_export.errors import InputError
from wand_export.host.audio import AudioStream, WavStream, WavWriter
from wand_export.host.prompt import PrefixOverflow, first_position, stretches
from wand_export.host.session import AudioSession
from wand_export.spec.audio import AudioDecoder
from wand_export.spec.manifest import Manifest

SCHEMA = 1
PROMPTED = [
    {"table": "speech", "ids": [0]},
    {"table": "text", "input": "prompt_text"},
    {"table": "text", "input": "text"},
    {"table": "speech", "ids": [1]},
    {"table": "speech", "input": "prompt_tokens"},
]
COUNTED = [
    {"table": "text", "ids": [0]},
    {"table": "text", "input": "text"},
    {"table": "text", "ids": [1]},
    {"table": "speech", "ids": [9]},
]
LEARNED = {
    "text": {"rows": 128, "dtype": "float32", "positions": "text_positions"},
    "text_positions": {"rows": 8, "dtype": "float32", "positions": None},
    "speech": {"rows": 10, "dtype": "float32", "positions": "speech_positions"},
    "speech_positions": {"rows": 20, "dtype": "float32", "positions": None},
}
SPEAKERS = [
    {"input": "latents", "length": 2},
    {"table": "text", "input": "globals", "offset": 100, "codes": 8, "length": 3},
    {"table": "text", "input": "text"},
    {"table": "text", "ids": [7], "given": "prompt_tokens"},
    {"table": "speech", "input": "prompt_tokens", "offset": 2},
]
LATENTS = [[0.5, 0, 0, 1], [0, -0.25, 0, 2]]
VOICE = {"latents": LATENTS, "globals": [0, 7, 3]}
PROGRAMS: list[tuple[dict[str, Any], list[dict[str, Any]]]] = [
    ({}, [{"text": [5, 6]}, {"text": [1] * 11}, {"text": [1] * 12}, {"text": [1] * 40}, {}, {"text": []},
          {"text": [128]}, {"text": [-1]}, {"text": [1], "prompt_text": [2]}]),
    ({"prefix": PROMPTED}, [{"text": [5, 6]}, {"text": [5], "prompt_text": [3, 4], "prompt_tokens": [7, 8]},
                            {"text": [5], "prompt_tokens": [10]}]),
    ({"prefix": COUNTED, "tables": LEARNED}, [{"text": [5]}, {"text": [5] * 6}, {"text": [5] * 7}]),
    ({"prefix": COUNTED, "tables": LEARNED, "skipped_positions": 1}, [{"text": [5]}]),
    ({"prefix": SPEAKERS}, [{"text": [5], **VOICE}, {"text": [5], **VOICE, "prompt_tokens": [0, 7]},
                            {"text": [5], "latents": LATENTS}, {"text": [5], **VOICE, "globals": [0, 8, 3]},
                            {"text": [5], **VOICE, "latents": LATENTS[:1]},
                            {"text": [5], **VOICE, "latents": [[0, 0], [0, 0]]},
                            {"text": [5], **VOICE, "prompt_tokens": [8]}]),
    ({"prefix": [{"table": "speech", "input": "prompt_tokens"}]}, [{"prompt_tokens": [1]}, {}]),
]  # fmt: skip


def prompt_vectors() -> dict[str, Any]:
    """Changes of the small manifest, and what its prefix makes of requests."""
    programs = []
    for changes, requests in PROGRAMS:
        manifest = Manifest.model_validate(manifest_with(changes))
        programs.append({"changes": changes, "cases": [prompt_case(manifest, inputs) for inputs in requests]})
    return {"schema": SCHEMA, "manifest": MANIFEST, "programs": programs}


def prompt_case(manifest: Manifest, inputs: dict[str, Any]) -> dict[str, Any]:
    """The stretches of a request; or why it is refused, and where it is too long the parts that its text needs."""
    given = {name: np.array(ids, np.float32) if name == "latents" else ids for name, ids in inputs.items()}
    try:
        found = stretches(manifest, given)
    except InputError as error:
        parts = error.parts if isinstance(error, PrefixOverflow) else None
        return {"inputs": inputs, "refused": error.value, "parts": parts}
    shown = [[table, ids.tolist() if isinstance(ids, np.ndarray) else list(ids)] for table, ids in found]
    return {"inputs": inputs, "stretches": shown, "first_position": first_position(manifest, found)}


class Linear(AudioSession):
    """Graphs that add up what they are given, unit by unit, and the mean of it all: later calls differ where they meet.

    An output named next_x is half of x and that mean; `audio` has hop samples for each unit, behind a prefix.
    """

    def __init__(self, decoder: AudioDecoder, prefix: int) -> None:
        super().__init__(decoder)
        self.prefix = prefix
        self.calls: list[list[Any]] = []

    def run(self, graph: str, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        described = next(one for one in self.decoder.graphs if one.name == graph)
        mean = sum(np.rint(value.mean(dtype=np.float64) * 64) / 64 for value in feeds.values() if value.size)
        outputs = {}
        for name in described.outputs:
            if name.startswith("next_"):
                old = feeds[name.removeprefix("next_")]
                outputs[name] = (old / 2 + mean / 8).astype(old.dtype)
            else:
                outputs[name] = self._samples(feeds, float(mean))
        self.calls.append([graph, described_values(feeds), described_values(outputs)])
        return outputs

    def _samples(self, feeds: Mapping[str, np.ndarray], mean: float) -> np.ndarray:
        if "codes" not in feeds:
            (made,) = (value for name, value in feeds.items() if name == "flowing")
            return made
        codes = feeds["codes"].flatten()[self.prefix :].reshape(-1, self.decoder.unit)
        units = np.repeat(codes.sum(1) / 64, self.decoder.hop or 2)
        return (units + np.arange(len(units)) % 2 / 32 + mean / 16).astype(np.float32)[None]


def described_values(values: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Arrays by name as [type, shape, numbers in row-major order]."""
    return {name: [str(a.dtype), list(a.shape), a.flatten().tolist()] for name, a in values.items()}


def graph(name: str, inputs: list[str], outputs: list[str]) -> dict[str, Any]:
    return {"name": name, "inputs": inputs, "outputs": outputs, "files": {"onnx": [f"{name}.onnx"]}}


NOISE = {"name": "noise", "shape": [1, 0], "axis": 1, "per_unit": 1, "distribution": "uniform"}
CODES, HIDDEN = DECODER["inputs"][0], {"name": "hidden", "source": "hidden", "dtype": "float32", "shape": [1, "n", 2]}
STATE = {"input": "past", "output": "next_past", "shape": [1, 2], "dtype": "float32", "initial": 0.5}
SPEAKER = [
    {"name": "globals", "source": "globals", "dtype": "int64", "shape": [1, 1, 3]},
    {"name": "style", "source": "voice", "dtype": "float32", "shape": [2], "tensor": "style"},
]
TENSORS = {"style": np.array([0.25, -0.5], np.float32)}
SPOKEN: list[tuple[str, dict[str, Any], list[int]]] = [
    ("windows padded at the edges", {}, [1, 2, 3, 4, 5, 6, 7]),
    ("an utterance within one look-ahead", {}, [5]),
    ("an utterance without codes", {}, []),
    ("silent ids are no codes", {"chunk": {"first": 1, "later": 2}, "look_ahead": 1}, [20, 1, 2, 21, 3, 20, 4, 5]),
    ("windows cut at the edges, of units of two, aligned to two, with noise",
     {"unit": 2, "outside": None, "align": 2, "look_back": 3, "look_ahead": 1, "chunk": {"first": 1, "later": 3},
      "noise": [NOISE | {"before": 1, "behind": -1}, NOISE | {"name": "more", "shape": [2, 0], "per_unit": 2}],
      "graphs": [graph("decoder", ["codes", "noise", "more"], ["audio"])]}, [*range(8), *range(7)]),
    ("crossfade", {"hop": 4, "crossfade": 3, "look_ahead": 1, "chunk": {"first": 1, "later": 2}}, [1, 7, 0, 6, 2, 5]),
    ("state from call to call",
     {"mode": "state", "look_back": 0, "look_ahead": 1, "chunk": {"first": 1, "later": 2}, "states": [STATE],
      "noise": [NOISE | {"behind": -1}],
      "graphs": [graph("decoder", ["codes", "noise", "past"], ["audio", "next_past"])]}, [1, 2, 3, 4, 5]),
    ("a prompt before every window, vectors, and a voice",
     {"mode": "prefix", "look_ahead": 1, "look_back": 1, "outside": None, "chunk": {"first": 2, "later": 2},
      "inputs": [CODES, HIDDEN, *SPEAKER],
      "graphs": [graph("decoder", ["codes", "hidden", "globals", "style"], ["audio"])]}, [3, 4, 5, 6, 7]),
    ("vectors beyond the edges are zeros",
     {"look_ahead": 1, "look_back": 1, "chunk": {"first": 2, "later": 2}, "inputs": [CODES, HIDDEN],
      "graphs": [graph("decoder", ["codes", "hidden"], ["audio"])]}, [3, 4, 5]),
    ("the whole at once, through a differential equation of two steps",
     {"mode": "whole", "hop": None, "chunk": None, "look_back": 0, "look_ahead": 0, "outside": None, "noise": [NOISE],
      "graphs": [graph("start", ["codes", "noise"], ["flowing"]),
                 graph("flow", ["flowing", "now", "far"], ["next_flowing"]),
                 graph("end", ["flowing"], ["audio"])],
      "loop": {"graph": "flow", "times": [0.0, 0.25, 1.0], "time": "now", "step": "far",
               "carried": {"flowing": "next_flowing"}}}, [1, 2, 3]),
]  # fmt: skip


def audio_vectors() -> dict[str, Any]:
    """Utterances by a decoder of every mode."""
    return {"schema": SCHEMA, "cases": [audio_case(*case) for case in SPOKEN]}


def audio_case(name: str, changes: dict[str, Any], tokens: list[int]) -> dict[str, Any]:
    decoder = AudioDecoder.model_validate(DECODER | changes)
    audio = Manifest.model_validate(MANIFEST).audio
    prompt, speaker, seed = [1, 2], [4, 5, 6], 7
    session = Linear(decoder, len(prompt) if decoder.mode == "prefix" else 0)
    stream = AudioStream(session, audio, seed, prefix=prompt, speaker=speaker, tensors=TENSORS)
    vectors = [np.array([token, i], np.float32) / 8 for i, token in enumerate(tokens)]
    blocks = [stream.feed(token, hidden) for token, hidden in zip(tokens, vectors, strict=True)]
    blocks.append(stream.finish())
    return {
        "name": name,
        "decoder": decoder.model_dump(mode="json"),
        "silent": audio.model_dump(mode="json")["silent"],
        "seed": str(seed),
        "prompt_tokens": prompt,
        "globals": speaker,
        "tensors": described_values(TENSORS),
        "tokens": tokens,
        "hidden": [vector.tolist() for vector in vectors] if decoder.reads_hidden else None,
        "calls": session.calls,
        "blocks": [block.tolist() for block in blocks],
    }


SAMPLES = [0.0, 0.5, -0.5, 1.0, -1.0, 1.5, -2.0, 0.25, -0.75, 2.0**-15, -(2.0**-16), 3 * 2.0**-16, 1e-9]


def wav_vectors() -> dict[str, Any]:
    """The same samples, in two blocks, as a file and as a stream."""
    cases = []
    for rate, samples in [(24_000, SAMPLES), (8_000, SAMPLES[:3]), (192_000, [])]:
        pipe, values = io.BytesIO(), np.array(samples, np.float32)
        with TemporaryDirectory() as folder:
            file = Path(folder) / "a.wav"
            with WavWriter(file, rate) as writer, WavStream(pipe, rate) as stream:
                for sink in (writer, stream):
                    sink.write(values[:2])
                    sink.write(values[2:])
            written = file.read_bytes()
        cases.append({"sample_rate": rate, "samples": values.tolist(), "file": written.hex(),
                      "stream": pipe.getvalue().hex()})  # fmt: skip
    return {"schema": SCHEMA, "cases": cases}
