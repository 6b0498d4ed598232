"""Train the speech codec: mel spectrum -> one of 1024 codes, 40 a second -> features that a vocoder speaks.

    python models/wren/training/codec.py train CORPUS STATE   L1 on the teacher's features; resumes from STATE
    python models/wren/training/codec.py save STATE           writes models/wren/vocoder and models/wren/codec
    python models/wren/training/codec.py tokens CORPUS OUT    the corpus as tokens to train the language model on

The vocoder's second half is hibari-tts's own decoder, dequantized and left as it is.
"""

import argparse
import json
from pathlib import Path

import hibari
import numpy as np
import onnx
import torch
from hibari import Hibari
from onnx import numpy_helper
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from wand_export.graph.vocoder import Block, Carry, CodeDecoder, Vocoder, VocoderConfig
from wand_export.host.text import Frontend

VOICE = Path(__file__).resolve().parents[1]
CONFIG = VocoderConfig(
    levels=[4] * 5, frames_per_code=2, code_channels=192, code_hidden=384, code_blocks=5, features=130, f0_feature=128,
    channels=256, hidden=768, blocks=8, n_fft=1200, hop=300, sample_rate=24000, look_ahead=16, frame_look_ahead=16,
    first=16, later=40,
)  # fmt: skip
CROP, BATCH, STEPS, RATE = 120, 32, 1500, 1.5e-3
END, BEGIN = 1024, 1025
LEAD, TAIL = 4, 10
"""Tokens of silence kept before and after an utterance."""
QUIET = -6.0
"""Log of the mean mel amplitude under which a token is silence."""


class Encoder(nn.Module):
    """Normalized mel frames [B, F, 80] to code values [B, F / 2, 5] and their integer digits."""

    def __init__(self, mels: int = 80, channels: int = 192, blocks: int = 4) -> None:
        super().__init__()
        self.levels = torch.tensor(CONFIG.levels)
        self.enter = nn.Conv1d(mels * CONFIG.frames_per_code, channels, 3, padding=1)
        self.blocks = nn.ModuleList(Block(channels, 2 * channels, 5) for _ in range(blocks))
        self.leave = nn.Linear(channels, len(CONFIG.levels))
        self.register_buffer("mean", torch.zeros(mels))
        self.register_buffer("std", torch.ones(mels))

    def forward(self, mel: Tensor) -> tuple[Tensor, Tensor]:
        batch, frames, mels = mel.shape
        pairs = ((mel - self.mean) / self.std).reshape(batch, frames // 2, 2 * mels).transpose(1, 2)
        x, inside = self.enter(pairs), torch.ones(1)
        for block in self.blocks:
            x = block(x, inside, Carry(), x.shape[2])
        half = (self.levels - 1) / 2
        smooth = (torch.tanh(self.leave(x.transpose(1, 2))) + 1) * half
        digits = smooth.round()
        # The gradient passes the rounding as if it were not there.
        return (smooth + (digits - smooth).detach()) / half - 1, digits

    def codes(self, mel: Tensor) -> Tensor:
        """Codes int64 [F / 2] of mel frames [F, 80]."""
        place = torch.cumprod(torch.tensor([1, *CONFIG.levels[:-1]]), 0)
        return (self(mel[None, : len(mel) // 2 * 2])[1][0].long() * place).sum(-1)


def load_encoder() -> Encoder:
    """The encoder that `save` wrote, in float32."""
    encoder = Encoder().eval()
    state = load_file(VOICE / "codec" / "encoder.safetensors")
    encoder.load_state_dict({name: tensor.float() for name, tensor in state.items()})
    return encoder


def shards(corpus: Path) -> list[Path]:
    return sorted(file for file in corpus.glob("*.npz") if ".tmp" not in file.name)


def train(corpus: Path, state: Path) -> None:
    torch.manual_seed(0)
    mels, features = [], []
    for file in shards(corpus):
        shard = np.load(file)
        if "features" in shard:
            ends = np.cumsum(shard["mel_len"])[:-1]
            pairs = zip(np.split(shard["mel"], ends), np.split(shard["features"], ends), strict=True)
            long_enough = [(mel, feature) for mel, feature in pairs if len(mel) >= CROP]
            mels += [mel for mel, _ in long_enough]
            features += [feature for _, feature in long_enough]
    encoder, decoder = Encoder(), CodeDecoder(CONFIG)
    nn.init.zeros_(decoder.smooth.weight)
    nn.init.zeros_(decoder.smooth.bias)
    some = torch.tensor(np.concatenate(mels[:500])).float()
    encoder.mean, encoder.std = some.mean(0), some.std(0) + 1e-3
    some = torch.tensor(np.concatenate(features[:500])).float()
    mean, std = some.mean(0), some.std(0) + 1e-3
    weight = torch.ones(CONFIG.features)
    weight[128], weight[129] = 12.0, 4.0  # F0 and energy
    parameters = [*encoder.parameters(), *decoder.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=RATE, betas=(0.9, 0.98), weight_decay=1e-3)
    step = 0
    if state.exists():
        saved = torch.load(state, weights_only=True)
        encoder.load_state_dict(saved["encoder"])
        decoder.load_state_dict(saved["decoder"])
        optimizer.load_state_dict(saved["optimizer"])
        step = saved["step"]
    losses = []
    while step < STEPS:
        rng = np.random.default_rng(step)
        rate = RATE * min(1, (step + 1) / 50) * min(1.0, max(0.03, (1 - step / STEPS) / 0.5))
        for group in optimizer.param_groups:
            group["lr"] = rate
        rows = rng.integers(0, len(mels), BATCH)
        starts = [rng.integers(0, (len(mels[r]) - CROP) // 2 + 1) * 2 for r in rows]
        mel = torch.tensor(np.stack([mels[r][s : s + CROP] for r, s in zip(rows, starts, strict=True)])).float()
        wanted = torch.tensor(np.stack([features[r][s : s + CROP] for r, s in zip(rows, starts, strict=True)])).float()
        values, _ = encoder(mel)
        time = values.shape[1]
        found = decoder(values.transpose(1, 2), torch.ones(1, 1, time), Carry(), time).transpose(1, 2)
        loss = ((found - (wanted - mean) / std).abs() * weight).mean() * CONFIG.features / weight.sum()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        losses.append(loss.item())
        step += 1
        if step % 100 == 0:
            print(step, f"loss {np.mean(losses[-100:]):.4f}", flush=True)
            saved = {"encoder": encoder.state_dict(), "decoder": decoder.state_dict(), "mean": mean, "std": std}
            torch.save({**saved, "optimizer": optimizer.state_dict(), "step": step}, state.with_suffix(".tmp"))
            state.with_suffix(".tmp").rename(state)


def teacher_spectra() -> dict[str, Tensor]:
    """hibari-tts's decoder from its ONNX file, dequantized, in this project's names."""
    graph = onnx.load(Path(hibari.__file__).parent / "assets" / "hibari.onnx").graph
    arrays = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    arrays |= {n.output[0]: numpy_helper.to_array(n.attribute[0].t) for n in graph.node if n.op_type == "Constant"}

    def quantized(name: str) -> np.ndarray:
        scale, zero = arrays[f"{name}_scale"], arrays[f"{name}_zero_point"].astype(np.float32)
        return ((arrays[f"{name}_quantized"].astype(np.float32) - zero) * scale).T

    names = {"enter": "dec_in", "norm": "dec_norm", "leave": "head", "blocks": "dec"}
    parts = {"depthwise": "dw", "up": "pw1", "down": "pw2"}
    found = {}
    for name, wanted in Vocoder(CONFIG).spectra.state_dict().items():
        words = name.split(".")
        theirs = ".".join([names[words[0]], *(parts.get(word, word) for word in words[1:])])
        if theirs.endswith(("pw1.weight", "pw2.weight", "head.weight")):
            value = quantized("/" + theirs.replace(".weight", "/Transpose_output_0").replace(".pw", "/pw"))
        else:
            value = arrays["m." + theirs]
        found[name] = torch.tensor(np.array(value, dtype=np.float32)).reshape(wanted.shape)
    return found


def save(state: Path) -> None:
    saved = torch.load(state, weights_only=True)
    vocoder = {f"codes.{name}": t for name, t in saved["decoder"].items()}
    vocoder |= {f"spectra.{name}": t for name, t in teacher_spectra().items()}
    vocoder |= {"mean": saved["mean"], "std": saved["std"]}
    for folder, tensors in (("vocoder", vocoder), ("codec", saved["encoder"])):
        (VOICE / folder).mkdir(exist_ok=True)
        file = VOICE / folder / ("vocoder.safetensors" if folder == "vocoder" else "encoder.safetensors")
        save_file({name: t.half().contiguous() for name, t in tensors.items()}, file)
    (VOICE / "vocoder" / "vocoder.json").write_text(CONFIG.model_dump_json(indent=2) + "\n", encoding="utf-8")


def spoken_at(durations: np.ndarray, pauses: np.ndarray, mel: np.ndarray) -> np.ndarray:
    """Which symbol each token sounds, int64 [sum of durations].

    durations: int [S] in tokens; pauses: bool [S], the punctuation; mel: [frames, 80]. hibari gives most of a
    pause to the phoneme before it; here it is the punctuation's own: what sounds and what is silent is told apart.
    """
    place = np.repeat(np.arange(len(durations)), durations)
    count = min(len(place), len(mel) // 2)
    loudness = np.log(np.exp(mel[: 2 * count].astype(np.float32)).reshape(count, -1).mean(1))
    starts = np.cumsum(durations) - durations
    for symbol in np.flatnonzero(pauses):
        begin = starts[symbol]
        while begin > starts[symbol - 1] + 1 and begin <= count and loudness[begin - 1] < QUIET:
            begin -= 1
        place[begin : starts[symbol]] = symbol
    return place


@torch.no_grad()
def tokens(corpus: Path, out: Path) -> None:
    """Write tokens int32 [N], offsets int64 [U + 1], prefix_len int32 [U], and for each token of an utterance the
    prefix position of the phoneme that comes next, `upcoming` int32 [N] (BEGIN's behind the last, -1 in the prefix).

    An utterance is its phonemes, BEGIN, each phoneme once more followed by its codes, END.
    """
    encoder = load_encoder()
    frontend = Frontend.load(VOICE / "text")
    of_teacher = {number: character for character, number in Hibari().vocab.items()}
    punctuation = [i for i, character in of_teacher.items() if character in frontend.punctuation]
    stream, upcoming, prefix_len, lengths, texts = [], [], [], [], []
    for file in shards(corpus):
        shard = np.load(file)
        mels = np.split(shard["mel"], np.cumsum(shard["mel_len"])[:-1])
        ends = np.cumsum(shard["ids_len"])[:-1]
        said = json.loads(file.with_suffix(".json").read_text(encoding="utf-8"))
        all_ids, all_durations = np.split(shard["ids"], ends), np.split(shard["dur"], ends)
        for text, mel, ids, dur in zip(said, mels, all_ids, all_durations, strict=True):
            codes = encoder.codes(torch.tensor(mel).float()).numpy()
            pauses = np.isin(ids, punctuation)
            phoneme = spoken_at(dur, pauses, mel)[: len(codes)]
            lead = max(0, int(dur[0]) - LEAD)
            tail = int(np.searchsorted(phoneme, len(dur) - 2)) + TAIL
            prefix = frontend.encode("".join(of_teacher[i] for i in ids[1:-1].tolist()))
            row, places = [*prefix, BEGIN], [-1] * len(prefix) + [0]
            spoken = 0
            for code, place in zip(codes[lead:tail].tolist(), (phoneme[lead:tail] - 1).tolist(), strict=True):
                while spoken <= min(place, len(prefix) - 1):
                    row.append(prefix[spoken])
                    spoken += 1
                    places.append(spoken)
                row.append(code)
                places.append(spoken)
            row.append(END)
            stream += row
            upcoming += [*places, -1]
            prefix_len.append(len(prefix) + 1)
            lengths.append(len(row))
            texts.append(text)
    save_file(
        {
            "tokens": torch.tensor(stream, dtype=torch.int32),
            "upcoming": torch.tensor(upcoming, dtype=torch.int32),
            "offsets": torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int64),
            "prefix_len": torch.tensor(prefix_len, dtype=torch.int32),
        },
        out,
    )
    out.with_suffix(".json").write_text(json.dumps(texts), encoding="utf-8")
    used = np.bincount([t for t in stream if t < END], minlength=END) > 0
    print(f"{len(lengths)} utterances, {len(stream)} tokens, {used.sum()} codes used, longest {max(lengths)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=("train", "save", "tokens"))
    parser.add_argument("paths", type=Path, nargs="+")
    options = parser.parse_args()
    torch.set_num_threads(2)
    {"train": train, "save": save, "tokens": tokens}[options.verb](*options.paths)


if __name__ == "__main__":
    main()
