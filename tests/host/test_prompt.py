"""The prefix program: order, positions, and what it refuses."""

from pathlib import Path

import numpy as np
import pytest
import tokenizers

from wand_export.errors import BundleError, InputError
from wand_export.graph.text.compiler import Reading, compile_tokenizer
from wand_export.host.prompt import (
    PrefixOverflow,
    first_position,
    load_reader,
    load_text,
    own_replacements,
    prefix_rows,
    stretches,
)

COSYVOICE = [
    {"table": "speech", "ids": [0]},
    {"table": "text", "input": "prompt_text"},
    {"table": "text", "input": "text"},
    {"table": "speech", "ids": [1]},
    {"table": "speech", "input": "prompt_tokens"},
]
LEARNED = {
    "text": {"rows": 128, "dtype": "float32", "positions": "text_positions"},
    "text_positions": {"rows": 8, "dtype": "float32", "positions": None},
    "speech": {"rows": 10, "dtype": "float32", "positions": "speech_positions"},
    "speech_positions": {"rows": 20, "dtype": "float32", "positions": None},
}
INDEX_TTS = [
    {"table": "text", "ids": [0]},
    {"table": "text", "input": "text"},
    {"table": "text", "ids": [1]},
    {"table": "speech", "ids": [9]},
]


def first(manifest, inputs):
    return first_position(manifest, stretches(manifest, inputs))


def test_parts_come_in_the_order_of_the_program(make_bundle) -> None:
    bundle = make_bundle(prefix=COSYVOICE)
    rows = prefix_rows(bundle, {"text": [5, 6], "prompt_tokens": [7, 8], "prompt_text": [3]})
    assert rows.dtype == np.float32
    assert rows[:, :2].tolist() == [[0, 1], [3, 0], [5, 0], [6, 0], [1, 1], [7, 1], [8, 1]]


def test_absent_inputs_are_empty(make_bundle) -> None:
    rows = prefix_rows(make_bundle(prefix=COSYVOICE), {"text": [5]})
    assert rows[:, 0].tolist() == [0, 5, 1]


def test_learned_positions_count_over_neighbours_of_one_table(make_bundle) -> None:
    bundle = make_bundle(prefix=INDEX_TTS, tables=LEARNED)
    rows = prefix_rows(bundle, {"text": [5, 6]})
    assert rows[:, [0, 2]].tolist() == [[0, 0], [5, 1], [6, 2], [1, 3], [9, 0]]


def test_generated_tokens_continue_a_prefix_that_ends_in_speech(make_manifest) -> None:
    assert first(make_manifest(prefix=INDEX_TTS, tables=LEARNED), {"text": [5]}) == 1
    assert first(make_manifest(prefix=COSYVOICE), {"text": [5], "prompt_tokens": [3, 3]}) == 3
    assert first(make_manifest(prefix=COSYVOICE[:3]), {"text": [5]}) == 0
    assert first(make_manifest(prefix=INDEX_TTS, tables=LEARNED, skipped_positions=1), {"text": [5]}) == 2


def test_a_prefix_beyond_capacity_names_both_numbers(make_manifest) -> None:
    manifest = make_manifest()
    assert sum(len(ids) for _, ids in stretches(manifest, {"text": [1] * 11})) == 12
    with pytest.raises(PrefixOverflow, match=r"13 tokens \(12 fit.*--prefix 13"):
        stretches(manifest, {"text": [1] * 12})


@pytest.mark.parametrize("inputs", [{}, {"text": []}])
def test_an_empty_text_is_refused(make_manifest, inputs) -> None:
    with pytest.raises(InputError, match="without tokens"):
        stretches(make_manifest(), inputs)


def test_an_input_that_the_program_does_not_take_is_refused(make_manifest) -> None:
    with pytest.raises(InputError, match=r"'prompt_text'.*it takes: text"):
        stretches(make_manifest(), {"text": [1], "prompt_text": [2]})


@pytest.mark.parametrize("token", [-1, 128])
def test_ids_outside_their_table_are_refused(make_bundle, token) -> None:
    with pytest.raises(InputError, match=f"id {token} "):
        prefix_rows(make_bundle(), {"text": [5, token]})


def test_positions_outside_their_table_are_refused(make_bundle) -> None:
    bundle = make_bundle(prefix=INDEX_TTS, tables=LEARNED)
    assert len(prefix_rows(bundle, {"text": [5] * 6})) == 9
    with pytest.raises(PrefixOverflow, match=r"9 tokens \(8 fit.*learned"):
        prefix_rows(bundle, {"text": [5] * 7})


def test_the_manifest_is_left_alone(make_manifest) -> None:
    manifest = make_manifest(prefix=INDEX_TTS, tables=LEARNED)
    assert stretches(manifest, {"text": [5]}) == stretches(manifest, {"text": [5]})


def test_a_tokenizer_adds_no_special_tokens(make_bundle) -> None:
    assert load_text(make_bundle()).ids("ab c") == [97, 98, 32, 99]


def test_a_tokenizer_has_replacements_and_no_lexicon(make_bundle, tmp_path: Path) -> None:
    bundle, file = make_bundle(), tmp_path / "own.tsv"
    file.write_text("# mine\nSQL\tsequel\nété\tsummer\n", encoding="utf-8")
    assert load_reader(bundle).replaced("SQL") == "SQL"
    assert load_reader(bundle, replace=file).replaced("sql, été!") == "sequel, summer!"
    with pytest.raises(InputError, match=r"own\.tsv: fake reads text by a tokenizer, not by phonemes .*--replace"):
        load_reader(bundle, lexicon=file)
    assert own_replacements(None, file) == {"sql": "sequel", "été": "summer"}
    file.write_text("a\tb\nb\tbell \x07 rings\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"own\.tsv: line 2: cannot say"):
        load_reader(bundle, replace=file)


def test_a_bundle_without_the_replacements_that_it_tells_of(make_bundle, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"replace\.tsv"):
        load_reader(make_bundle(replaces=True))
    (tmp_path / "text" / "replace.tsv").write_text("a\tb\nc\n", encoding="utf-8")
    with pytest.raises(BundleError, match=r"replace\.tsv: line 2: no tab \(export the bundle again\)"):
        load_reader(make_bundle(replaces=True))


def test_a_missing_tokenizer_is_named(make_bundle) -> None:
    with pytest.raises(BundleError, match=r"manifest\.json: pieces: there are none"):
        load_text(make_bundle(pieces=None))
    bundle = make_bundle()
    (bundle.path / "text" / "pieces.safetensors").unlink()
    with pytest.raises(BundleError, match=r"pieces\.safetensors"):
        load_text(bundle)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two!  Three?", ["One.", "Two!", "Three?"]),
        ("Pi is 3.14 today", ["Pi is 3.14 today"]),
        ("好。再见！走", ["好。", "再见！", "走"]),
        ("a\n\nb\n", ["a", "b"]),
        (" \n ", []),
    ],
)
def test_sentences(make_bundle, text, expected) -> None:
    assert load_text(make_bundle()).sentences(text) == expected


SPARK = [
    {"table": "text", "ids": [1]},
    {"table": "text", "input": "text"},
    {"table": "text", "input": "globals", "offset": 100, "codes": 8, "length": 3},
    {"table": "text", "ids": [2], "given": "prompt_tokens"},
    {"table": "text", "input": "prompt_tokens", "offset": 110},
]


def test_codes_are_moved_to_where_they_lie_in_the_table(make_manifest) -> None:
    manifest = make_manifest(prefix=SPARK)
    inputs = {"text": [5], "globals": [0, 7, 3], "prompt_tokens": [4]}
    assert stretches(manifest, inputs) == [("text", [1, 5, 100, 107, 103, 2, 114])]
    assert stretches(manifest, {"text": [5], "globals": [0, 7, 3]}) == [("text", [1, 5, 100, 107, 103])]


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({}, "0 globals .*choose a voice that has its 3"),
        ({"globals": [1, 2]}, "2 globals .*it takes 3"),
        ({"globals": [1, 2, 8]}, "globals hold id 8 .*from 0 to 7"),
        ({"globals": [1, 2, 3], "prompt_tokens": [18]}, "prompt_tokens hold id 18 .*from 0 to 17"),
    ],
)
def test_a_voice_that_does_not_fit_is_refused(make_manifest, inputs, words) -> None:
    with pytest.raises(InputError, match=words):
        stretches(make_manifest(prefix=SPARK), {"text": [5], **inputs})


LATENTS = [{"input": "latents", "length": 2}, *INDEX_TTS]


def test_latents_are_rows_already_and_take_no_positions(make_bundle) -> None:
    bundle = make_bundle(prefix=LATENTS, tables=LEARNED)
    latents = np.arange(8, dtype=np.float32).reshape(2, 4) + 0.5
    rows = prefix_rows(bundle, {"text": [5], "latents": latents})
    assert np.array_equal(rows[:2], latents)
    assert rows[2:, [0, 2]].tolist() == [[0, 0], [5, 1], [1, 2], [9, 0]]
    with pytest.raises(InputError, match="rows of 4"):
        prefix_rows(bundle, {"text": [5], "latents": np.zeros((2, 3), np.float32)})
    with pytest.raises(InputError, match="0 latents"):
        prefix_rows(bundle, {"text": [5]})


def test_capital_letters_and_characters_that_are_refused(make_bundle) -> None:
    pieces = make_bundle().manifest.pieces.model_dump() | {"case": "upper", "refused": [(0x4E00, 0x9FFF)]}
    encoder = load_text(make_bundle(pieces=pieces))
    assert encoder.ids("aB") == [65, 66]
    assert [odd.characters for odd in encoder.unsayable("a \u597d\x00b")] == ["\u597d", "\x00"]
    with pytest.raises(ValueError, match=r"'\u597d' \(line 1, column 3\)"):
        encoder.ids("a \u597d")


def test_control_tokens_in_a_text_are_found_and_those_of_a_template_read() -> None:
    """Special or not, in capital letters or not; markup that the family speaks, and spaces, are text."""
    judge = tokenizers.Tokenizer(tokenizers.models.BPE({c: ord(c) for c in map(chr, range(128))}, []))
    judge.add_special_tokens(["<|END|>", "[laughs]"])
    judge.add_tokens(["<s_0>", "  "])
    encoder = compile_tokenizer(Path("tokenizer.json"), judge, Reading(markup=["[laughs]"])).tokenizer()
    odd = encoder.unsayable("a <|END|>\nb  [laughs]\ud800<s_0><|END|")
    assert [(one.characters, one.line, one.column) for one in odd] == [
        ("<|END|>", 1, 3), ("\ud800", 2, 12), ("<s_0>", 2, 13),
    ]  # fmt: skip
    assert encoder.ids("<|END|>a") == [128, 97]
    capital = compile_tokenizer(Path("tokenizer.json"), judge, Reading(capitals=True)).tokenizer()
    assert [one.characters for one in capital.unsayable("straße <|end|>")] == ["<|end|>"]
