"""From token ids to samples, chunk by chunk, and to a WAV file or stream."""

import struct
import wave
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np
import numpy.typing as npt

from wand_export.errors import BundleError, InputError, WandError
from wand_export.host.output import replacing
from wand_export.host.sampling import noise
from wand_export.host.session import AudioGraphSession, AudioSession
from wand_export.spec.manifest import Audio

OUTSIDE = -1
"""The code that stands for "outside the utterance" in the context of a chunk."""

OTHER_FORMATS = {
    ".aac",
    ".aif",
    ".aiff",
    ".flac",
    ".m4a",
    ".m4b",
    ".mp3",
    ".mp4",
    ".oga",
    ".ogg",
    ".opus",
    ".webm",
    ".wma",
}
"""Names of files that players would read as something else than WAV."""
_ENDLESS = 2**32 - 1

Floats = npt.NDArray[np.float32]


def code_of(audio: Audio, token: int) -> int:
    """The audio code of a generated id that is not silent. Raises BundleError if it is none."""
    code = token - audio.first_id
    if not 0 <= code < audio.codes:
        fix = "its recipe's head should keep audio codes, silent ids and stops alone"
        raise BundleError("manifest.json", f"generated id {token} is no audio code", fix)
    return code


class AudioStream:
    """One utterance's token ids, fed as they are generated, as samples.

    A chunk is decoded as soon as its right context exists. The noise of a call is centred on its chunk and taken
    by absolute sample index, so that neighbouring calls agree where they overlap.
    """

    def __init__(self, session: AudioSession, audio: Audio, seed: int) -> None:
        """Raises ValueError if `audio` describes no decoder."""
        if audio.decoder is None:
            raise ValueError("a stream needs an audio decoder")
        self._session, self._audio, self._decoder, self._seed = session, audio, audio.decoder, seed
        self._codes = [OUTSIDE] * self._decoder.context
        self._fed = self._made = 0
        self._phase = 0.0

    def feed(self, token: int, hidden: Floats | None = None) -> Floats:
        """The samples, float32 [n], that token id `token` completes: those of one chunk, or none.

        Raises BundleError for an id that is neither an audio code nor silent.
        """
        if self._audio.is_silent(token):
            return np.empty(0, np.float32)
        self._codes.append(code_of(self._audio, token))
        self._fed += 1
        if len(self._codes) < self._decoder.chunk + 2 * self._decoder.context:
            return np.empty(0, np.float32)
        return self._decode()

    def finish(self) -> Floats:
        """The samples, float32 [n], up to the end of the last token. Nothing can be fed afterwards."""
        blocks = [np.empty(0, np.float32)]
        while self._made < self._fed:
            left = self._fed - self._made
            missing = self._decoder.chunk + 2 * self._decoder.context - len(self._codes)
            self._codes += [OUTSIDE] * missing
            blocks.append(self._decode()[: left * self._decoder.samples_per_token])
        return np.concatenate(blocks)

    def _decode(self) -> Floats:
        """Decode the chunk behind the left context, and let the next one take its place."""
        decoder = self._decoder
        chunk_samples = decoder.chunk * decoder.samples_per_token
        start = self._made * decoder.samples_per_token - (decoder.noise_samples - chunk_samples) // 2
        codes = np.array(self._codes, np.int32)
        samples, self._phase = self._session.decode(codes, noise(self._seed, start, decoder.noise_samples), self._phase)
        if not np.isfinite(samples).all():
            raise WandError(
                "audio decoder", f"NaN or infinity behind token {self._made}", "run wand verify on the bundle"
            )
        del self._codes[: decoder.chunk]
        self._made += decoder.chunk
        return samples


class GraphStream:
    """One utterance's token ids and hidden vectors, gathered, and at its end as samples."""

    def __init__(
        self,
        session: AudioGraphSession,
        audio: Audio,
        speaker: Sequence[int],
        tensors: Mapping[str, npt.NDArray[Any]],
    ) -> None:
        """speaker: the voice's globals; tensors: the voice's own.

        Raises ValueError if `audio` describes no graph, InputError if the voice lacks a tensor that it takes.
        """
        if audio.graph is None:
            raise ValueError("a stream needs an audio graph")
        self._session, self._audio, self._graph = session, audio, audio.graph
        self._fixed: dict[str, npt.NDArray[Any]] = {"globals": np.array(speaker)}
        for wanted in self._graph.inputs:
            if wanted.source == "voice":
                if wanted.tensor is None or wanted.tensor not in tensors:
                    fix = "wand export --voice brings one along"
                    raise InputError("audio decoder", f"it needs a voice with tensor {wanted.tensor!r}", fix)
                self._fixed[wanted.name] = tensors[wanted.tensor]
        self._codes: list[int] = []
        self._hidden: list[Floats] = []

    def feed(self, token: int, hidden: Floats) -> Floats:
        """No samples yet. Raises BundleError for an id that is neither an audio code nor silent."""
        if not self._audio.is_silent(token):
            self._codes.append(code_of(self._audio, token))
            self._hidden.append(hidden)
        return np.empty(0, np.float32)

    def finish(self) -> Floats:
        """The samples of the utterance, float32 [n]."""
        if not self._codes:
            return np.empty(0, np.float32)
        made = {"codes": np.array(self._codes), "hidden": np.array(self._hidden)}
        feeds = {}
        for wanted in self._graph.inputs:
            value = self._fixed[wanted.name] if wanted.source == "voice" else {**self._fixed, **made}[wanted.source]
            # Declared shapes may hold dimensions of one in front.
            shape = (1,) * (len(wanted.shape) - value.ndim) + value.shape
            feeds[wanted.name] = value.astype(wanted.dtype).reshape(shape)
        samples = self._session.decode(feeds)
        if not np.isfinite(samples).all():
            raise WandError("audio decoder", "NaN or infinity in its samples", "run wand verify on the bundle")
        return samples


class WavWriter:
    """A mono 16-bit PCM file, written block by block: `with WavWriter(path, rate) as wav: wav.write(samples)`."""

    MAX_SAMPLES = (2**32 - 64) // 2
    """The header counts bytes in 32 bits."""

    def __init__(self, path: Path | str, sample_rate: int) -> None:
        """Raises InputError if the file's name tells of another format."""
        self.path, self.sample_rate, self.samples = Path(path), sample_rate, 0
        if self.path.suffix.lower() in OTHER_FORMATS:
            raise InputError(self.path, "would hold WAV, whatever its name", "name it .wav, and convert it afterwards")

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
        self._file.writeframesraw(_pcm(samples))

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stack.__exit__(kind, error, at)


class WavStream:
    """The same into a stream that cannot go back, such as a pipe, each block as soon as it is there.

    The header comes first and tells the largest sizes, as players take for "until the end".
    """

    def __init__(self, stream: BinaryIO, sample_rate: int) -> None:
        self._stream, self._rate = stream, sample_rate

    def __enter__(self) -> Self:
        form = struct.pack("<HHIIHH", 1, 1, self._rate, 2 * self._rate, 2, 16)  # PCM, one channel of 2 bytes
        riff = struct.pack("<4sI4s4sI", b"RIFF", _ENDLESS, b"WAVE", b"fmt ", len(form))
        self._send(riff + form + struct.pack("<4sI", b"data", _ENDLESS))
        return self

    def write(self, samples: Floats) -> None:
        """Send float32 samples [n]; those outside [-1, 1] are clipped."""
        self._send(_pcm(samples))

    def _send(self, data: bytes) -> None:
        try:
            self._stream.write(data)
            self._stream.flush()
        except OSError as error:
            error.filename = error.filename or str(getattr(self._stream, "name", "stream"))
            raise

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        return None


def _pcm(samples: Floats) -> bytes:
    return np.rint(np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes()
