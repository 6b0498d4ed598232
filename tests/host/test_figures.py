"""Figures in words: against the vectors, and what empty tables leave as it was."""

import json
from pathlib import Path

import pytest

from wand_export.host.figures import Figures
from wand_export.host.text import Frontend
from wand_export.spec.schema import shipped

VECTORS = json.loads(
    (Path(__file__).resolve().parent.parent / "vectors" / "sentences.json").read_text(encoding="utf-8")
)


@pytest.fixture(scope="module")
def figures() -> Figures:
    return Frontend.load(shipped("models") / "wren" / "text").figures


def spoken(figures: Figures, text: str) -> str:
    return " ".join(figures.spoken(text).split())


@pytest.mark.parametrize("case", VECTORS["figures"], ids=lambda case: case["text"])
def test_figures_match_the_vectors(figures: Figures, case: dict[str, str]) -> None:
    assert spoken(figures, case["text"]) == case["spoken"]


def test_every_year_is_said(figures: Figures) -> None:
    said = {year: spoken(figures, str(year)) for year in range(1000, 2200)}
    assert said[1066] == "one thousand sixty six" and said[1100] == "eleven hundred" and said[2101].startswith("two")
    assert len(set(said.values())) == len(said)


def test_every_ordinal_follows_its_number(figures: Figures) -> None:
    for value in range(1, 1200):
        suffix = "th" if value % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(value % 10, "th")
        *others, last = figures.number(value)
        *same, ordinal = spoken(figures, f"{value:,}{suffix}").split()
        assert same == others and ordinal != last, value


def test_a_number_is_read_back(figures: Figures) -> None:
    """Grouped by commas, up to the largest scale; beyond it, and ungrouped beyond nine digits, digit by digit."""
    assert spoken(figures, f"{10**15 - 1:,}").startswith("nine hundred ninety nine trillion nine hundred")
    assert spoken(figures, f"{10**15:,}") == "one" + " zero" * 15
    assert spoken(figures, str(10**9)) == "one" + " zero" * 9


def test_without_tables_a_figure_is_a_plain_number() -> None:
    ones = ["zero", "one", "two", "three", *["?"] * 16]
    plain = Figures(ones, ["", "", "twenty"], ["hundred", "thousand", "million"], "point", {"$": "dollars"})
    assert spoken(plain, "22nd, 1/2, -3, $2.20, 2003, 1:02, no. 3, 2-3, 3 km") == (
        "twenty two nd, one / two , - three , two point two zero dollars , two thousand three , one : zero two , "
        "no. three , two - three , three km"
    )
