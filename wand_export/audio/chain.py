"""A decoder's graphs in torch, or as files, behind the host's own stream: what is measured here is what a host does."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from wand_export.audio.codec import Codec
from wand_export.host.audio import AudioStream
from wand_export.host.session import AudioSession, Floats
from wand_export.spec.audio import AudioChunk, AudioDecoder
from wand_export.spec.manifest import Audio


@dataclass(frozen=True)
class Utterance:
    """Codes [n], the vectors that they were picked from [n, D] where a decoder reads some, and the noise's seed."""

    codes: npt.NDArray[np.int64]
    hidden: Floats | None
    seed: int = 0


def utterance(codec: Codec, units: int, seed: int = 0) -> Utterance:
    """Seeded random codes and vectors."""
    random, count = np.random.default_rng(seed), units * codec.decoder.unit
    codes = random.integers(0, codec.codes, count)
    widths = [int(value.shape[-1]) for value in codec.decoder.inputs if value.source == "hidden"]
    hidden = random.standard_normal((count, widths[0])).astype(np.float32) if widths else None
    return Utterance(codes, hidden, seed)


class TorchAudio(AudioSession):
    """The graphs' modules."""

    def __init__(self, codec: Codec) -> None:
        super().__init__(codec.decoder)
        self._graphs = {graph.name: (codec.graphs[graph.name].module, graph) for graph in codec.decoder.graphs}

    @torch.no_grad()
    def run(self, graph: str, feeds: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        module, told = self._graphs[graph]
        made = module(*(torch.from_numpy(feeds[name]) for name in told.inputs))
        outputs = made if isinstance(made, tuple) else (made,)
        return {name: value.numpy() for name, value in zip(told.outputs, outputs, strict=True)}


class Recorder(AudioSession):
    """Another session, and of each value that it was given the first."""

    def __init__(self, session: AudioSession, decoder: AudioDecoder) -> None:
        super().__init__(decoder)
        self._session = session
        self.values: dict[str, npt.NDArray[Any]] = {}

    def run(self, graph: str, feeds: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        self.values = {**feeds, **self.values}
        return self._session.run(graph, feeds)


def speak(session: AudioSession, codec: Codec, said: Utterance) -> Floats:
    """The samples of an utterance in the codec's made-up voice, in chunks."""
    tensors = {v.tensor: codec.voice[v.name].numpy() for v in session.decoder.inputs if v.tensor is not None}
    speaker = [codec.voice[v.name].flatten().tolist() for v in session.decoder.inputs if v.source == "globals"]
    audio = Audio(
        token_rate=1, sample_rate=codec.sample_rate, first_id=0, codes=codec.codes, silent=[], silent_rate=0
    )  # a stream asks it for codes alone
    prefix, own = codec.prefix.flatten().tolist(), speaker[0] if speaker else ()
    stream = AudioStream(session, audio, said.seed, prefix=prefix, speaker=own, tensors=tensors)
    blocks = [
        stream.feed(int(code), None if said.hidden is None else said.hidden[i]) for i, code in enumerate(said.codes)
    ]
    return np.concatenate([*blocks, stream.finish()])


def speak_whole(session: AudioSession, codec: Codec, said: Utterance) -> tuple[Floats, dict[str, npt.NDArray[Any]]]:
    """The same in one call, and the values that its graphs were given."""
    decoder = session.decoder
    if decoder.chunk is not None:
        units = len(said.codes) // decoder.unit
        decoder = decoder.model_copy(update={"chunk": AudioChunk(first=units, later=units)})
    recorder = Recorder(session, decoder)
    return speak(recorder, codec, said), recorder.values
