"""Fine-tune a full-attention checkpoint for a window, in steps that resume.

The student starts as a copy of the teacher and learns from the data and from the teacher's own distributions. Beside
the checkpoint OUT, the folder OUT.state holds the last saved step and `log.jsonl`, one JSON object a line: a step's
{"step", "window", "tau", "learning_rate", "loss", "cross_entropy", "kl"}, and at the end the held-out scores.
"""

import json
import math
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field, PositiveInt
from torch import nn

from wand_export.distill.curriculum import Curriculum, attention_bias
from wand_export.distill.data import Utterances
from wand_export.distill.evaluate import evaluate
from wand_export.distill.loss import distillation_loss
from wand_export.distill.model import FamilyModel
from wand_export.errors import InputError
from wand_export.graph.checkpoint import open_checkpoint
from wand_export.graph.weights import weight_files
from wand_export.host.output import whole
from wand_export.spec.schema import Schema


class DistillConfig(Schema):
    """What CONFIG.toml says. Paths are relative to it. Unknown keys are refused."""

    family: str = Field(description="recipe that reads the checkpoint")
    teacher: Path = Field(description="folder of the full-attention checkpoint, in the family's own layout")
    data: Path = Field(description="token file, see wand_export/distill/data.py")
    window: PositiveInt
    window_start: PositiveInt = 128
    ramp: float = Field(0.6, ge=0, le=1, description="share of the steps in which the window closes")
    tau_start: float = Field(0.5, gt=0, description="taken from the logits outside the window at the first step")
    tau_end: float = Field(20.0, gt=0, description="and at the end of the ramp, before the mask is hard")
    kl_weight: float = Field(1.0, ge=0, description="lambda: weight of the divergence to the teacher")
    skew: float = Field(0.1, ge=0, lt=1, description="share of the teacher in the mixture that it is compared with")
    steps: PositiveInt
    batch_tokens: PositiveInt = 4000
    learning_rate: float = Field(1e-5, gt=0)
    warm_up: float = Field(0.03, ge=0, lt=1, description="share of the steps")
    weight_decay: float = Field(0.0, ge=0)
    corrupt: float = Field(0.0, ge=0, lt=1, description="share of the generated tokens that are read wrong")
    corrupt_ids: tuple[int, int] | None = Field(None, description="[first, last] of the ids that may be read wrong")
    held_out: PositiveInt = Field(64, description="the first utterances of the data: for scores, never learned from")
    bf16: bool = Field(False, description="compute in bfloat16 (weights stay float32): for GPUs and CPUs that have it")
    checkpoint_every: PositiveInt = 100
    seed: int = 0

    @property
    def curriculum(self) -> Curriculum:
        ramp_steps = round(self.ramp * self.steps)
        return Curriculum(self.window, max(self.window, self.window_start), self.tau_start, self.tau_end, ramp_steps)

    def rate(self, step: int) -> float:
        """Learning rate of a step: linear warm-up, then a cosine to zero."""
        warm_up = max(1, round(self.warm_up * self.steps))
        if step < warm_up:
            return self.learning_rate * (step + 1) / warm_up
        progress = (step - warm_up) / max(1, self.steps - warm_up)
        return self.learning_rate * (1 + math.cos(math.pi * progress)) / 2


class Trainer:
    """One run: teacher, student, data and optimizer, and the step that they have reached."""

    def __init__(self, config: DistillConfig, state: Path) -> None:
        """Resumes from `state`, a folder. Raises InputError for a teacher, data or state that do not fit."""
        self.config, self.state = config, state
        self.source = open_checkpoint(config.teacher, config.family)
        recipe = self.source.recipe
        speech = list(recipe.tables).index(recipe.speech_table)
        self.utterances = Utterances(config.data, speech, recipe.skipped_positions)
        rows = [table.rows for table in recipe.tables.values()]
        self.utterances.check(rows, recipe.head.rows, self.source.backbone.hidden)
        if config.held_out >= len(self.utterances):
            found = f"{len(self.utterances)} utterances, {config.held_out} held out"
            raise InputError(config.data, found, "lower held_out")
        self.held_out = list(range(config.held_out))
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.teacher, self.student = (FamilyModel(self.source).to(self.device).eval() for _ in range(2))
        self.optimizer = torch.optim.AdamW(
            self.student.parameters(), lr=config.learning_rate, betas=(0.9, 0.95), weight_decay=config.weight_decay
        )
        self.step, self.last_loss = 0, math.nan
        self._resume()

    def train(self) -> Iterator[dict[str, Any]]:
        """The remaining steps, each yielding its line of the log."""
        self.state.mkdir(parents=True, exist_ok=True)
        with (self.state / "log.jsonl").open("a", encoding="utf-8") as log:
            for chosen in self._batches():
                record = self._train_step(chosen)
                log.write(json.dumps(record) + "\n")
                log.flush()
                if self.step % self.config.checkpoint_every == 0 or self.step == self.config.steps:
                    self._save()
                yield record

    def _batches(self) -> Iterator[list[int]]:
        """The batches from the current step on: the same ones, wherever a run was interrupted."""
        learned = np.arange(self.config.held_out, len(self.utterances))
        skip, epoch = self.step, 0
        while self.step < self.config.steps:
            rng = np.random.default_rng([self.config.seed, epoch])
            batches = self.utterances.batches(learned, self.config.batch_tokens, rng)
            for chosen in batches[skip:]:
                if self.step < self.config.steps:
                    yield chosen
            skip, epoch = max(0, skip - len(batches)), epoch + 1

    def _train_step(self, chosen: list[int]) -> dict[str, Any]:
        config, stage = self.config, self.config.curriculum.at(self.step)
        rng = np.random.default_rng([config.seed, self.step, 1])
        batch = self.utterances.collate(chosen, config.corrupt, rng, config.corrupt_ids).to(self.device)
        length = batch.inputs.shape[1]
        self.student.train()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=config.bf16):
            with torch.no_grad():
                wanted = self.teacher(batch, attention_bias(length, batch.prefix_len, None))
            found = self.student(batch, attention_bias(length, batch.prefix_len, stage))
        loss = distillation_loss(found, wanted, batch.targets, config.kl_weight, config.skew)
        rate = config.rate(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad()
        loss.total.backward()
        nn.utils.clip_grad_norm_(self.student.parameters(), 1.0)
        self.optimizer.step()
        self.step, self.last_loss = self.step + 1, loss.total.item()
        return {
            "step": self.step,
            **asdict(stage),
            "learning_rate": rate,
            "loss": self.last_loss,
            "cross_entropy": loss.cross_entropy.item(),
            "kl": loss.kl.item(),
        }

    def scores(self) -> dict[str, dict[str, float]]:
        """Held-out scores: the teacher, the teacher under the window without fine-tuning, the student."""
        window = self.config.window

        def score(model: nn.Module, limit: int | None) -> dict[str, float]:
            return asdict(evaluate(model, self.utterances, self.held_out, limit))

        return {
            "teacher": score(self.teacher, None),
            "untuned": score(self.teacher, window),
            "student": score(self.student, window),
        }

    def _resume(self) -> None:
        file = self.state / "state.pt"
        if not file.exists():
            return
        saved = torch.load(file, weights_only=True, map_location=self.device)
        if saved["config"] != self.config.model_dump_json():
            raise InputError(file, "it belongs to another configuration", "remove that folder, or choose another -o")
        self.student.load_state_dict(saved["student"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.step, self.last_loss = saved["step"], saved["last_loss"]

    def _save(self) -> None:
        saved = {
            "config": self.config.model_dump_json(),
            "student": self.student.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "last_loss": self.last_loss,
        }
        torch.save(saved, self.state / "state.partial")
        os.replace(self.state / "state.partial", self.state / "state.pt")

    def write(self, out: Path) -> None:
        """Write the checkpoint: the teacher's files with the student's weights, and wand.json; whole or not at all."""
        record = {
            "schema": 1,
            "family": self.config.family,
            "window": self.config.window,
            "teacher": self.source.sha256,
            "trained_steps": self.step,
            "final_loss": self.last_loss,
        }
        with whole(out) as partial:
            shutil.copytree(self.config.teacher, partial, dirs_exist_ok=True, ignore=self._weights)
            self.student.write(self.config.teacher, partial)
            (partial / "wand.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
            partial.chmod(0o755)

    def _weights(self, folder: str, names: list[str]) -> set[str]:
        """Which of these files in a folder of the teacher are its weights, which are not copied but written anew."""
        files = weight_files(self.config.teacher, self.source.recipe)
        return {file.name for file in files if file.parent == Path(folder)} & set(names)
