"""Core ML: one ML Program of two functions, prefill (S fixed) and decode (S = 1), over one set of weights and states.

Shapes are static, rows meet the cache by a select, states have four axes and C is a multiple of 32: what is publicly
known to keep a stateful model on the Neural Engine (apple/coremltools #2553, #2631; apple/coreai-torch #6). Floats are
float16, so the decoder is first prepared as graph/half.py says. Integer weights are compressed in each function before
the two are merged, since a package of several functions cannot be compressed any more; equal weights then lie in the
file once.
"""

import contextlib
import io
import json
import logging
import tempfile
import uuid
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from wand_export.backends import Emitted
from wand_export.errors import InputError
from wand_export.graph.decoder import Decoder
from wand_export.graph.half import prepare
from wand_export.graph.quantize import Blocks, linears, quantize_blocks
from wand_export.graph.steps import SelectStep
from wand_export.graph.vocoder import Vocoder
from wand_export.host.runtimes.coreml import LATER, audio_functions
from wand_export.layout import Layout
from wand_export.spec.audio import AudioDecoder
from wand_export.spec.target import Target

PACKAGE = "decoder.mlpackage"
PREFILL, DECODE = "prefill", "decode"
MANIFEST = "Manifest.json"
_AUTHOR = "com.apple.CoreML"
_MODEL, _WEIGHTS = f"{_AUTHOR}/model.mlmodel", f"{_AUTHOR}/weights"
_DATE = "com.github.apple.coremltools.conversion_date"


Weights = dict[str, tuple[int, Blocks]]
"""Bits and integers of the weights to compress, by the names that they have once converted."""


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without coremltools' chatter: it warns of every package version that it was not tested with."""
    level = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def emit(decoder: Decoder, layout: Layout, target: Target, folder: Path, with_twin: bool) -> Emitted:
    """Write decoder.mlpackage into `folder`. The decoder's norms and rotary are replaced in place.

    Raises InputError for a target that has no max_position, or a precision that Core ML does not have; ValueError for
    a twin, or if a state got lost in conversion.
    """
    if with_twin:
        raise ValueError("Core ML has no twin")
    if target.max_position is None:
        raise InputError(target.name, "no max_position", "give the positions that its rotary table serves")
    weights = compressed(decoder, target)
    prepare(decoder, target.max_position)
    package = folder / PACKAGE
    with _quiet(), tempfile.TemporaryDirectory() as scratch:
        import coremltools as ct

        functions = ct.utils.MultiFunctionDescriptor()
        for name, rows in ((DECODE, 1), (PREFILL, target.prefill_chunk)):
            single = Path(scratch) / f"{name}.mlpackage"
            save_step(SelectStep(decoder, layout), rows, single, weights)
            functions.add_function(str(single), "main", name)
        functions.default_function_name = DECODE
        ct.utils.save_multifunction(functions, str(package))
        spec = _settle(package)
    check_states(spec, decoder.backbone.layers)
    table = 0 if decoder.rotary is None else target.max_position * decoder.backbone.head_dim * 2
    versions = {"torch": torch.__version__.split("+")[0], "coremltools": ct.__version__}
    return Emitted(
        files=[f"{PACKAGE}/{name}" for name in _files(package)],
        step_bytes=(package / "Data" / _WEIGHTS / "weight.bin").stat().st_size - table,
        emitted_by={**versions, "specification": str(spec.specificationVersion)},
        oldest_runtime=target.minimum_os,
    )


def emit_audio(vocoder: Vocoder, decoder: AudioDecoder, folder: Path) -> list[str]:
    """Write the audio decoder as a package of one function for each length of a chunk; its manifest comes first.

    In float32: the phase of the voice, a sum over frames multiplied by up to 275 harmonics, does not survive float16.
    Of the example voice's vocoder, the signal lies 77 dB above the error in float32, 9.5 dB in float16. Raises
    InputError for another precision.
    """
    if decoder.precision != "float32":
        raise InputError(decoder.precision, "a Core ML audio decoder is float32", "set it in the target's [audio]")
    assert decoder.chunk is not None
    graph, states = decoder.graphs[0], vocoder.states()
    package = folder / f"{decoder.precision}.mlpackage"
    with _quiet(), tempfile.TemporaryDirectory() as scratch:
        import coremltools as ct

        functions = ct.utils.MultiFunctionDescriptor()
        for chunk, name in audio_functions(decoder.chunk).items():
            single = Path(scratch) / f"{name}.mlpackage"
            inputs = dict(zip(graph.inputs, (*vocoder.example(chunk), *states), strict=True))
            save_module(vocoder, inputs, graph.outputs, single, float16=False)
            functions.add_function(str(single), "main", name)
        functions.default_function_name = LATER
        ct.utils.save_multifunction(functions, str(package))
        _settle(package)
    return [f"{package.name}/{name}" for name in _files(package)]


def compressed(decoder: Decoder, target: Target) -> Weights:
    """The weights that the target holds as integers.

    Raises InputError for a precision that Core ML does not have.
    """
    found: Weights = {}
    for name, linear, precision in linears(decoder, target.precision):
        if precision.bits == 32:
            raise InputError(target.name, f"{precision} for {name}", "Core ML's Neural Engine computes in float16")
        if precision.block is None:
            continue
        if precision.block != "channel" and linear.in_features % precision.block:
            what = f"{name} has {linear.in_features} inputs, no multiple of {precision.block}"
            raise InputError(target.name, what, "give another block, or channel")
        blocks = quantize_blocks(linear.weight, precision.bits, precision.block)
        found[f"decoder.{name}.weight_to_fp16"] = precision.bits, blocks
    return found


@_quiet()
def save_step(step: SelectStep, rows: int, package: Path, weights: Weights | None = None) -> None:
    """Save a step for S = rows as a package of one float16 function, its buffers as states, its weights compressed."""
    integers = {name: torch.zeros(1, dtype=torch.int32) for name in ("position", "prefix_len", "last")}
    inputs = {"embeds": torch.zeros(1, rows, step.decoder.backbone.hidden), **integers}
    program = _convert(step.eval(), inputs, ["logits", "hidden"], True, dict(step.named_buffers(recurse=False)))
    write_states_whole(program)
    compress(program, weights or {})
    _save(program, package)


@_quiet()
def save_module(module: nn.Module, inputs: dict[str, Tensor], outputs: list[str], package: Path, float16: bool) -> None:
    """Save a module without states, which computes in float16 or, not float16, in float32, as a package."""
    # Exported first, sizes are numbers: the converter stumbles over those that tracing computes.
    fixed = torch.export.export(module.eval(), tuple(inputs.values())).module()
    _save(_convert(fixed, inputs, outputs, float16, {}), package)


def _convert(
    module: nn.Module, inputs: dict[str, Tensor], outputs: list[str], float16: bool, states: dict[str, Tensor]
) -> Any:
    """A traced module as a MIL program; its inputs and outputs are float32 or int32 whatever it computes in."""
    import coremltools as ct
    from coremltools.converters.mil.frontend.torch.ops import logical_or, noop
    from coremltools.converters.mil.frontend.torch.torch_op_registry import register_torch_op

    def bitwise_or(context: Any, node: Any) -> None:
        logical_or(context, node)

    def alias(context: Any, node: Any) -> None:
        noop(context, node)

    # What the converter lacks: layout.py's masks are joined by |, and an exported module calls views by a name.
    register_torch_op(bitwise_or, torch_alias=["or"], override=True)
    register_torch_op(alias, override=True)
    pipeline = ct.PassPipeline()
    # Negative indices would count from the end; ours are positions and rows, which the host has checked.
    pipeline.remove_passes({"common::guard_negative_gather_indices"})
    with torch.no_grad():
        traced = torch.jit.trace(module, tuple(inputs.values()), check_trace=False)
    dtypes = {torch.int32: np.int32, torch.float32: np.float32}
    return ct.convert(
        traced,
        inputs=[ct.TensorType(name, tuple(t.shape), dtype=dtypes[t.dtype]) for name, t in inputs.items()],
        outputs=[ct.TensorType(name, dtype=np.float32) for name in outputs],
        states=[ct.StateType(ct.TensorType(shape=tuple(t.shape), dtype=np.float16), n) for n, t in states.items()],
        minimum_deployment_target=ct.target.iOS18,
        compute_precision=ct.precision.FLOAT16 if float16 else ct.precision.FLOAT32,
        convert_to="milinternal",
        pass_pipeline=pipeline,
    )


def _save(program: Any, package: Path) -> None:
    """Save a MIL program as a package, without what nothing reads any more."""
    import coremltools as ct

    model = ct.convert(
        program,
        convert_to="mlprogram",
        minimum_deployment_target=ct.target.iOS18,
        skip_model_load=True,
        pass_pipeline=ct.PassPipeline(["common::dead_code_elimination"], "tidy"),
    )
    model.save(str(package))


@contextlib.contextmanager
def _rewriting(program: Any) -> Iterator[tuple[Any, Any, Any]]:
    """The main function of a program to be changed: its block, coremltools' op builder and types."""
    from coremltools.converters.mil.mil import Builder, types
    from coremltools.converters.mil.mil.scope import ScopeInfo, ScopeSource

    # Every op has to name the module that it came from.
    sources = (ScopeSource.TORCHSCRIPT_MODULE_NAME, ScopeSource.TORCHSCRIPT_MODULE_TYPE)
    block = program.functions["main"]
    with block, Builder.scope(*(ScopeInfo(source=source, data=["wand_export"]) for source in sources)):
        yield block, Builder, types


def write_states_whole(program: Any) -> None:
    """Let each state take its new value as it is: the converter first writes it into all of the old one."""
    with _rewriting(program) as (block, build, _):
        for op in block.find_ops(op_type="coreml_update_state"):
            written = op.value.op
            if written is not None and written.op_type == "slice_update":
                if written.update.shape != op.state.shape:
                    raise ValueError(f"state {op.state.name} is written in part: {written.update.shape}")
                build.coreml_update_state(state=op.state, value=written.update, before_op=op)
                block.remove_ops([op])


def compress(program: Any, weights: Weights) -> None:
    """Replace weights by integers with float16 scales, which Core ML multiplies out.

    Raises ValueError if one of them is not the weight of a linear op.
    """
    left = dict(weights)
    with _rewriting(program) as (block, build, types):
        for op in block.find_ops(op_type="linear"):
            if op.weight.name not in left:
                continue
            bits, blocks = left.pop(op.weight.name)
            data = blocks.integers.flatten(1).numpy()
            if bits == 4:
                data = data.astype(types.nptype_from_builtin(types.int4))
            scale = blocks.scales[..., 0].numpy().astype(np.float16)
            weight = build.constexpr_blockwise_shift_scale(
                data=data, scale=scale, before_op=op, name=f"{op.weight.name}_integer"
            )
            block.replace_uses_of_var_after_op(op.weight.op, op.weight, weight, force_replace=True)
    if left:
        raise ValueError(f"no linear op reads {', '.join(left)}")


def check_states(spec: Any, layers: int) -> None:
    """Raise ValueError unless every function reads and writes the keys and values of every layer, once each.

    A conversion that loses a state says nothing.
    """
    states = {f"{kind}_{i}" for i in range(layers) for kind in ("keys", "values")}
    for description in spec.description.functions:
        function = spec.mlProgram.functions[description.name]
        operations = function.block_specializations[function.opset].operations
        described = {state.name for state in description.state}
        if described != states:
            raise ValueError(f"function {description.name} describes the states {sorted(described)}")
        for kind in ("read_state", "write_state"):
            used = Counter(op.inputs["input"].arguments[0].name for op in operations if op.type == kind)
            if used != Counter(states):
                raise ValueError(f"function {description.name} has {kind} of {dict(used)}, not of every state once")


@_quiet()
def _settle(package: Path) -> Any:
    """Make a saved package the same bytes each time, and return its specification.

    coremltools draws the identifiers of Manifest.json at random and writes today's date into the model. Whoever opens
    a package with it has Manifest.json written again, so it has to be in that very style, or its hash would change.
    """
    import coremltools as ct

    spec = ct.utils.load_spec(str(package))
    spec.description.metadata.userDefined.pop(_DATE, None)
    (package / "Data" / _MODEL).write_bytes(spec.SerializeToString(deterministic=True))
    items = {
        str(uuid.uuid5(uuid.NAMESPACE_URL, path)): {
            "author": _AUTHOR,
            "description": description,
            "name": path.split("/")[-1],
            "path": path,
        }
        for path, description in ((_MODEL, "CoreML Model Specification"), (_WEIGHTS, "CoreML Model Weights"))
    }
    manifest = {"fileFormatVersion": "1.0.0", "itemInfoEntries": items, "rootModelIdentifier": next(iter(items))}
    (package / MANIFEST).write_text(json.dumps(manifest, indent=4, sort_keys=True) + "\n", encoding="utf-8")
    return spec


def _files(package: Path) -> list[str]:
    """Every file of a package, its manifest first."""
    names = sorted(file.relative_to(package).as_posix() for file in package.rglob("*") if file.is_file())
    return [MANIFEST, *(name for name in names if name != MANIFEST)]
