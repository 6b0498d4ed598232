"""The loop: tokens, stops and limits, sentences, and when samples come."""

import os
import wave

import numpy as np
import pytest

from wand_export.commands.speak import speak
from wand_export.errors import BundleError, InputError, WandError
from wand_export.host.session import StepOutput
from wand_export.host.speech import Planner, Refusal, Speaker, tokens
from wand_export.host.voices import Voice
from wand_export.spec.recipe import Sampler as Settings
from wand_export.spec.voice import VoiceFile

NO_STOP = 10**9


def collect(generation):
    found = []
    while True:
        try:
            found.append(next(generation)[0])
        except StopIteration as end:
            return found, end.value


def test_tokens_are_fed_back_until_the_stop(make_bundle, make_session) -> None:
    bundle = make_bundle()
    session = make_session(bundle.manifest, stop_at=5)
    found, stopped = collect(tokens(bundle, session, {"text": [65, 66, 67]}, seed=0))
    assert stopped
    assert found == [3, 4, 5, 6, 7]
    assert session.prefix_len == 4
    assert [row[:2] for row in session.rows] == [[65, 0], [66, 0], [67, 0], [9, 1]] + [[t, 1] for t in found]


def test_hidden_is_the_one_that_the_token_was_picked_from(make_bundle, make_session) -> None:
    bundle = make_bundle()
    pairs = list(tokens(bundle, make_session(bundle.manifest, stop_at=3), {"text": [65]}, seed=0))
    assert [hidden[:2].tolist() for _, hidden in pairs] == [[9, 1], [1, 1], [2, 1]]


def test_a_token_is_given_before_the_next_one_is_computed(make_bundle, make_session) -> None:
    bundle = make_bundle()
    session = make_session(bundle.manifest)
    generation = tokens(bundle, session, {"text": [65]}, seed=0)
    next(generation)
    assert session.position == session.prefix_len == 2


def test_a_new_utterance_simply_starts(make_bundle, make_session) -> None:
    bundle = make_bundle()
    session = make_session(bundle.manifest, stop_at=9)
    first = collect(tokens(bundle, session, {"text": [65]}, seed=0))
    assert collect(tokens(bundle, session, {"text": [65]}, seed=0)) == first


def test_the_limit_ends_an_utterance_and_says_so(make_bundle, make_session) -> None:
    bundle = make_bundle(stop={"ids": [8], "max_per_text": 3.0, "max_tokens": 50})
    session = make_session(bundle.manifest, NO_STOP)
    found, stopped = collect(tokens(bundle, session, {"text": [65, 66]}, seed=0))
    assert (len(found), stopped) == (6, False)
    assert session.position == session.prefix_len + 5, "the last token needs no step"


def test_the_stop_is_barred_below_the_minimum(make_bundle, make_session) -> None:
    bundle = make_bundle(stop={"ids": [8], "min_per_text": 4.0, "max_tokens": 50})
    found, stopped = collect(tokens(bundle, make_session(bundle.manifest, 1), {"text": [65, 66]}, seed=0))
    assert (len(found), stopped) == (8, True)


def test_a_text_that_is_said_along_keeps_its_order(make_bundle, make_session) -> None:
    bundle = make_bundle(stop={"ids": [8], "text_ids": [5, 7], "max_per_text_id": 2, "max_tokens": 50})
    found, stopped = collect(tokens(bundle, make_session(bundle.manifest, 1), {"text": [6, 5, 1, 6]}, seed=0))
    assert ([token for token in found if token >= 5], stopped) == ([6, 5, 6], True)


def test_learned_positions_continue_behind_the_prefix(make_bundle, make_session) -> None:
    speech = {"rows": 10, "dtype": "float32", "positions": "places"}
    tables = {
        "text": {"rows": 128, "dtype": "float32", "positions": None},
        "speech": speech,
        "places": {"rows": 4, "dtype": "float32", "positions": None},
    }
    bundle = make_bundle(tables=tables)
    session = make_session(bundle.manifest, NO_STOP)
    generation = tokens(bundle, session, {"text": [65]}, seed=0)
    for _ in range(4):
        next(generation)
    assert [row[2] for row in session.rows] == [0, 0, 1, 2, 3]
    with pytest.raises(InputError, match=r"id 4 .*places"):
        next(generation)


def test_the_models_last_position_is_an_error(make_bundle, make_session) -> None:
    model = make_bundle().manifest.model.model_copy(update={"max_position": 10})
    bundle = make_bundle(model=model.model_dump())
    generation = tokens(bundle, make_session(bundle.manifest, NO_STOP), {"text": [65]}, seed=0)
    with pytest.raises(InputError, match="12 positions"):  # ten behind a prefix of two
        list(generation)


def test_logits_that_are_not_numbers_end_it(make_bundle, make_session) -> None:
    bundle = make_bundle()
    session = make_session(bundle.manifest)
    session._run = lambda rows: StepOutput(np.full(9, np.nan, np.float32), rows[-1])
    with pytest.raises(WandError, match="NaN"):
        next(tokens(bundle, session, {"text": [65]}, seed=0))


def test_the_seed_decides(make_bundle, make_session) -> None:
    bundle = make_bundle()

    def run(seed):
        return collect(tokens(bundle, make_session(bundle.manifest), {"text": [65]}, seed, Settings(temperature=3)))

    assert run(1) == run(1)
    assert run(1) != run(2)


def test_two_utterances_at_once_on_one_session_are_refused(make_bundle, make_session) -> None:
    """Never both, and never one with the other's tokens, wherever the second one begins."""
    bundle = make_bundle()
    alone = [token for token, _ in tokens(bundle, make_session(bundle.manifest), {"text": [65, 66]}, seed=0)]
    for taken in range(1, len(alone)):
        session = make_session(bundle.manifest)
        first = tokens(bundle, session, {"text": [65, 66]}, seed=0)
        for _ in range(taken):
            next(first)
        second = tokens(bundle, session, {"text": [65, 66]}, seed=0)
        found = [next(second)[0]]
        with pytest.raises(InputError, match="one session for each thread"):
            next(first)
        assert found + [token for token, _ in second] == alone


def test_every_sentence_is_an_utterance_of_its_own(make_bundle, make_session, audio_session) -> None:
    bundle = make_bundle()
    speaker = Speaker(bundle, make_session(bundle.manifest, stop_at=4), audio_session)
    pieces = list(speaker.speak(speaker.plan("Ab. Cde."), seed=7))
    assert [piece.token for piece in pieces] == [3, 4, 5, 6, None, 4, 5, 6, 7, None]
    assert [piece.sentence for piece in pieces] == [0] * 5 + [1] * 5
    assert [piece.stopped for piece in pieces] == ([False] * 4 + [True]) * 2
    assert np.concatenate([piece.samples for piece in pieces]).shape == (16,)
    second = audio_session.calls[2]
    assert second[:3] == [-1, -1, 4]


@pytest.mark.parametrize("rate", [0.5, 1.0, 2.0])
def test_every_sentence_keeps_its_share_of_another_speed(make_bundle, make_session, audio_session, rate) -> None:
    bundle = make_bundle()
    speaker = Speaker(bundle, make_session(bundle.manifest, stop_at=4), audio_session)
    pieces = list(speaker.speak(speaker.plan("Ab. Cde."), seed=7, rate=rate))
    for sentence in (0, 1):
        assert sum(len(piece.samples) for piece in pieces if piece.sentence == sentence) == int(8 / rate)


def test_equal_sentences_are_drawn_apart(make_bundle, make_session) -> None:
    bundle = make_bundle(sampler={"temperature": 3.0})
    speaker = Speaker(bundle, make_session(bundle.manifest), None)
    pieces = list(speaker.speak(speaker.plan("Ab. Ab."), seed=0))
    first, second = ([piece.token for piece in pieces if piece.sentence == k] for k in (0, 1))
    assert first != second
    assert second == [piece.token for piece in speaker.speak(speaker.plan("Ab."), seed=1)]


def test_samples_come_before_the_sentence_ends(make_bundle, make_session, audio_session) -> None:
    bundle = make_bundle()
    session = make_session(bundle.manifest, NO_STOP)
    speaker = Speaker(bundle, session, audio_session)
    pieces = speaker.speak(speaker.plan("Ab."), seed=0)
    first = next(number for number, piece in enumerate(pieces) if len(piece.samples))
    assert first == 4, "with the fifth token, the chunk of three has its context of two"
    assert session.position == session.prefix_len + 4


def said(plan):
    return ["".join(map(chr, inputs["text"])) for inputs in plan]


def test_a_sentence_that_does_not_fit_is_spoken_in_parts(make_bundle, make_session) -> None:
    """Twelve tokens fit, one of which is the recipe's own."""
    speaker = Speaker(make_bundle(), make_session(make_bundle().manifest), None)
    assert said(speaker.plan("Short. A sentence too long.")) == ["Short.", "A sentence", "too long."]
    assert said(speaker.plan("One, two and three")) == ["One, two", "and three"]
    assert said(speaker.plan("Unpronounceable")) == ["Unprono", "unceable"]


@pytest.mark.parametrize("text", ["word " * 2000, "x" * 5000, "a, " * 2000, "One. " * 1000, "a" * 30 + " b" * 30])
def test_any_length_of_text_fits_in_parts_and_none_of_it_is_lost(make_bundle, make_session, text) -> None:
    parts = said(Speaker(make_bundle(), make_session(make_bundle().manifest), None).plan(text))
    assert max(map(len, parts)) <= 11
    assert "".join("".join(parts).split()) == "".join(text.split())


def test_a_voices_prompt_counts(make_bundle, make_session) -> None:
    prompt = {"table": "speech", "input": "prompt_tokens"}
    bundle = make_bundle(prefix=[*make_bundle().manifest.model_dump()["prefix"], prompt])

    def plan(tokens):
        voice = Voice("v", VoiceFile(schema_version=1, prompt_tokens=tokens), {})
        return said(Speaker(bundle, make_session(bundle.manifest), None, voice).plan("Unpronounceable"))

    assert max(map(len, plan([1] * 8))) <= 3
    assert plan([1] * 10) == list("Unpronounceable")
    with pytest.raises(
        InputError, match=r"'U': a prefix of 13 tokens \(12 fit; shorten the text or the voice's prompt"
    ):
        plan([1] * 11)


def test_a_text_without_sentences_is_refused(make_bundle, make_session) -> None:
    with pytest.raises(InputError, match="nothing to say"):
        Speaker(make_bundle(), make_session(make_bundle().manifest), None).plan(" \n ")


def test_what_cannot_be_said_is_named(make_bundle, make_session) -> None:
    speaker = Speaker(make_bundle(), make_session(make_bundle().manifest), None)

    def refuse(text):
        raise ValueError("cannot say it")

    encoder = {"sentences": lambda self, text: [text], "ids": staticmethod(refuse), "unsayable": lambda self, text: []}
    speaker.planner.text = type("Refusing", (), encoder)()
    with pytest.raises(InputError, match="'Ab': cannot say it"):
        speaker.plan("Ab")


def test_what_cannot_be_said_is_refused_with_its_place_and_the_option(make_bundle, make_session) -> None:
    speaker = Speaker(make_bundle(), make_session(make_bundle().manifest), None)
    with pytest.raises(InputError, match=r"cannot say '\\x00' \(line 2, column 3\).*--skip-unsayable"):
        speaker.plan("Ab.\nC \x00 \x01")


def test_a_preview_is_what_is_planned(make_bundle) -> None:
    planner = Planner(make_bundle())
    planned, refused = planner.preview("Short. A sentence too long.")
    assert [(one.text, one.prefix_len) for one in planned] == [("Short.", 7), ("A sentence", 11), ("too long.", 10)]
    assert [one.inputs for one in planned] == planner.plan("Short. A sentence too long.") and refused == []


@pytest.mark.parametrize(
    ("text", "sayable", "refused"),
    [
        ("Ab. C\x00d.\nEf \x01", ["Ab."], [("\x00", 1, 6), ("\x01", 2, 4)]),
        ("\ud800", [], [("\ud800", 1, 1)]),
    ],
)
def test_a_preview_names_every_refusal_and_plans_the_rest(make_bundle, text, sayable, refused) -> None:
    planned, found = Planner(make_bundle()).preview(text)
    assert [one.text for one in planned] == sayable
    assert [one.text for one in found] == [characters for characters, _, _ in refused]
    for one, (_, line, column) in zip(found, refused, strict=True):
        assert one.reason.startswith("cannot say ") and f"(line {line}, column {column})" in one.reason


def test_a_preview_refuses_what_does_not_fit_whole_and_what_says_nothing(make_bundle) -> None:
    prompt = {"table": "speech", "input": "prompt_tokens"}
    bundle = make_bundle(prefix=[*make_bundle().manifest.model_dump()["prefix"], prompt])
    voice = Voice("v", VoiceFile(schema_version=1, prompt_tokens=[1] * 11), {})
    planned, refused = Planner(bundle, voice).preview("Ab. C.")
    assert planned == [] and [one.text for one in refused] == ["Ab.", "C."]
    assert all(one.reason.startswith("a prefix of 13 tokens (12 fit") for one in refused)
    assert Planner(make_bundle()).preview(" \n ") == ([], [Refusal(" \n ", "nothing to say")])


@pytest.fixture
def opened(make_bundle, monkeypatch):
    """A bundle that speak() finds at any path."""

    def set_up(**changes):
        bundle = make_bundle(**changes)
        monkeypatch.setattr("wand_export.commands.speak.load_bundle", lambda path: bundle)
        return bundle

    return set_up


def test_speak_writes_samples_and_tokens(opened, tmp_path) -> None:
    bundle = opened()
    seen = []
    wav, ids = tmp_path / "a.wav", tmp_path / "a.npy"
    result = speak(bundle.path, "Ab. Cde.", wav, tokens_out=ids, progress=lambda *at: seen.append(at))
    assert np.load(ids).dtype == np.int64
    assert len(np.load(ids)) == result["tokens"] == 40
    with wave.open(str(wav)) as file:
        assert file.getnframes() == 80 == result["audio_seconds"] * 20
    assert result["schema"] == 1 and result["target"] == "plain" and result["sentences"] == 2
    assert result["output"] == str(wav) and result["tokens_out"] == str(ids) and result["not_run"] == []
    assert result["first_audio_ms"] > 0 and result["cut_sentences"] == 0
    assert 0 < result["lm_real_time_factor"] < result["real_time_factor"]
    assert seen == sorted(seen) and seen[-1] == (4.0, 1.0)


def test_speak_says_how_many_sentences_the_limit_cut(opened, tmp_path) -> None:
    bundle = opened(stop={"ids": [8], "max_tokens": 5})
    assert speak(bundle.path, "Ab. Cd.", tmp_path / "a.wav")["cut_sentences"] == 2


def test_speak_without_an_audio_decoder_needs_tokens_out(opened, make_manifest, tmp_path) -> None:
    silent = make_manifest().artifacts["plain"].model_dump() | {"audio_decoder": None}
    bundle = opened(artifacts={"plain": silent})
    with pytest.raises(BundleError, match="--tokens-out"):
        speak(bundle.path, "Ab.", tmp_path / "a.wav")
    vectors = tmp_path / "v.npy"
    result = speak(bundle.path, "Ab.", tmp_path / "a.wav", tokens_out=tmp_path / "a.npy", hidden_out=vectors)
    assert np.load(vectors).shape == (len(np.load(tmp_path / "a.npy")), 4)
    assert result["not_run"] == ["audio: target plain has no audio decoder"]
    assert result["output"] is None and result["real_time_factor"] is None and result["first_audio_ms"] is None
    assert result["audio_seconds"] == 2.0 and result["lm_real_time_factor"] > 0
    assert "a.wav" not in os.listdir(tmp_path)


def test_speak_to_tokens_alone_opens_no_audio_decoder(opened, tmp_path) -> None:
    bundle = opened()
    result = speak(bundle.path, "Ab.", None, tokens_out=tmp_path / "a.npy")
    assert result["not_run"] == ["audio: no output was asked for"]
    assert bundle.audio_opened == 0


def test_speak_refuses_a_voice_and_nothing_to_write(opened, tmp_path) -> None:
    bundle = opened()
    with pytest.raises(InputError, match="voice 'nova'"):
        speak(bundle.path, "Ab.", tmp_path / "a.wav", voice="nova")
    with pytest.raises(InputError, match="nothing to write"):
        speak(bundle.path, "Ab.", None)


def test_speak_leaves_nothing_behind_when_it_fails(opened, tmp_path) -> None:
    bundle = opened()
    before = os.listdir(tmp_path)
    with pytest.raises(InputError, match="cannot say"):
        speak(bundle.path, "Ab. Not \x07.", tmp_path / "a.wav", tokens_out=tmp_path / "a.npy")
    assert os.listdir(tmp_path) == before


def test_speak_leaves_out_what_cannot_be_said_and_says_so(opened, tmp_path) -> None:
    bundle = opened()
    plain = speak(bundle.path, "Ab. Cd.", None, tokens_out=tmp_path / "a.npy")
    assert plain["skipped_count"] == 0 and plain["skipped"] == []
    text = "A\x07b." + "\x07" * 30 + "\n\ud800Cd."
    odd = speak(bundle.path, text, None, tokens_out=tmp_path / "b.npy", skip_unsayable=True)
    assert np.array_equal(np.load(tmp_path / "a.npy"), np.load(tmp_path / "b.npy"))
    assert odd["skipped_count"] == 32 and len(odd["skipped"]) == 20
    assert odd["skipped"][0] == {"character": "\x07", "code_point": "U+0007", "line": 1, "column": 2}
    alone = speak(bundle.path, "\ud800Cd.", None, tokens_out=tmp_path / "c.npy", skip_unsayable=True)
    assert alone["skipped"] == [{"character": "?", "code_point": "U+D800", "line": 1, "column": 1}]
    with pytest.raises(InputError, match="nothing to say"):
        speak(bundle.path, "\x07 .", None, tokens_out=tmp_path / "d.npy", skip_unsayable=True)


def test_speak_samples_as_it_is_told_and_records_it(opened, tmp_path) -> None:
    bundle = opened(sampler={"temperature": 3.0, "top_k": 7})
    given = {"temperature": 0.0, "top_k": 3, "top_p": 0.5, "repetition_penalty": 1.5}
    told = speak(bundle.path, "Ab.", None, tokens_out=tmp_path / "a.npy")
    assert told["sampler"] == Settings(temperature=3.0, top_k=7).model_dump()
    greedy = speak(bundle.path, "Ab.", None, tokens_out=tmp_path / "b.npy", **given)
    assert greedy["sampler"] == Settings(**given).model_dump()
    assert not np.array_equal(np.load(tmp_path / "a.npy"), np.load(tmp_path / "b.npy"))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"temperature": -1.0}, "--temperature: -1.0"),
        ({"temperature": 1e-310}, "--temperature: 1e-310 .*0, which picks the largest logit, or at least 0.001"),
        ({"temperature": float("nan")}, "--temperature: nan"),
        ({"top_p": 0.0}, "--top-p: 0.0"),
        ({"top_k": -1}, "--top-k: -1"),
        ({"repetition_penalty": float("inf")}, "--repetition-penalty: inf"),
    ],
)
def test_sampling_out_of_range_names_the_option(opened, tmp_path, given, words) -> None:
    bundle = opened()
    with pytest.raises(InputError, match=words):
        speak(bundle.path, "Ab.", None, tokens_out=tmp_path / "a.npy", **given)
