"""selftest.json: golden requests that every session of a bundle must reproduce."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from wand_export.spec.limits import Bytes, Count, Real
from wand_export.spec.schema import Schema

SELFTEST_FILE = "selftest.json"
_MOST = 2**12
"""A self-test takes seconds: the most tokens of a request, codes of the utterance, and characters of a text."""


class Stretch(Schema):
    """Consecutive prefix ids from one table."""

    table: str
    ids: list[Count] = Field(min_length=1)


class Expected(Schema):
    """What the reference says after `step` forced tokens: its largest logits as (row, value)."""

    step: Count
    top: list[tuple[Count, Real]] = Field(min_length=1)


class Golden(Schema):
    """One request: a prefix, the tokens that are forced after it, and what is expected on the way."""

    prefix: list[Stretch] = Field(min_length=1)
    forced: list[Count] = Field(max_length=_MOST)
    expected: list[Expected] = Field(min_length=1)

    @model_validator(mode="after")
    def _steps_are_forced(self) -> Self:
        if (step := max(expected.step for expected in self.expected)) > len(self.forced):
            raise ValueError(f"expected: step {step} lies behind the {len(self.forced)} forced tokens")
        return self


class GoldenAudio(Schema):
    """One utterance for the audio decoder: audio codes, the seed of its noise, and some samples as (index, value)."""

    codes: list[Count] = Field(min_length=1, max_length=_MOST)
    seed: Bytes
    expected: list[tuple[Count, Real]]
    tolerance: dict[str, Real]

    @model_validator(mode="after")
    def _more_than_one_value(self) -> Self:
        """PSNR is a ratio to the range of what is expected."""
        if len({value for _, value in self.expected}) < 2:
            raise ValueError("expected: gives no two different samples")
        return self


class GoldenText(Schema):
    """What the text encoder makes of a text: what it cannot say, and the sentences of the rest with their token ids.

    A sentence that is refused all the same has no ids.
    """

    text: str = Field(min_length=1, max_length=_MOST)
    unsayable: list[str] = Field(max_length=_MOST)
    sentences: list[str] = Field(max_length=_MOST)
    ids: list[Annotated[list[Count], Field(max_length=2**16)]] = Field(max_length=_MOST)

    @model_validator(mode="after")
    def _ids_for_each(self) -> Self:
        if len(self.ids) != len(self.sentences):
            raise ValueError(f"ids: are of {len(self.ids)} sentences, not {len(self.sentences)}")
        return self


class SelfTest(Schema):
    """tolerance: per target, the largest |difference| that passes; exact: targets whose best row must be the same.

    texts: none where the bundle reads no text.
    """

    schema_version: Literal[1]
    requests: list[Golden] = Field(min_length=1, max_length=16)
    tolerance: dict[str, Real]
    exact: list[str]
    audio: GoldenAudio | None = None
    texts: list[GoldenText] = Field(default=[], max_length=64)
