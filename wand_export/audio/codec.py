"""What each file in `codecs/` tells of its codec, and how one is opened by name."""

import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from wand_export.audio import codecs
from wand_export.errors import InputError
from wand_export.spec.audio import AudioDecoder
from wand_export.spec.recipe import Licence


@dataclass(frozen=True)
class Graph:
    """One graph of a decoder: forward(its inputs, in the decoder's order) -> its outputs, in the decoder's order.

    lengths: of each input, its free dimensions, each as what it counts and how many of those a piece has:
    {"noise": {2: ("frames", 256)}}. float32: its weights are stored so at every precision.
    """

    module: nn.Module
    lengths: dict[str, dict[int, tuple[str, int]]]
    float32: bool = False


@dataclass(frozen=True)
class Codec:
    """A decoder in torch, ready for export.

    files: those that its weights were read from; decoder: its words in the streaming contract; graphs: by the names
    there; codes: how many values a code has; original: the family's own forward of an utterance, input and noise values
    by name -> samples; exact: chunks ought to equal the whole; judge: "log_mel" where phases may turn without being
    heard; int8_arithmetic: multiplying integers makes it faster at precision "mixed"; voice: a made-up voice's values,
    by the decoder's input names; prefix: its codes, where they stand before those of each call; schedule: the times of
    a loop of so many steps.
    """

    title: str
    files: tuple[Path, ...]
    licence: Licence
    sample_rate: int
    decoder: AudioDecoder
    graphs: dict[str, Graph]
    codes: int
    original: Callable[[Mapping[str, Tensor]], Tensor]
    exact: bool
    judge: Literal["psnr", "log_mel"] = "psnr"
    int8_arithmetic: bool = False
    voice: dict[str, Tensor] = field(default_factory=dict)
    prefix: Tensor = field(default_factory=lambda: torch.empty(1, 0, dtype=torch.int64))
    schedule: Callable[[int], list[float]] | None = None


def names() -> list[str]:
    """The codecs that there are."""
    return sorted(module.name for module in pkgutil.iter_modules(codecs.__path__))


def open_codec(name: str, path: Path, code: str | None = None, codebook_ids: int | None = None) -> Codec:
    """The decoder of a checkpoint, its weights read.

    code: the family's published code, a package's name or a folder that holds it; imported, and so run, only because
    the user named it. codebook_ids: ids of a codebook, for the codecs that ask. Raises InputError (CheckpointError) for
    an unknown codec, missing code, or what the checkpoint does not hold.
    """
    if name not in names():
        raise InputError(name, "no such codec", f"there are: {', '.join(names())}")
    if not path.exists():
        raise InputError(path, "no such checkpoint", "give the folder, or the file, that the codec's authors published")
    options = {} if codebook_ids is None else {"codebook_ids": codebook_ids}
    codec: Codec = import_module(f"{codecs.__name__}.{name}").open(path, code, **options)
    for graph in codec.graphs.values():
        graph.module.eval().requires_grad_(False)
    return codec
