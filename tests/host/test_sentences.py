"""Sentences: against the vectors, that no text is lost, and that no text takes long."""

import json
from pathlib import Path
from random import Random
from time import perf_counter
from typing import Any

import pytest

from wand_export.host.sentences import CLASSES, JOINED, SPACE, located, parts, runs_of_words, says_something, sentences

VECTORS = json.loads(
    (Path(__file__).resolve().parent.parent / "vectors" / "sentences.json").read_text(encoding="utf-8")
)


@pytest.mark.parametrize("case", VECTORS["sentences"], ids=lambda case: case["text"])
def test_sentences_match_the_vectors(case: Any) -> None:
    assert sentences(case["text"]) == case["sentences"]


@pytest.mark.parametrize("case", VECTORS["long"], ids=lambda case: case["text"])
def test_parts_match_the_vectors(case: Any) -> None:
    assert runs_of_words(case["text"], case["words"]) == case["of_words"]
    assert parts(case["text"], case["count"]) == case["parts"]


def test_white_space_is_unicodes() -> None:
    """Python adds four separators to it."""
    pythons = {chr(point) for point in range(0x110000) if chr(point).isspace()}
    assert pythons - set("\x1c\x1d\x1e\x1f") == SPACE and len(SPACE) == 25


def of_all_classes(random: Random) -> str:
    points = [int(run.partition("..")[0], 16) for runs in CLASSES.values() for run in runs.split(" ")]
    common = " .\"'?!…” ,a1A你好\n"
    return "".join(random.choice(common if random.random() < 0.7 else chr(random.choice(points))) for _ in range(40))


def test_no_text_is_lost() -> None:
    """The sentences are stretches of the text, in order; between them lies nothing to say."""
    random = Random(1)
    for _ in range(3000):
        text, at = of_all_classes(random), 0
        for sentence in sentences(text):
            found = text.index(sentence, at)
            assert says_something(sentence) and not says_something(text[at:found]), text
            at = found + len(sentence)
        assert not says_something(text[at:]), text


def test_no_part_is_lost_or_empty_or_begins_with_a_sign_of_the_character_before() -> None:
    random = Random(2)
    for _ in range(1000):
        text = "a" + of_all_classes(random).strip() + "a"
        for count in (2, 3, 9, 100):
            cut = parts(text, count)
            assert "".join("".join(cut).split()) == "".join(text.split()) or "\u200b" in text or "\ufeff" in text
            assert len(cut) > 1 and all(len(part) < len(text) for part in cut)
    letters = "e\u0301" * 50
    assert all(part[0] not in JOINED for part in parts(letters, 7))


def test_a_voices_own_abbreviations_end_no_sentence() -> None:
    assert sentences("Abk. Eins. Zwei.") == ["Abk.", "Eins.", "Zwei."]
    assert sentences("Abk. Eins. Zwei.", {"abk"}) == ["Abk. Eins.", "Zwei."]


def test_places_count_lines_of_every_kind() -> None:
    text = "a\r\nb\rc\nd\u2028e x"
    assert [(odd.line, odd.column) for odd in located(text, [(i, i + 1) for i in (0, 3, 5, 7, 9, 11)])] == [
        (1, 1), (2, 1), (3, 1), (4, 1), (5, 1), (5, 3),
    ]  # fmt: skip
    assert [odd.characters for odd in located("abcd", [(0, 2), (1, 3), (3, 4)])] == ["ab", "d"]


@pytest.mark.parametrize(
    "unit",
    [".", "a", "'", '"', ". ", '."', "a. ", "\n", "…", "a.) ", "word ", "。", " .'", "((a. ", "„", "e\u0301", ", "],
)
def test_time_grows_with_the_text_alone(unit: str) -> None:
    """A hundred thousand characters of any kind, where a quadratic reading would take minutes."""
    text = unit * (100_000 // len(unit))
    start = perf_counter()
    for sentence in sentences(text) + sentences("(" * 1000 + text + "x"):
        if len(sentence) > 1:
            parts(sentence, 500)
            runs_of_words(sentence, 20)
    assert perf_counter() - start < 10
