"""ONNX Runtime: one dynamic-S graph whose cache outputs are bound in place of its cache inputs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from wand_export.errors import BundleError
from wand_export.host.cores import checked_threads
from wand_export.host.denormals import flushed_denormals
from wand_export.host.memory import collapse_pages, release_pages
from wand_export.host.session import AudioSession, Floats, Session, StepOutput
from wand_export.spec.audio import AudioDecoder, AudioGraph, AudioInput
from wand_export.spec.manifest import Artifact, Manifest

_OTHER = "it and the manifest are of different bundles: copy or export the bundle again"
_ONNX_TYPES = {"int32": "tensor(int32)", "int64": "tensor(int64)", "float32": "tensor(float)"}


def load(path: Path, threads: int | None, spinning: bool = True) -> Any:
    """An InferenceSession on the CPU, its weights gathered into huge pages where the system has them.

    spinning: whether its threads wait for the next run at work, as a decoder's do between its steps.

    Raises BundleError naming the file if ONNX Runtime refuses it, InputError for more threads than processors.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = checked_threads(threads) or 0
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if spinning else "0")
    options.enable_mem_pattern = False  # a pattern keeps memory for each length of a prefill, and saves no time
    # Softmax leaves denormals in masked slots, which doubles its time. This is for the runtime's own threads.
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    try:
        with flushed_denormals():
            session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime raises a class of its own for each status, UnicodeDecodeError too
        found = f"ONNX Runtime {ort.__version__} refuses it: {error}".splitlines()[0]
        # 1.24.1 reads no weights behind links, of which the Hugging Face cache is made.
        links = "take another version of onnxruntime, or copy the bundle by cp -rL"
        fix = links if path.is_symlink() else "copy or export the bundle again"
        raise BundleError(path, found, fix) from error
    collapse_pages()
    return session


def open_decoder(folder: Path, name: str, manifest: Manifest, artifact: Artifact, threads: int | None) -> "OnnxSession":
    """The decoder of a bundle at `folder`. Raises BundleError."""
    return OnnxSession(folder, name, manifest, artifact, threads)


def open_audio(folder: Path, decoder: AudioDecoder, threads: int | None) -> "OnnxAudio":
    """An audio decoder of a bundle at `folder`. Raises BundleError."""
    return OnnxAudio(folder, decoder, threads)


class Binding:
    """A session's inputs and outputs, bound to numpy arrays that the caller writes and reads."""

    def __init__(self, session: Any) -> None:
        self.session = session
        self.binding = session.io_binding()
        self._alive: dict[str, Any] = {}

    def input(self, name: str, array: npt.NDArray[Any]) -> None:
        """Read input `name` from this C-contiguous array at every run."""
        self._alive[name] = value = ort.OrtValue.ortvalue_from_numpy(array)
        self.binding.bind_ortvalue_input(name, value)

    def output(self, name: str, array: npt.NDArray[Any]) -> None:
        """Write output `name` to this C-contiguous array at every run."""
        self._alive[name] = value = ort.OrtValue.ortvalue_from_numpy(array)
        self.binding.bind_ortvalue_output(name, value)

    def in_place(self, source: str, result: str, array: npt.NDArray[Any]) -> None:
        """Bind one array as an input and as the output that succeeds it: the graph changes it in place.

        ONNX Runtime does not know that they alias; the emitter sees to it that nothing but the scatter reads the
        input, and the self-test proves it for each runtime version.
        """
        self._alive[source] = value = ort.OrtValue.ortvalue_from_numpy(array)
        self.binding.bind_ortvalue_input(source, value)
        self.binding.bind_ortvalue_output(result, value)

    def run(self) -> None:
        """Run once over the bound arrays."""
        with flushed_denormals():
            self.session.run_with_iobinding(self.binding)


class OnnxSession(Session):
    """A decoder in ONNX Runtime."""

    def __init__(self, folder: Path, name: str, manifest: Manifest, artifact: Artifact, threads: int | None) -> None:
        super().__init__(name, manifest, artifact)
        self._load(folder / artifact.files[0], manifest, threads, self.layout.capacity)
        for name in artifact.files[1:]:  # prepacked weights are copies; the originals need not stay
            release_pages(folder / name)

    def _load(self, path: Path, manifest: Manifest, threads: int | None, capacity: int, free: bool = False) -> None:
        """free: the graph takes a cache of any capacity."""
        self._session = load(path, threads)
        _check_decoder(path, self._session, manifest, None if free else capacity)
        model = manifest.model
        self._cache = [
            np.zeros((model.kv_heads, capacity, model.head_dim), np.float32) for _ in range(2 * model.layers)
        ]
        self._logits, self._hidden = np.zeros(manifest.head.rows, np.float32), np.zeros(model.hidden, np.float32)
        self._integers = {name: np.zeros(1, np.int32) for name in ("position", "prefix_len", "last")}
        self._bindings: dict[int, tuple[Binding, Floats]] = {}

    def _bound(self, rows: int) -> tuple[Binding, Floats]:
        """The binding for S = rows, and the array that its embeds are written to."""
        if rows not in self._bindings:
            binding = Binding(self._session)
            embeds = np.zeros((1, rows, self.hidden), np.float32)
            binding.input("embeds", embeds)
            for name, value in self._integers.items():
                binding.input(name, value)
            binding.output("logits", self._logits)
            binding.output("hidden", self._hidden)
            half = len(self._cache) // 2
            for i, (keys, values) in enumerate(zip(self._cache[:half], self._cache[half:], strict=True)):
                binding.in_place(f"keys_{i}", f"new_keys_{i}", keys)
                binding.in_place(f"values_{i}", f"new_values_{i}", values)
            self._bindings[rows] = binding, embeds
        return self._bindings[rows]

    def _run(self, rows: Floats) -> StepOutput:
        binding, embeds = self._bound(len(rows))
        embeds[0] = rows
        self._integers["position"][0] = self.position
        self._integers["prefix_len"][0] = self.prefix_len
        self._integers["last"][0] = len(rows) - 1
        binding.run()
        return StepOutput(self._logits.copy(), self._hidden.copy())

    def _release(self) -> None:
        self._bindings.clear()
        del self._session


class OnnxTwin(OnnxSession):
    """The same decoder without a window: every token is prefix, over a cache that grows by GROWTH slots.

    Only benchmarks use it: it is the latency of what a user has today.
    """

    GROWTH = 256

    def __init__(self, folder: Path, name: str, manifest: Manifest, artifact: Artifact, threads: int | None) -> None:
        Session.__init__(self, name, manifest, artifact)
        if artifact.twin is None:
            raise BundleError(folder, f"target {name} has no twin", "export it with --with-twin")
        self._load(folder / artifact.twin, manifest, threads, self.GROWTH, free=True)

    def _run(self, rows: Floats) -> StepOutput:
        while self.position + len(rows) > self._cache[0].shape[1]:
            self._cache = [np.pad(cache, ((0, 0), (0, self.GROWTH), (0, 0))) for cache in self._cache]
            self._bindings.clear()
        return super()._run(rows)


class OnnxAudio(AudioSession):
    """An audio decoder in ONNX Runtime, checked against its description."""

    def __init__(self, folder: Path, decoder: AudioDecoder, threads: int | None) -> None:
        super().__init__(decoder)
        self._graphs = {}
        for graph in decoder.graphs:
            path = folder / graph.files["onnx"][0]
            # Two pools that spin take each other's cores: the whole chain would be a quarter slower.
            session = load(path, threads, spinning=False)
            _check_graph(path, session, graph, decoder)
            self._graphs[graph.name] = path, session, graph.outputs

    def run(self, graph: str, feeds: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        path, session, outputs = self._graphs[graph]
        try:
            with flushed_denormals():
                return dict(zip(outputs, session.run(outputs, dict(feeds)), strict=True))
        except Exception as error:  # ONNX Runtime raises a class of its own for each status
            raise BundleError(path, f"it fails: {error}".splitlines()[0], "check the voice's tensors") from error


def _check_decoder(path: Path, session: Any, manifest: Manifest, capacity: int | None) -> None:
    """Raise BundleError unless a graph is the contract's, in the manifest's sizes. capacity None: a free one."""
    model = manifest.model
    cache = "float32", [model.kv_heads, capacity, model.head_dim]
    kinds = [f"{kind}_{i}" for kind in ("keys", "values") for i in range(model.layers)]
    inputs = {"embeds": ("float32", [1, None, model.hidden])}
    inputs |= {name: ("int32", [1]) for name in ("position", "prefix_len", "last")}
    outputs = {"logits": ("float32", [manifest.head.rows]), "hidden": ("float32", [model.hidden])}
    _check_values(path, "input", session.get_inputs(), inputs | dict.fromkeys(kinds, cache))
    _check_values(path, "output", session.get_outputs(), outputs | {f"new_{name}": cache for name in kinds})


def _check_values(path: Path, what: str, values: Sequence[Any], wanted: Mapping[str, tuple[str, list[Any]]]) -> None:
    """Raise BundleError unless a graph's values are those of `wanted`: type and shape, None for a free dimension."""
    found = {value.name: value for value in values}
    if odd := sorted(set(found) ^ set(wanted)):
        raise BundleError(path, f"{what} {odd[0]!r} is {'missing' if odd[0] in wanted else 'unknown'}", _OTHER)
    for name, (dtype, sizes) in wanted.items():
        kind, shape = found[name].type, found[name].shape
        fits = len(shape) == len(sizes) and all(w is None or w == s for w, s in zip(sizes, shape, strict=True))
        if kind != _ONNX_TYPES[dtype] or not fits:
            raise BundleError(path, f"{what} {name!r} is {kind} {shape}, not {dtype} {sizes}", _OTHER)


def whole_decoder(path: Path, inputs: list[AudioInput], file: str) -> AudioDecoder:
    """The description of an ONNX decoder of whole utterances, `file` being its place in a bundle.

    Its first output holds the samples. Raises BundleError if it takes other inputs.
    """
    session = load(path, 1)
    output = session.get_outputs()[0]
    if output.type != _ONNX_TYPES["float32"]:
        raise BundleError(path, f"its output {output.name!r} is {output.type}", "samples are float32")
    names = [value.name for value in inputs]
    graph = AudioGraph(name="decoder", inputs=names, outputs=[output.name], files={"onnx": [file]})
    decoder = AudioDecoder(mode="whole", inputs=inputs, graphs=[graph], samples=output.name)
    _check_graph(path, session, graph, decoder)
    return decoder


def _check_graph(path: Path, session: Any, graph: AudioGraph, decoder: AudioDecoder) -> None:
    """Raise BundleError unless the file takes what its description tells."""
    found = {value.name: value for value in session.get_inputs()}
    fix = f"its description takes: {', '.join(graph.inputs)}"
    if odd := sorted(set(found) ^ set(graph.inputs)):
        raise BundleError(path, f"input {odd[0]!r} is {'missing' if odd[0] in graph.inputs else 'unknown'}", fix)
    if missing := sorted(set(graph.outputs) - {value.name for value in session.get_outputs()}):
        raise BundleError(path, f"output {missing[0]!r} is missing", "export the bundle again")
    free = {value.name for value in decoder.inputs}
    for name, (dtype, sizes) in decoder.given().items():
        if name not in found:
            continue
        kind, shape = found[name].type, found[name].shape
        if kind != _ONNX_TYPES[dtype]:
            raise BundleError(path, f"input {name!r} is {kind}", f"{dtype} is wanted")
        # A dimension that the file leaves free takes any size; one that its description leaves free is free in it.
        fits = len(shape) == len(sizes) and all(
            not isinstance(size, int) or (name not in free if wanted is None else wanted == size)
            for wanted, size in zip(sizes, shape, strict=True)
        )
        if not fits:
            raise BundleError(path, f"input {name!r} has shape {shape}", f"{sizes} is wanted, None being any size")
