"""Mimi (kyutai): causal convolutions around a transformer. All that it remembers goes in and comes out as states."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import MimiConfig, MimiModel
from transformers.models.mimi.modeling_mimi import (
    MimiConv1d,
    MimiConvTranspose1d,
    MimiResnetBlock,
    apply_rotary_pos_emb,
)

from wand_export.audio.codec import Codec, Graph
from wand_export.audio.reading import beside, find, load, read_json, tensors
from wand_export.audio.rewrites import codebooks
from wand_export.errors import CheckpointError
from wand_export.spec.audio import AudioChunk, AudioDecoder, AudioGraph, AudioInput, AudioState
from wand_export.spec.recipe import Licence


class Past:
    """What lay to the left of this call, layer by layer, in the order that it is asked for; and what will."""

    def __init__(self, given: Iterator[Tensor]) -> None:
        self._given, self.kept = given, list[Tensor]()

    def behind(self, x: Tensor, dim: int) -> Tensor:
        """x behind its past along `dim`; as much of the end of both is kept."""
        given = next(self._given)
        joined = torch.cat([given, x], dim)
        self.kept.append(joined.narrow(dim, x.shape[dim], given.shape[dim]))
        return joined


class Decoder(nn.Module):
    """codes int64 [1, books x n], position int64 [1], states -> samples float32 [1, 1, hop x n], position, states.

    position counts the transformer's own frames. With zeros as states it computes what the whole does.
    """

    def __init__(self, model: MimiModel, stride: int) -> None:
        super().__init__()
        self.config, self.quantizer, self.stride = model.config, model.quantizer, stride
        self.upsample = model.decoder.upsample
        self.transformer, self.layers = model.decoder.decoder_transformer, model.decoder.decoder_seanet.layers

    def books(self, codes: Tensor) -> Tensor:
        """int64 [1, books, frames]."""
        return codebooks(codes, self.config.num_quantizers, self.stride, self.config.codebook_size)

    def forward(self, codes: Tensor, position: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        past = Past(iter(states))
        x = self._wider(self.upsample, self.quantizer.decode(self.books(codes)), past)
        frames = x.shape[2]
        x = self._attend(x.transpose(1, 2), position, past).transpose(1, 2)
        for layer in self.layers:
            x = self._layer(layer, x, past)
        return x, position + frames, *past.kept

    def states(self) -> list[tuple[int, ...]]:
        """The shape of each state, in the order that forward() asks for them."""
        config, shapes = self.config, list[tuple[int, ...]]()
        cache = (1, config.num_key_value_heads, config.sliding_window, config.head_dim)
        for module in [self.upsample, *self.layers]:
            if module is self.layers[0]:
                shapes += [cache] * (2 * config.num_hidden_layers)
            for part in module.modules():
                if isinstance(part, (MimiConv1d, MimiConvTranspose1d)) and (reach := _reach(part)):
                    shapes.append((1, part.conv.in_channels, reach))
        return shapes

    def _layer(self, layer: nn.Module, x: Tensor, past: Past) -> Tensor:
        if isinstance(layer, MimiResnetBlock):
            y = x
            for part in layer.block:
                y = self._layer(part, y, past)
            return self._layer(layer.shortcut, x, past) + y
        if isinstance(layer, MimiConvTranspose1d):
            return self._wider(layer, x, past)
        if isinstance(layer, MimiConv1d):
            return layer.conv(past.behind(x, 2) if _reach(layer) else x)
        return layer(x)

    def _wider(self, layer: MimiConvTranspose1d, x: Tensor, past: Past) -> Tensor:
        stride = layer.conv.stride[0]
        return layer.conv(past.behind(x, 2)).narrow(2, _reach(layer) * stride, x.shape[2] * stride)

    def _attend(self, x: Tensor, position: Tensor, past: Past) -> Tensor:
        window = self.config.sliding_window
        places = position + torch.arange(x.shape[1])
        seen = torch.cat([position - window + torch.arange(window), places])
        distance = places[:, None] - seen[None, :]
        mask = (distance >= 0) & (distance < window) & (seen >= 0)
        turns = self.transformer.rotary_emb(x, places[None])
        for layer in self.transformer.layers:
            y = layer.input_layernorm(x)
            attention = layer.self_attn
            heads = (1, -1, attention.num_key_value_heads, attention.head_dim)
            q = attention.q_proj(y).view(1, -1, attention.num_heads, attention.head_dim).transpose(1, 2)
            k, v = (project(y).view(heads).transpose(1, 2) for project in (attention.k_proj, attention.v_proj))
            q, k = apply_rotary_pos_emb(q, k, *turns)
            k, v = (past.behind(part, 2).repeat_interleave(attention.num_key_value_groups, 1) for part in (k, v))
            y = functional.scaled_dot_product_attention(q, k, v, mask, scale=attention.scaling)
            x = x + layer.self_attn_layer_scale(attention.o_proj(y.transpose(1, 2).flatten(2)))
            x = x + layer.mlp_layer_scale(layer.mlp(layer.post_attention_layernorm(x)))
        return x


def _reach(layer: MimiConv1d | MimiConvTranspose1d) -> int:
    """Columns to the left that a causal convolution still reads."""
    kernel, stride = layer.conv.kernel_size[0], layer.conv.stride[0]
    if isinstance(layer, MimiConvTranspose1d):
        return -(-kernel // stride) - 1
    return (kernel - 1) * layer.conv.dilation[0]


def open(path: Path, code: str | None, codebook_ids: int | None = None) -> Codec:
    """The decoder of a folder with config.json and model.safetensors.

    codebook_ids: of each codebook, where a language model counts more of them than there are. Raises CheckpointError.
    """
    file = find(path, "model.safetensors")
    found = read_json(beside(file, "config.json"))
    if found.get("model_type") != "mimi" or not found.get("use_causal_conv", True):
        raise CheckpointError(
            file.parent, f"{found.get('model_type')!r} is no causal Mimi", "name its codec by --codec"
        )
    config = MimiConfig(**found)
    model = MimiModel(config)
    load(model, {_renamed(name): tensor for name, tensor in tensors(file).items()}, file)
    for layer in model.modules():
        if isinstance(layer, type(model.quantizer.semantic_residual_vector_quantizer.layers[0].codebook)):
            layer.embed  # noqa: B018  its rows are computed at the first use, which an export must not be
    decoder = Decoder(model, codebook_ids or config.codebook_size)
    shapes = decoder.states()
    states = [AudioState(input="position", output="next_position", shape=[1], dtype="int64", initial=0)]
    for i, shape in enumerate(shapes):
        states.append(AudioState(input=f"state_{i}", output=f"next_{i}", shape=list(shape), dtype="float32", initial=0))
    words = AudioDecoder(
        mode="state",
        unit=config.num_quantizers,
        hop=config.frame_size,
        chunk=AudioChunk(first=1, later=4),
        inputs=[AudioInput(name="codes", source="codes", dtype="int64", shape=[1, "codes"])],
        states=states,
        graphs=[
            AudioGraph(
                name="decoder",
                inputs=["codes", *(state.input for state in states)],
                outputs=["samples", *(state.output for state in states)],
                files={},
            )
        ],
        samples="samples",
    )

    def original(values: Mapping[str, Tensor]) -> Tensor:
        return model.decode(decoder.books(values["codes"])).audio_values

    return Codec(
        title="Mimi",
        files=(file,),
        licence=Licence(weights="CC-BY-4.0", obligations="Name kyutai, and say what you changed."),
        sample_rate=config.sampling_rate,
        decoder=words,
        graphs={"decoder": Graph(decoder, {"codes": {1: ("frames", config.num_quantizers)}})},
        codes=config.num_quantizers * decoder.stride,
        original=original,
        exact=True,
        int8_arithmetic=True,
    )


def _renamed(name: str) -> str:
    """The name in transformers' two halves of a tensor in the published file, which is flat."""
    for half, parts in (
        ("encoder", ("encoder_transformer", "downsample")),
        ("decoder", ("decoder_transformer", "upsample")),
    ):
        if name.partition(".")[0] in parts:
            return f"{half}.{name}"
        if name.startswith(f"{half}.layers."):
            return name.replace(f"{half}.", f"{half}.{half}_seanet.", 1)
    return name
