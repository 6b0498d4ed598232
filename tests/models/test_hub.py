"""Checkpoints by their Hugging Face id: what is asked for, and one clear line where it cannot be had."""

from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

from wand_export.cli import main
from wand_export.commands.inspect import inspect
from wand_export.errors import InputError
from wand_export.graph.hub import files_of, located, name_of
from wand_export.spec.recipe import load_recipe


class Hub:
    """Stands in for huggingface_hub.snapshot_download: remembers the call, and gives a folder or raises."""

    def __init__(self, answer: Path | Exception) -> None:
        self.answer = answer
        self.calls: list[tuple[str, str | None, list[str]]] = []

    def __call__(self, repo: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        self.calls.append((repo, revision, allow_patterns))
        if isinstance(self.answer, Exception):
            raise self.answer
        return str(self.answer)


def stand_in(monkeypatch: pytest.MonkeyPatch, answer: Path | Exception) -> Hub:
    hub = Hub(answer)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", hub)
    return hub


def test_only_the_files_of_the_recipe_are_fetched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    hub = stand_in(monkeypatch, tmp_path)
    assert located("SparkAudio/Spark-TTS-0.5B@main", "spark_tts") == tmp_path
    assert located("SparkAudio/Spark-TTS-0.5B", "spark_tts") == tmp_path
    assert [call[:2] for call in hub.calls] == [("SparkAudio/Spark-TTS-0.5B", r) for r in ("main", None)]
    assert set(hub.calls[0][2]) == {
        "LLM/model.safetensors", "LLM/model.safetensors.index.json", "LLM/model-*.safetensors",
        "LLM/config.json", "LLM/tokenizer.json", "wand.json",
    }  # fmt: skip
    assert set(files_of(load_recipe("index_tts")[0])) == {"gpt.pth", "bpe.model", "wand.json"}


def test_a_folder_goes_before_an_id(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    hub = stand_in(monkeypatch, tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org" / "name").mkdir(parents=True)
    assert located("org/name", None) == Path("org/name")
    assert located(tmp_path / "nowhere" / "at" / "all", "llasa") == tmp_path / "nowhere" / "at" / "all"
    assert hub.calls == []


def test_a_fetched_checkpoint_is_read_like_any(monkeypatch: pytest.MonkeyPatch, tiny: Path) -> None:
    stand_in(monkeypatch, tiny / "checkpoint")
    assert inspect("someone/tiny", str(tiny / "recipe" / "recipe.toml"))["layers"] == 2


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (LocalEntryNotFoundError("Cannot find\nthe snapshot"), "cannot be fetched: Cannot find the snapshot"),
        (OfflineModeIsEnabled("offline mode is enabled"), "cannot be fetched: offline mode"),
        (ConnectionError("no route to host"), "cannot be fetched: no route to host"),
    ],
)
def test_one_line_where_it_cannot_be_had(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str], error: Exception, words: str
) -> None:
    stand_in(monkeypatch, error)
    arguments = ["export", "org/name@v1", "--recipe", "llasa", "-o", str(tmp_path / "o"), "--target", "onnx-fp32"]
    assert main(arguments) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and f"org/name@v1: {words}" in told and "check the network" in told


def test_a_repository_without_the_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "snapshot").mkdir()
    stand_in(monkeypatch, tmp_path / "snapshot")
    with pytest.raises(InputError, match=r"no gpt\.pth in it"):
        inspect("org/name", "index_tts")


def test_a_cached_checkpoint_is_called_by_its_id_and_commit(tmp_path: Path) -> None:
    folder = tmp_path / "models--IndexTeam--IndexTTS-1.5" / "snapshots" / "0a1b2c"
    folder.mkdir(parents=True)
    assert name_of(folder) == "IndexTeam/IndexTTS-1.5@0a1b2c"
    assert name_of(tmp_path) == tmp_path.name


def test_an_id_needs_a_recipe() -> None:
    with pytest.raises(InputError, match="needs --recipe"):
        located("org/name", None)


def test_offline_for_real(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """huggingface_hub's own answer with its cache empty and the network refused."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(InputError, match="org/name: cannot be fetched"):
        located("org/name", "llasa")
