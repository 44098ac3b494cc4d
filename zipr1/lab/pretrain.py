"""Trains zipr1/tiny by supervision: several questions a scene (packing), answers only in the loss.

A helper loss names what lies under each visual token (helper_loss); it is thrown away. Without it the vision tower of so small
a model does not get off the ground in an hour of CPU.
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

from zipr1.common.provenance import provenance
from zipr1.lab.config import PretrainConfig, Stage
from zipr1.lab.helper_loss import Helper
from zipr1.lab.packing import IGNORE, isolate, pack
from zipr1.lab.tiny import build_model, build_processor
from zipr1.models.encode import encode
from zipr1.models.loading import load
from zipr1.models.saving import save
from zipr1.tasks import ALL_TASKS
from zipr1.tasks.base import Scene


class Batches(Dataset):
    """Step -> prepared batches of scenes of one size ("pictures", "clips of 8", ...), each a function of (seed, step)."""

    def __init__(self, config: PretrainConfig, stage: Stage, processor):
        self.config, self.stage, self.processor = config, stage, processor

    def __len__(self) -> int:
        return self.stage.steps

    def __getitem__(self, step: int) -> dict[str, dict]:
        scenes: dict[int, list[Scene]] = {}  # by the number of frames, 0 for pictures
        for task in (ALL_TASKS[name] for name in self.config.tasks):
            count = self.config.clips_per_task if task.video else self.config.pictures_per_task
            offset = self.config.seed * 10_000_000 + step * 2 * count
            for i in range(2 * count if step < self.stage.vision_steps else count):
                scene = task.scene("train", offset + i)
                scenes.setdefault(len(scene.frames or ()), []).append(scene)
        return {
            f"clips of {frames}" if frames else "pictures": self.batch(
                found, np.random.default_rng([self.config.seed, step, frames])
            )
            for frames, found in scenes.items()
        }

    def batch(self, scenes: list[Scene], rng: np.random.Generator) -> dict:
        questions, helper = [], {}
        for row, scene in enumerate(scenes):
            order = rng.permutation(len(scene.questions))[: self.config.questions_per_scene]
            questions.append([scene.questions[i] for i in order])
            for name, grid in scene.labels.items():
                helper.setdefault(name, {})[row] = torch.as_tensor(grid).reshape(-1).long()
        return {"inputs": pack(self.processor, scenes, questions), "helper": helper}


def answer_loss(model, embeds: dict, inputs: dict) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy over the answer tokens, and for each of them whether the largest logit is the right one."""
    alone = isolate(embeds, inputs["segment"], inputs["offset"])
    hidden = model.model.language_model(**alone, use_cache=False).last_hidden_state
    labels = inputs["labels"]
    wanted = labels != IGNORE
    logits = model.lm_head(hidden[wanted])
    return F.cross_entropy(logits, labels[wanted]), logits.argmax(-1) == labels[wanted]


@torch.no_grad()
def validate(model, processor, config: PretrainConfig) -> dict[str, float]:
    """Exact match per task on validation questions (greedy decoding gives the answer iff each largest logit is right)."""
    model.eval()
    scores = {}
    for name in config.tasks:
        right = []
        for begin in range(0, config.eval_questions, 20):
            examples = [
                ALL_TASKS[name].example("val", i)
                for i in range(begin, min(begin + 20, config.eval_questions))
            ]
            inputs = pack(processor, examples, [[(e.question, e.answer)] for e in examples])
            _, hits = answer_loss(model, encode(model, inputs).embeds, inputs)
            wanted = inputs["labels"] != IGNORE
            wrong = torch.zeros_like(wanted)
            wrong[wanted] = ~hits
            right += (~wrong.any(1)).tolist()
        scores[name] = sum(right) / len(right)
    model.train()
    return scores


def pretrain(config: PretrainConfig) -> dict[str, float]:
    """Trains stage by stage, writes checkpoint and log.jsonl to `output_dir`, returns the last validation scores."""
    torch.set_num_threads(config.threads)
    if config.start:
        model, processor = load(config.start, dtype=torch.float32)
        model.requires_grad_(True)
    else:
        processor = build_processor()
        model = build_model(processor, config.seed, config.hidden_size, config.layers)
    folder = Path(config.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.json").write_text(
        json.dumps({"config": asdict(config)} | provenance(), indent=1)
    )
    scores = {}
    with (folder / "log.jsonl").open("w") as log:
        for number, stage in enumerate(config.stages, 1):
            for record in run_stage(model, processor, stage, config):
                if "val" in record:
                    scores = record["val"]
                    save(model, processor, folder / "checkpoint")
                log.write(json.dumps({"stage": number} | record) + "\n")
                log.flush()
                print(
                    number,
                    {k: round(v, 3) if isinstance(v, float) else v for k, v in record.items()},
                    file=sys.stderr,
                )
    return scores


def run_stage(model, processor, stage: Stage, config: PretrainConfig) -> Iterator[dict]:
    """Yields a record every 25 steps, with validation scores ("val") every `eval_every` and at the end."""
    torch.manual_seed(config.seed)
    helper = Helper(model.config.text_config.hidden_size, processor.tokenizer)
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n] + list(
        helper.parameters()
    )
    decay = config.weight_decay
    optimizers = [
        torch.optim.Muon(
            matrices, lr=stage.learning_rate, weight_decay=decay, adjust_lr_fn="match_rms_adamw"
        ),
        torch.optim.AdamW(
            others, lr=stage.adam_learning_rate, weight_decay=decay, betas=(0.9, 0.98)
        ),
    ]

    def rate(step: int) -> float:
        down = (stage.steps - step) / max(stage.decay_share * stage.steps, 1)
        return max(0.0, min(1.0, (step + 1) / stage.warmup_steps, down))

    schedules = [torch.optim.lr_scheduler.LambdaLR(optimizer, rate) for optimizer in optimizers]
    started = time.time()
    model.train()
    for step, batches in enumerate(
        DataLoader(Batches(config, stage, processor), batch_size=None, num_workers=1)
    ):
        record = {"step": step + 1}
        for kind, batch in batches.items():
            inputs = batch["inputs"]
            encoded = encode(model, inputs)
            grids = inputs.get("image_grid_thw", inputs.get("video_grid_thw"))
            named = helper(
                encoded.features, grids, batch["helper"], model.get_input_embeddings().weight
            )
            loss = torch.stack(list(named.values())).mean()
            record[f"{kind}_helper"] = {
                name: round(value.item(), 3) for name, value in named.items()
            }
            if step >= stage.vision_steps:
                answers, hits = answer_loss(model, encoded.embeds, inputs)
                loss = loss + answers
                record |= {
                    f"{kind}_loss": answers.item(),
                    f"{kind}_tokens_right": hits.float().mean().item(),
                }
            loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        end = step + 1 == stage.steps
        if (step + 1) % 25 == 0 or end:
            if step >= stage.vision_steps and (end or (step + 1) % config.eval_every == 0):
                record["val"] = validate(model, processor, config)
            yield record | {"seconds": round(time.time() - started, 1)}
