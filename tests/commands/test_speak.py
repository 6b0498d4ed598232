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
