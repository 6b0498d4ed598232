"""IndexTTS 1.5's BigVGAN: a vocoder that reads the language model's own vectors, and the voice as one vector."""

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

WHERE = "clone index-tts/index-tts at v1.5.0, then --code path/to/index-tts"
CONTEXT = 30
"""Codes that the convolutions reach to either side."""


class Settings(dict[str, Any]):
    """Settings as the published code reads them, by attribute too."""

    __getattr__ = dict.__getitem__


class Given(nn.Module):
    """In the place of the speaker encoder: what it made of the reference, once, is given instead of the reference."""

    def forward(self, speaker: Tensor, lengths: Tensor | None = None) -> Tensor:
        return speaker


class Decoder(nn.Module):
    """latent float32 [1, n, C], speaker float32 [1, S, 1] -> samples float32 [1, 1, hop n]."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.model.speaker_encoder = Given()

    def forward(self, latent: Tensor, speaker: Tensor) -> Tensor:
        return self.model(latent, speaker.transpose(1, 2))[0]


def open(path: Path, code: str | None) -> Codec:
    """The vocoder of IndexTTS' folder: config.yaml, bigvgan_generator.pth. Raises InputError, CheckpointError."""
    file = find(path, "bigvgan_generator.pth")
    config = beside(file, "config.yaml")
    build = published(code, "indextts.BigVGAN.models", WHERE).BigVGAN
    try:
        settings = Settings(read_yaml(config)["bigvgan"])
        model = build(settings)
    except (KeyError, TypeError) as error:
        raise CheckpointError(config, f"no BigVGAN of IndexTTS in it: {error}", "give IndexTTS' own") from error
    load(model, tensors(file, "generator"), file)
    strip_weight_norm(model)
    decoder = Decoder(model)
    width = settings["speaker_embedding_dim"]
    words = AudioDecoder(
        mode="window",
        hop=math.prod(settings["upsample_rates"]),
        chunk=AudioChunk(first=10, later=40),
        look_back=CONTEXT,
        look_ahead=CONTEXT,
        inputs=[
            AudioInput(name="latent", source="hidden", dtype="float32", shape=[1, "codes", settings["gpt_dim"]]),
            AudioInput(name="speaker", source="voice", tensor="speaker", dtype="float32", shape=[1, width, 1]),
        ],
        graphs=[AudioGraph(name="decoder", inputs=["latent", "speaker"], outputs=["samples"], files={})],
        samples="samples",
    )

    def original(values: Mapping[str, Tensor]) -> Tensor:
        return decoder(values["latent"], values["speaker"])

    return Codec(
        title="BigVGAN of IndexTTS 1.5",
        files=(file,),
        licence=Licence(
            weights="bilibili model licence, non-commercial", obligations="Keep IndexTTS' model licence; see its terms."
        ),
        sample_rate=settings["sampling_rate"],
        decoder=words,
        graphs={"decoder": Graph(decoder, {"latent": {1: ("codes", 1)}})},
        codes=8192,
        original=original,
        exact=True,
        voice={"speaker": torch.linspace(-1, 1, width)[None, :, None]},
    )
