"""The text frontend on tables of its own, and on those of the example voice."""

import json
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from wand_export.errors import BundleError, InputError
from wand_export.host.sentences import without
from wand_export.host.text import Frontend, TextError

WREN = Path(__file__).parents[2] / "models" / "wren" / "text"
LEXICON = {"one": "wˈʌn", "two": "tˈu", "three": "θɹˈi", "twenty": "twˈɛnti", "hundred": "hˈʌndɹəd", "dog": "dˈɔɡ",
           "thousand": "θˈWzᵊnd", "doctor": "dˈɑktəɹ", "point": "pˈYnt", "dollars": "dˈɑləɹz", "bus": "bˈʌs",
           "cat": "kˈæt", "don't": "dˈOnt", "zero": "zˈɪɹO"}  # fmt: skip
TABLES = {
    "replace": [["’", "'"], ["-", " "], ["é", "e"], ["…", "..."]],
    "abbreviations": {"dr": "doctor"},
    "ones": ["zero", "one", "two", "three", *["?"] * 16],
    "tens": ["", "", "twenty", *["?"] * 7],
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
        ("Dr. dog, one", "dˈɑktəɹ dˈɔɡ, wˈʌn."),
        ("s. h. shipé", "ˈs ˈh ʃˈɪpɛ."),
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
    with pytest.raises(TextError, match=r"'你' \(line 1, column 5\): this voice knows letters, digits"):
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
    with pytest.raises(BundleError, match=r"text\.json: abbreviations"):
        Frontend.load(tmp_path)
    few = {**TABLES, "symbols": {"a": 1}, "tens": ["", "", "twenty"]}
    (tmp_path / "text.json").write_text(json.dumps(few), encoding="utf-8")
    with pytest.raises(BundleError, match=r"text\.json: tens"):
        Frontend.load(tmp_path)
    (tmp_path / "text.json").write_text(json.dumps({**TABLES, "symbols": {"a": 1}}), encoding="utf-8")
    with pytest.raises(BundleError, match=r"lexicon\.tsv"):
        Frontend.load(tmp_path)
    (tmp_path / "lexicon.tsv").write_text("no tab\n", encoding="utf-8")
    with pytest.raises(BundleError, match=r"lexicon\.tsv"):
        Frontend.load(tmp_path)
    (tmp_path / "lexicon.tsv").write_text("dog\taq\n", encoding="utf-8")
    with pytest.raises(BundleError, match=r"lexicon\.tsv: phoneme 'q'"):
        Frontend.load(tmp_path)


@pytest.mark.parametrize(
    ("changes", "text", "words"),
    [
        ({"replace": [["a", "a" * 64]] * 60}, "dog a", "characters after replacements"),
        ({"abbreviations": {"dog": "é"}}, "dog", "no rule for 'é'"),
        ({"graphemes": {"i": "q"}}, "i", "no token for phoneme 'q'"),
    ],
)
def test_hostile_tables_end_in_a_sentence(frontend: Frontend, changes: dict, text: str, words: str) -> None:
    with pytest.raises(TextError, match=words):
        replace(frontend, **changes).ids(text)


@pytest.mark.parametrize(
    ("line", "text", "spoken"),
    [
        ("Dog\tkˈæt", "dog DOG, one dog's", "kˈæt kˈæt, wˈʌn kˈæts."),
        ("ship\tsˈɪp", "Ship. ships", "sˈɪp. ʃˈɪps."),
        ("Épi’s\tpˈɛ", "épi's Epi’s", "pˈɛ pˈɛ."),
        ("don't\tdˈu nˈɔt", "Don’t", "dˈu nˈɔt."),
        ("one\ttˈu", "1, 21", "tˈu, twˈɛnti tˈu."),
        ("# one\ttˈu", "one", "wˈʌn."),
    ],
)
def test_a_users_own_words_go_before_the_lexicons(
    frontend: Frontend, tmp_path: Path, line: str, text: str, spoken: str
) -> None:
    tables = replace(frontend, fold={"É": "e"}, symbols={**frontend.symbols, "n": 1, "u": 2, "ˈ": 3})
    (tmp_path / "own.tsv").write_text(line + "\n", encoding="utf-8")
    own = tables.with_lexicon(tmp_path / "own.tsv")
    assert own.phonemes(text) == spoken and own.ids(text)
    assert frontend.lexicon == LEXICON


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("dog\tdˈɔqɡ", "line 2: phoneme 'q' is none of this voice's"),
        ("dog\tDOG", "line 2: phoneme 'D'"),
        ("dög\tdˈɔɡ", "line 2: cannot read 'ö' in 'dög'"),
        ("犬\tdˈɔɡ", "line 2: cannot read '犬'"),
        ("big dog\tdˈɔɡ", "line 2: 'big dog' is not one word"),
        ("two-dog\tdˈɔɡ", "line 2: 'two-dog' is not one word"),
        ("dog.\tdˈɔɡ", "line 2: 'dog.' is not one word"),
        ("'dog\tdˈɔɡ", 'line 2: "\'dog" is not one word'),
        ("dog'\tdˈɔɡ", 'line 2: "dog\'" is not one word'),
        ("2\ttˈu", "line 2: '2' is not one word"),
        ("$\ttˈu", "line 2: '$' is not one word"),
        (",\ttˈu", "line 2: ',' is not one word"),
        ("Dr\tdˈɔɡ", "line 2: 'Dr' is read as 'doctor': change it with --replace"),
        ("CAT\tkˈæt", "line 2: 'cat' comes twice"),
        ("dog", "line 2: no tab"),
        ("\tdˈɔɡ", "line 2: nothing before the tab"),
    ],
)
def test_a_word_that_is_never_asked_for_or_cannot_be_said_is_named(
    frontend: Frontend, tmp_path: Path, line: str, why: str
) -> None:
    file = tmp_path / "own.tsv"
    file.write_text(f"cat\tkˈæt\n{line}\n", encoding="utf-8")
    with pytest.raises(InputError) as raised:
        frontend.with_lexicon(file)
    assert str(raised.value).startswith(f"{file}: {why}")


def test_wren_says_its_own_sentences() -> None:
    """Every phoneme of every table has a token, and ordinary text is spoken from the lexicon."""
    frontend = Frontend.load(WREN)
    for word, phonemes in frontend.lexicon.items():
        assert all(c in frontend.symbols for c in phonemes), word
    assert all(c in frontend.symbols for phonemes in frontend.graphemes.values() for c in phonemes)
    for sentence in (WREN.parent / "eval_sentences.txt").read_text(encoding="utf-8").splitlines():
        assert frontend.ids(sentence)
    assert frontend.phonemes("Dr. Smith paid $1,250.50!") == (
        "dˈɑktəɹ smˈɪθ pˈAd wˈʌn θˈWzᵊnd tˈu hˈʌndɹəd fˈɪfti dˈɑləɹz ænd fˈɪfti sˈɛnts!"
    )


@pytest.mark.parametrize("value", [0, 19, 20, 45, 100, 999, 1000, 20_001, 999_999, 1_000_000, 999_999_999])
def test_wren_says_numbers(value: int) -> None:
    frontend = Frontend.load(WREN)
    assert frontend.ids(str(value)) == frontend.ids(f"{value:,}")
    assert all(word in frontend.lexicon for word in frontend.figures.number(value))


@pytest.fixture(scope="module")
def wren() -> Frontend:
    return Frontend.load(WREN)


@pytest.mark.parametrize(
    ("text", "same"),
    [
        (
            "Zoë Brontë ate déjà vu at a café in Málaga, São Paulo",
            "Zoe Bronte ate deja vu at a cafe in Malaga, Sao Paulo",
        ),
        ("ÉCLAIR \u00c5ngstro\u0308m ﬁne \u212aelvin ſo ｗｉｄｅ", "eclair Angstrom fine Kelvin so wide"),
        ("don’t ‘go’ “now” „here“ «there»", "don't go now here there"),
        ("a\u00a0b\u2009c\u200bd\u00ade\u2060f\u2011g", "a b c def g"),
        ("wait … one — two", "wait... one, two"),
        ("#1, №2, ½, −3, 1⁄2", "number 1, number 2, 1/2, minus 3, one half"),
        ("*bold* _under_ [one] {two}", "bold under, one, , two,"),
        ("3² × 4 ÷ 2 ± 1", "3 squared times 4 divided by 2 plus or minus 1"),
        ("the U.S.A. and e.g. this", "the U.S.A and for example this"),
        ("İstanbul", "Istanbul"),
    ],
)
def test_wren_reads_what_is_typeset_as_what_is_typed(wren: Frontend, text: str, same: str) -> None:
    assert not wren.unsayable(text)
    assert wren.phonemes(text) == wren.phonemes(same)


def test_wren_says_initials_by_their_names_and_without_pauses(wren: Frontend) -> None:
    assert wren.phonemes("The U.S.A. team") == "ðə jˈu ˈɛs ˈA tˈim."
    assert wren.phonemes("J. R. R. Tolkien wrote.").count(".") == 1
    assert wren.phonemes("at 9 a.m. in May") == wren.phonemes("at nine A.M. in may")


def test_every_word_of_wrens_figures_is_in_its_lexicon(wren: Frontend) -> None:
    def words(table: object) -> set[str]:
        if isinstance(table, str):
            return set(table.split())
        inside = table.values() if isinstance(table, dict) else table
        return set().union(*map(words, inside))  # type: ignore[call-overload]

    spoken = {name: table for name, table in vars(wren.figures).items() if name != "suffixes"}
    assert not {word for word in words(spoken) if "." not in word} - set(wren.lexicon)


def test_what_cannot_be_said_is_found_everywhere_and_sayable_text_is_left_alone(wren: Frontend) -> None:
    text = "One\r\n two 你\n\x00好 $5"
    assert [(odd.characters, odd.index, odd.line, odd.column) for odd in wren.unsayable(text)] == [
        ("你", 10, 2, 6), ("\x00", 12, 3, 1), ("好", 13, 3, 2),
    ]  # fmt: skip
    assert without(text, wren.unsayable(text)) == "One\r\n two \n $5"


def test_nothing_that_was_not_written_on_purpose_fails_in_silence(wren: Frontend) -> None:
    """Every text is said, refused in words, or holds nothing to say; no sentence is empty."""
    random = Random(5)
    signs = "abcdefgi xyz ABC '.,!?;:-0123456789$£€%&+=@/()\"’“”…—é°½#\n你"
    for _ in range(1500):
        text = "".join(random.choices(signs, k=random.randrange(1, 40)))
        text = without(text, wren.unsayable(text))
        for sentence in wren.sentences(text):
            assert len(wren.ids(sentence)) > 1, (text, sentence)


def test_a_book_without_a_full_stop_is_spoken_in_parts(frontend: Frontend) -> None:
    words = ["one", "two", "three", "dog"] * 6250
    parts = frontend.sentences(" ".join(words))
    assert " ".join(parts).split(" ") == words
    assert max(len(part.split(" ")) for part in parts) == 6


@pytest.mark.parametrize(
    "text", ["9" * 5000, "1," * 3000, "1." * 3000, "-" * 3000, "$" * 3000, "a." * 3000, "x" * 5000]
)
def test_long_runs_of_one_kind_are_said(wren: Frontend, text: str) -> None:
    for sentence in wren.sentences(text):
        assert wren.ids(sentence)
