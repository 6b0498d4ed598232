"""Tokenizers in the files that families publish, as the one tokenizer.json that a bundle carries."""

from pathlib import Path

import pytest
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from tests.models.published import tokenizer_for, write_qwen_tokenizer, write_sentencepiece
from wand_export.errors import CheckpointError, InputError
from wand_export.graph.checkpoint import Checkpoint, random_checkpoint
from wand_export.graph.tokenizer import load_tokenizer, resolved
from wand_export.spec.recipe import load_recipe

TEXTS = ["HEAR THE OLD  CLOCK,", " VERY LONG! ", "A - B", "Q", "'TIS"]


def at(family: str, folder: Path) -> Checkpoint:
    """A recipe's random weights that pretend to lie in this folder."""
    source = random_checkpoint(family)
    source.path = folder
    return source


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_sentencepiece_models_say_the_same(tmp_path: Path, kind: str) -> None:
    sentencepiece = pytest.importorskip("sentencepiece")
    write_sentencepiece(tmp_path / "bpe.model", kind)
    own = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "bpe.model"))
    tokenizer = load_tokenizer(at("index_tts", tmp_path))
    assert tokenizer is not None
    tokenizer = Tokenizer.from_str(tokenizer.to_str())
    for text in TEXTS:
        assert tokenizer.encode(text, add_special_tokens=False).ids == own.encode(text), text


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
    for text in ("hello [breath] hel he<|endofprompt|>", "<strong>h</strong>[mn]", "naïve 你好"):
        assert tokenizer.encode(text, add_special_tokens=False).ids == own(text)["input_ids"]


@pytest.mark.parametrize("family", ["neutts_air", "outetts", "llasa", "spark_tts"])
def test_strings_become_ids(tmp_path: Path, family: str) -> None:
    recipe = load_recipe(family)[0]
    tokenizer = tokenizer_for(recipe)
    found = resolved(recipe, tokenizer)
    assert all(part.literal is None for part in found.prefix) and not found.stop.tokens
    assert found.text.files == ["tokenizer.json"] and not found.text.tokens
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
