"""The prefix program: order, positions, and what it refuses."""

import numpy as np
import pytest

from wand_export.errors import BundleError, InputError
from wand_export.host.prompt import Tokenizer, first_position, load_text, prefix_rows, stretches

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
    assert first_position(make_manifest(prefix=INDEX_TTS, tables=LEARNED), {"text": [5]}) == 1
    assert first_position(make_manifest(prefix=COSYVOICE), {"text": [5], "prompt_tokens": [3, 3]}) == 3
    assert first_position(make_manifest(prefix=COSYVOICE[:3]), {"text": [5]}) == 0


def test_a_prefix_beyond_capacity_names_both_numbers(make_manifest) -> None:
    manifest = make_manifest()
    assert sum(len(ids) for _, ids in stretches(manifest, {"text": [1] * 11})) == 12
    with pytest.raises(InputError, match=r"13 tokens \(12 fit"):
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
    with pytest.raises(InputError, match=r"id 8 .*text_positions"):
        prefix_rows(make_bundle(prefix=INDEX_TTS, tables=LEARNED), {"text": [5] * 7})


def test_the_manifest_is_left_alone(make_manifest) -> None:
    manifest = make_manifest(prefix=INDEX_TTS, tables=LEARNED)
    assert stretches(manifest, {"text": [5]}) == stretches(manifest, {"text": [5]})


def test_a_tokenizer_adds_no_special_tokens(make_bundle) -> None:
    assert load_text(make_bundle()).ids("ab c") == [97, 98, 32, 99]


def test_a_missing_tokenizer_is_named(tmp_path) -> None:
    with pytest.raises(BundleError, match=r"tokenizer\.json"):
        Tokenizer.load(tmp_path / "tokenizer.json")


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
