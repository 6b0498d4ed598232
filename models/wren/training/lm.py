"""Train the language model with full attention. The teacher of the WAND fine-tuning.

It reads phonemes, and then says each phoneme once more before the audio codes that sound it (as ELLA-V does,
arXiv 2401.07333): so it always knows where in the text it is.

    python models/wren/training/lm.py TOKENS.safetensors STATE --steps 6000     resumes from STATE
    python models/wren/training/lm.py TOKENS.safetensors STATE --save models/wren/teacher

It trains on a GPU if there is one; --bf16 computes in bfloat16, which pays there and on processors with AMX. Four aids:
one attention head is guided towards the phoneme that comes next; many of the codes that it reads are wrong, as its own
picks will be; half of the utterances are cut to some of their clauses, so that where to stop follows from the text and
not from the length; and where to stop, and what to say next, weigh more than how it sounds.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

CODES, END = 1024, 1024
PUNCTUATION = range(1027, 1033)
FIRST_BOUNDARY, BOUNDARIES = 1079, 26
VOCABULARY = 1128
GUIDED_LAYER, GUIDE_WEIGHT = 2, 0.3
TEXT_WEIGHT, END_WEIGHT = 2.0, 5.0
CUT = 0.5
LEAD, TAIL = 4, 10
"""Codes of silence that are kept before and after a cut utterance."""
CORRUPTED, OFTEN, MUCH = 0.08, 0.7, 0.9
"""Share of the codes that are wrong; and OFTEN, from some point in the first half on, so MUCH of them: from sound codes
the model hears where it is, and forgets the text."""
SHORT, SHORT_SHARE = 480, 0.3
"""So long are the utterances in this first share of the steps: short ones teach sooner to follow the text."""
RATE, WARM_UP = 1.5e-3, 100
HELD_OUT = 128
IGNORED = -100

CONFIG = LlamaConfig(
    vocab_size=VOCABULARY, hidden_size=256, num_hidden_layers=5, num_attention_heads=4, num_key_value_heads=2,
    head_dim=64, intermediate_size=768, rms_norm_eps=1e-6, max_position_embeddings=2048,
    rope_parameters={"rope_type": "default", "rope_theta": 10000.0}, tie_word_embeddings=False, bos_token_id=1025,
    eos_token_id=END, pad_token_id=END,
)  # fmt: skip

Utterance = tuple[np.ndarray, np.ndarray, int]
"""Ids int64 [N], the prefix position of the phoneme that comes next at each of them [N], and how many are prefix."""


class Corpus:
    """Utterances as rows of ids; the first HELD_OUT are kept from training."""

    def __init__(self, file: Path) -> None:
        arrays = load_file(file)
        cuts = arrays["offsets"][1:-1]
        rows, upcoming = np.split(arrays["tokens"].astype(np.int64), cuts), np.split(arrays["upcoming"], cuts)
        self.utterances: list[Utterance] = list(zip(rows, upcoming, arrays["prefix_len"].tolist(), strict=True))

    def batches(self, tokens: int, longest: int, rng: np.random.Generator) -> list[list[Utterance]]:
        """Utterances of like length, at most `tokens` padded tokens a batch, in random order."""
        whole = self.utterances[HELD_OUT:]
        chosen = [clauses(u, rng) if rng.random() < CUT else u for u in whole]
        lengths = np.array([len(ids) for ids, _, _ in chosen])
        order = np.argsort(lengths + rng.uniform(0, 8, len(lengths)))
        batches: list[list[Utterance]] = [[]]
        for i in order[lengths[order] <= longest].tolist():
            if batches[-1] and (len(batches[-1]) + 1) * lengths[i] > tokens:
                batches.append([])
            batches[-1].append(chosen[i])
        return [batches[i] for i in rng.permutation(len(batches))]


def clauses(utterance: Utterance, rng: np.random.Generator) -> Utterance:
    """Some of the clauses of an utterance that follow one another: what lies between two of its pauses."""
    ids, upcoming, prefix_len = utterance
    text, said, places = ids[: prefix_len - 1], ids[prefix_len:-1], upcoming[prefix_len:-1]
    paused = (text >= PUNCTUATION[0]) & (text <= PUNCTUATION[-1])
    pauses = np.flatnonzero(paused[:-1] & (text[1:] >= FIRST_BOUNDARY)) + 1
    starts, ends = [0, *(pauses + 1)], [*pauses, len(text)]
    first = int(rng.integers(len(starts)))
    start, end = starts[first], ends[int(rng.integers(first, len(ends)))]
    space, low, last, high = np.searchsorted(places, [start, start + 1, end, end + 1])
    low, high = max(space + (start > 0), low - LEAD), min(high, last + 1 + TAIL)
    found = np.concatenate([text[start:end], ids[prefix_len - 1 : prefix_len], said[low:high], ids[-1:]])
    spaces = found >= FIRST_BOUNDARY
    skipped = int((text[:start] >= FIRST_BOUNDARY).sum())
    found[spaces] = (found[spaces] - FIRST_BOUNDARY - skipped) % BOUNDARIES + FIRST_BOUNDARY
    length = end - start
    return found, np.concatenate([np.full(length, -1), [0], places[low:high] - start, [-1]]), length + 1


def collate(chosen: list[Utterance], rng: np.random.Generator | None) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs, targets and guides, int64 [B, T]; rng corrupts some of the codes that are read."""
    longest = max(len(ids) for ids, _, _ in chosen) - 1
    inputs = np.full((len(chosen), longest), END)
    targets, guides = np.full_like(inputs, IGNORED), np.full_like(inputs, -1)
    for row, (ids, upcoming, p) in enumerate(chosen):
        targets[row, p - 1 : len(ids) - 1] = ids[p:]
        guides[row, : len(ids) - 1] = upcoming[:-1]
        read = ids[:-1].copy()
        if rng is not None:
            chance = np.full(len(read), CORRUPTED)
            if rng.random() < OFTEN:
                chance[rng.integers(p, p + 1 + (len(read) - p) // 2) :] = MUCH
            wrong = (rng.random(len(read)) < chance) & (read < CODES)
            read[wrong] = rng.integers(0, CODES, int(wrong.sum()))
        inputs[row, : len(read)] = read
    return torch.tensor(inputs), torch.tensor(targets), torch.tensor(guides)


class Guide:
    """The log-probability that one head of one layer gives to the place of the phoneme that comes next.

    Not to the one being spoken: what its place holds cannot tell what follows.
    """

    def __init__(self, model: LlamaForCausalLM) -> None:
        self.attention = model.model.layers[GUIDED_LAYER].self_attn
        self.attention.register_forward_pre_hook(self._keep, with_kwargs=True)

    def _keep(self, _module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
        self.hidden = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
        self.rotary = kwargs["position_embeddings"]

    def loss(self, guides: Tensor) -> Tensor:
        size = self.attention.head_dim
        q = F.linear(self.hidden, self.attention.q_proj.weight[:size])[:, None]
        k = F.linear(self.hidden, self.attention.k_proj.weight[:size])[:, None]
        q, k = apply_rotary_pos_emb(q, k, *self.rotary)
        scores = (q @ k.transpose(2, 3))[:, 0].float() * size**-0.5
        later = torch.ones(scores.shape[1:], dtype=torch.bool, device=scores.device).triu(1)
        scores = scores.masked_fill(later, -1e4).log_softmax(-1)
        guided = guides >= 0
        return -scores.gather(2, guides.clamp(min=0)[..., None])[..., 0][guided].mean()


def predictions(model: LlamaForCausalLM, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Logits float32 [M, VOCABULARY] where there is a target, and these targets [M]."""
    wanted = targets != IGNORED
    hidden = model.model(input_ids=inputs, use_cache=False).last_hidden_state
    return model.lm_head(hidden[wanted]).float(), targets[wanted]


def train(corpus: Corpus, state: Path, options: argparse.Namespace, device: torch.device) -> None:
    torch.manual_seed(0)
    steps = options.steps
    model = LlamaForCausalLM(CONFIG).to(device)
    guide = Guide(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.95), weight_decay=0.02, fused=True)
    weights = torch.ones(VOCABULARY, device=device)
    weights[END], weights[END + 1 :] = END_WEIGHT, TEXT_WEIGHT
    step = 0
    if state.exists():
        saved = torch.load(state, weights_only=True, map_location=device)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        step = saved["step"]
    model.train()
    queue: list[list[Utterance]] = []
    seen, began, all_lengths = [], time.time(), round(steps * SHORT_SHARE)
    while step < steps:
        rng = np.random.default_rng(step)
        if not queue or step == all_lengths:
            longest = SHORT if step < all_lengths else CONFIG.max_position_embeddings
            queue = corpus.batches(options.batch_tokens, longest, rng)
        inputs, targets, guides = (tensor.to(device) for tensor in collate(queue.pop(), rng))
        scale = min(1, (step + 1) / WARM_UP) * min(1.0, max(0.02, (1 - step / steps) / 0.5))
        optimizer.param_groups[0]["lr"] = options.rate * scale
        with torch.autocast(device.type, torch.bfloat16, enabled=options.bf16):
            logits, wanted = predictions(model, inputs, targets)
            guided = guide.loss(guides)
        loss = F.cross_entropy(logits, wanted, weights)
        model.zero_grad()
        (loss + GUIDE_WEIGHT * guided).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        seen.append(torch.stack([loss.detach(), guided.detach()]))
        step += 1
        if step % 50 == 0:
            means = torch.stack(seen[-50:]).mean(0)
            print(step, f"{time.time() - began:.0f} s, loss {means[0]:.3f}, guide {means[1]:.3f}", flush=True)
        if step % 100 == 0 or step == steps:
            saved = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
            torch.save(saved, state.with_suffix(".tmp"))
            state.with_suffix(".tmp").rename(state)


@torch.no_grad()
def evaluate(model: LlamaForCausalLM, corpus: Corpus, device: torch.device) -> dict[str, float]:
    """On the held-out utterances: cross-entropy, accuracy, and accuracy where a phoneme or the end is due."""
    losses, right, text = [], [], []
    for utterance in corpus.utterances[:HELD_OUT]:
        inputs, targets, _ = collate([utterance], None)
        logits, wanted = predictions(model, inputs.to(device), targets.to(device))
        losses.append(F.cross_entropy(logits, wanted, reduction="none"))
        right.append(logits.argmax(-1) == wanted)
        text.append(wanted >= CODES)
    hits, due = torch.cat(right).float(), torch.cat(text)
    return {
        "loss": round(torch.cat(losses).mean().item(), 4),
        "accuracy": round(hits.mean().item(), 4),
        "text_accuracy": round(hits[due].mean().item(), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tokens", type=Path)
    parser.add_argument("state", type=Path)
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--batch-tokens", type=int, default=4000)
    parser.add_argument("--rate", type=float, default=RATE, help="peak learning rate")
    parser.add_argument("--bf16", action="store_true", help="compute in bfloat16; weights stay float32")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--save", type=Path, help="write the model as a transformers folder, float16, and stop")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    corpus = Corpus(options.tokens)
    if options.save is None:
        train(corpus, options.state, options, device)
    saved = torch.load(options.state, weights_only=True, map_location=device)
    model = LlamaForCausalLM(CONFIG).to(device).eval()
    model.load_state_dict(saved["model"])
    print(json.dumps({"step": saved["step"], **evaluate(model, corpus, device)}))
    if options.save is not None:
        model.cpu().half().save_pretrained(options.save)


if __name__ == "__main__":
    main()
