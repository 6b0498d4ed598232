"""The text frontend on tables of its own, and on those of the example voice."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from wand_export.errors import BundleError
from wand_export.host.text import Frontend, TextError

WREN = Path(__file__).parents[2] / "models" / "wren" / "text"
LEXICON = {"one": "wˈʌn", "two": "tˈu", "three": "θɹˈi", "twenty": "twˈɛnti", "hundred": "hˈʌndɹəd", "dog": "dˈɔɡ",
           "thousand": "θˈWzᵊnd", "doctor": "dˈɑktəɹ", "point": "pˈYnt", "dollars": "dˈɑləɹz", "bus": "bˈʌs",
           "cat": "kˈæt", "don't": "dˈOnt", "zero": "zˈɪɹO"}  # fmt: skip
TABLES = {
    "replace": [["’", "'"], ["-", " "], ["é", "e"], ["…", "..."]],
    "abbreviations": {"dr": "doctor"},
    "ones": ["zero", "one", "two", "three", *["?"] * 16],
    "tens": ["", "", "twenty"],
    "scales": ["hundred", "thousand", "million"],
    "point": "point",
    "currencies": {"$": "dollars"},
    "graphemes": {"s": "s", "h": "h", "sh": "ʃ", "i": "ɪ", "p": "p", "e": "ɛ"},
    "vowels": "ɪɛ",
    "punctuation": ".,!?;:",
    "max_words": 6,
    "boundaries": [],
}


@pytest.fixture(scope="module")
def frontend(tmp_path_factory: pytest.TempPathFactory) -> Frontend:
    folder = tmp_path_factory.mktemp("text")
    characters = sorted({c for phonemes in LEXICON.values() for c in phonemes} | set("ʃɪɛphzᵻ .,!?;:"))
    tables = {**TABLES, "symbols": {c: 100 + i for i, c in enumerate(characters)}}
    (folder / "text.json").write_text(json.dumps(tables), encoding="utf-8")
    (folder / "lexicon.tsv").write_text("".join(f"{w}\t{p}\n" for w, p in LEXICON.items()), encoding="utf-8")
    return Frontend.load(folder)


@pytest.mark.parametrize(
    ("text", "spoken"),
    [
        ("One dog.", "wˈʌn dˈɔɡ."),
        ("one-two , three", "wˈʌn tˈu, θɹˈi."),
        ("Dr. dog", "dˈɑktəɹ dˈɔɡ."),
        ("dog?! ... ", "dˈɔɡ?"),
        (", dog", "dˈɔɡ."),
        ("Don’t", "dˈOnt."),
        ("dog's bus's cat's", "dˈɔɡz bˈʌsᵻz kˈæts."),
        ("shipé", "ʃˈɪpɛ."),
        ("22", "twˈɛnti tˈu."),
        ("3,120", "θɹˈi θˈWzᵊnd wˈʌn hˈʌndɹəd twˈɛnti."),
        ("3.02", "θɹˈi pˈYnt zˈɪɹO tˈu."),
        ("$2, two", "tˈu dˈɑləɹz, tˈu."),
        ("021", "zˈɪɹO tˈu wˈʌn."),
        ("1" + "0" * 9, "wˈʌn" + " zˈɪɹO" * 9 + "."),
    ],
)
def test_text_is_spoken_as(frontend: Frontend, text: str, spoken: str) -> None:
    assert frontend.phonemes(text) == spoken
    assert frontend.ids(text) == [frontend.symbols[c] for c in spoken]


def test_spaces_are_numbered_where_the_tables_say_so(frontend: Frontend) -> None:
    numbered = replace(frontend, boundaries=[7, 8])
    plain = frontend.ids("One one one one.")
    assert [i for i in numbered.ids("One one one one.") if i < 100] == [7, 8, 7]
    assert [i for i in numbered.ids("One one one one.") if i >= 100] == [i for i in plain if i != frontend.symbols[" "]]


@pytest.mark.parametrize("text", ["", "  \n", "...", "'", "-"])
def test_nothing_to_say_is_refused(frontend: Frontend, text: str) -> None:
    with pytest.raises(TextError, match="nothing to say"):
        frontend.ids(text)


def test_a_character_that_cannot_be_said_is_named_with_its_place(frontend: Frontend) -> None:
    with pytest.raises(TextError, match=r"'你' \(character 4\): this voice knows letters, digits"):
        frontend.ids("dog 你")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("One dog. Two!", ["One dog.", "Two!"]),
        ("Dr. Dog runs. A. B. Cat", ["Dr. Dog runs.", "A. B. Cat"]),
        ("It costs 3.5 now. Yes", ["It costs 3.5 now.", "Yes"]),
        ("a\nb", ["a", "b"]),
        ("one two three, four five six seven", ["one two three,", "four five six seven"]),
        ("one two three four five six seven", ["one two three four five six", "seven"]),
        (" ... ", []),
    ],
)
def test_sentences(frontend: Frontend, text: str, parts: list[str]) -> None:
    assert frontend.sentences(text) == parts


def test_missing_or_broken_tables_are_named(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"text\.json"):
        Frontend.load(tmp_path)
    (tmp_path / "text.json").write_text('{"replace": []}', encoding="utf-8")
    with pytest.raises(BundleError, match=r"lexicon\.tsv"):
        Frontend.load(tmp_path)
    (tmp_path / "lexicon.tsv").write_text("no tab\n", encoding="utf-8")
    with pytest.raises(BundleError, match=r"lexicon\.tsv"):
        Frontend.load(tmp_path)


def test_wren_says_its_own_sentences() -> None:
    """Every phoneme of every table has a token, and ordinary text is spoken from the lexicon."""
    frontend = Frontend.load(WREN)
    for word, phonemes in frontend.lexicon.items():
        assert all(c in frontend.symbols for c in phonemes), word
    assert all(c in frontend.symbols for phonemes in frontend.graphemes.values() for c in phonemes)
    for sentence in (WREN.parent / "eval_sentences.txt").read_text(encoding="utf-8").splitlines():
        assert frontend.ids(sentence)
    assert frontend.phonemes("Dr. Smith paid $1,250.50!") == (
        "dˈɑktəɹ smˈɪθ pˈAd wˈʌn θˈWzᵊnd tˈu hˈʌndɹəd fˈɪfti pˈYnt fˈIv zˈɪɹO dˈɑləɹz!"
    )


@pytest.mark.parametrize("value", [0, 19, 20, 45, 100, 999, 1000, 20_001, 999_999, 1_000_000, 999_999_999])
def test_wren_says_numbers(value: int) -> None:
    frontend = Frontend.load(WREN)
    assert frontend.ids(str(value)) == frontend.ids(f"{value:,}")
    assert all(word in frontend.lexicon for word in frontend.number(value))
