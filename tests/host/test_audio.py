"""Chunks, context, noise and phase of a stream, and files that exist only when they are whole."""

import io
import os
import wave

import numpy as np
import pytest

from wand_export.errors import BundleError, InputError, WandError
from wand_export.host.audio import AudioStream, WavStream, WavWriter
from wand_export.host.sampling import noise


def spoken(session, manifest, codes):
    stream = AudioStream(session, manifest.audio, seed=5)
    blocks = [stream.feed(code) for code in codes]
    return blocks, stream.finish()


@pytest.mark.parametrize("count", range(0, 15))
def test_every_length_gives_its_samples(make_manifest, audio_session, count) -> None:
    codes = [i % 8 for i in range(count)]
    blocks, tail = spoken(audio_session, make_manifest(), codes)
    samples = np.concatenate([*blocks, tail])
    assert samples.dtype == np.float32
    assert samples.tolist() == np.repeat((np.array(codes) + 1) / 16, 2).tolist()
    assert len(audio_session.calls) == -(-count // 3)


@pytest.mark.parametrize("count", [1, 3, 5, 8, 11])
def test_calls_see_the_context_and_nothing_outside(make_manifest, audio_session, count) -> None:
    codes = [i % 8 for i in range(count)]
    spoken(audio_session, make_manifest(), codes)
    padded = [-1, -1, *codes] + [-1] * 10
    assert [call[0] for call in audio_session.calls] == [padded[i : i + 7] for i in range(0, count, 3)]


def test_a_chunk_comes_as_soon_as_its_context_exists(make_manifest, audio_session) -> None:
    blocks, tail = spoken(audio_session, make_manifest(), [0] * 9)
    assert [len(block) for block in blocks] == [0, 0, 0, 0, 6, 0, 0, 6, 0]
    assert len(tail) == 6


def test_noise_is_centred_and_absolute_and_the_phase_is_carried(make_manifest, audio_session) -> None:
    spoken(audio_session, make_manifest(), [0] * 7)
    # 10 samples of noise for 6 of audio: two on each side.
    for i, (_, given, phase) in enumerate(audio_session.calls):
        assert np.array_equal(given, noise(5, 6 * i - 2, 10))
        assert phase == 0.25 * i


def test_memory_does_not_grow(make_manifest, audio_session) -> None:
    stream = AudioStream(audio_session, make_manifest().audio, 0)
    for _ in range(1000):
        stream.feed(1)
        assert len(stream._codes) < 7


@pytest.mark.parametrize("token", [-1, 8])
def test_an_id_that_is_no_code_is_refused(make_manifest, audio_session, token) -> None:
    with pytest.raises(BundleError, match=f"id {token} "):
        AudioStream(audio_session, make_manifest().audio, 0).feed(token)


def test_silent_ids_make_no_samples(make_manifest, audio_session) -> None:
    audio = make_manifest().audio
    mixed = audio.model_copy(update={"silent": [(20, 29)]})

    def spoken(description, ids) -> list[float]:
        stream = AudioStream(audio_session, description, seed=1)
        return np.concatenate([*map(stream.feed, ids), stream.finish()]).tolist()

    assert spoken(mixed, [20, 1, 2, 29, 3, 25]) == spoken(audio, [1, 2, 3])


def test_ids_are_counted_from_the_first(make_manifest, audio_session) -> None:
    audio = make_manifest().audio.model_copy(update={"first_id": 100})
    stream = AudioStream(audio_session, audio, 0)
    stream.feed(103)
    stream.finish()
    assert audio_session.calls[0][0] == [-1, -1, 3, -1, -1, -1, -1]


def test_samples_that_are_not_finite_are_not_passed_on(make_manifest, audio_session) -> None:
    audio_session.decode = lambda tokens, noise, phase: (np.full(6, np.nan, np.float32), phase)
    stream = AudioStream(audio_session, make_manifest().audio, 0)
    stream.feed(0)
    with pytest.raises(WandError, match="NaN"):
        stream.finish()


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


@pytest.mark.parametrize("name", ["out.mp3", "out.FLAC", "a.b.ogg", "out.m4a"])
def test_a_name_of_another_format_is_refused(tmp_path, name) -> None:
    with pytest.raises(InputError, match="would hold WAV"):
        WavWriter(tmp_path / name, 8000)
    for other in ("out", "out.wav", "out.WAV", "mp3"):
        WavWriter(str(tmp_path / other), 8000)


def test_a_stream_is_a_wav_without_an_end(tmp_path) -> None:
    class Pipe(io.RawIOBase):
        def __init__(self) -> None:
            self.blocks: list[bytes] = []

        def writable(self) -> bool:
            return True

        def write(self, data) -> int:
            self.blocks.append(bytes(data))
            return len(data)

    pipe = Pipe()
    with WavStream(pipe, 24000) as stream:
        assert len(pipe.blocks) == 1  # a player can begin
        stream.write(np.array([0, 0.5, -1.5], np.float32))
        assert len(pipe.blocks) == 2
    head, samples = pipe.blocks
    assert (head[4:8], head[40:44]) == (b"\xff" * 4, b"\xff" * 4)
    with WavWriter(tmp_path / "out.wav", 24000) as file:
        file.write(np.array([0, 0.5, -1.5], np.float32))
    whole = (tmp_path / "out.wav").read_bytes()
    assert (head[:4], head[8:40], samples) == (whole[:4], whole[8:40], whole[44:])


def test_a_stream_that_takes_nothing_is_named() -> None:
    with open("/dev/full", "wb", buffering=0) as full, pytest.raises(OSError) as caught, WavStream(full, 24000):
        pass
    assert caught.value.filename == "/dev/full"
