"""Every mode of a stream, its seams and its noise, and files that exist only when they are whole."""

import os
import wave
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.host.conftest import DECODER
from wand_export.errors import BundleError, InputError, WandError
from wand_export.host.audio import AudioStream, WavWriter, random, replacing
from wand_export.host.sampling import noise, normal
from wand_export.host.session import AudioSession
from wand_export.spec.audio import AudioDecoder, AudioNoise


def stream(session, manifest, **options) -> AudioStream:
    return AudioStream(session, manifest.audio, seed=5, **options)


def spoken(session, manifest, codes):
    fed = stream(session, manifest)
    blocks = [fed.feed(code) for code in codes]
    return blocks, fed.finish()


@pytest.mark.parametrize("count", range(0, 15))
def test_every_length_gives_its_samples(make_manifest, audio_session, count) -> None:
    codes = [i % 8 for i in range(count)]
    blocks, tail = spoken(audio_session, make_manifest(), codes)
    samples = np.concatenate([*blocks, tail])
    assert samples.dtype == np.float32
    assert samples.tolist() == np.repeat((np.array(codes) + 1) / 16, 2).tolist()
    assert len(audio_session.calls) == -(-count // 3)


@pytest.mark.parametrize("count", [1, 3, 5, 8, 11])
def test_calls_see_their_surroundings_and_nothing_outside(make_manifest, audio_session, count) -> None:
    codes = [i % 8 for i in range(count)]
    spoken(audio_session, make_manifest(), codes)
    padded = [-1, -1, *codes] + [-1] * 10
    assert audio_session.calls == [padded[i : i + 7] for i in range(0, count, 3)]


def test_a_chunk_comes_as_soon_as_its_look_ahead_exists(make_manifest, audio_session) -> None:
    blocks, tail = spoken(audio_session, make_manifest(), [0] * 9)
    assert [len(block) for block in blocks] == [0, 0, 0, 0, 6, 0, 0, 6, 0]
    assert len(tail) == 6


def test_memory_does_not_grow(make_manifest, audio_session) -> None:
    fed = stream(audio_session, make_manifest())
    for _ in range(1000):
        fed.feed(1)
        assert len(fed._codes) < 7


@pytest.mark.parametrize("token", [-1, 8])
def test_an_id_that_is_no_code_is_refused(make_manifest, audio_session, token) -> None:
    with pytest.raises(BundleError, match=f"id {token} "):
        stream(audio_session, make_manifest()).feed(token)


def test_silent_ids_make_no_samples(make_manifest, audio_session) -> None:
    manifest = make_manifest()
    silent = manifest.model_copy(update={"audio": manifest.audio.model_copy(update={"silent": [(20, 29)]})})
    mixed, plain = spoken(audio_session, silent, [20, 1, 2, 29, 3, 25]), spoken(audio_session, manifest, [1, 2, 3])
    assert np.concatenate([*mixed[0], mixed[1]]).tolist() == np.concatenate([*plain[0], plain[1]]).tolist()


def test_ids_are_counted_from_the_first(make_manifest, audio_session) -> None:
    audio = make_manifest().audio.model_copy(update={"first_id": 100})
    fed = AudioStream(audio_session, audio, 0)
    fed.feed(103)
    fed.finish()
    assert audio_session.calls == [[-1, -1, 3, -1, -1, -1, -1]]


def test_samples_that_are_not_finite_are_not_passed_on(make_manifest, audio_session) -> None:
    audio_session.run = lambda graph, feeds: {"audio": np.full((1, 14), np.nan, np.float32)}
    fed = stream(audio_session, make_manifest())
    fed.feed(0)
    with pytest.raises(WandError, match="NaN"):
        fed.finish()


def test_too_few_samples_are_noticed(make_manifest, audio_session) -> None:
    audio_session.run = lambda graph, feeds: {"audio": np.zeros((1, 5), np.float32)}
    fed = stream(audio_session, make_manifest())
    fed.feed(0)
    with pytest.raises(BundleError, match="gave 1 of 2 samples"):
        fed.finish()


class Convolution(AudioSession):
    """A toy decoder: sample i of unit u is the mean of codes within `left` units before and `right` behind, plus noise.

    With `carried`, it is given no left side: the last codes of the call before come as its state.
    """

    def __init__(self, left: int = 2, right: int = 2, **contract: Any) -> None:
        document = DECODER.model_dump(mode="json") | contract
        super().__init__(AudioDecoder.model_validate(document))
        self.left, self.right = left, right
        self.shapes: list[tuple[int, ...]] = []
        self.feeds: list[dict[str, np.ndarray]] = []

    def run(self, graph: str, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        self.feeds.append(dict(feeds))
        codes = feeds["codes"].reshape(-1, self.decoder.unit).sum(1).astype(np.float32)
        self.shapes.append(feeds["codes"].shape)
        known = feeds["state"] if "state" in feeds else np.zeros(self.left, np.float32)
        joined = np.concatenate([known, np.maximum(codes, 0), np.zeros(self.right, np.float32)])
        means = np.convolve(joined, np.ones(self.left + self.right + 1, np.float32) / 16, "valid")
        noise = feeds["noise"].flatten() / 64 if "noise" in feeds else 0
        hop = self.decoder.hop or 2
        chunk = len(codes) - self.decoder.look_ahead
        audio = np.repeat(means, hop)
        audio = audio + noise if np.size(noise) in (1, len(audio)) else audio[: chunk * hop] + noise
        return {"audio": audio[None].astype(np.float32), "new_state": joined[chunk : chunk + self.left]}


NOISE = {"name": "noise", "shape": [1, 0], "axis": 1, "per_unit": 2, "distribution": "uniform"}
NOISY = [{"name": "fake", "inputs": ["codes", "noise"], "outputs": ["audio"], "files": {}}]
STATE = {"input": "state", "output": "new_state", "shape": [2], "dtype": "float32", "initial": 0.0}
CARRYING = [{"name": "fake", "inputs": ["codes", "noise", "state"], "outputs": ["audio", "new_state"], "files": {}}]
WHOLE = {"mode": "whole", "chunk": None, "look_back": 0, "look_ahead": 0, "outside": None}


def whole_and_chunks(manifest, codes, **contract: Any) -> tuple[np.ndarray, np.ndarray, Convolution]:
    """The utterance in one call, and as the contract tells."""
    noisy = {"noise": [NOISE], "graphs": NOISY}
    sessions = Convolution(**noisy, **WHOLE), Convolution(**noisy | contract)
    whole, chunks = (np.concatenate([*(found := spoken(s, manifest, codes))[0], found[1]]) for s in sessions)
    return whole, chunks, sessions[1]


@pytest.mark.parametrize("count", [1, 2, 5, 9, 20])
@pytest.mark.parametrize("chunk", [(1, 1), (2, 5), (7, 3)])
@pytest.mark.parametrize("outside", [-1, None])
def test_windows_equal_the_whole(make_manifest, chunk, outside, count) -> None:
    """Whatever the chunk: the noise is absolute, and nothing is heard twice or left out."""
    sizes = {"first": chunk[0], "later": chunk[1]}
    codes = [i % 8 for i in range(count)]
    whole, chunks, session = whole_and_chunks(make_manifest(), codes, chunk=sizes, outside=outside)
    assert np.array_equal(whole, chunks) and len(whole) == 2 * count
    assert outside is None or {shape[1] - 4 for shape in session.shapes} <= set(chunk)


@pytest.mark.parametrize("count", [1, 2, 5, 9, 20])
@pytest.mark.parametrize("chunk", [(2, 2), (2, 5), (7, 3)])
def test_carried_state_equals_the_whole(make_manifest, chunk, count) -> None:
    """Noise of the chunk alone: as many values fewer as the look-ahead has."""
    contract = {
        "mode": "state", "chunk": {"first": chunk[0], "later": chunk[1]}, "look_back": 0, "states": [STATE],
        "noise": [NOISE | {"behind": -4}], "graphs": CARRYING,
    }  # fmt: skip
    whole, chunks, session = whole_and_chunks(make_manifest(), [i % 8 for i in range(count)], **contract)
    assert np.array_equal(whole, chunks)
    assert all(feeds["noise"].shape == (1, 2 * (feeds["codes"].shape[1] - 2)) for feeds in session.feeds)


def test_a_second_utterance_starts_anew(make_manifest) -> None:
    noise = [NOISE | {"behind": -4}]
    session = Convolution(mode="state", look_back=0, states=[STATE], graphs=CARRYING, noise=noise)
    first, second = (spoken(session, make_manifest(), [7] * 9) for _ in range(2))
    assert all(map(np.array_equal, [*first[0], first[1]], [*second[0], second[1]]))


def test_units_of_several_codes(make_manifest) -> None:
    """What is left of a unit at the end makes no sound."""
    session = Convolution(unit=3)
    fed = stream(session, make_manifest())
    blocks = [fed.feed(1) for _ in range(3 * 7 + 2)]
    samples = np.concatenate([*blocks, fed.finish()])
    assert len(samples) == 7 * 2
    assert {shape[1] for shape in session.shapes} == {3 * 7}


def test_windows_begin_where_they_are_aligned(make_manifest) -> None:
    session = Convolution(align=4, outside=None, chunk={"first": 3, "later": 3}, look_back=1, look_ahead=0)
    spoken(session, make_manifest(), [0] * 14)
    ends, starts = [3, 6, 9, 12, 14], [0, 0, 4, 8, 8]
    assert [shape[1] for shape in session.shapes] == [b - a for a, b in zip(starts, ends, strict=True)]


class Step(AudioSession):
    """Call number k gives samples that all are k."""

    def run(self, graph: str, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        self.calls = getattr(self, "calls", -1) + 1
        return {"audio": np.full((1, feeds["codes"].shape[1] * 2), self.calls, np.float32)}


def test_calls_are_mixed_where_they_meet(make_manifest) -> None:
    session = Step(DECODER.model_copy(update={"crossfade": 4}))
    blocks, tail = spoken(session, make_manifest(), [0] * 8)
    samples = np.concatenate([*blocks, tail])
    assert samples[:6].tolist() == [0] * 6
    assert samples[6:12].tolist() == [0.125, 0.375, 0.625, 0.875, 1, 1]
    assert samples[12:].tolist() == [1.125, 1.375, 1.625, 1.875]


def test_a_prompt_stands_before_every_window(make_manifest) -> None:
    session = Convolution(mode="prefix", outside=None)
    session.run = lambda graph, feeds: (  # type: ignore[method-assign]
        session.feeds.append(dict(feeds)) or {"audio": np.zeros((1, 2 * (feeds["codes"].shape[1] - 2)), np.float32)}
    )
    fed = stream(session, make_manifest(), prefix=[6, 7])
    for code in (1, 2, 3, 4, 5, 0):
        fed.feed(code)
    fed.finish()
    assert [f["codes"][0].tolist() for f in session.feeds] == [[6, 7, 1, 2, 3, 4, 5], [6, 7, 2, 3, 4, 5, 0]]


class Euler(AudioSession):
    """dx/dt = mu, from noise: a graph that makes mu, one that steps, and one that sounds."""

    def run(self, graph: str, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        if graph == "encoder":
            return {"mu": np.repeat(feeds["codes"], 2, axis=1).astype(np.float32)}
        if graph == "flow":
            self.times = [*getattr(self, "times", []), float(feeds["t"][0])]
            return {"next": feeds["x"] + feeds["dt"] * feeds["mu"]}
        return {"audio": feeds["next"] / 8}


def test_a_loop_over_times(make_manifest) -> None:
    graphs = [
        {"name": "encoder", "inputs": ["codes"], "outputs": ["mu"], "files": {}},
        {"name": "flow", "inputs": ["x", "mu", "t", "dt"], "outputs": ["next"], "files": {}},
        {"name": "vocoder", "inputs": ["next"], "outputs": ["audio"], "files": {}},
    ]
    loop = {"graph": "flow", "times": [0.0, 0.25, 1.0], "time": "t", "step": "dt", "carried": {"x": "next"}}
    document = DECODER.model_dump(mode="json") | {"noise": [NOISE | {"name": "x"}], "graphs": graphs, "loop": loop}
    session = Euler(AudioDecoder.model_validate(document))
    blocks, tail = spoken(session, make_manifest(), [1, 2, 3, 4])
    wanted = (np.repeat([1, 2, 3, 4], 2) + noise(5, 0, 8)) / 8
    assert np.allclose(np.concatenate([*blocks, tail]), wanted, atol=1e-6)
    assert session.times == [0.0, 0.25] * 2


def test_noise_of_several_axes_is_absolute() -> None:
    source = AudioNoise(name="x", shape=[1, 3, 0], axis=2, per_unit=2, distribution="normal")
    long = random(source, 9, -1, 6)
    assert long.shape == (1, 3, 14)
    assert np.array_equal(random(source, 9, 2, 4), long[:, :, 6:10])
    assert np.array_equal(long[0, :, 2], normal(9, 0, 3))


def test_what_a_voice_lacks_is_named(make_manifest) -> None:
    mel = {"name": "mel", "source": "voice", "dtype": "float32", "shape": [1, 3], "tensor": "mel"}
    codes = DECODER.inputs[0].model_dump()
    session = Convolution(inputs=[codes, mel])
    with pytest.raises(InputError, match="a voice with tensor 'mel'"):
        stream(session, make_manifest())
    stream(session, make_manifest(), tensors={"mel": np.zeros(3)}).feed(0)


def test_wav_holds_clipped_pcm(tmp_path) -> None:
    path = tmp_path / "out.wav"
    with WavWriter(path, 24000) as writer:
        writer.write(np.array([0, 0.5, -0.5], np.float32))
        assert not path.exists()
        writer.write(np.array([1.5, -1.5], np.float32))
    with wave.open(str(path), "rb") as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (24000, 1, 2)
        assert np.frombuffer(file.readframes(9), "<i2").tolist() == [0, 16384, -16384, 32767, -32767]
    assert os.listdir(tmp_path) == ["out.wav"]


def test_an_empty_wav_is_valid(tmp_path) -> None:
    with WavWriter(tmp_path / "out.wav", 8000):
        pass
    with wave.open(str(tmp_path / "out.wav"), "rb") as file:
        assert file.getnframes() == 0


def test_failure_leaves_the_old_file_and_nothing_else(tmp_path) -> None:
    path = tmp_path / "out.wav"
    path.write_text("old")
    with pytest.raises(RuntimeError), WavWriter(path, 8000) as writer:
        writer.write(np.zeros(10, np.float32))
        raise RuntimeError
    assert os.listdir(tmp_path) == ["out.wav"]
    assert path.read_text() == "old"


def test_a_wav_beyond_its_header_is_refused(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(WavWriter, "MAX_SAMPLES", 10)
    with pytest.raises(InputError, match="4 GiB"), WavWriter(tmp_path / "out.wav", 8000) as writer:
        writer.write(np.zeros(11, np.float32))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", [".", "missing/out.wav"])
def test_paths_that_cannot_be_files_are_refused(tmp_path, name) -> None:
    with pytest.raises(InputError), WavWriter(tmp_path / name, 8000):
        pass


def test_a_device_is_never_replaced() -> None:
    with pytest.raises(InputError, match="not a file"), replacing(Path(os.devnull)):
        pass
