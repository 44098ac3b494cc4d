"""Trains zipr1/tiny by supervision: several questions a scene (packing), loss on answers only.

An auxiliary loss classifies what lies under each visual token; its heads are thrown away. Without
it the vision tower of so small a model learns nothing within an hour on a CPU.
"""

import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from zipr1.common.documents import write_document
from zipr1.common.errors import InputError
from zipr1.common.provenance import provenance
from zipr1.lab.auxiliary_loss import AuxiliaryLoss
from zipr1.lab.config import PretrainConfig, Stage
from zipr1.lab.packing import IGNORE, isolate, pack
from zipr1.lab.tiny import build_model, build_processor
from zipr1.models.encode import encode
from zipr1.models.loading import load
from zipr1.models.saving import save
from zipr1.tasks import ALL_TASKS
from zipr1.tasks.base import Scene


class Batches(Dataset):
    """Step -> prepared batches of scenes of one size ("pictures", "clips of 8", ...), each a
    function of (seed, step)."""

    def __init__(self, config: PretrainConfig, stage: Stage, processor):
        self.config, self.stage, self.processor = config, stage, processor

    def __len__(self) -> int:
        return self.stage.steps

    def __getitem__(self, step: int) -> dict[str, dict]:
        scenes: dict[int, list[Scene]] = {}  # by the number of frames, 0 for images
        for task in (ALL_TASKS[name] for name in self.config.tasks):
            count = self.config.clips_per_task if task.video else self.config.pictures_per_task
            offset = self.config.seed * 10_000_000 + step * 2 * count
            for i in range(2 * count if step < self.stage.vision_steps else count):
                scene = task.scene("train", offset + i)
                scenes.setdefault(len(scene.frames or ()), []).append(scene)
        return {
            f"clips of {frames}" if frames else "pictures": self.batch(
                alike, np.random.default_rng([self.config.seed, step, frames])
            )
            for frames, alike in scenes.items()
        }

    def batch(self, scenes: list[Scene], rng: np.random.Generator) -> dict:
        """{"inputs": of `pack`, "labels": of `AuxiliaryLoss`}."""
        questions, labels = [], {}
        for row, scene in enumerate(scenes):
            order = rng.permutation(len(scene.questions))[: self.config.questions_per_scene]
            questions.append([scene.questions[i] for i in order])
            for name, grid in scene.labels.items():
                labels.setdefault(name, {})[row] = torch.as_tensor(grid).reshape(-1).long()
        return {"inputs": pack(self.processor, scenes, questions), "labels": labels}


def answer_loss(model, embeds: dict, inputs: dict) -> tuple[torch.Tensor, torch.Tensor]:
    """(cross-entropy over the answer tokens, for each of them whether its logit is the largest)."""
    isolated = isolate(embeds, inputs["segment"], inputs["offset"])
    hidden = model.model.language_model(**isolated, use_cache=False).last_hidden_state
    labels = inputs["labels"]
    has_label = labels != IGNORE
    logits = model.lm_head(hidden[has_label])
    return F.cross_entropy(logits, labels[has_label]), logits.argmax(-1) == labels[has_label]


@torch.no_grad()
def validate(model, processor, config: PretrainConfig) -> dict[str, float]:
    """Exact match per task on validation questions: greedy decoding gives the expected answer if
    and only if each of its tokens has the largest logit."""
    model.eval()
    scores = {}
    for name in config.tasks:
        correct = []
        for begin in range(0, config.eval_questions, 20):
            examples = [
                ALL_TASKS[name].example("val", i)
                for i in range(begin, min(begin + 20, config.eval_questions))
            ]
            inputs = pack(processor, examples, [[(e.question, e.answer)] for e in examples])
            _, hits = answer_loss(model, encode(model, inputs).embeds, inputs)
            has_label = inputs["labels"] != IGNORE
            misses = torch.zeros_like(has_label)
            misses[has_label] = ~hits
            correct += (~misses.any(1)).tolist()
        scores[name] = sum(correct) / len(correct)
    model.train()
    return scores


def pretrain(config: PretrainConfig) -> dict[str, float]:
    """Trains stage by stage, writes checkpoint/ and log.jsonl to `output_dir`; returns the last
    validation scores. Raises InputError where the folder holds a checkpoint of an earlier run."""
    folder = Path(config.output_dir)
    if (folder / "checkpoint").exists():
        raise InputError(
            f"{folder}: holds the checkpoint of an earlier run; give another --output_dir, or "
            "remove it"
        )
    torch.set_num_threads(config.threads)
    if config.start:
        model, processor = load(config.start, dtype=torch.float32)
        model.requires_grad_(True)
    else:
        processor = build_processor()
        model = build_model(processor, config.seed, config.hidden_size, config.layers)
    write_document(folder / "run.json", "pretrain", {"config": asdict(config)} | provenance())
    scores = {}
    with (folder / "log.jsonl").open("w") as log:
        for number, stage in enumerate(config.stages, 1):
            for record in run_stage(model, processor, stage, config):
                scores = record.get("val", scores)
                if "val" in record or record["step"] == stage.steps:
                    save(model, processor, folder / "checkpoint")
                log.write(json.dumps({"stage": number} | record) + "\n")
                log.flush()
                print(number, rounded(record), file=sys.stderr)
    print(f"checkpoint and log are in {folder}/", file=sys.stderr)
    return scores


def rounded(record: dict) -> dict:
    return {k: round(v, 3) if isinstance(v, float) else v for k, v in record.items()}


def run_stage(model, processor, stage: Stage, config: PretrainConfig) -> Iterator[dict]:
    """Yields a record every 25 steps and at the end, with validation scores ("val") every
    `eval_every` steps and at the end, but for steps that train the vision tower alone."""
    torch.manual_seed(config.seed)
    auxiliary = AuxiliaryLoss(model.config.text_config.hidden_size, processor.tokenizer)
    optimizers = optimizers_of(model, auxiliary, stage, config)

    def rate(step: int) -> float:
        down = (stage.steps - step) / max(stage.decay_share * stage.steps, 1)
        return max(0.0, min(1.0, (step + 1) / stage.warmup_steps, down))

    schedules = [torch.optim.lr_scheduler.LambdaLR(optimizer, rate) for optimizer in optimizers]
    began = time.time()
    model.train()
    batches = DataLoader(Batches(config, stage, processor), batch_size=None, num_workers=1)
    for step, parts in enumerate(batches):
        record = {"step": step + 1}
        for name, batch in parts.items():
            loss, losses = batch_loss(model, auxiliary, batch, step >= stage.vision_steps)
            record |= {f"{name}_{key}": value for key, value in losses.items()}
            loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        is_last = step + 1 == stage.steps
        if (step + 1) % 25 == 0 or is_last:
            is_due = is_last or (step + 1) % config.eval_every == 0
            if step >= stage.vision_steps and is_due:
                record["val"] = validate(model, processor, config)
            yield record | {"seconds": round(time.time() - began, 1)}


def optimizers_of(
    model, auxiliary: AuxiliaryLoss, stage: Stage, config: PretrainConfig
) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the blocks, AdamW for everything else."""
    named = list(model.named_parameters())
    matrices = [p for n, p in named if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in named if p.ndim != 2 or "embed" in n] + list(auxiliary.parameters())
    muon = {"lr": stage.learning_rate, "adjust_lr_fn": "match_rms_adamw"}
    adam = {"lr": stage.adam_learning_rate, "betas": (0.9, 0.98)}
    return [
        torch.optim.Muon(matrices, weight_decay=config.weight_decay, **muon),
        torch.optim.AdamW(others, weight_decay=config.weight_decay, **adam),
    ]


def batch_loss(
    model, auxiliary: AuxiliaryLoss, batch: dict, with_answers: bool
) -> tuple[torch.Tensor, dict]:
    """(loss of one batch, its parts for the log)."""
    inputs = batch["inputs"]
    encoded = encode(model, inputs)
    grids = inputs.get("image_grid_thw", inputs.get("video_grid_thw"))
    embedding = model.get_input_embeddings().weight
    heads = auxiliary(encoded.features, grids, batch["labels"], embedding)
    loss = torch.stack(list(heads.values())).mean()
    losses = {"helper": {name: round(value.item(), 3) for name, value in heads.items()}}
    if with_answers:
        answers, hits = answer_loss(model, encoded.embeds, inputs)
        loss = loss + answers
        losses |= {"loss": answers.item(), "tokens_right": hits.float().mean().item()}
    return loss, losses
