"""Train the language model with full attention. The teacher of the WAND fine-tuning.

It reads phonemes, and then says each phoneme once more before the audio codes that sound it (as ELLA-V does,
arXiv 2401.07333): so it always knows where in the text it is.

    python models/wren/training/lm.py TOKENS.safetensors STATE --steps 2400     resumes from STATE
    python models/wren/training/lm.py TOKENS.safetensors STATE --save models/wren/teacher

Two aids: one attention head is guided towards the phoneme that comes next, and some of the codes that it reads are
wrong, as its own picks will be.
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
VOCABULARY = 1128
GUIDED_LAYER, GUIDE_WEIGHT, CORRUPTED = 2, 0.3, 0.08
OFTEN, MUCH = 0.5, 0.9
"""Of so many utterances so many codes are wrong: from sound codes the model hears where it is, and forgets the text."""
RATE, WARM_UP = 1.5e-3, 60
HELD_OUT = 128
IGNORED = -100

CONFIG = LlamaConfig(
    vocab_size=VOCABULARY, hidden_size=256, num_hidden_layers=5, num_attention_heads=4, num_key_value_heads=2,
    head_dim=64, intermediate_size=768, rms_norm_eps=1e-6, max_position_embeddings=2048,
    rope_parameters={"rope_type": "default", "rope_theta": 10000.0}, tie_word_embeddings=False, bos_token_id=1025,
    eos_token_id=END, pad_token_id=END,
)  # fmt: skip


class Corpus:
    """Utterances as rows of ids; the first HELD_OUT are kept from training."""

    def __init__(self, file: Path) -> None:
        arrays = load_file(file)
        cuts = arrays["offsets"][1:-1]
        self.rows = np.split(arrays["tokens"], cuts)
        self.upcoming = np.split(arrays["upcoming"], cuts)
        self.prefix_len = arrays["prefix_len"]

    def batches(self, tokens: int, rng: np.random.Generator) -> list[list[int]]:
        """Utterances of like length, at most `tokens` padded tokens a batch, in random order."""
        lengths = np.array([len(row) for row in self.rows])
        order = np.argsort(lengths + rng.uniform(0, 8, len(lengths)))
        batches: list[list[int]] = [[]]
        for i in order[order >= HELD_OUT].tolist():
            if (len(batches[-1]) + 1) * lengths[i] > tokens:
                batches.append([])
            batches[-1].append(i)
        return [batches[i] for i in rng.permutation(len(batches))]

    def collate(self, chosen: list[int], rng: np.random.Generator | None) -> tuple[Tensor, Tensor, Tensor]:
        """Inputs, targets and guides, int64 [B, T]; rng corrupts some of the codes that are read."""
        longest = max(len(self.rows[i]) for i in chosen) - 1
        inputs = np.full((len(chosen), longest), END)
        targets, guides = np.full_like(inputs, IGNORED), np.full_like(inputs, -1)
        for row, i in enumerate(chosen):
            ids, p = self.rows[i].astype(np.int64), int(self.prefix_len[i])
            targets[row, p - 1 : len(ids) - 1] = ids[p:]
            guides[row, : len(ids) - 1] = self.upcoming[i][:-1]
            if rng is not None:
                wrong = rng.random(len(ids)) < (MUCH if rng.random() < OFTEN else CORRUPTED)
                wrong &= ids < CODES
                ids[wrong] = rng.integers(0, CODES, int(wrong.sum()))
            inputs[row, : len(ids) - 1] = ids[:-1]
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
        scores = (q @ k.transpose(2, 3))[:, 0] * size**-0.5
        later = torch.ones(scores.shape[1:], dtype=torch.bool).triu(1)
        scores = scores.masked_fill(later, -1e4).log_softmax(-1)
        guided = guides >= 0
        return -scores.gather(2, guides.clamp(min=0)[..., None])[..., 0][guided].mean()


def train(corpus: Corpus, state: Path, steps: int, batch_tokens: int) -> None:
    torch.manual_seed(0)
    model = LlamaForCausalLM(CONFIG)
    guide = Guide(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.95), weight_decay=0.02)
    step = 0
    if state.exists():
        saved = torch.load(state, weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        step = saved["step"]
    model.train()
    queue: list[list[int]] = []
    seen, began = [], time.time()
    while step < steps:
        rng = np.random.default_rng(step)
        queue = queue or corpus.batches(batch_tokens, rng)
        inputs, targets, guides = corpus.collate(queue.pop(), rng)
        scale = min(1, (step + 1) / WARM_UP) * min(1.0, max(0.02, (1 - step / steps) / 0.5))
        optimizer.param_groups[0]["lr"] = RATE * scale
        logits = model(input_ids=inputs, use_cache=False).logits
        loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED)
        guided = guide.loss(guides)
        model.zero_grad()
        (loss + GUIDE_WEIGHT * guided).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        seen.append((loss.item(), guided.item()))
        step += 1
        if step % 50 == 0:
            means = np.mean(seen[-50:], axis=0)
            print(step, f"{time.time() - began:.0f} s, loss {means[0]:.3f}, guide {means[1]:.3f}", flush=True)
        if step % 100 == 0 or step == steps:
            saved = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
            torch.save(saved, state.with_suffix(".tmp"))
            state.with_suffix(".tmp").rename(state)


@torch.no_grad()
def evaluate(model: LlamaForCausalLM, corpus: Corpus) -> dict[str, float]:
    """Cross-entropy and accuracy on the held-out utterances."""
    inputs, targets, _ = corpus.collate(list(range(64)), None)
    logits = model(input_ids=inputs, use_cache=False).logits
    wanted = targets != IGNORED
    right = (logits.argmax(-1) == targets)[wanted].float().mean()
    loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED)
    return {"loss": round(loss.item(), 4), "accuracy": round(right.item(), 4)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tokens", type=Path)
    parser.add_argument("state", type=Path)
    parser.add_argument("--steps", type=int, default=2400)
    parser.add_argument("--batch-tokens", type=int, default=4000)
    parser.add_argument("--save", type=Path, help="write the model as a transformers folder, float16, and stop")
    options = parser.parse_args()
    torch.set_num_threads(2)
    corpus = Corpus(options.tokens)
    if options.save is None:
        train(corpus, options.state, options.steps, options.batch_tokens)
    saved = torch.load(options.state, weights_only=True)
    model = LlamaForCausalLM(CONFIG).eval()
    model.load_state_dict(saved["model"])
    print(json.dumps({"step": saved["step"], **evaluate(model, corpus)}))
    if options.save is not None:
        model.half().save_pretrained(options.save)


if __name__ == "__main__":
    main()
