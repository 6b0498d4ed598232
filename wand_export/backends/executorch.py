"""ExecuTorch: one method with dynamic S and the caches as its state, through XNNPACK; integer weights by torchao."""

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.exir import EdgeCompileConfig, ExecutorchBackendConfig, to_edge_transform_and_lower
from executorch.exir.passes import MemoryPlanningPass
from torch import nn
from torchao.quantization import Int8DynamicActivationIntxWeightConfig, MappingType, PerAxis, PerGroup, quantize_

from wand_export.backends import Emitted
from wand_export.errors import InputError
from wand_export.graph.decoder import Decoder
from wand_export.graph.quantize import linears
from wand_export.graph.steps import LateStep
from wand_export.graph.vocoder import Vocoder
from wand_export.host.runtimes.executorch import DECODE, STEP
from wand_export.layout import Layout
from wand_export.spec.audio import AudioDecoder
from wand_export.spec.target import Precision, Target

DECODER = "decoder.pte"
_GROUPS = (32, 64, 128)
_SCALE_BYTES: dict[int | str, int] = {"channel": 4, **dict.fromkeys(_GROUPS, 2)}
"""XNNPACK keeps the scales of groups in bfloat16."""

_QUICKER_IN = "1.5.1"
_IDLE_PASSES = (
    "ConvertToUpsampleBilinear2d", "PropagateCustomMetaPass", "ConvertToSDPAPass", "FuseBatchNormPass",
    "DecomposeBatchNorm", "DecomposeConcatenate", "RemoveGetItemPass", "InsertPadQDQPass", "Conv1dUnsqueezePass",
    "PReLUReshapePass", "FuseActivationPass", "ChannelsLastTaggedReshapePass", "RemoveRedundantCopyPass",
    "DimOrderOpsRevertPass",
)  # fmt: skip


def emit(decoder: Decoder, layout: Layout, target: Target, folder: Path, with_twin: bool) -> Emitted:
    """Write decoder.pte into `folder`. The decoder's linear layers are quantized in place.

    Raises InputError for a precision that XNNPACK does not have, ValueError for a twin, which only ONNX has.
    """
    if with_twin:
        raise ValueError("ExecuTorch has no twin")
    bytes_read = quantize(decoder, target)
    with quicker():
        lower(LateStep(decoder, layout), STEP, *step_inputs(decoder, target.prefill_chunk), folder / DECODER)
    packages = ("torch", "torchao", "executorch")
    emitted_by = {package: version(package).split("+")[0] for package in packages}
    return Emitted(files=[DECODER], step_bytes=bytes_read, emitted_by=emitted_by, oldest_runtime=None)


def emit_audio(vocoder: Vocoder, decoder: AudioDecoder, folder: Path) -> list[str]:
    """Write the audio decoder as one program for chunks up to the longer one, and return its name.

    In mixed precision the linear layers of the spectra, changed in place, multiply integers; the rest is float32.
    Raises InputError for another precision than that and float32.
    """
    if decoder.precision not in ("float32", "mixed"):
        raise InputError(decoder.precision, "XNNPACK stores no such audio decoder", "use float32 or mixed")
    if decoder.precision == "mixed":
        rows = Int8DynamicActivationIntxWeightConfig(weight_dtype=torch.int8, weight_granularity=PerAxis(0))
        quantize_(vocoder.spectra, rows, filter_fn=lambda module, name: isinstance(module, nn.Linear))
    assert decoder.chunk is not None
    config, states = vocoder.config, vocoder.states()
    chunk = torch.export.Dim("chunk", min=2, max=max(decoder.chunk.first, decoder.chunk.later))
    shapes = ({1: chunk + config.look_ahead}, {1: config.samples_per_code * chunk + config.noise_samples(0)})
    example = (*vocoder.example(3), *states)
    file = f"{decoder.precision}.pte"
    lower(vocoder, DECODE, example, (*shapes, tuple({} for _ in states)), folder / file)
    return [file]


def quantize(decoder: Decoder, target: Target) -> int:
    """Round, in place, the linear layers that the target holds as integers; activations become 8-bit at run time.

    Returns the bytes of all weights then. Raises InputError for a precision that XNNPACK does not have.
    """
    total = sum(parameter.numel() for parameter in decoder.parameters()) * 4
    names: dict[tuple[int, int | str], set[str]] = {}
    for name, linear, precision in linears(decoder, target.precision):
        check_precision(target.name, name, linear, precision)
        if precision.block is not None:
            names.setdefault((precision.bits, precision.block), set()).add(name)
            groups = 1 if precision.block == "channel" else linear.in_features // precision.block
            total -= linear.weight.numel() * 4
            total += linear.weight.numel() * precision.bits // 8
            total += linear.out_features * groups * _SCALE_BYTES[precision.block]
    for (bits, block), chosen in names.items():
        config = Int8DynamicActivationIntxWeightConfig(
            weight_dtype=torch.int4 if bits == 4 else torch.int8,
            weight_granularity=PerGroup(block) if isinstance(block, int) else PerAxis(0),
            # The one end of the integers that is a step wider is used; XNNPACK's scales cannot be negative.
            weight_mapping_type=MappingType.SYMMETRIC_NO_CLIPPING_ERR,
        )
        quantize_(decoder, config, filter_fn=_named(chosen))
    return total


def _named(names: set[str]) -> Callable[[nn.Module, str], bool]:
    return lambda module, name: name in names


def check_precision(target: str, name: str, linear: nn.Linear, precision: Precision) -> None:
    """Raise InputError for a precision that XNNPACK does not have, or not for a layer of this width."""
    bits, block = precision.bits, precision.block
    if bits == 16:
        raise InputError(target, f"16 bits for {name}", "XNNPACK's weights have 4, 8 or 32")
    if bits == 8 and block != "channel":
        raise InputError(target, f"8 bits in blocks of {block}", 'XNNPACK takes 8 bits with block = "channel" only')
    if isinstance(block, int) and (block not in _GROUPS or linear.in_features % block):
        fix = "XNNPACK takes blocks of 32, 64 or 128 that divide the input, or a channel"
        raise InputError(target, f"blocks of {block} over the {linear.in_features} inputs of {name}", fix)


def step_inputs(decoder: Decoder, chunk: int) -> tuple[tuple[torch.Tensor, ...], Any]:
    """Example inputs of the graph contract, and which of their dimensions vary."""
    integers = [torch.zeros(1, dtype=torch.int32) for _ in range(3)]
    example = (torch.zeros(1, min(3, chunk), decoder.backbone.hidden), *integers)
    if chunk == 1:
        return example, None
    return example, ({1: torch.export.Dim("S", min=1, max=chunk)}, None, None, None)


def lower(module: nn.Module, method: str, example: tuple[torch.Tensor, ...], shapes: Any, file: Path) -> None:
    """Export a module in float32 for XNNPACK, and write the program."""
    with torch.no_grad(), _silent():
        exported = torch.export.export(module.eval(), example, dynamic_shapes=shapes, strict=False)
        edge = to_edge_transform_and_lower(
            {method: exported},
            partitioner={method: [XnnpackPartitioner()]},
            compile_config=EdgeCompileConfig(_check_ir_validity=False, _skip_dim_order=True),
        )
        program = edge.to_executorch(
            ExecutorchBackendConfig(
                do_quant_fusion_and_const_prop=True,
                run_reinplace_pass=True,
                emit_mutable_buffer_names=True,
                memory_planning_pass=MemoryPlanningPass(alloc_graph_input=False),
            )
        )
    with file.open("wb") as stream:
        program.write_to_file(stream)


@contextmanager
def quicker() -> Iterator[None]:
    """Lower without work that changes no byte of a decoder's file, in the one version that this was tried on.

    Left out are the passes of XNNPACK that find nothing in a decoder, each of which traces every partition again, and
    Python's source of the whole graph, which would be written anew for every partition.
    """
    if not version("executorch").startswith(_QUICKER_IN):
        yield
        return
    from executorch.backends.xnnpack._passes import XNNPACKPassManager
    from torch.fx._lazy_graph_module import _use_lazy_graph_module

    transform = XNNPACKPassManager.transform

    def without_idle(manager: Any) -> Any:
        manager.passes = [one for one in manager.passes if one.__name__ not in _IDLE_PASSES]
        return transform(manager)

    XNNPACKPassManager.transform = without_idle
    try:
        with _use_lazy_graph_module(True):
            yield
    finally:
        XNNPACKPassManager.transform = transform


@contextmanager
def _silent() -> Iterator[None]:
    """Without the libraries' chatter: their deprecations, and all that they log below an error."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
