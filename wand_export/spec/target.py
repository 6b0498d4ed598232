"""A target: where an export goes, at which precision, and how near to the reference it must stay."""

from typing import Literal, Self

from pydantic import Field, PositiveInt, model_validator

from wand_export.spec.schema import Schema, find_named, read_toml

Runtime = Literal["onnx", "executorch", "coreml"]
AudioPrecision = Literal["float32", "float16", "int8", "mixed"]
"""How an audio decoder's weights are stored. All arithmetic is in float32, but for int8 matrices where that pays."""
COMPONENTS = ("attention", "mlp", "head")
"""The parts of the decoder whose weights a target may hold at different precisions."""


class Precision(Schema):
    """Bits of a weight; 4 and 8 are symmetric integers with one scale for each block along the input.

    Block "channel" is a whole row: one scale for each output.
    """

    bits: Literal[4, 8, 16, 32]
    block: Literal[16, 32, 64, 128, "channel"] | None = None

    @model_validator(mode="after")
    def _block_iff_integer(self) -> Self:
        if (self.block is None) == (self.bits in (4, 8)):
            raise ValueError("4 and 8 bits need a block, 16 and 32 have none")
        return self

    def __str__(self) -> str:
        if self.block is None:
            return f"fp{self.bits}"
        return f"int{self.bits}-channel" if self.block == "channel" else f"int{self.bits}-b{self.block}"


class Precisions(Schema):
    """The precision of each component; embeddings are looked up by the host and stay floats."""

    attention: Precision
    mlp: Precision
    head: Precision
    embeddings: Literal["fp16", "fp32"]


class Thresholds(Schema):
    """Parity below which an artifact is not written."""

    min_psnr_db: float
    greedy_equal: bool = False


class AudioThresholds(Schema):
    """How near an audio decoder stays to the family's own in PyTorch; log-mel: root mean square of bands and frames."""

    min_psnr_db: float = 70.0
    max_log_mel_db: float = 0.05


class AudioTarget(AudioThresholds):
    """What becomes of the audio decoder."""

    precision: AudioPrecision = "float32"


class Target(Schema):
    """One deployment. Raises pydantic.ValidationError on an unknown, missing or contradictory key."""

    schema_version: Literal[1]
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    runtime: Runtime
    delegate: str
    prefill_chunk: PositiveInt
    max_position: PositiveInt | None = Field(None, description="positions that its rotary table serves; none: no table")
    minimum_os: str | None = Field(None, description="oldest systems that load the artifact")
    compute_units: str | None = Field(None, description="where the artifact is expected to run, not where it was seen")
    precision: Precisions
    audio: AudioTarget = AudioTarget()
    parity: Thresholds


def load_target(name: str) -> Target:
    """The target of that name or path. Raises InputError."""
    return read_toml(find_named("targets", name, "{name}.toml"), Target)
