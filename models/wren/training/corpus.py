"""Let the teacher say sentences: phonemes, durations and mel spectra, in shards of 500 that are made once.

    python models/wren/training/corpus.py sentences.txt OUT --part 0 --parts 2

A shard `NNNN.npz` holds for its utterances, flattened, with their lengths: ids (teacher's symbols), dur (25 ms units),
mel float16 [frames, 80] at 80 Hz, and features float16 [frames, 130] in the first --features shards; texts.json beside.
"""

import argparse
import json
import tempfile
from pathlib import Path

import hibari
import librosa
import numpy as np
import onnx
from hibari import Hibari, dsp
from hibari.tts import MAX_PHONEMES

from wand_export.host.text import Frontend, TextError

SHARD = 500
FEATURES, DURATIONS = "/Concat_43_output_0", "/Clip_output_0"
MEL = librosa.filters.mel(sr=dsp.SR, n_fft=dsp.N_FFT, n_mels=80, fmin=40, fmax=11000).astype(np.float32)
MAX_SECONDS = 30.0


def teacher() -> Hibari:
    """hibari-tts with its decoder's input and its durations as further outputs."""
    model = onnx.load(Path(hibari.__file__).parent / "assets" / "hibari.onnx")
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in (FEATURES, DURATIONS))
    with tempfile.TemporaryDirectory() as folder:
        onnx.save(model, Path(folder) / "teacher.onnx")
        return Hibari(model=str(Path(folder) / "teacher.onnx"), threads=1)


def log_mel(audio: np.ndarray, frames: int) -> np.ndarray:
    """Log mel spectrum float32 [frames, 80] of samples at 24 kHz, hop 300."""
    padded = np.pad(audio, dsp.N_FFT // 2, mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(padded, dsp.N_FFT)[:: dsp.HOP][:frames] * dsp.WIN
    return np.log(np.maximum(np.abs(np.fft.rfft(windows, axis=1)).astype(np.float32) @ MEL.T, 1e-4))


def speak(model: Hibari, phonemes: str, rng: np.random.Generator) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """What the teacher makes of a phoneme string, and its samples."""
    ids = model.ids(phonemes)
    feeds = {"ids": np.asarray([ids], np.int64), "speed": np.ones(1, np.float32)}
    *spectra, f0, features, durations = model.sess.run(None, feeds)
    audio = dsp.synth(*(s[0] for s in spectra), f0[0], rng)
    frames = f0.shape[1]
    return {
        "ids": np.asarray(ids, np.int16),
        "dur": np.asarray(durations).reshape(-1).astype(np.int16),
        "mel": log_mel(audio, frames).astype(np.float16),
        "features": features[0].T.astype(np.float16),
    }, audio


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sentences", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--part", type=int, default=0)
    parser.add_argument("--parts", type=int, default=1)
    parser.add_argument("--features", type=int, default=5, help="shards that keep the decoder's input too")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    frontend = Frontend.load(Path(__file__).resolve().parents[1] / "text")
    texts = options.sentences.read_text(encoding="utf-8").splitlines()
    model = teacher()
    for number in range(options.part, -(-len(texts) // SHARD), options.parts):
        target = options.out / f"{number:04d}.npz"
        if target.exists():
            continue
        kept, made = [], []
        rng = np.random.default_rng(number)
        for text in texts[number * SHARD : (number + 1) * SHARD]:
            try:
                phonemes = frontend.phonemes(text)
            except TextError as error:
                print(error)
                continue
            if len(phonemes) > MAX_PHONEMES:
                continue
            utterance, audio = speak(model, phonemes, rng)
            if len(audio) <= MAX_SECONDS * dsp.SR:
                kept.append(text)
                made.append(utterance)
        keys = ["ids", "dur", "mel"] + (["features"] if number < options.features else [])
        arrays = {key: np.concatenate([u[key] for u in made]) for key in keys}
        lengths = {f"{key}_len": np.array([len(u[key]) for u in made]) for key in ("ids", "mel")}
        partial = target.with_suffix(".tmp.npz")
        np.savez(partial, **arrays, **lengths)
        target.with_suffix(".json").write_text(json.dumps(kept), encoding="utf-8")
        partial.rename(target)
        print(number, len(made), f"{len(arrays['mel']) / 80 / 3600:.2f} h", flush=True)


if __name__ == "__main__":
    main()
