"""SNAC (hubertsiuzdak/snac): three codebooks, one, two and four codes a frame, noise blocks; Orpheus speaks with it."""

import math
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from wand_export.audio.codec import Codec, Graph
from wand_export.audio.reach import residual_context
from wand_export.audio.reading import beside, find, load, published, read_json, tensors
from wand_export.audio.rewrites import strip_weight_norm, with_noise
from wand_export.errors import CheckpointError
from wand_export.spec.audio import AudioChunk, AudioDecoder, AudioGraph, AudioInput, AudioNoise
from wand_export.spec.recipe import Licence

WHERE = "pip install snac, then --code snac"
LEVELS = ((0,), (1, 4), (2, 3, 5, 6))
"""Which of a frame's seven codes belong to each codebook, in the order that Orpheus says them."""


class Decoder(nn.Module):
    """codes int64 [1, 7 frames], noise [1, 1, ..] of each block -> samples float32 [1, 1, 2048 frames]."""

    def __init__(self, model: nn.Module, noise_block: type[nn.Module]) -> None:
        super().__init__()
        self.quantizer, self.layers = model.quantizer, model.decoder.model
        self.noise_block, self.size = noise_block, model.codebook_size

    def levels(self, codes: Tensor) -> list[Tensor]:
        """The codes of each codebook: int64 [1, frames], [1, 2 frames], [1, 4 frames]."""
        frames = (codes % self.size).reshape(1, -1, 7)
        return [frames[:, :, list(columns)].reshape(1, -1) for columns in LEVELS]

    def forward(self, codes: Tensor, *noise: Tensor) -> Tensor:
        x = self.quantizer.from_codes(self.levels(codes))
        return with_noise(self.layers, x, iter(noise), self.noise_block)


def open(path: Path, code: str | None) -> Codec:
    """The decoder of a folder with config.json and pytorch_model.bin. Raises InputError, CheckpointError."""
    snac, layers = (published(code, f"snac.{name}", WHERE) for name in ("snac", "layers"))
    file = find(path, "pytorch_model.bin", "model.safetensors")
    config = read_json(beside(file, "config.json"))
    strides = config.get("vq_strides")
    if strides != [4, 2, 1]:
        raise CheckpointError(
            file.parent, f"vq_strides {strides}", "the 24 kHz model has [4, 2, 1]; others are unknown"
        )
    model = snac.SNAC(**config)
    load(model, tensors(file), file)
    strip_weight_norm(model)
    decoder = Decoder(model, layers.NoiseBlock)
    # Columns of a frame behind each block, which is where its noise comes in.
    rates: list[int] = config["decoder_rates"]
    steps = [4 * math.prod(rates[: i + 1]) for i in range(len(rates))]
    context = residual_context(rates, per_unit=4)
    noise = [
        AudioNoise(
            name=f"noise_{i}",
            shape=[1, 1, 0],
            axis=2,
            per_unit=step,
            distribution="normal",
        )
        for i, step in enumerate(steps if config.get("noise", True) else [])
    ]
    names = ["codes", *(value.name for value in noise)]
    words = AudioDecoder(
        mode="window",
        unit=7,
        hop=steps[-1],
        chunk=AudioChunk(first=1, later=4),
        look_back=context,
        look_ahead=context,
        inputs=[AudioInput(name="codes", source="codes", dtype="int64", shape=[1, "codes"])],
        noise=noise,
        graphs=[AudioGraph(name="decoder", inputs=names, outputs=["samples"], files={})],
        samples="samples",
    )

    def original(values: Mapping[str, Tensor]) -> Tensor:
        """SNAC.decode(), its noise blocks drawing the values that the graph is given."""
        given = iter([values[value.name] for value in noise])
        blocks = [part for part in model.decoder.modules() if isinstance(part, layers.NoiseBlock)]
        hooks = [b.register_forward_hook(lambda block, x, _: x[0] + next(given) * block.linear(x[0])) for b in blocks]
        try:
            return model.decode(decoder.levels(values["codes"]))
        finally:
            for hook in hooks:
                hook.remove()

    lengths = {"codes": {1: ("frames", 7)}} | {n.name: {2: ("frames", n.per_unit)} for n in noise}
    return Codec(
        title="SNAC 24 kHz",
        files=(file,),
        licence=Licence(weights="MIT", obligations="Keep the licence of hubertsiuzdak/snac with the weights."),
        sample_rate=config["sampling_rate"],
        decoder=words,
        graphs={"decoder": Graph(decoder, lengths)},
        codes=7 * model.codebook_size,
        original=original,
        exact=True,
    )
