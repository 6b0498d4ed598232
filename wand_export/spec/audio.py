"""An audio decoder: from codes to samples, as graphs and the few words that a host needs to stream them.

host/audio.py interprets these words, and nothing else does. Values have names, in one space: what `inputs`, `noise` and
`states` bring, and then what each graph gives. The graphs run in their order, each reading its inputs by name.
"""

from math import prod
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from wand_export.spec.limits import Count, Real, Samples, Size
from wand_export.spec.schema import Schema
from wand_export.spec.target import AudioPrecision, Runtime

DType = Literal["int32", "int64", "float32"]

Units = Annotated[int, Field(ge=0, le=2**16)]
"""Of one call."""

Shift = Annotated[int, Field(ge=-(2**24), le=2**24)]
"""Places along an axis of noise."""

MAX_VALUES = 2**26
"""Numbers in a state, or in the noise of one call."""


class AudioInput(Schema):
    """A value that a request or its voice brings, and where it comes from."""

    name: str
    source: Literal["codes", "hidden", "globals", "voice"] = Field(
        description="generated codes; the vectors that they were picked from; the voice's codes; a tensor of the voice"
    )
    dtype: DType
    shape: list[Size | str] = Field(max_length=8, description="strings are free dimensions")
    tensor: str | None = Field(default=None, description="for source voice: its name in latents.safetensors")

    @model_validator(mode="after")
    def _tensor_of_a_voice(self) -> Self:
        if (self.tensor is None) == (self.source == "voice"):
            raise ValueError(f"input {self.name!r} must name a tensor if its source is voice, and only then")
        return self


class AudioNoise(Schema):
    """Random numbers of absolute index: the same value at the same place, however the utterance is cut.

    A call on units a to b takes places a x per_unit - before to b x per_unit + behind (either may be negative) along
    `axis` of `shape`, whose entry there is 0. At place t, entry j of the n others is value t n + j of its stream: noise
    number k of a decoder, from 0, is drawn from the stream of seed + k 2^48.
    """

    name: str
    shape: list[Count] = Field(min_length=1, max_length=8)
    axis: Count
    per_unit: Samples
    before: Shift = 0
    behind: Shift = 0
    distribution: Literal["uniform", "normal"] = Field(description="of [-1, 1), or of mean 0 and variance 1")

    @model_validator(mode="after")
    def _one_axis(self) -> Self:
        if [i for i, size in enumerate(self.shape) if size == 0] != [self.axis]:
            raise ValueError(f"noise {self.name}: its shape is 0 at its axis {self.axis}, and nowhere else")
        return self

    def places(self, units: int) -> int:
        """How many it has along its axis in a call on so many units."""
        return units * self.per_unit + self.before + self.behind

    def sized(self, places: int | None) -> list[int | None]:
        """Its shape with so many places along the axis."""
        return [places if axis == self.axis else size for axis, size in enumerate(self.shape)]


class AudioState(Schema):
    """What one call hands to the next: it starts filled with `initial`, and `output` becomes the next `input`."""

    input: str
    output: str
    shape: list[Size] = Field(max_length=8)
    dtype: DType
    initial: Real


class AudioLoop(Schema):
    """A graph that runs once for each step of a differential equation, from times[i] to times[i + 1].

    Before step i, `time` float32 [1] holds times[i], and `step` float32 [1] how far the next one is; after it, each
    output of `carried` takes the place of its input.
    """

    graph: str
    times: list[Real] = Field(min_length=2, max_length=1000)
    time: str
    step: str | None = None
    carried: dict[str, str] = Field(min_length=1, description="input name -> output name")


class AudioGraph(Schema):
    """One graph. files: for each runtime, paths in the bundle; its session opens the first."""

    name: str
    inputs: list[str] = Field(min_length=1, max_length=256)
    outputs: list[str] = Field(min_length=1, max_length=256)
    files: dict[Runtime, Annotated[list[str], Field(min_length=1)]]


class AudioChunk(Schema):
    """Units that a call adds: small at first, for an early first sound, then larger."""

    first: Units = Field(ge=1)
    later: Units = Field(ge=1)


class Reach(Schema):
    """Units before and behind a sample whose codes still move it by more than `threshold` of the peak; null: all."""

    threshold: float
    left: Count | None
    right: Count | None


class Measured(Schema):
    """What was found by changing codes at the start, the middle and the end, and by chunks against the whole.

    error: the largest difference of chunks from the whole, over its peak; exact: whether they ought to be equal.
    """

    reach: list[Reach]
    error: float
    exact: bool


class AudioDecoder(Schema):
    """How codes become samples.

    mode: "whole", one call with all units at the end. Else calls of chunk.first, then chunk.later units each: "window",
    with look_back and look_ahead units around them; "prefix", the same with the voice's prompt_tokens pinned before
    every window; "state", with what the call before has handed on.

    A call on units a to b is given units s = floor((a - look_back) / align) x align to b + look_ahead. Those beyond the
    edges of the utterance are the code `outside` (vectors: zeros), so that every call has one of two shapes; where
    `outside` is null they are left out. `samples` float32 [.., n] starts with the first sample of unit s and goes on at
    least to unit b and `crossfade` samples more. The first `crossfade` samples of a chunk are mixed with what the call
    before gave for the same place: the new sample i weighs (i + 1/2) / crossfade.
    """

    mode: Literal["whole", "window", "state", "prefix"]
    precision: AudioPrecision = "float32"
    unit: Size = Field(default=1, le=2**10, description="codes that belong together: SNAC's frame has 7")
    hop: Samples | None = Field(default=None, description="samples of a unit; null where mode is whole")
    chunk: AudioChunk | None = Field(default=None, description="null where mode is whole")
    look_back: Units = 0
    look_ahead: Units = 0
    align: Units = Field(default=1, ge=1)
    crossfade: Count = 0
    outside: Shift | None = None
    inputs: list[AudioInput] = Field(min_length=1, max_length=64)
    noise: list[AudioNoise] = Field(default=[], max_length=16)
    states: list[AudioState] = Field(default=[], max_length=256)
    graphs: list[AudioGraph] = Field(min_length=1, max_length=16)
    loop: AudioLoop | None = None
    samples: str = Field(description="the value that holds the samples, in [-1, 1]")
    measured: Measured | None = None

    @model_validator(mode="after")
    def _streams(self) -> Self:
        if self.mode == "whole":
            if self.chunk is not None:
                raise ValueError("a decoder of whole utterances has no chunk")
        elif self.chunk is None or self.hop is None:
            raise ValueError(f"mode {self.mode} needs chunk and hop")
        elif self.crossfade > self.hop * min(self.look_ahead, self.chunk.first, self.chunk.later):
            raise ValueError(f"crossfade {self.crossfade} is longer than the look-ahead or a chunk")
        elif self.outside is not None and any(
            n % self.align for n in (self.chunk.first, self.chunk.later, self.look_back)
        ):
            raise ValueError(f"chunks and look_back of one shape are multiples of align {self.align}")
        if (self.mode == "state") != bool(self.states):
            raise ValueError("states are for mode state, and it needs them")
        return self

    @model_validator(mode="after")
    def _names(self) -> Self:
        """Every value is made once, before it is read."""
        made = [value.name for value in self.inputs] + [value.name for value in self.noise]
        made += [state.input for state in self.states]
        if self.loop is not None:
            if self.loop.graph not in (graph.name for graph in self.graphs):
                raise ValueError(f"the loop names graph {self.loop.graph!r}, which is not there")
            made += [name for name in (self.loop.time, self.loop.step) if name is not None]
        for graph in self.graphs:
            for name in graph.inputs:
                if name not in made:
                    raise ValueError(f"graph {graph.name} reads {name!r}, which nothing made before it")
            made += graph.outputs
        if doubled := [name for name in made if made.count(name) > 1]:
            raise ValueError(f"two values are called {doubled[0]!r}")
        carried = self.loop.carried.items() if self.loop else []
        wanted = [self.samples, *(state.output for state in self.states), *(name for pair in carried for name in pair)]
        for name in wanted:
            if name not in made:
                raise ValueError(f"{name!r} is made by nothing")
        return self

    @model_validator(mode="after")
    def _fits_a_memory(self) -> Self:
        if sum(prod(state.shape) for state in self.states) > MAX_VALUES:
            raise ValueError(f"states hold more than {MAX_VALUES} numbers")
        if self.chunk is not None:
            units = self.look_back + self.look_ahead + self.align + max(self.chunk.first, self.chunk.later)
            if units * (self.hop or 1) > MAX_VALUES:
                raise ValueError(f"a call gives more than {MAX_VALUES} samples")
            for noise in self.noise:
                if not 0 < noise.places(units) * prod(size or 1 for size in noise.shape) <= MAX_VALUES:
                    raise ValueError(
                        f"noise {noise.name}: a call takes fewer than no numbers, or more than {MAX_VALUES}"
                    )
        return self

    def given(self, units: int | None = None) -> dict[str, tuple[DType, list[int | None]]]:
        """Type and shape of each value that a host brings to a call that is given so many units; None is any size."""
        found: dict[str, tuple[DType, list[int | None]]] = {}
        for value in self.inputs:
            counted = units is not None and self.mode != "prefix" and value.source in ("codes", "hidden")
            free = (units or 0) * self.unit if counted else None
            found[value.name] = value.dtype, [size if isinstance(size, int) else free for size in value.shape]
        for noise in self.noise:
            found[noise.name] = "float32", noise.sized(None if units is None else noise.places(units))
        found |= {state.input: (state.dtype, [*state.shape]) for state in self.states}
        if self.loop is not None:
            found |= {name: ("float32", [1]) for name in (self.loop.time, self.loop.step) if name is not None}
        return found

    @property
    def files(self) -> list[str]:
        """Every file of every runtime."""
        return [name for graph in self.graphs for names in graph.files.values() for name in names]

    @property
    def reads_hidden(self) -> bool:
        """Whether it takes the vectors that codes were picked from."""
        return any(value.source == "hidden" for value in self.inputs)

    def in_folder(self, place: str) -> Self:
        """The same, its files in a folder beneath."""
        graphs = [
            graph.model_copy(
                update={
                    "files": {runtime: [f"{place}/{name}" for name in names] for runtime, names in graph.files.items()}
                }
            )
            for graph in self.graphs
        ]
        return self.model_copy(update={"graphs": graphs})
