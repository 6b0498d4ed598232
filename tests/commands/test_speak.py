"""wand speak's outputs: what is refused before the work, what a stream gets, and what never is overwritten."""

import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wand_export.cli import main
from wand_export.commands.plan import plan
from wand_export.commands.speak import speak
from wand_export.errors import InputError
from wand_export.host.bundle import Bundle, load_bundle
from wand_export.host.voices import Voice
from wand_export.spec.recipe import PrefixPart
from wand_export.spec.voice import VoiceFile

TEXT = "A cab."


def test_plain_strings_are_paths(exported: Path, tmp_path: Path) -> None:
    told = speak(str(exported), TEXT, str(tmp_path / "a.wav"), tokens_out=str(tmp_path / "a.npy"), threads=1)
    assert (told["output"], told["tokens_out"]) == (str(tmp_path / "a.wav"), str(tmp_path / "a.npy"))
    header = (tmp_path / "a.npy").read_bytes()[:8]
    assert header == b"\x93NUMPY\x01\x00" and np.load(tmp_path / "a.npy").dtype == np.int64


def test_a_stream_gets_the_samples_of_the_file(exported: Path, tmp_path: Path) -> None:
    stream = io.BytesIO()
    speak(exported, TEXT, tmp_path / "a.wav", threads=1)
    assert speak(exported, TEXT, stream, threads=1)["output"] == "-"
    assert stream.getvalue()[44:] == (tmp_path / "a.wav").read_bytes()[44:]


@pytest.mark.parametrize("name", ["manifest.json", "SHA256SUMS", "embeddings.safetensors", "onnx-fp32/decoder.onnx"])
@pytest.mark.parametrize("output", ["output", "tokens_out", "hidden_out"])
def test_the_bundle_is_not_overwritten(exported: Path, tmp_path: Path, name: str, output: str) -> None:
    (tmp_path / "link").symlink_to(exported / name)
    for place in (exported / name, tmp_path / "link"):
        options: dict[str, Any] = {"output": tmp_path / "a.wav"} | {output: place}
        with pytest.raises(InputError, match="read by this very command"):
            speak(exported, TEXT, **options)
    load_bundle(exported)
    assert not (tmp_path / "a.wav").exists()


def test_neither_the_text_nor_another_output_is_overwritten(exported: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text(TEXT)
    with pytest.raises(InputError, match="read by this very command"):
        speak(exported, TEXT, tmp_path / "." / "text.txt", text_file=text)
    with pytest.raises(InputError, match="two results"):
        speak(exported, TEXT, None, tokens_out=tmp_path / "a.npy", hidden_out=tmp_path / "a.npy")
    with pytest.raises(InputError, match="would hold WAV"):
        speak(exported, TEXT, tmp_path / "a.mp3")
    assert text.read_text() == TEXT and [file.name for file in tmp_path.iterdir()] == ["text.txt"]


def said(bundle: Path, folder: Path, text: str, **own: Any) -> list[list[float]]:
    """The vectors of a text in the tiny voice: every token of the text has its part in them."""
    files = {option: folder / f"{option}.tsv" for option in own}
    for option, lines in own.items():
        files[option].write_text(lines, encoding="utf-8")
    told = speak(bundle, text, None, hidden_out=folder / "a.npy", seed=5, threads=1, **files)
    assert [told["lexicon"], told["replace"]] == [own.get(k) and str(files[k]) for k in ("lexicon", "replace")]
    vectors: list[list[float]] = np.load(folder / "a.npy").tolist()
    assert vectors
    return vectors


@pytest.mark.parametrize(
    ("text", "own", "same"),
    [
        ("A cab, dab.", {"replace": "dab\tcab\n"}, "A cab, cab."),
        ("One 犬. DAB", {"replace": "犬\tcab\ndab\tbad. Bad\ncab\tnever\n"}, "One cab. bad. Bad"),
        ("A zoo.", {"lexicon": "zoo\tkˈab\n"}, "A cab."),
        (
            "A cab. Cab, a cab. A bad cab, cab.",
            {"lexicon": "zoo\tdˈab\ncab\tbˈad\n", "replace": "A cab\tA zoo\n"},
            "A xoo. Cab, a xoo. A bad cab, cab.",
        ),
    ],
)
def test_a_users_own_words(exported: Path, tmp_path: Path, text: str, own: dict[str, str], same: str) -> None:
    plain = {"lexicon": "xoo\tdˈab\ncab\tbˈad\n"} if "xoo" in same else {}
    assert said(exported, tmp_path, text, **own) == said(exported, tmp_path, same, **plain)
    if "犬" not in text:
        assert said(exported, tmp_path, text) != said(exported, tmp_path, text, **own)


@pytest.mark.parametrize(
    ("option", "lines", "why"),
    [
        ("lexicon", "cab\tkˈab\nzoo\tzˈu\n", "lexicon.tsv: line 2: phoneme 'z'"),
        ("replace", "# mine\n\ncab\tthe 犬\n", "replace.tsv: line 3: cannot say '犬' in 'the 犬'"),
        ("replace", "cab dab\n", "replace.tsv: line 1: no tab"),
    ],
)
def test_a_line_of_own_words_that_cannot_be_said_is_refused_before_the_work(
    exported: Path, tmp_path: Path, option: str, lines: str, why: str
) -> None:
    file = tmp_path / f"{option}.tsv"
    file.write_text(lines, encoding="utf-8")
    with pytest.raises(InputError) as raised:
        speak(exported, TEXT, tmp_path / "a.wav", **{option: str(file)})
    assert why in str(raised.value) and [left.name for left in tmp_path.iterdir()] == [file.name]


@pytest.mark.parametrize("option", ["lexicon", "replace"])
def test_own_words_are_not_overwritten(exported: Path, tmp_path: Path, option: str) -> None:
    (tmp_path / "own.tsv").write_text("")
    with pytest.raises(InputError, match="read by this very command"):
        speak(exported, TEXT, None, tokens_out=tmp_path / "own.tsv", **{option: tmp_path / "own.tsv"})


@pytest.mark.parametrize("text", [None, b"A cab.", 5, ["A cab."]])
def test_a_text_that_is_no_string(tmp_path: Path, text: Any) -> None:
    with pytest.raises(InputError, match=r"text: a \w+ \(give a string\)"):
        speak(tmp_path, text, tmp_path / "a.wav")


@pytest.mark.parametrize("seed", [-3, 1.5, "1", None, True])
def test_a_seed_that_is_no_whole_number(tmp_path: Path, seed: Any) -> None:
    with pytest.raises(InputError, match="seed"):
        speak(tmp_path, TEXT, tmp_path / "a.wav", seed=seed)


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("a model was opened")

    monkeypatch.setattr(Bundle, "open", refuse)
    monkeypatch.setattr(Bundle, "open_audio", refuse)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)


@pytest.mark.usefixtures("no_model")
def test_a_plan_opens_no_model_and_is_no_failure(exported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["speak", str(exported), "A cab. Bad \u4f60.", "--plan", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert list(told) == ["schema", "sentences", "refused"] and told["schema"] == 1
    (sentence,) = told["sentences"]
    assert sentence["text"] == "A cab." and list(sentence["ids"]) == ["text"]
    assert sentence["prefix_len"] == len(sentence["ids"]["text"]) + 1
    assert told["refused"] == [{"text": "\u4f60", "reason": "cannot say '\u4f60' (line 1, column 12)"}]
    assert main(["speak", str(exported), "A cab. Bad \u4f60.", "--plan"]) == 0
    shown = capsys.readouterr().out
    assert "A cab." in shown and "cannot say" in shown


@pytest.mark.usefixtures("no_model")
def test_a_plan_of_what_is_wholly_refused_or_left_out(exported: Path) -> None:
    assert plan(exported, "\u4f60\ud800")["sentences"] == []
    assert [one["text"] for one in plan(exported, "\u4f60\ud800")["refused"]] == ["\u4f60", "?"]
    left = plan(exported, "A cab\u4f60.", skip_unsayable=True)
    assert left == plan(exported, "A cab.") and left["refused"] == []
    assert plan(exported, "")["refused"] == [{"text": "", "reason": "nothing to say"}]
    with pytest.raises(InputError, match="no voice 'nova'"):
        plan(exported, TEXT, voice="nova")


def test_a_plan_writes_nothing(exported: Path, tmp_path: Path) -> None:
    assert main(["speak", str(exported), TEXT, "--plan", "-o", str(tmp_path / "a.wav")]) == 2
    assert list(tmp_path.iterdir()) == []


def test_a_plan_is_of_what_a_users_own_words_make_of_it(exported: Path, tmp_path: Path) -> None:
    (tmp_path / "own.tsv").write_text("bad\tcab\n", encoding="utf-8")
    assert plan(exported, "A bad cab.", replace=tmp_path / "own.tsv") == plan(exported, "A cab cab.")
    (tmp_path / "said.tsv").write_text("bad\tkab\n", encoding="utf-8")
    said = plan(exported, "A bad cab.", lexicon=tmp_path / "said.tsv")
    assert said["sentences"][0]["ids"] != plan(exported, "A bad cab.")["sentences"][0]["ids"]


def test_a_plan_in_a_voice_counts_its_prompt(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = load_bundle(exported)
    part = PrefixPart(table="speech", input="prompt_tokens")
    prompted = opened.manifest.model_copy(update={"prefix": [*opened.manifest.prefix, part]})
    monkeypatch.setattr("wand_export.commands.plan.load_bundle", lambda path: Bundle(exported, prompted))
    alone = plan(exported, TEXT)["sentences"][0]
    voice = Voice("v", VoiceFile(schema_version=1, prompt_tokens=[4, 5]), {})
    monkeypatch.setattr("wand_export.commands.plan.open_voice", lambda bundle, name: voice)
    (spoken,) = plan(exported, TEXT, voice="v")["sentences"]
    assert spoken["ids"] == alone["ids"] | {"prompt_tokens": [4, 5]}
    assert spoken["prefix_len"] == alone["prefix_len"] + 2
