"""text.json: the tables of a lexicon voice's text. What they mean is told in host/text.py."""

from typing import Annotated

from pydantic import Field

from wand_export.spec.limits import Count, Size
from wand_export.spec.schema import Schema

TEXT_FOLDER, TEXT_FILE, LEXICON_FILE, REPLACE_FILE = "text", "text.json", "lexicon.tsv", "replace.tsv"

Character = Annotated[str, Field(min_length=1, max_length=1)]
Short = Annotated[str, Field(max_length=64)]
Given = Annotated[str, Field(min_length=1, max_length=64)]


Words = dict[Given, Short]


class FigureWords(Schema):
    """The words of figures but those of plain numbers. What they mean is told in host/figures.py."""

    coins: dict[Given, Annotated[list[Short], Field(min_length=2, max_length=2)]] = Field({})
    units: Words = Field({})
    singular: Words = Field({})
    minus: Short = ""
    range: Short = ""
    conjunction: Short = ""
    oh: Short = ""
    full_hour: Short = ""
    ordinals: Words = Field({})
    suffixes: list[Given] = Field([])
    fractions: dict[Given, Annotated[list[Short], Field(min_length=2, max_length=2)]] = Field({})
    numbered: Words = Field({})


class TextTables(Schema):
    """The tables but the lexicon."""

    fold: dict[Character, Short] = Field({})
    figures: FigureWords = FigureWords.model_validate({})
    replace: list[tuple[Given, Short]]
    abbreviations: Words
    letters: dict[Character, Short] = Field({})
    ones: list[Short] = Field(min_length=20, max_length=20)
    tens: list[Short] = Field(min_length=10, max_length=10)
    scales: list[Short] = Field(min_length=2, max_length=6)
    point: Short
    currencies: Words
    graphemes: Words = Field(min_length=1)
    vowels: str
    punctuation: str
    max_words: Size
    symbols: dict[Character, Count]
    boundaries: list[Count]
