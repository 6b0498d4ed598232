"""Runs a decoder's graphs, in torch or ONNX Runtime, on an utterance whole and in chunks, by the streaming contract."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from wand_export.audio.codec import Codec
from wand_export.host.runtimes.onnx import load
from wand_export.host.sampling import noise
from wand_export.spec.audio import AudioDecoder, AudioNoise

Arrays = Mapping[str, npt.NDArray[Any]]
Runner = Callable[[Arrays], list[npt.NDArray[Any]]]
"""One graph: its inputs by name -> its outputs in order."""


@dataclass(frozen=True)
class Utterance:
    """What a decoder is given: units of codes or vectors, as many as `units`, and what stays the same throughout.

    prefix: the voice's own codes, shaped as the streamed ones.
    """

    units: int
    streamed: dict[str, npt.NDArray[Any]]
    fixed: dict[str, npt.NDArray[Any]]
    prefix: npt.NDArray[Any]
    seed: int = 0


def utterance(codec: Codec, units: int, seed: int = 0) -> Utterance:
    """Seeded random codes and vectors, in the codec's made-up voice."""
    random, decoder = np.random.default_rng(seed), codec.decoder
    streamed = dict[str, npt.NDArray[Any]]()
    for value in decoder.inputs:
        if value.source in ("codes", "hidden"):
            shape = tuple(units * decoder.unit if isinstance(size, str) else size for size in value.shape)
            drawn = random.integers(0, codec.codes, shape) if value.source == "codes" else random.standard_normal(shape)
            streamed[value.name] = drawn.astype(value.dtype)
    voice = {name: value.numpy() for name, value in codec.voice.items()}
    return Utterance(units, streamed, voice, codec.prefix.numpy(), seed)


def torch_runners(codec: Codec) -> dict[str, Runner]:
    """Each graph's module."""

    def runner(name: str, inputs: list[str]) -> Runner:
        def run(values: Arrays) -> list[npt.NDArray[Any]]:
            with torch.no_grad():
                made = codec.graphs[name].module(*(torch.from_numpy(values[i]) for i in inputs))
            return [value.numpy() for value in (made if isinstance(made, tuple) else (made,))]

        return run

    return {graph.name: runner(graph.name, graph.inputs) for graph in codec.decoder.graphs}


def onnx_runners(decoder: AudioDecoder, folder: Path, threads: int | None = None) -> dict[str, Runner]:
    """Each graph's file, opened in ONNX Runtime. Raises BundleError."""

    def runner(name: str, inputs: list[str], outputs: list[str]) -> Runner:
        session = load(folder / name, threads)
        return lambda values: session.run(outputs, {i: values[i] for i in inputs})

    return {graph.name: runner(graph.files["onnx"][0], graph.inputs, graph.outputs) for graph in decoder.graphs}


def run(decoder: AudioDecoder, runners: Mapping[str, Runner], values: Arrays) -> dict[str, npt.NDArray[Any]]:
    """Every value that one call makes, those given included."""
    made = dict(values)
    for graph in decoder.graphs:
        loop = decoder.loop if decoder.loop is not None and decoder.loop.graph == graph.name else None
        if loop is None:
            made |= zip(graph.outputs, runners[graph.name](made), strict=True)
            continue
        for now, after in zip(loop.times, loop.times[1:], strict=False):
            made[loop.time] = np.array([now], np.float32)
            if loop.step is not None:
                made[loop.step] = np.array([after - now], np.float32)
            made |= zip(graph.outputs, runners[graph.name](made), strict=True)
            made |= {source: made[result] for source, result in loop.carried.items()}
    return made


def whole(decoder: AudioDecoder, runners: Mapping[str, Runner], said: Utterance) -> npt.NDArray[np.float32]:
    """The samples of an utterance in one call."""
    return _samples(decoder, runners, said, 0, said.units, _initial(decoder))[0]


def chunked(decoder: AudioDecoder, runners: Mapping[str, Runner], said: Utterance) -> Iterator[npt.NDArray[np.float32]]:
    """The samples of an utterance, chunk by chunk."""
    assert decoder.chunk is not None and decoder.hop is not None
    states, tail = _initial(decoder), np.empty(0, np.float32)
    start, size = 0, decoder.chunk.first
    while start < said.units:
        end = min(start + size, said.units)
        first = max(0, (start - decoder.look_back) // decoder.align * decoder.align)
        samples, states = _samples(decoder, runners, said, start, end, states)
        own = samples[(start - first) * decoder.hop :]
        mixed = min(len(tail), decoder.crossfade)
        weight = (np.arange(mixed, dtype=np.float32) + 0.5) / decoder.crossfade if mixed else 0
        block = own[: (end - start) * decoder.hop].copy()
        block[:mixed] = weight * block[:mixed] + (1 - weight) * tail[:mixed]
        yield block
        tail = own[(end - start) * decoder.hop :][: decoder.crossfade]
        start, size = end, decoder.chunk.later


def inputs_of(decoder: AudioDecoder, said: Utterance, start: int, end: int) -> dict[str, npt.NDArray[Any]]:
    """What a call on units start to end is given, but for the states."""
    first = max(0, (start - decoder.look_back) // decoder.align * decoder.align)
    last = min(said.units, end + decoder.look_ahead)
    values = dict(said.fixed)
    for value in decoder.inputs:
        if value.name in said.streamed:
            axis = next(i for i, size in enumerate(value.shape) if isinstance(size, str))
            places = range(first * decoder.unit, last * decoder.unit)
            values[value.name] = np.take(said.streamed[value.name], places, axis)
            if value.source == "codes" and decoder.mode == "prefix":
                values[value.name] = np.concatenate([said.prefix, values[value.name]], axis)
    for number, wanted in enumerate(decoder.noise):
        values[wanted.name] = noise_of(wanted, first, last, said.seed + (number << 48))
    return values


def noise_of(wanted: AudioNoise, first: int, last: int, seed: int) -> npt.NDArray[np.float32]:
    """Noise for units first to last."""
    others = [size for size in wanted.shape if size]
    count = (last - first) * wanted.per_unit
    each = int(np.prod(others))
    values = noise(seed, first * wanted.per_unit * each, count * each).reshape(count, *others)
    return np.ascontiguousarray(np.moveaxis(values, 0, wanted.axis))


def _initial(decoder: AudioDecoder) -> dict[str, npt.NDArray[Any]]:
    return {state.input: np.full(state.shape, state.initial, state.dtype) for state in decoder.states}


def _samples(
    decoder: AudioDecoder, runners: Mapping[str, Runner], said: Utterance, start: int, end: int, states: Arrays
) -> tuple[npt.NDArray[np.float32], dict[str, npt.NDArray[Any]]]:
    made = run(decoder, runners, {**inputs_of(decoder, said, start, end), **states})
    return made[decoder.samples].reshape(-1), {state.input: made[state.output] for state in decoder.states}
