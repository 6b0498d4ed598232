"""text.json: the tables of a lexicon voice's text. What they mean is told in host/text.py."""

from typing import Annotated

from pydantic import Field

from wand_export.spec.limits import Count, Size
from wand_export.spec.schema import Schema

TEXT_FILE, LEXICON_FILE = "text.json", "lexicon.tsv"

Character = Annotated[str, Field(min_length=1, max_length=1)]
Short = Annotated[str, Field(max_length=64)]
Given = Annotated[str, Field(min_length=1, max_length=64)]


class TextTables(Schema):
    """The tables but the lexicon."""

    replace: list[tuple[Given, Short]]
    abbreviations: dict[str, Short]
    ones: list[Short]
    tens: list[Short]
    scales: list[Short]
    point: Short
    currencies: dict[Given, Annotated[str, Field(max_length=64, pattern=r"^[^\\]*$")]]
    graphemes: dict[Given, Short] = Field(min_length=1)
    vowels: str
    punctuation: str
    max_words: Size
    symbols: dict[Character, Count]
    boundaries: list[Count]
