"""The manifest: all that a bundle says of itself, for hosts that know nothing of its family."""

from typing import Literal, Self

from pydantic import Field, model_validator

from wand_export.spec.audio import AudioDecoder
from wand_export.spec.recipe import Licence, PrefixPart, Sampler, Stop, Text
from wand_export.spec.schema import Schema
from wand_export.spec.target import AudioThresholds, Precisions, Runtime, Thresholds

SCHEMA_VERSION = 2

Ending = Literal["stop", "limit", "loop", "silence", "position"]
"""Why an utterance ended: a stop token; the stop rule's limit; tokens that go round; nothing audible any more; the last
position that the model or the artifact serves."""


class Source(Schema):
    """Where the weights came from. sha256 covers the weight files in name order; null for random weights."""

    checkpoint: str
    sha256: str | None
    random_weights: bool
    tuned_for_window: bool


class Model(Schema):
    """Sizes of the decoder; max_position counts learned positions of generated tokens, null where there are none."""

    kind: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp: int
    parameters: int
    max_position: int | None


class KVCache(Schema):
    """The fixed KV buffer, and its bytes by the formula."""

    prefix_capacity: int
    window: int
    capacity: int
    dtype: Literal["float32", "float16"]
    bytes: int
    formula: str


class EmbeddingTable(Schema):
    """One table in embeddings.safetensors."""

    rows: int
    dtype: Literal["float32", "float16"]
    positions: str | None


class Head(Schema):
    """What the logits mean: row r of the logits is the r-th id of these [first, last] ranges."""

    ranges: list[tuple[int, int]]


class Pieces(Schema):
    """A tokenizer compiled into flat tables, and the closed list of words that a host interprets them by."""

    file: str
    refused: list[tuple[int, int]] = Field([], description="[first, last] ranges of code points")
    case: Literal["upper", "lower"] | None = None
    normalize: list[
        Literal["nfc", "nfkc", "charsmap", "replace", "lowercase", "nmt", "strip", "trim", "squeeze", "mark"]
    ] = Field([])
    split: Literal["none", "mark", "metaspace", "gpt2", "qwen2", "llama3"]
    prefix: Literal["always", "first", "never"] = "never"
    alphabet: Literal["bytes", "characters"]
    model: Literal["bpe", "unigram"]
    unknown: int | None = None
    fuse_unknown: bool = False


class BundleText(Text):
    """How text becomes token ids; `pieces` where the tokenizer was compiled."""

    pieces: Pieces | None = None


class Audio(Schema):
    """What generated tokens mean. `decoders` by name: artifacts name theirs, and several may share one.

    Ids first_id .. first_id + codes - 1 are audio codes, token_rate of them a second; those in the [first, last]
    ranges of `silent` carry no sound, about silent_rate of them a second.
    """

    token_rate: float
    sample_rate: int
    first_id: int
    codes: int
    silent: list[tuple[int, int]]
    silent_rate: float
    decoders: dict[str, AudioDecoder] = Field(default={})

    @property
    def step_rate(self) -> float:
        """Decode steps per second of audio, about."""
        return self.token_rate + self.silent_rate

    def is_silent(self, token: int) -> bool:
        """Whether a generated id carries no sound."""
        return any(first <= token <= last for first, last in self.silent)


class ComponentParity(Schema):
    """Parity with only this component quantized."""

    psnr_db: float | None
    kl: float
    top1_agreement: float


class Exact(Schema):
    """An interpreted artifact in float32 arithmetic, against the reference with weights rounded as its own are."""

    psnr_db: float | None
    max_abs_dlogit: float
    greedy_equal: bool
    first_divergence: int | None


class AudioParity(Schema):
    """An artifact's audio decoder in chunks, against the family's own in PyTorch over the whole utterance.

    psnr_db is null when identical; log_mel_db is the root mean square difference of log-mel spectra, in dB; click_db
    the largest jump where chunks meet, over what is usual, null where there is none. The self-test knows neither.
    """

    how: Literal["ran", "interpreted", "not_run"]
    samples: int
    psnr_db: float | None
    log_mel_db: float | None
    click_db: float | None
    max_abs_difference: float
    passed: bool


class Evaluation(Schema):
    """Speech of an artifact as a recognizer heard it. runaway_share: of the texts, those that no stop token ended."""

    tool: str
    texts: int
    wer: float
    runaway_share: float
    verdict: Literal["good", "usable", "broken"]


class Parity(Schema):
    """An artifact against the reference. psnr_db is null when identical, audio where the bundle carries no vocoder."""

    how: Literal["ran", "interpreted", "not_run"]
    steps: int
    psnr_db: float | None
    max_abs_dlogit: float
    kl: float
    top1_agreement: float
    greedy_equal: bool
    first_divergence: int | None
    near_ties: int
    components: dict[str, ComponentParity]
    exact: Exact | None = None
    audio: AudioParity | None = None
    passed: bool


class Artifact(Schema):
    """One emitted decoder. Paths are relative to the bundle; step_bytes is what a step reads of the weights.

    max_position is null where the artifact itself limits no position. compute_units is an expectation: where it
    really ran is in what a benchmark wrote.
    """

    runtime: Runtime
    delegate: str
    max_position: int | None = None
    minimum_os: str | None = None
    compute_units: str | None = None
    precision: Precisions
    files: list[str]
    audio_decoder: str | None = Field(description="its name in audio.decoders")
    twin: str | None
    bytes: int
    step_bytes: int
    prefill_chunk: int
    emitted_by: dict[str, str]
    oldest_runtime: str | None
    thresholds: Thresholds
    audio_thresholds: AudioThresholds = AudioThresholds()
    parity: Parity | None
    evaluation: Evaluation | None = None


class Manifest(Schema):
    """manifest.json. `files` gives the bytes of every file of the bundle but itself and SHA256SUMS.

    voices: folders in `voices/`, the first being the default; refused: modes of the family, and why; a part of the
    prefix holds no literal any more. endings: reasons for an utterance's end that its hosts can meet.
    """

    schema_version: Literal[2]
    wand_export: str
    family: str
    title: str
    source: Source
    licence: Licence
    model: Model
    kv_cache: KVCache
    tables: dict[str, EmbeddingTable]
    speech_table: str
    head: Head
    prefix: list[PrefixPart]
    skipped_positions: int = 0
    refused: dict[str, str] = Field({})
    voices: list[str] = Field([])
    stop: Stop
    endings: list[Ending] = Field(default=["stop", "limit"])
    sampler: Sampler
    text: BundleText
    audio: Audio
    artifacts: dict[str, Artifact]
    not_run: list[str]
    files: dict[str, int]

    @model_validator(mode="after")
    def _decoders(self) -> Self:
        for name, artifact in self.artifacts.items():
            if artifact.audio_decoder is not None:
                decoder = self.audio.decoders.get(artifact.audio_decoder)
                if decoder is None:
                    raise ValueError(f"{name} names audio decoder {artifact.audio_decoder!r}, which is not there")
                if any(artifact.runtime not in graph.files for graph in decoder.graphs):
                    raise ValueError(f"audio decoder {artifact.audio_decoder!r} has no files for {artifact.runtime}")
        return self
