"""DAC (descript-audio-codec, and IBM's for speech): residual codebooks; OuteTTS speaks with two of them."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import DacConfig, DacModel

from wand_export.audio.codec import Codec, Graph
from wand_export.audio.reach import residual_context
from wand_export.audio.reading import beside, find, load, read_json, tensors
from wand_export.audio.rewrites import codebooks
from wand_export.errors import CheckpointError
from wand_export.graph.weights import load_torch
from wand_export.spec.audio import AudioChunk, AudioDecoder, AudioGraph, AudioInput
from wand_export.spec.recipe import Licence

# descript's names -> transformers'. Layer 0 enters, one block for each rate follows, then a snake and the last layer.
_UNIT = ("snake1", "conv1", "snake2", "conv2")
_BLOCK = ("snake1", "conv_t1", "res_unit1", "res_unit2", "res_unit3")


class Decoder(nn.Module):
    """codes int64 [1, books x frames] -> samples float32 [1, hop x frames]."""

    def __init__(self, model: DacModel, stride: int) -> None:
        super().__init__()
        self.quantizer, self.decoder, self.config, self.stride = model.quantizer, model.decoder, model.config, stride

    def books(self, codes: Tensor) -> Tensor:
        """int64 [1, books, frames]."""
        return codebooks(codes, self.config.n_codebooks, self.stride, self.config.codebook_size)

    def forward(self, codes: Tensor) -> Tensor:
        books = self.books(codes)
        samples = self.decoder(self.quantizer.from_codes(books)[0])[:, 0]
        # Odd rates leave the last frame a few samples short.
        return functional.pad(samples, (0, books.shape[2] * self.config.hop_length - samples.shape[1]))


def open(path: Path, code: str | None, codebook_ids: int | None = None) -> Codec:
    """The decoder of a folder of transformers' (config.json, model.safetensors) or of descript's one file.

    codebook_ids: of each codebook, where a language model counts more of them than there are. Raises CheckpointError.
    """
    file = find(path, "model.safetensors", "weights.pth")
    if file.suffix == ".safetensors":
        model = _model(read_json(beside(file, "config.json")), beside(file, "config.json"))
        load(model, tensors(file), file)
    else:
        model = _descript(file)
    config = model.config
    decoder = Decoder(model, codebook_ids or config.codebook_size)
    context = residual_context(config.upsampling_ratios)
    words = AudioDecoder(
        mode="window",
        unit=config.n_codebooks,
        hop=config.hop_length,
        chunk=AudioChunk(first=6, later=24),
        look_back=context,
        look_ahead=context,
        inputs=[AudioInput(name="codes", source="codes", dtype="int64", shape=[1, "codes"])],
        graphs=[AudioGraph(name="decoder", inputs=["codes"], outputs=["samples"], files={})],
        samples="samples",
    )

    def original(values: Mapping[str, Tensor]) -> Tensor:
        return model.decode(audio_codes=decoder.books(values["codes"])).audio_values

    return Codec(
        title="DAC",
        files=(file,),
        licence=Licence(weights="MIT", obligations="Keep the licence of descript-audio-codec with the weights."),
        sample_rate=config.sampling_rate,
        decoder=words,
        graphs={"decoder": Graph(decoder, {"codes": {1: ("frames", config.n_codebooks)}})},
        codes=config.n_codebooks * decoder.stride,
        original=original,
        exact=True,
    )


def _model(config: Mapping[str, Any], file: Path) -> DacModel:
    if config.get("model_type") != "dac":
        raise CheckpointError(
            file, f"model_type {config.get('model_type')!r} is not 'dac'", "name its codec by --codec"
        )
    return DacModel(DacConfig(**config))


def _descript(file: Path) -> DacModel:
    """transformers' model of a file that descript's code wrote: a state dict, and in metadata its sizes."""
    found = load_torch(file)
    try:
        sizes = found["metadata"]["kwargs"]
        config = DacConfig(
            encoder_hidden_size=sizes["encoder_dim"],
            downsampling_ratios=sizes["encoder_rates"],
            decoder_hidden_size=sizes["decoder_dim"],
            n_codebooks=sizes["n_codebooks"],
            codebook_size=sizes["codebook_size"],
            codebook_dim=sizes["codebook_dim"],
            sampling_rate=sizes["sample_rate"],
        )
    except (KeyError, TypeError) as error:
        raise CheckpointError(file, f"no DAC file: it lacks {error}", "is it of this codec?") from error
    model = DacModel(config)
    last = len(config.upsampling_ratios)
    state = tensors(file, "state_dict")
    for name in [name for name in state if name.endswith(".weight_v")]:
        base = name.removesuffix("_v")
        state[base] = torch._weight_norm(state.pop(name), state.pop(f"{base}_g"), 0)
    load(model, {_renamed(name, last): tensor for name, tensor in state.items()}, file)
    return model


def _renamed(name: str, last: int) -> str:
    """transformers' name of a tensor in descript's file, whose decoder has `last` blocks."""
    side, _, rest = name.partition(".")
    if side == "quantizer":
        return name
    rest = re.sub(r"^(model|block)\.", "", rest)
    first, _, rest = rest.partition(".")
    ends = {0: "conv1", last + 1: "snake1", last + 2: "conv2"}
    if int(first) in ends:
        return f"{side}.{ends[int(first)]}.{rest}"
    order = _BLOCK if side == "decoder" else (*_BLOCK[2:], "snake1", "conv1")
    rest = re.sub(r"^block\.(\d+)", lambda part: order[int(part[1])], rest)
    rest = re.sub(r"\.block\.(\d+)", lambda part: f".{_UNIT[int(part[1])]}", rest)
    return f"{side}.block.{int(first) - 1}.{rest}"
