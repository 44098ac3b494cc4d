"""Trains zipr1/tiny from scratch, by supervision: several questions a scene in one conversation, answers only in the loss.

A helper loss names what lies under each visual token (Scene.labels) and where the token is; its heads are thrown away.
Without it the vision tower of so small a model does not get off the ground in an hour of CPU.
"""

import json
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from zipr1.inputs import conversation, prepare
from zipr1.model import encode, save
from zipr1.tasks import TASKS
from zipr1.tasks.base import Example, Scene
from zipr1.tiny import build_model, build_processor

IGNORE = -100


@dataclass
class PretrainConfig:
    """`zipr1 pretrain`: the embedded model from scratch."""

    steps: int = 2000
    vision_steps: int = 400  # of them, the first: the vision tower alone, by the helper loss, on twice the scenes
    pictures_per_task: int = 3  # scenes of each picture task in one step
    clips_per_task: int = 2
    questions_per_scene: int = 8
    learning_rate: float = 0.003  # of Muon, for the matrices of the blocks
    adam_learning_rate: float = 0.002  # of AdamW, for embeddings, norms, biases and heads
    weight_decay: float = 0.01
    warmup_steps: int = 100
    helper_weight: float = 1.0
    helper_until: float = 0.9  # share of the run after which the helper loss is off
    eval_every: int = 250
    eval_questions: int = 60  # of the validation split, per task
    seed: int = 0
    threads: int = 1
    output_dir: str = "runs/pretrain"
    init: str | None = None  # a checkpoint to go on from
    tasks: list[str] = field(default_factory=lambda: list(TASKS))


def answer_labels(input_ids: torch.Tensor, tokenizer) -> torch.Tensor:
    """Next-token labels (B, L): the tokens of every assistant turn with its <|im_end|>, the rest ignored."""
    start, end = tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"])
    header = tokenizer.encode("assistant\n", add_special_tokens=False)
    labels = torch.full_like(input_ids, IGNORE)
    for row, ids in enumerate(input_ids.tolist()):
        for i in (i for i, token in enumerate(ids) if token == start):
            first = i + 1 + len(header)
            if ids[i + 1 : first] == header:
                last = ids.index(end, first) + 1
                labels[row, first - 1 : last - 1] = input_ids[row, first:last]
    return labels


class Batches(Dataset):
    """Step -> prepared batches (pictures, clips), each a function of (seed, step)."""

    def __init__(self, config: PretrainConfig, processor):
        self.config, self.processor = config, processor

    def __len__(self) -> int:
        return self.config.steps

    def __getitem__(self, step: int) -> list[dict]:
        batches = []
        for clip, count in ((False, self.config.pictures_per_task), (True, self.config.clips_per_task)):
            tasks = [TASKS[name] for name in self.config.tasks if TASKS[name].clip == clip]
            offset = self.config.seed * 10_000_000 + step * 2 * count
            count = 2 * count if step < self.config.vision_steps else count
            scenes = [(task.name, task.scene("train", offset + i)) for task in tasks for i in range(count)]
            if scenes:
                batches.append(self.batch(scenes, np.random.default_rng([self.config.seed, step, clip])))
        return batches

    def batch(self, scenes: list[tuple[str, Scene]], rng: np.random.Generator) -> dict:
        examples, chats, helper = [], [], {}
        for row, (task, scene) in enumerate(scenes):
            order = rng.permutation(len(scene.questions))[: self.config.questions_per_scene]
            example = Example(scene.id, task, "", "", scene.image, scene.frames)
            examples.append(example)
            chats.append(conversation(example, [scene.questions[i] for i in order]))
            for name, grid in scene.labels.items():
                helper.setdefault(f"{task}_{name}", {})[row] = torch.as_tensor(grid).reshape(-1).long()
        inputs = dict(prepare(self.processor, examples, chats))
        return {
            "inputs": inputs,
            "labels": answer_labels(inputs["input_ids"], self.processor.tokenizer),
            "helper": helper,
        }


class Helper(nn.Module):
    """Linear heads on the visual tokens: what is here (one head per task and label), and in which row and column."""

    def __init__(self, hidden: int):
        super().__init__()
        sizes = {f"{t.name}_{n}": k for t in TASKS.values() for n, k in t.label_sizes.items()} | {"row": 8, "col": 8}
        self.heads = nn.ModuleDict({name: nn.Linear(hidden, size) for name, size in sizes.items()})

    def forward(self, features: list[torch.Tensor], grids: torch.Tensor, helper: dict) -> dict[str, torch.Tensor]:
        """Cross-entropy per head; `features` one (T*H*W, hidden) per scene, `grids` (B, 3) in patches."""
        losses = {}
        for name, rows in helper.items():
            logits = self.heads[name](torch.cat([features[row] for row in rows]))
            target = torch.cat(list(rows.values()))
            loss = F.cross_entropy(logits, target, reduction="none")
            # Most cells hold nothing: let both halves count the same.
            losses[name] = torch.stack([loss[part].mean() for part in (target == 0, target > 0) if part.any()]).mean()
        t, h, w = grids[0].tolist()  # all scenes of a batch have one size
        index = torch.arange(t * (h // 2) * (w // 2))
        all_features = torch.stack(features)
        for name, position in (("row", index // (w // 2) % (h // 2)), ("col", index % (w // 2))):
            logits = self.heads[name](all_features)
            losses[name] = F.cross_entropy(logits.flatten(0, 1), position.repeat(len(features)))
        return losses


def answer_loss(model, embeds: dict, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy over the answer tokens, and for each (row, position) of `labels` whether argmax is right."""
    hidden = model.model.language_model(**embeds, use_cache=False).last_hidden_state
    wanted = labels != IGNORE
    logits = model.lm_head(hidden[wanted])
    return F.cross_entropy(logits, labels[wanted]), logits.argmax(-1) == labels[wanted]


@torch.no_grad()
def validate(model, processor, config: PretrainConfig) -> dict[str, float]:
    """Exact match per task on validation questions (greedy decoding gives the answer iff each argmax is right)."""
    model.eval()
    scores = {}
    for name in config.tasks:
        task, right = TASKS[name], []
        for begin in range(0, config.eval_questions, 20):
            examples = [task.example("val", i) for i in range(begin, min(begin + 20, config.eval_questions))]
            chats = [conversation(e, [(e.question, e.answer)]) for e in examples]
            inputs = prepare(processor, examples, chats)
            labels = answer_labels(inputs["input_ids"], processor.tokenizer)
            _, hits = answer_loss(model, encode(model, inputs).embeds, labels)
            misses = torch.zeros_like(labels)
            misses[labels != IGNORE] = (~hits).long()
            right += (misses.sum(1) == 0).tolist()
        scores[name] = sum(right) / len(right)
    model.train()
    return scores


def pretrain(config: PretrainConfig) -> dict[str, float]:
    """Trains, writes the checkpoint and log.jsonl to `output_dir`, and returns the last validation scores."""
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    processor = build_processor()
    model = build_model(processor, config.seed)
    if config.init:
        model.load_state_dict(type(model).from_pretrained(config.init, dtype=torch.float32).state_dict())
    helper = Helper(model.config.text_config.hidden_size)
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n] + list(helper.parameters())
    optimizers = [
        torch.optim.Muon(
            matrices, lr=config.learning_rate, weight_decay=config.weight_decay, adjust_lr_fn="match_rms_adamw"
        ),
        torch.optim.AdamW(others, lr=config.adam_learning_rate, weight_decay=config.weight_decay, betas=(0.9, 0.98)),
    ]

    def rate(step: int) -> float:
        decay = max(0.0, min(1.0, (config.steps - step) / (0.5 * config.steps)))
        return min(1.0, (step + 1) / config.warmup_steps) * decay

    schedules = [torch.optim.lr_scheduler.LambdaLR(optimizer, rate) for optimizer in optimizers]
    folder = Path(config.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(asdict(config), indent=1))
    started, scores = time.time(), {}
    model.train()
    with (folder / "log.jsonl").open("w") as log:
        for step, batches in enumerate(DataLoader(Batches(config, processor), batch_size=None, num_workers=1)):
            record = {"step": step + 1}
            for batch, kind in zip(batches, ("pictures", "clips"), strict=False):
                encoded = encode(model, batch["inputs"])
                grids = batch["inputs"].get("image_grid_thw", batch["inputs"].get("video_grid_thw"))
                named = helper(encoded.features, grids, batch["helper"])
                weight = config.helper_weight if step < config.helper_until * config.steps else 0.0
                loss = weight * torch.stack(list(named.values())).mean()
                record[f"{kind}_helper"] = {name: round(value.item(), 3) for name, value in named.items()}
                if step >= config.vision_steps:
                    answers, hits = answer_loss(model, encoded.embeds, batch["labels"])
                    loss = loss + answers
                    record |= {f"{kind}_loss": answers.item(), f"{kind}_tokens_right": hits.float().mean().item()}
                loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for optimizer, schedule in zip(optimizers, schedules, strict=True):
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
            if (step + 1) % 25 == 0 or step + 1 == config.steps:
                if (step + 1 > config.vision_steps and (step + 1) % config.eval_every == 0) or step + 1 == config.steps:
                    scores = validate(model, processor, config)
                    record["val"] = scores
                    save(model, processor, folder / "checkpoint")
                record["seconds"] = round(time.time() - started, 1)
                log.write(json.dumps(record) + "\n")
                log.flush()
                print({k: round(v, 3) if isinstance(v, float) else v for k, v in record.items()}, flush=True)
    return scores
