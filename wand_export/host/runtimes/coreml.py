"""Core ML: on a Mac its own runtime, elsewhere the interpreter of the same package.

A prefix goes through the function `prefill` in chunks padded to its fixed S, generated rows through `decode`. Both
work on one state: on a Mac an MLState that one function's model makes and both take, as Apple's runtime allows for
functions of one package with the same states (apple/coremltools pull request 2686; so do Anemll's hosts).
"""

import sys
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from wand_export.errors import BundleError
from wand_export.host.runtimes.coreml_interpreter import Interpreter
from wand_export.host.runtimes.coreml_package import Array
from wand_export.host.session import AudioSession, Floats, Session, StepOutput
from wand_export.spec.audio import AudioChunk, AudioDecoder
from wand_export.spec.manifest import Artifact, Manifest

PREFILL, DECODE = "prefill", "decode"
FIRST, LATER = "first", "later"
"""Functions of an audio decoder, by the call that they are for."""


def open_decoder(folder: Path, name: str, manifest: Manifest, artifact: Artifact, threads: int | None) -> Session:
    """The decoder of a bundle at `folder`. Core ML chooses its own threads. Raises BundleError."""
    kind = CoreMLSession if sys.platform == "darwin" else InterpretedSession
    return kind(folder, name, manifest, artifact)


def open_exact(folder: Path, name: str, manifest: Manifest, artifact: Artifact) -> Session:
    """The decoder interpreted in float32 throughout: what the file holds, without float16's rounding."""
    return InterpretedSession(folder, name, manifest, artifact, half=False)


def open_audio(folder: Path, decoder: AudioDecoder, threads: int | None) -> AudioSession:
    """An audio decoder of a bundle at `folder`. Raises BundleError."""
    return (CoreMLAudio if sys.platform == "darwin" else InterpretedAudio)(folder, decoder)


class PackageSession(Session):
    """A package of the two functions, whoever runs them."""

    def __init__(self, name: str, manifest: Manifest, artifact: Artifact) -> None:
        super().__init__(name, manifest, artifact)
        self._prefill_rows = artifact.prefill_chunk

    def _run(self, rows: Floats) -> StepOutput:
        generated = self.position >= self.prefix_len
        embeds = np.zeros((1, 1 if generated else self._prefill_rows, self.hidden), np.float32)
        embeds[0, : len(rows)] = rows
        integers = {"position": self.position, "prefix_len": self.prefix_len, "last": len(rows) - 1}
        inputs = {"embeds": embeds, **{name: np.array([value], np.int32) for name, value in integers.items()}}
        outputs = self._call(DECODE if generated else PREFILL, inputs)
        return StepOutput(np.array(outputs["logits"], np.float32), np.array(outputs["hidden"], np.float32))

    @abstractmethod
    def _call(self, function: str, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """Call one function of the package over the state."""


class InterpretedSession(PackageSession):
    """A package run by our own interpreter, in float16 as on a device or, not half, in float32."""

    how: ClassVar[Literal["ran", "interpreted"]] = "interpreted"

    def __init__(self, folder: Path, name: str, manifest: Manifest, artifact: Artifact, *, half: bool = True) -> None:
        super().__init__(name, manifest, artifact)
        interpreter = Interpreter((folder / artifact.files[0]).parent, half)
        self._functions, self._state = interpreter.functions, interpreter.new_state()

    def _call(self, function: str, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        return self._functions[function](inputs, self._state)

    def close(self) -> None:
        self._functions.clear()
        self._state.clear()


class CoreMLSession(PackageSession):
    """A package run by Core ML on a Mac, where its compute units are asked for."""

    def __init__(self, folder: Path, name: str, manifest: Manifest, artifact: Artifact) -> None:
        super().__init__(name, manifest, artifact)
        package = (folder / artifact.files[0]).parent
        self._models = {function: load(package, function, "CPU_AND_NE") for function in (PREFILL, DECODE)}
        self._state = self._models[DECODE].make_state()

    def _call(self, function: str, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        outputs: Mapping[str, Array] = self._models[function].predict(dict(inputs), state=self._state)
        return outputs

    def close(self) -> None:
        self._models.clear()
        del self._state


def load(package: Path, function: str | None, units: str) -> Any:
    """coremltools' MLModel of one function. units: a name of ct.ComputeUnit. Raises BundleError if Core ML refuses."""
    import coremltools as ct

    try:
        return ct.models.MLModel(str(package), compute_units=ct.ComputeUnit[units], function_name=function)
    except Exception as error:  # whatever Core ML finds wrong comes as RuntimeError or a class of coremltools'
        raise BundleError(package, f"Core ML refuses it: {error}".splitlines()[0], "export the bundle again") from error


def audio_functions(chunk: AudioChunk) -> dict[int, str]:
    """The functions of an audio decoder, by the units that they add; one where both chunks have one length."""
    return {chunk.first: FIRST} | {chunk.later: LATER}


class PackageAudio(AudioSession):
    """A package for each graph, whoever runs them: shapes are fixed, and each length of a chunk has its function."""

    def __init__(self, folder: Path, decoder: AudioDecoder) -> None:
        super().__init__(decoder)
        self._graphs = {graph.name: graph for graph in decoder.graphs}
        self._codes = next(value.name for value in decoder.inputs if value.source == "codes")
        assert decoder.chunk is not None
        around = decoder.look_back + decoder.look_ahead
        lengths = audio_functions(decoder.chunk).items()
        self._functions = {(units + around) * decoder.unit: name for units, name in lengths}
        self._open({graph.name: (folder / graph.files["coreml"][0]).parent for graph in decoder.graphs})

    def run(self, graph: str, feeds: Mapping[str, Array]) -> dict[str, Array]:
        outputs = self._call(graph, self._functions[feeds[self._codes].shape[-1]], feeds)
        return {name: np.asarray(outputs[name], np.float32) for name in self._graphs[graph].outputs}

    @abstractmethod
    def _open(self, packages: Mapping[str, Path]) -> None:
        """Open the package of each graph."""

    @abstractmethod
    def _call(self, graph: str, function: str, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        """Call one function of a graph's package."""


class InterpretedAudio(PackageAudio):
    """An audio decoder run by our own interpreter."""

    how = "interpreted"

    def _open(self, packages: Mapping[str, Path]) -> None:
        self._interpreters = {name: Interpreter(package, half=True) for name, package in packages.items()}

    def _call(self, graph: str, function: str, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        return self._interpreters[graph].functions[function](feeds, {})


class CoreMLAudio(PackageAudio):
    """An audio decoder run by Core ML on a Mac. Its float32 is beyond the Neural Engine."""

    def _open(self, packages: Mapping[str, Path]) -> None:
        functions = set(self._functions.values())
        self._models = {(n, f): load(package, f, "CPU_AND_GPU") for n, package in packages.items() for f in functions}

    def _call(self, graph: str, function: str, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        outputs: Mapping[str, Array] = self._models[graph, function].predict(dict(feeds))
        return outputs
