"""ExecuTorch: one method with dynamic S whose state is the caches. Its Python binding is made of torch, alone here."""

import os
import struct
import sys
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

# executorch.runtime wraps these same objects, but imports the exporter with them: ten seconds and 150 MB.
from executorch.extension.pybindings import _C as binding

from wand_export.errors import BundleError, InputError
from wand_export.host.memory import collapse_pages, release_pages
from wand_export.host.session import AudioSession, Floats, Session, StepOutput
from wand_export.spec.audio import AudioDecoder
from wand_export.spec.manifest import Artifact, Manifest

STEP, DECODE = "step", "decode"
"""Names of the methods of a decoder and of an audio decoder."""
_HEADER = struct.Struct("<4x4s4sIQQQ")
"""Identifier, magic of the extended header, its length, bytes of the program, first byte and bytes of the segments."""
_FLOAT, _INT = 6, 3
"""torch's numbers of float32 and int32."""

_running: "weakref.WeakSet[Program]" = weakref.WeakSet()
"""The programs that are open: they share one thread pool, which dies when its size changes."""


def open_decoder(
    folder: Path, name: str, manifest: Manifest, artifact: Artifact, threads: int | None
) -> "ExecutorchSession":
    """The decoder of a bundle at `folder`. Raises BundleError."""
    return ExecutorchSession(folder, name, manifest, artifact, threads)


def open_audio(folder: Path, decoder: AudioDecoder, threads: int | None) -> "ExecutorchAudio":
    """An audio decoder of a bundle at `folder`. Raises BundleError."""
    return ExecutorchAudio(folder, decoder, threads)


class Program:
    """One method of a file, loaded. Raises BundleError if the file is not whole or ExecuTorch refuses it."""

    def __init__(self, path: Path, method: str, threads: int | None) -> None:
        check_file(path)
        with _silent():
            _set_threads(threads)
            try:
                # The file is mapped; the program has to outlive its method.
                self._program = binding._load_program(
                    str(path), program_verification=binding.Verification.InternalConsistency
                )
                self._method = self._program.load_method(method)
            except RuntimeError as error:
                raise BundleError(path, f"ExecuTorch refuses it: {error}".splitlines()[0], "export it again") from error
        _running.add(self)
        collapse_pages()
        release_pages(path)  # XNNPACK holds packed copies of the weights

    def shapes(self) -> tuple[list[tuple[int, Any]], list[tuple[int, Any]]]:
        """torch's number of the type, and the largest shape, of each input and output."""
        meta = self._method.method_meta()
        inputs = [meta.input_tensor_meta(i) for i in range(meta.num_inputs())]
        outputs = [meta.output_tensor_meta(i) for i in range(meta.num_outputs())]
        return [(i.dtype(), i.sizes()) for i in inputs], [(o.dtype(), o.sizes()) for o in outputs]

    def run(self, inputs: Sequence[torch.Tensor]) -> list[npt.NDArray[Any]]:
        """The outputs, copies of what the method holds."""
        return [output.numpy() for output in self._method(inputs)]


def check_file(path: Path) -> None:
    """Raise BundleError unless the file is an ExecuTorch program with all its segments.

    ExecuTorch itself ends the process when the identifier is wrong. That the rest of the bytes are right only their
    hash can tell.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(_HEADER.size)
    if len(head) < _HEADER.size:
        raise BundleError(path, f"has {size} bytes, too few for an ExecuTorch program", "copy it again")
    identifier, magic, length, program, first, segments = _HEADER.unpack(head)
    if identifier != b"ET12" or magic != b"eh00" or length != _HEADER.size - 8:
        raise BundleError(path, "is not an ExecuTorch program of version ET12", "copy it again")
    if not _HEADER.size <= program <= first or first + segments != size:
        told = f"program of {program} bytes and segments of {segments} at {first}"
        raise BundleError(path, f"has {size} bytes, and its header tells of a {told}", "copy it again")


def _set_threads(threads: int | None) -> None:
    """Size the thread pool of the process. Raises InputError while programs that use it are open."""
    if threads is None or threads == binding._threadpool_get_thread_count():
        return
    if _running:
        fix = f"close the open sessions, or ask for {binding._threadpool_get_thread_count()} as they have"
        raise InputError("threads", str(threads), fix)
    binding._unsafe_reset_threadpool(threads)


@contextmanager
def _silent() -> Iterator[None]:
    """ExecuTorch logs to the standard error of the process, also what it raises; an error is to be one line."""
    sys.stderr.flush()
    saved, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(null)


class ExecutorchSession(Session):
    """A decoder in ExecuTorch."""

    def __init__(self, folder: Path, name: str, manifest: Manifest, artifact: Artifact, threads: int | None) -> None:
        super().__init__(name, manifest, artifact)
        path = folder / artifact.files[0]
        self._program = Program(path, STEP, threads)
        rows = sum(last - first + 1 for first, last in manifest.head.ranges)
        inputs = [(_FLOAT, (1, self.chunk, self.hidden)), *[(_INT, (1,))] * 3]
        outputs = [(_FLOAT, (rows,)), (_FLOAT, (self.hidden,))]
        if self._program.shapes() != (inputs, outputs):
            raise BundleError(path, "takes or gives other shapes than the manifest tells", "copy it again")

    def _run(self, rows: Floats) -> StepOutput:
        integers = [torch.tensor([i], dtype=torch.int32) for i in (self.position, self.prefix_len, len(rows) - 1)]
        # A row of a memory-mapped table may be read-only, of which torch would warn.
        logits, hidden = self._program.run([torch.from_numpy(np.array(rows[None])), *integers])
        return StepOutput(logits, hidden)

    def close(self) -> None:
        del self._program


class ExecutorchAudio(AudioSession):
    """An audio decoder in ExecuTorch: one program a graph, its inputs and outputs in the graph's order."""

    def __init__(self, folder: Path, decoder: AudioDecoder, threads: int | None) -> None:
        super().__init__(decoder)
        self._graphs = {
            graph.name: (Program(folder / graph.files["executorch"][0], DECODE, threads), graph)
            for graph in decoder.graphs
        }

    def run(self, graph: str, feeds: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        program, described = self._graphs[graph]
        # Arrays of a memory-mapped table may be read-only, of which torch would warn.
        outputs = program.run([torch.from_numpy(np.array(feeds[name])) for name in described.inputs])
        return dict(zip(described.outputs, outputs, strict=True))
