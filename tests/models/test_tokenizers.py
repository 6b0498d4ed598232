"""Tokenizers in the files that families publish, as the tables that a bundle carries."""

from pathlib import Path
from typing import Any

import pytest
from sentencepiece import SentencePieceProcessor
from tokenizers import pre_tokenizers
from transformers import AutoTokenizer

from tests.models.published import tokenizer_for, write_qwen_tokenizer, write_sentencepiece
from wand_export.errors import CheckpointError, InputError
from wand_export.graph import tokenizer as graph_tokenizer
from wand_export.graph.checkpoint import Checkpoint, random_checkpoint
from wand_export.graph.tokenizer import compile_text, load_tokenizer, resolved
from wand_export.spec.recipe import load_recipe

TEXTS = ["HEAR THE OLD  CLOCK,", " VERY LONG! ", "A - B", "Q", "'TIS"]


def at(family: str, folder: Path) -> Checkpoint:
    """A recipe's random weights that pretend to lie in this folder."""
    source = random_checkpoint(family)
    source.path = folder
    return source


def test_a_sentencepiece_model_says_the_same_in_capitals(tmp_path: Path) -> None:
    write_sentencepiece(tmp_path / "bpe.model")
    own = SentencePieceProcessor(model_file=str(tmp_path / "bpe.model"))
    source = at("index_tts", tmp_path)
    tokenizer = load_tokenizer(source)
    assert tokenizer is not None
    read = compile_text(source, tokenizer).tokenizer()
    for text in TEXTS:
        assert read.ids(text) == own.encode(text.upper()), text
    for point in (0x1100, 0x4E00, 0xD7AF, 0x20000):
        with pytest.raises(ValueError, match="cannot say"):
            read.ids(f"a{chr(point)}")
    assert read.ids("aé\ufb00")


@pytest.mark.parametrize("kind", ["unigram", "word"])
def test_sentencepiece_models_of_other_kinds_are_refused(tmp_path: Path, kind: str) -> None:
    write_sentencepiece(tmp_path / "bpe.model", kind, vocab_size=24 if kind == "word" else 50)
    with pytest.raises(CheckpointError, match=r"bpe\.model: .*model type \d is not BPE"):
        load_tokenizer(at("index_tts", tmp_path))


def test_a_tokenizer_that_no_host_knows_is_refused(tmp_path: Path) -> None:
    (tmp_path / "LLM").mkdir()
    judge = tokenizer_for(load_recipe("spark_tts")[0])
    judge.pre_tokenizer = pre_tokenizers.Digits()
    judge.save(str(tmp_path / "LLM" / "tokenizer.json"))
    source = at("spark_tts", tmp_path)
    tokenizer = load_tokenizer(source)
    assert tokenizer is not None
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: pre-tokenizer Digits .*no host knows it"):
        compile_text(source, tokenizer)


def test_a_text_that_would_be_read_otherwise_refuses_the_export(tmp_path: Path, monkeypatch: Any) -> None:
    write_sentencepiece(tmp_path / "bpe.model")
    source = at("index_tts", tmp_path)
    tokenizer = load_tokenizer(source)
    assert tokenizer is not None
    monkeypatch.setattr(graph_tokenizer, "judge_of", lambda file: lambda text: [0] if "É" in text else [1])
    with pytest.raises(CheckpointError, match=r"bpe\.model: '.+' compiles to other ids"):
        compile_text(source, tokenizer)


def test_cosyvoice_adds_its_special_tokens_as_its_own_code_does(tmp_path: Path) -> None:
    folder = tmp_path / "CosyVoice-BlankEN"
    folder.mkdir()
    write_qwen_tokenizer(folder)
    added = load_recipe("cosyvoice2")[0].text.added_tokens
    own = AutoTokenizer.from_pretrained(folder)
    own.add_special_tokens(
        {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>", "additional_special_tokens": added}
    )
    tokenizer = load_tokenizer(at("cosyvoice2", tmp_path))
    assert tokenizer is not None
    read = compile_text(at("cosyvoice2", tmp_path), tokenizer).tokenizer()
    for text in ("hello [breath] hel he<|endofprompt|>", "<strong>h</strong>[mn]", "naïve 你好"):
        assert read.ids(text) == own(text)["input_ids"] and not read.unsayable(text)
    assert [odd.characters for odd in read.unsayable("he<|im_end|>[mn]")] == ["<|im_end|>"]


@pytest.mark.parametrize("family", ["neutts_air", "outetts", "llasa", "spark_tts"])
def test_strings_become_ids(tmp_path: Path, family: str) -> None:
    recipe = load_recipe(family)[0]
    tokenizer = tokenizer_for(recipe)
    found = resolved(recipe, tokenizer)
    assert all(part.literal is None for part in found.prefix) and not found.stop.tokens
    assert found.text.files == ["pieces.safetensors"] and not found.text.tokens
    assert len(found.stop.ids) == len(recipe.stop.ids) + len(recipe.stop.tokens)
    for before, after in zip(recipe.prefix, found.prefix, strict=True):
        if before.literal is not None:
            assert tokenizer.decode(after.ids or [], skip_special_tokens=False).replace(" ", "") == "".join(
                before.literal.split(" ")
            )


def test_without_a_tokenizer_strings_are_left_out() -> None:
    recipe = load_recipe("outetts")[0]
    found = resolved(recipe, None)
    assert [part.input for part in found.prefix] == ["text", "prompt_tokens"] and found.stop.ids == [151645]


def test_a_stop_that_the_tokenizer_lacks(tmp_path: Path) -> None:
    recipe = load_recipe("outetts")[0]
    tokenizer = tokenizer_for(recipe.model_copy(update={"stop": recipe.stop.model_copy(update={"tokens": []})}))
    with pytest.raises(InputError, match=r"no <\|audio_end\|>"):
        resolved(recipe, tokenizer)


def test_a_file_that_is_no_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "bpe.model").write_bytes(b"\x00\x01\x02")
    with pytest.raises(CheckpointError, match=r"bpe\.model: no tokenizer"):
        load_tokenizer(at("index_tts", tmp_path))
    with pytest.raises(InputError, match=r"LLM/tokenizer\.json is missing"):
        load_tokenizer(at("spark_tts", tmp_path))
