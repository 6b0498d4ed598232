"""NeuCodec (neuphonic): one codebook of 65,536, convolutions, a transformer over all time, an inverse STFT.

X-codec 2 is the same at another rate. NeuTTS and Llasa speak with them.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import NeuCodecConfig
from transformers.models.neucodec.modeling_neucodec import NeuCodecDecoder, NeuCodecQuantizer

from wand_export.audio.codec import Codec, Graph
from wand_export.audio.reading import find, load, tensors
from wand_export.audio.rewrites import InverseSTFT
from wand_export.errors import CheckpointError
from wand_export.spec.audio import AudioChunk, AudioDecoder, AudioGraph, AudioInput
from wand_export.spec.recipe import Licence

CHUNK, LOOK_BACK, LOOK_AHEAD = 25, 50, 5
"""NeuTTS' own for streaming, in codes; neighbours are mixed over one code."""
LARGEST = 1e2
"""No magnitude is larger."""

# Published names -> transformers'. The query, key and value matrices are one there, and turned in pairs of neighbours.
_NAMES = {
    "fc_post_a.": "fc.",
    "generator.backbone.embed.": "embed.",
    "generator.backbone.prior_net.": "prior_net.",
    "generator.backbone.post_net.": "post_net.",
    "generator.backbone.final_layer_norm.": "norm.",
    "generator.backbone.transformers.": "layers.",
    "generator.head.out.": "head.linear.",
}
_LAYER = {"att_norm.": "input_layernorm.", "ffn_norm.": "post_attention_layernorm.", "att.c_proj.": "self_attn.o_proj."}
_QUANTIZER = "generator.quantizer."


class Head(nn.Module):
    """The inverse STFT without complex numbers: [1, frames, C] -> samples [1, 1, hop frames]."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.linear = head.linear
        self.inverse = InverseSTFT(head.window, head.hop_length, head.padding)

    def forward(self, x: Tensor) -> Tensor:
        magnitude, phase = self.linear(x).transpose(1, 2).chunk(2, dim=1)
        magnitude = torch.exp(magnitude).clamp(max=LARGEST)
        return self.inverse(torch.cat([magnitude * torch.cos(phase), magnitude * torch.sin(phase)], 1))


class Decoder(nn.Module):
    """codes int64 [1, n] -> samples float32 [1, 1, hop n]."""

    def __init__(self, decoder: nn.Module, quantizer: nn.Module) -> None:
        super().__init__()
        self.decoder, self.quantizer = decoder, quantizer

    def forward(self, codes: Tensor) -> Tensor:
        return self.decoder(self.quantizer.from_codes(codes[:, :, None]))


def open(path: Path, code: str | None) -> Codec:
    """The decoder of a folder with pytorch_model.bin or model.safetensors. Raises CheckpointError."""
    licence = Licence(weights="Apache-2.0", obligations="Keep the licence of neuphonic/neucodec with the weights.")
    return open_at(path, 24000, "NeuCodec", licence)


def open_at(path: Path, sample_rate: int, title: str, licence: Licence) -> Codec:
    """The same, at the rate of the codec of that title: the hop and the STFT grow with it."""
    file = find(path, "model.safetensors", "pytorch_model.bin")
    own = ("generator.", "fc_post_a.", "acoustic_decoder.", "quantizer.")
    state = _transformers(tensors(file, only=own), file)
    try:
        hidden, quantized = state["acoustic_decoder.fc.weight"].shape
        config = NeuCodecConfig(
            hidden_size=hidden,
            intermediate_size=len(state["acoustic_decoder.layers.0.mlp.fc1.weight"]),
            num_hidden_layers=len({n.split(".")[2] for n in state if n.startswith("acoustic_decoder.layers.")}),
            num_attention_heads=hidden // 64,
            num_key_value_heads=hidden // 64,
            quantization_dim=quantized,
            quantization_levels=[4] * state["quantizer.project_out.weight"].shape[1],
            output_sampling_rate=sample_rate,
            semantic_model_config={"model_type": "wav2vec2-bert", "hidden_size": quantized - hidden},
        )
    except KeyError as error:
        raise CheckpointError(
            file, f"missing tensor {error}", f"is it {title}? else name its codec by --codec"
        ) from error
    config._attn_implementation = "sdpa"
    module, quantizer = NeuCodecDecoder(config), NeuCodecQuantizer(config)
    load(module, state, file, "acoustic_decoder.")
    load(quantizer, state, file, "quantizer.")
    head, rewritten = module.head, Head(module.head)
    module.head = rewritten
    decoder = Decoder(module, quantizer)

    def original(values: Mapping[str, Tensor]) -> Tensor:
        """With the head that is there for complex numbers."""
        module.head = head
        try:
            return decoder(values["codes"])
        finally:
            module.head = rewritten

    words = AudioDecoder(
        mode="window",
        hop=config.hop_length,
        chunk=AudioChunk(first=CHUNK, later=CHUNK),
        look_back=LOOK_BACK,
        look_ahead=LOOK_AHEAD,
        crossfade=config.hop_length,
        inputs=[AudioInput(name="codes", source="codes", dtype="int64", shape=[1, "codes"])],
        graphs=[AudioGraph(name="decoder", inputs=["codes"], outputs=["samples"], files={})],
        samples="samples",
    )
    return Codec(
        title=title,
        files=(file,),
        licence=licence,
        sample_rate=sample_rate,
        decoder=words,
        graphs={"decoder": Graph(decoder, {"codes": {1: ("codes", 1)}})},
        codes=len(quantizer.quantizer.codebook),
        original=original,
        exact=False,
        int8_arithmetic=True,
    )


def _transformers(found: Mapping[str, Tensor], file: Path) -> dict[str, Tensor]:
    """The decoder's tensors by transformers' names, which a file may have already."""
    state = dict[str, Tensor]()
    for name, tensor in found.items():
        if name.startswith(("acoustic_decoder.", "quantizer.project_")):
            state[name] = tensor
        elif name.startswith(f"{_QUANTIZER}project_"):
            state[f"quantizer.{name.removeprefix(_QUANTIZER)}"] = tensor
        for old, new in _NAMES.items():
            if name.startswith(old):
                to = f"acoustic_decoder.{new}{name.removeprefix(old)}"
                for part, renamed in _LAYER.items():
                    to = to.replace(f".{part}", f".{renamed}")
                if ".att.c_attn." in to:
                    parts = zip("qkv", tensor.chunk(3), strict=True)
                    state |= {to.replace("att.c_attn", f"self_attn.{p}_proj"): _turned(p, rows) for p, rows in parts}
                else:
                    state[to] = tensor
    return state


def _turned(part: str, rows: Tensor) -> Tensor:
    """Rows of the queries and keys, each head's even ones and then its odd ones: pairs are 32 apart in transformers."""
    return rows if part == "v" else rows.unflatten(0, (-1, 32, 2)).transpose(1, 2).flatten(0, 2).contiguous()
