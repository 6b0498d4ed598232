"""Speak sentences for the judge: with the teacher voice, with its speech through the codec, with a checkpoint, or
with a bundle.

    python models/wren/training/speak.py teacher SENTENCES OUT
    python models/wren/training/speak.py codec SENTENCES OUT
    python models/wren/training/speak.py models/wren/teacher SENTENCES OUT
    python models/wren/training/speak.py models/wren/checkpoint SENTENCES OUT --window 64
    python models/wren/training/speak.py build/demo/bundle SENTENCES OUT --target onnx-int4

A checkpoint runs through transformers' own code with the reference mask, so that no export is judged; a bundle runs as
`wand speak` runs it. A line is one utterance; with --by-sentence each of its sentences is one, as for `wand speak`.
"""

import argparse
import time
import wave
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from codec import load_encoder
from corpus import speak as teacher_speech
from corpus import teacher
from transformers import AutoModelForCausalLM, DynamicCache

from wand_export.distill.curriculum import HIDDEN
from wand_export.graph.ladder import spoken_whole
from wand_export.graph.vocoder import load_vocoder
from wand_export.host.bundle import MANIFEST, load_bundle
from wand_export.host.sampling import Sampler, StopRule, TextOrder
from wand_export.host.speech import Speaker
from wand_export.host.text import Frontend
from wand_export.layout import sees
from wand_export.spec.manifest import Audio
from wand_export.spec.recipe import load_recipe

VOICE = Path(__file__).resolve().parents[1]
RECIPE = load_recipe(str(VOICE / "recipe.toml"))[0]
BEGIN = 1025


def samples(codes: list[int]) -> np.ndarray:
    """The whole utterance in one chunk: float32 [600 len(codes)] at 24 kHz."""
    told = RECIPE.audio.model_dump(exclude={"vocoder", "graph"})
    return spoken_whole(load_vocoder(VOICE / "vocoder"), Audio(**told), codes, seed=0)


def teacher_speaker(through_codec: bool) -> Callable[[str, int], np.ndarray]:
    frontend, model = Frontend.load(VOICE / "text"), teacher()
    encoder = load_encoder() if through_codec else None

    @torch.no_grad()
    def speak(sentence: str, seed: int) -> np.ndarray:
        utterance, audio = teacher_speech(model, frontend.phonemes(sentence), np.random.default_rng(seed))
        return samples(encoder.codes(torch.tensor(utterance["mel"]).float()).tolist()) if encoder else audio

    return speak


def checkpoint_speaker(folder: Path, window: int | None) -> Callable[[str, int], np.ndarray]:
    frontend = Frontend.load(VOICE / "text")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa").eval()
    head_ids = np.array(RECIPE.head.ids())

    @torch.no_grad()
    def speak(sentence: str, seed: int) -> np.ndarray:
        text = frontend.ids(sentence)
        prefix = [*text, BEGIN]
        sampler, stop, cache = Sampler(RECIPE.sampler, seed), StopRule(RECIPE.stop, len(text)), DynamicCache()
        order = TextOrder(RECIPE.stop, text, head_ids)
        rows, generated = prefix, list[int]()
        while len(generated) < stop.maximum:
            first = len(prefix) + len(generated) - len(rows)
            query = torch.arange(first, first + len(rows))[:, None]
            key = torch.arange(first + len(rows))[None]
            seen = sees(query, key, len(prefix), window or first + len(rows))
            mask = torch.zeros(seen.shape).masked_fill(~seen, HIDDEN)[None, None]
            logits = model(torch.tensor([rows]), attention_mask=mask, past_key_values=cache).logits[0, -1, head_ids]
            token = sampler.pick(logits.numpy(), head_ids, stop.banned(len(generated)) | order.banned(), generated)
            if token in stop.ids:
                break
            generated.append(token)
            order.picked(token)
            rows = [token]
        return samples([token for token in generated if token < RECIPE.audio.codes])

    return speak


def bundle_speaker(folder: Path, target: str | None, threads: int) -> Callable[[str, int], np.ndarray]:
    bundle = load_bundle(folder)
    speaker = Speaker(bundle, bundle.open(target, threads), bundle.open_audio(target, threads))

    def speak(sentence: str, seed: int) -> np.ndarray:
        plan = [{"text": speaker.text.ids(sentence)}]
        return np.concatenate([piece.samples for piece in speaker.speak(plan, seed)])

    return speak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("speaker", help="teacher, codec, or the folder of a checkpoint or a bundle")
    parser.add_argument("sentences", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--window", type=int, help="speak under this window; without it, with full attention")
    parser.add_argument("--target", help="of a bundle")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--by-sentence", action="store_true", help="speak the sentences of a line one by one")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    frontend = Frontend.load(VOICE / "text")
    if options.speaker in ("teacher", "codec"):
        speak = teacher_speaker(options.speaker == "codec")
    elif (Path(options.speaker) / MANIFEST).exists():
        speak = bundle_speaker(Path(options.speaker), options.target, options.threads)
    else:
        speak = checkpoint_speaker(Path(options.speaker), options.window)
    options.out.mkdir(parents=True, exist_ok=True)
    seconds, began = 0.0, time.perf_counter()
    for index, sentence in enumerate(options.sentences.read_text(encoding="utf-8").splitlines()):
        parts = frontend.sentences(sentence) if options.by_sentence else [sentence]
        audio = np.concatenate([speak(part, index) for part in parts])
        seconds += len(audio) / RECIPE.audio.sample_rate
        with wave.open(str(options.out / f"{index:03d}.wav"), "wb") as file:
            file.setparams((1, 2, RECIPE.audio.sample_rate, 0, "NONE", ""))
            file.writeframes((np.clip(audio, -1, 1) * 32767).astype("<i2").tobytes())
    print(f"{seconds:.1f} s of speech in {time.perf_counter() - began:.1f} s")


if __name__ == "__main__":
    main()
