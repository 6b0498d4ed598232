"""BiCodec (SparkAudio): semantic codes for the time, 32 global ones for the speaker; Spark-TTS speaks with it."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wand_export.audio.codec import Codec, Graph
from wand_export.audio.reading import beside, find, load, published, read_yaml, tensors
from wand_export.audio.rewrites import strip_weight_norm
from wand_export.errors import CheckpointError
from wand_export.spec.audio import AudioChunk, AudioDecoder, AudioGraph, AudioInput
from wand_export.spec.recipe import Licence

WHERE = "clone SparkAudio/Spark-TTS, install what its code imports, then --code path/to/Spark-TTS"
CONTEXT = 20
"""Codes: the convolutions reach 67 to either side, of which those beyond 20 move the samples by about 1e-3."""
# Part of the checkpoint -> where the published code has its class.
PARTS = {
    "quantizer": ("sparktts.modules.vq.factorized_vector_quantize", "FactorizedVectorQuantize"),
    "speaker_encoder": ("sparktts.modules.speaker.speaker_encoder", "SpeakerEncoder"),
    "prenet": ("sparktts.modules.encoder_decoder.feat_decoder", "Decoder"),
    "decoder": ("sparktts.modules.encoder_decoder.wave_generator", "WaveGenerator"),
}


class Decoder(nn.Module):
    """semantic int64 [1, n], globals int64 [1, 32] -> samples float32 [1, 1, hop n]: BiCodec.detokenize()."""

    def __init__(self, parts: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.parts = nn.ModuleDict(parts)

    def forward(self, semantic: Tensor, speaker: Tensor) -> Tensor:
        voice = self.parts["speaker_encoder"].detokenize(speaker[:, None])
        x = self.parts["prenet"](self.parts["quantizer"].detokenize(semantic), voice)
        return self.parts["decoder"](x + voice[:, :, None])


def open(path: Path, code: str | None) -> Codec:
    """The decoder of Spark-TTS' folder BiCodec: config.yaml, model.safetensors. Raises InputError, CheckpointError."""
    file = find(path, "BiCodec/model.safetensors", "model.safetensors")
    config = beside(file, "config.yaml")
    settings: dict[str, Any] = read_yaml(config).get("audio_tokenizer") or {}
    parts = dict[str, nn.Module]()
    found = tensors(file, only=tuple(f"{name}." for name in PARTS))
    for name, (module, kind) in PARTS.items():
        build = getattr(published(code, module, WHERE), kind)
        try:
            parts[name] = build(**settings[name])
        except (KeyError, TypeError) as error:
            raise CheckpointError(config, f"no {name} of a BiCodec in it: {error}", "give BiCodec's own") from error
        load(parts[name], found, file, f"{name}.")
    decoder = Decoder(parts)
    strip_weight_norm(decoder)
    count = settings["speaker_encoder"]["token_num"]
    words = AudioDecoder(
        mode="window",
        hop=math.prod(settings["decoder"]["rates"]),
        chunk=AudioChunk(first=10, later=50),
        look_back=CONTEXT,
        look_ahead=CONTEXT,
        inputs=[
            AudioInput(name="semantic", source="codes", dtype="int64", shape=[1, "codes"]),
            AudioInput(name="globals", source="globals", dtype="int64", shape=[1, count]),
        ],
        graphs=[AudioGraph(name="decoder", inputs=["semantic", "globals"], outputs=["samples"], files={})],
        samples="samples",
    )

    def original(values: Mapping[str, Tensor]) -> Tensor:
        return decoder(values["semantic"], values["globals"])

    return Codec(
        title="BiCodec",
        files=(file,),
        licence=Licence(
            weights="CC-BY-NC-SA-4.0",
            obligations="Non-commercial use only; name SparkAudio; share what is derived under the same licence.",
        ),
        sample_rate=16000,
        decoder=words,
        graphs={"decoder": Graph(decoder, {"semantic": {1: ("codes", 1)}})},
        codes=settings["quantizer"]["codebook_size"],
        original=original,
        exact=False,
        voice={"globals": torch.arange(count)[None] % math.prod(settings["speaker_encoder"]["fsq_levels"])},
    )
