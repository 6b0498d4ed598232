"""The manifest: all that a bundle says of itself, for hosts that know nothing of its family.

It is checked against itself here, one validator a concept, and against the bundle's files where each is opened: before
any size of it asks for memory. A complaint starts with the JSON path of what it is about.
"""

from itertools import pairwise
from typing import Literal, Self

from pydantic import Field, model_validator

from wand_export.layout import SLOT_MULTIPLE, kv_bytes
from wand_export.spec.audio import AudioDecoder
from wand_export.spec.limits import MAX_HEAD_ROWS, Bytes, Count, Layers, Name, Rate, Samples, Size, Slots, Width
from wand_export.spec.pieces import Pieces
from wand_export.spec.recipe import Licence, PrefixPart, Sampler, Stop, Text
from wand_export.spec.schema import Schema
from wand_export.spec.target import AudioThresholds, Precisions, Runtime, Thresholds
from wand_export.spec.voice import LATENTS

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
    layers: Layers
    hidden: Width
    heads: Layers
    kv_heads: Layers
    head_dim: Width
    mlp: Size
    parameters: Bytes
    max_position: Size | None

    @model_validator(mode="after")
    def _heads_share_keys(self) -> Self:
        if self.heads % self.kv_heads:
            raise ValueError(f"heads {self.heads} must be a multiple of kv_heads {self.kv_heads}")
        return self


class KVCache(Schema):
    """The fixed KV buffer, and its bytes by the formula."""

    prefix_capacity: Slots
    window: Slots
    capacity: Slots
    dtype: Literal["float32", "float16"]
    bytes: Bytes
    formula: str

    @model_validator(mode="after")
    def _prefix_and_window(self) -> Self:
        if self.capacity != self.prefix_capacity + self.window or self.capacity % SLOT_MULTIPLE:
            wanted = f"prefix_capacity {self.prefix_capacity} + window {self.window}, and a multiple of {SLOT_MULTIPLE}"
            raise ValueError(f"capacity {self.capacity} must be {wanted}")
        return self

    @property
    def itemsize(self) -> int:
        """Bytes of one number."""
        return 4 if self.dtype == "float32" else 2


class EmbeddingTable(Schema):
    """One table in embeddings.safetensors."""

    rows: Size
    dtype: Literal["float32", "float16"]
    positions: str | None


class Head(Schema):
    """What the logits mean: row r of the logits is the r-th id of these [first, last] ranges."""

    ranges: list[tuple[Count, Count]] = Field(min_length=1)

    @model_validator(mode="after")
    def _disjoint(self) -> Self:
        _check_ranges("ranges", self.ranges)
        for (_, last), (first, _) in pairwise(sorted(self.ranges)):
            if first <= last:
                raise ValueError(f"ranges hold id {first} twice")
        if self.rows > MAX_HEAD_ROWS:
            raise ValueError(f"ranges hold {self.rows} ids; {MAX_HEAD_ROWS} are the most")
        return self

    @property
    def rows(self) -> int:
        """How many logits there are."""
        return sum(last - first + 1 for first, last in self.ranges)

    def holds(self, first: int, last: int) -> bool:
        """Whether every id of first .. last has a row."""
        return sum(max(0, min(last, high) - max(first, low) + 1) for low, high in self.ranges) == last - first + 1


def _check_ranges(key: str, ranges: list[tuple[int, int]]) -> None:
    for first, last in ranges:
        if first > last:
            raise ValueError(f"{key} hold [{first}, {last}], which must be [first, last]")


class Audio(Schema):
    """What generated tokens mean. `decoders` by name: artifacts name theirs, and several may share one.

    Ids first_id .. first_id + codes - 1 are audio codes, token_rate of them a second; those in the [first, last]
    ranges of `silent` carry no sound, about silent_rate of them a second.
    """

    token_rate: Rate = Field(gt=0)
    sample_rate: Samples
    first_id: Count
    codes: Size
    silent: list[tuple[Count, Count]]
    silent_rate: Rate
    decoders: dict[Name, AudioDecoder] = Field(default={})

    @model_validator(mode="after")
    def _silent_is_no_code(self) -> Self:
        _check_ranges("silent", self.silent)
        for first, last in self.silent:
            if first <= self.last_id and last >= self.first_id:
                raise ValueError(
                    f"silent [{first}, {last}] must lie outside the codes {self.first_id} to {self.last_id}"
                )
        return self

    @property
    def last_id(self) -> int:
        """The id of the last audio code."""
        return self.first_id + self.codes - 1

    @property
    def step_rate(self) -> float:
        """Decode steps per second of audio, about."""
        return self.token_rate + self.silent_rate

    def is_silent(self, token: int) -> bool:
        """Whether a generated id carries no sound."""
        return any(first <= token <= last for first, last in self.silent)


class Measured(Schema, allow_inf_nan=True):
    """What was measured: an artifact that went wrong gives figures that are not finite, and they must be told."""


class ComponentParity(Measured):
    """Parity with only this component quantized."""

    psnr_db: float | None
    kl: float
    top1_agreement: float


class Exact(Measured):
    """An interpreted artifact in float32 arithmetic, against the reference with weights rounded as its own are."""

    psnr_db: float | None
    max_abs_dlogit: float
    greedy_equal: bool
    first_divergence: Count | None


class AudioParity(Measured):
    """An artifact's audio decoder in chunks, against the family's own in PyTorch over the whole utterance.

    psnr_db is null when identical; log_mel_db is the root mean square difference of log-mel spectra, in dB; click_db
    the largest jump where chunks meet, over what is usual, null where there is none. The self-test knows neither.
    """

    how: Literal["ran", "interpreted", "not_run"]
    samples: Count
    psnr_db: float | None
    log_mel_db: float | None
    click_db: float | None
    max_abs_difference: float
    passed: bool


class Evaluation(Schema):
    """Speech of an artifact as a recognizer heard it. runaway_share: of the texts, those that no stop token ended."""

    tool: str
    texts: Count
    wer: float
    runaway_share: float
    verdict: Literal["good", "usable", "broken"]


class Parity(Measured):
    """An artifact against the reference. psnr_db is null when identical, audio where the bundle carries no vocoder."""

    how: Literal["ran", "interpreted", "not_run"]
    steps: Count
    psnr_db: float | None
    max_abs_dlogit: float
    kl: float
    top1_agreement: float
    greedy_equal: bool
    first_divergence: Count | None
    near_ties: Count
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
    max_position: Size | None = None
    minimum_os: str | None = None
    compute_units: str | None = None
    precision: Precisions
    files: list[str] = Field(min_length=1)
    audio_decoder: str | None = Field(description="its name in audio.decoders")
    twin: str | None
    bytes: Bytes
    step_bytes: Bytes
    prefill_chunk: Slots
    emitted_by: dict[str, str]
    oldest_runtime: str | None
    thresholds: Thresholds
    audio_thresholds: AudioThresholds = AudioThresholds()
    parity: Parity | None
    evaluation: Evaluation | None = None


class Manifest(Schema):
    """manifest.json. `files` gives the bytes of every file of the bundle but itself and SHA256SUMS.

    voices: folders in `voices/`, the first being the default; refused: modes of the family, and why; pieces: how a
    tokenizer's tables are read, null for a lexicon and where no text can be read; replaces: whether a text first has
    the words of `text/replace.tsv` replaced, as host/replace.py tells; a part of the prefix holds no literal any more;
    endings: reasons for an utterance's end that its hosts can meet.
    """

    schema_version: Literal[2]
    wand_export: str
    family: Name
    title: str
    source: Source
    licence: Licence
    model: Model
    kv_cache: KVCache
    tables: dict[str, EmbeddingTable]
    speech_table: str
    head: Head
    prefix: list[PrefixPart] = Field(min_length=1)
    skipped_positions: Count = 0
    refused: dict[str, str] = Field({})
    voices: list[Name] = Field([])
    stop: Stop
    endings: list[Ending] = Field(default=["stop", "limit"])
    sampler: Sampler
    text: Text
    pieces: Pieces | None = None
    replaces: bool = False
    audio: Audio
    artifacts: dict[Name, Artifact]
    not_run: list[str]
    files: dict[str, Bytes]

    @model_validator(mode="after")
    def _cache_bytes(self) -> Self:
        model, kv = self.model, self.kv_cache
        wanted = kv_bytes(kv.capacity, model.layers, model.kv_heads, model.head_dim, kv.itemsize)
        if kv.bytes != wanted:
            raise ValueError(f"kv_cache.bytes: {kv.bytes} must be {wanted} by the formula")
        return self

    @model_validator(mode="after")
    def _tables_are_there(self) -> Self:
        if LATENTS in self.tables:
            raise ValueError(f"tables.{LATENTS}: is the name of rows that no table holds")
        named = {f"tables.{name}.positions": table.positions for name, table in self.tables.items()}
        named |= {f"prefix.{i}.table": part.table for i, part in enumerate(self.prefix)}
        for key, table in {**named, "speech_table": self.speech_table}.items():
            if table is not None and table not in self.tables:
                raise ValueError(f"{key}: {table!r} is not among the tables: {', '.join(self.tables)}")
        return self

    @model_validator(mode="after")
    def _learned_positions(self) -> Self:
        for name, table in self.tables.items():
            if table.positions is not None and self.tables[table.positions].positions is not None:
                raise ValueError(f"tables.{name}.positions: {table.positions!r} must have no positions of its own")
        return self

    @model_validator(mode="after")
    def _prefix_in_its_tables(self) -> Self:
        for i, part in enumerate(self.prefix):
            if part.literal is not None:
                raise ValueError(f"prefix.{i}.literal: must be ids, as an export makes it")
            if part.table is None:
                continue
            rows = self.tables[part.table].rows
            if part.ids is not None and max(part.ids, default=0) >= rows:
                raise ValueError(f"prefix.{i}.ids: {max(part.ids)} is not in the {rows} rows of {part.table!r}")
            if part.offset + (part.codes or 1) > rows:
                raise ValueError(f"prefix.{i}.codes: reach beyond the {rows} rows of {part.table!r}")
        return self

    @model_validator(mode="after")
    def _prefix_fits_the_cache(self) -> Self:
        fixed = sum(len(part.ids or ()) + (part.length or 0) for part in self.prefix if part.given is None)
        if fixed > self.kv_cache.prefix_capacity:
            raise ValueError(
                f"prefix: its {fixed} fixed rows do not fit prefix_capacity {self.kv_cache.prefix_capacity}"
            )
        return self

    @model_validator(mode="after")
    def _codes_and_stops_can_be_generated(self) -> Self:
        """A further stop that has no row is harmless: it never comes."""
        first, last = self.audio.first_id, self.audio.last_id
        if not self.head.holds(first, last):
            raise ValueError(f"audio.codes: ids {first} to {last} are not all in head.ranges")
        if not any(self.head.holds(stop, stop) for stop in self.stop.ids):
            raise ValueError("stop.ids: none of them is in head.ranges, so speech would never end")
        if coded := [stop for stop in self.stop.ids if first <= stop <= last]:
            raise ValueError(f"stop.ids: {coded[0]} is an audio code")
        if self.stop.text_ids is not None and not self.head.holds(*self.stop.text_ids):
            raise ValueError(f"stop.text_ids: {list(self.stop.text_ids)} are not all in head.ranges")
        return self

    @model_validator(mode="after")
    def _distinct_voices(self) -> Self:
        if len(set(self.voices)) < len(self.voices):
            raise ValueError(f"voices: {', '.join(self.voices)} must differ")
        return self

    @model_validator(mode="after")
    def _audio_decoders(self) -> Self:
        for name, artifact in self.artifacts.items():
            if artifact.audio_decoder is None:
                continue
            decoder = self.audio.decoders.get(artifact.audio_decoder)
            if decoder is None:
                raise ValueError(f"artifacts.{name}.audio_decoder: {artifact.audio_decoder!r} is not in audio.decoders")
            if missing := [graph.name for graph in decoder.graphs if artifact.runtime not in graph.files]:
                place = f"audio.decoders.{artifact.audio_decoder}.graphs"
                raise ValueError(f"{place}: {missing[0]!r} has no files for {artifact.runtime}, as {name} needs")
        return self
