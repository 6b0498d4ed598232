"""From token ids to samples, as spec/audio.py tells, and to a WAV file that exists only when it is whole."""

import math
import os
import wave
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from wand_export.errors import BundleError, InputError, WandError
from wand_export.host.sampling import noise, normal
from wand_export.host.session import AudioSession
from wand_export.spec.audio import AudioNoise
from wand_export.spec.manifest import Audio

Floats = npt.NDArray[np.float32]
Values = dict[str, npt.NDArray[Any]]

SILENCE: Floats = np.empty(0, np.float32)
_STREAMS_APART = 2**48
"""Seeds between the noise inputs of a decoder."""


def code_of(audio: Audio, token: int) -> int:
    """The audio code of a generated id that is not silent. Raises BundleError if it is none."""
    code = token - audio.first_id
    if not 0 <= code < audio.codes:
        fix = "its recipe's head should keep audio codes, silent ids and stops alone"
        raise BundleError("manifest.json", f"generated id {token} is no audio code", fix)
    return code


class AudioStream:
    """One utterance's token ids and hidden vectors, fed as they are generated, as samples.

    A chunk is spoken as soon as its look-ahead exists. A session serves any number of streams, one after another.
    """

    def __init__(
        self,
        session: AudioSession,
        audio: Audio,
        seed: int,
        *,
        prefix: Sequence[int] = (),
        speaker: Sequence[int] = (),
        tensors: Mapping[str, npt.NDArray[Any]] | None = None,
    ) -> None:
        """prefix: the voice's prompt_tokens; speaker: its globals; tensors: its own.

        Raises InputError if the voice lacks a tensor that the decoder takes.
        """
        decoder = session.decoder
        self._session, self._audio, self._decoder, self._seed = session, audio, decoder, seed
        self._prefix = list(prefix) if decoder.mode == "prefix" else []
        self._fixed: Values = {}
        for wanted in decoder.inputs:
            if wanted.source == "globals":
                self._fixed[wanted.name] = np.array(speaker)
            elif wanted.source == "voice":
                if wanted.tensor is None or wanted.tensor not in (tensors or {}):
                    fix = "wand export --voice brings one along"
                    raise InputError("audio decoder", f"it needs a voice with tensor {wanted.tensor!r}", fix)
                self._fixed[wanted.name] = (tensors or {})[wanted.tensor]
        self._states: Values = {s.input: np.full(s.shape, s.initial, s.dtype) for s in decoder.states}
        self._codes: list[int] = []
        self._hidden: list[Floats] = []
        self._forgotten = self._made = 0
        """Units whose codes are held no more, and units that are spoken."""
        self._tail = SILENCE

    @property
    def _units(self) -> int:
        """Whole units that were fed."""
        return self._forgotten + len(self._codes) // self._decoder.unit

    def feed(self, token: int, hidden: Floats | None = None) -> Floats:
        """The samples, float32 [n], that token id `token` completes: those of one chunk, or none.

        Raises BundleError for an id that is neither an audio code nor silent.
        """
        if self._audio.is_silent(token):
            return SILENCE
        self._codes.append(code_of(self._audio, token))
        if self._decoder.reads_hidden:
            assert hidden is not None
            self._hidden.append(hidden)
        if self._decoder.chunk is None or self._units < self._made + self._chunk() + self._decoder.look_ahead:
            return SILENCE
        return self._speak(self._chunk())

    def finish(self) -> Floats:
        """The samples, float32 [n], up to the end of the last whole unit. Nothing can be fed afterwards."""
        blocks = [SILENCE]
        while self._made < self._units:
            blocks.append(self._speak(self._chunk()))
        return np.concatenate(blocks)

    def _chunk(self) -> int:
        """Units of the next call."""
        chunk = self._decoder.chunk
        if chunk is None:
            return self._units
        return chunk.later if self._made else chunk.first

    def _speak(self, chunk: int) -> Floats:
        """Call the graphs for the next `chunk` units; what lies behind the last one is left out."""
        decoder, units, made = self._decoder, self._units, self._made
        first = (made - decoder.look_back) // decoder.align * decoder.align
        last = made + chunk + decoder.look_ahead
        if decoder.outside is None:
            first, last = max(first, 0), min(last, units)
        values = self._given(first, last)
        for graph in decoder.graphs:
            loop = decoder.loop
            if loop is None or loop.graph != graph.name:
                values |= self._session.run(graph.name, {name: values[name] for name in graph.inputs})
                continue
            for now, following in pairwise(loop.times):
                values[loop.time] = np.array([now], np.float32)
                if loop.step is not None:
                    values[loop.step] = np.array([following - now], np.float32)
                values |= self._session.run(graph.name, {name: values[name] for name in graph.inputs})
                values |= {name: values[output] for name, output in loop.carried.items()}
        samples = np.asarray(values[decoder.samples], np.float32).reshape(-1)
        if not np.isfinite(samples).all():
            raise WandError("audio decoder", f"NaN or infinity behind unit {made}", "run wand verify on the bundle")
        self._states = {state.input: values[state.output] for state in decoder.states}
        self._made = min(made + chunk, units)
        self._forget()
        return samples if decoder.hop is None else self._cut(samples, made - first, self._made - made, decoder.hop)

    def _cut(self, samples: Floats, skipped: int, units: int, hop: int) -> Floats:
        """The samples of some units behind those that are skipped, mixed with the tail of the call before."""
        ahead = samples[skipped * hop :]
        count, fade = units * hop, self._decoder.crossfade
        if len(ahead) < count:
            raise BundleError("manifest.json", f"an audio decoder gave {len(ahead)} of {count} samples", "export again")
        spoken = ahead[:count].copy()
        mixed = min(len(self._tail), count)
        weight = (np.arange(mixed, dtype=np.float32) + np.float32(0.5)) / np.float32(max(fade, 1))
        spoken[:mixed] = self._tail[:mixed] + weight * (spoken[:mixed] - self._tail[:mixed])
        self._tail = ahead[count : count + fade]
        return spoken

    def _forget(self) -> None:
        """Let go of what no later call is given."""
        decoder = self._decoder
        needed = max((self._made - decoder.look_back) // decoder.align * decoder.align, 0)
        gone = (needed - self._forgotten) * decoder.unit
        del self._codes[:gone]
        del self._hidden[:gone]
        self._forgotten = needed

    def _given(self, first: int, last: int) -> Values:
        """The values that a call on these units starts with."""
        decoder, units = self._decoder, self._units
        before, behind = max(-first, 0) * decoder.unit, max(last - units, 0) * decoder.unit
        held = slice(
            (max(first, 0) - self._forgotten) * decoder.unit, (min(last, units) - self._forgotten) * decoder.unit
        )
        outside = [] if decoder.outside is None else [decoder.outside]
        made: Values = {"codes": np.array([*self._prefix, *outside * before, *self._codes[held], *outside * behind])}
        if decoder.reads_hidden:
            vectors = np.array(self._hidden[held])
            made["hidden"] = np.pad(vectors, ((before, behind), (0, 0)))
        values = dict(self._states)
        for wanted in decoder.inputs:
            value = self._fixed[wanted.name] if wanted.name in self._fixed else made[wanted.source]
            # Declared shapes may hold dimensions of one in front.
            shape = (1,) * (len(wanted.shape) - value.ndim) + value.shape
            values[wanted.name] = value.astype(wanted.dtype).reshape(shape)
        for number, source in enumerate(decoder.noise):
            values[source.name] = random(source, self._seed + number * _STREAMS_APART, first, last)
        return values


def random(source: AudioNoise, seed: int, first: int, last: int) -> Floats:
    """The noise of a call on units first to last: float32, its own shape."""
    start = first * source.per_unit - source.before
    count = last * source.per_unit + source.behind - start
    others = [size for axis, size in enumerate(source.shape) if axis != source.axis]
    width = math.prod(others)
    draw = noise if source.distribution == "uniform" else normal
    values = draw(seed, start * width, count * width).reshape(count, *others)
    return np.ascontiguousarray(np.moveaxis(values, 0, source.axis))


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, renamed to it at the end, removed on failure.

    Raises InputError if `path` is something other than a file, or its folder does not exist or cannot be written.
    """
    if path.exists() and not path.is_file():
        raise InputError(path, "exists and is not a file", "give the path of a file")
    if not path.parent.is_dir():
        raise InputError(path.parent, "no such folder", "create it first")
    if not os.access(path.parent, os.W_OK):
        raise InputError(path.parent, "cannot be written", "choose another folder")
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


class WavWriter:
    """A mono 16-bit PCM file, written block by block: `with WavWriter(path, rate) as wav: wav.write(samples)`."""

    MAX_SAMPLES = (2**32 - 64) // 2
    """The header counts bytes in 32 bits."""

    def __init__(self, path: Path, sample_rate: int) -> None:
        self.path, self.sample_rate, self.samples = path, sample_rate, 0

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            part = stack.enter_context(replacing(self.path))
            self._file = stack.enter_context(wave.open(str(part), "wb"))
            self._file.setnchannels(1)
            self._file.setsampwidth(2)
            self._file.setframerate(self.sample_rate)
            self._stack = stack.pop_all()
        return self

    def write(self, samples: Floats) -> None:
        """Append float32 samples [n]; those outside [-1, 1] are clipped. Raises InputError beyond 4 GiB."""
        self.samples += len(samples)
        if self.samples > self.MAX_SAMPLES:
            raise InputError(self.path, "more than the 4 GiB of a WAV file", "speak the text in parts")
        self._file.writeframesraw(np.rint(np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stack.__exit__(kind, error, at)
