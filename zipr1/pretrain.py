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

from zipr1.inputs import prepare
from zipr1.model import encode, save
from zipr1.tasks import TASKS
from zipr1.tasks.base import Example, Scene
from zipr1.tiny import build_model, build_processor

IGNORE = -100


@dataclass
class PretrainConfig:
    """`zipr1 pretrain`: the embedded model from scratch."""

    steps: int = 2200
    vision_steps: int = 250  # of them, the first: the vision tower alone, by the helper loss, on twice the scenes
    pictures_per_task: int = 3  # scenes of each picture task in one step
    clips_per_task: int = 2
    questions_per_scene: int = 8
    learning_rate: float = 0.004  # of Muon, for the matrices of the blocks
    adam_learning_rate: float = 0.002  # of AdamW, for embeddings, norms, biases and heads
    weight_decay: float = 0.01
    warmup_steps: int = 100
    helper_weight: float = 1.0
    freeze_from: int = 100_000  # step from which the vision tower is left as it is, and with it the helper loss
    eval_every: int = 100
    eval_questions: int = 60  # of the validation split, per task
    seed: int = 0
    threads: int = 1
    output_dir: str = "runs/pretrain"
    init: str | None = None  # a checkpoint to go on from
    tasks: list[str] = field(default_factory=lambda: list(TASKS))


def pack(processor, scenes: list[Scene] | list[Example], questions: list[list[tuple[str, str]]]) -> dict:
    """Several questions of each scene behind one picture or clip, none of which sees another.

    As turns of one conversation a later question could be answered from earlier answers, without looking: a trial
    learned just that. Returns the processor's tensors with `input_ids` (B, L) = prefix (up to the end of the visual tokens)
    + one segment a question, and `segment` (B, L): 0 prefix, 1.. questions, -1 padding; `offset` (B, L): place within the
    segment; `labels` (B, L): next-token labels of the answers with their <|im_end|>, the rest ignored.
    All scenes have one size, so all prefixes are equally long.
    """
    tokenizer = processor.tokenizer
    vision_end, end = tokenizer.convert_tokens_to_ids(["<|vision_end|>", "<|im_end|>"])
    examples = [Example(scene.id, "", "", "", scene.image, scene.frames) for scene in scenes]
    inputs = dict(prepare(processor, examples))
    prefix = inputs["input_ids"][0].tolist().index(vision_end) + 1
    rows = []
    for scene_questions in questions:
        row = []  # (token, segment, offset, label)
        for number, (question, answer) in enumerate(scene_questions, 1):
            asked = tokenizer.encode(f"{question}<|im_end|>\n<|im_start|>assistant\n", add_special_tokens=False)
            told = [*tokenizer.encode(answer, add_special_tokens=False), end]
            following = [IGNORE] * (len(asked) - 1) + told + [IGNORE]
            tokens = zip(asked + told, following, strict=True)
            row += [(token, number, place, label) for place, (token, label) in enumerate(tokens)]
        rows.append(row)
    longest = max(len(row) for row in rows)
    padding = (tokenizer.pad_token_id, -1, 0, IGNORE)
    packed = torch.tensor([row + [padding] * (longest - len(row)) for row in rows])  # (B, S, 4)
    head = inputs["input_ids"][:, :prefix]
    types = inputs["mm_token_type_ids"][:, :prefix]
    zeros = torch.zeros_like(packed[:, :, 0])
    inputs |= {
        "input_ids": torch.cat([head, packed[:, :, 0]], dim=1),
        "attention_mask": torch.ones(len(rows), prefix + longest, dtype=torch.long),
        "mm_token_type_ids": torch.cat([types, zeros.to(types.dtype)], dim=1),
        "segment": torch.cat([torch.zeros_like(head), packed[:, :, 1]], dim=1),
        "offset": torch.cat([torch.zeros_like(head), packed[:, :, 2]], dim=1),
        "labels": torch.cat([torch.full_like(head, IGNORE), packed[:, :, 3]], dim=1),
    }
    return inputs


def isolate(embeds: dict, segment: torch.Tensor, offset: torch.Tensor) -> dict:
    """Positions and mask under which each question stands alone right behind the prefix."""
    prefix = int((segment[0] == 0).sum())
    positions = embeds["position_ids"].clone()
    positions[:, :, prefix:] = positions[:, :, prefix - 1 : prefix] + 1 + offset[:, prefix:]
    same = (segment[:, :, None] == segment[:, None, :]) | (segment == 0)[:, None, :]
    mask = same & torch.ones(same.shape[1:], dtype=torch.bool).tril()
    return {"inputs_embeds": embeds["inputs_embeds"], "position_ids": positions, "attention_mask": mask[:, None]}


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
        questions, helper = [], {}
        for row, (task, scene) in enumerate(scenes):
            order = rng.permutation(len(scene.questions))[: self.config.questions_per_scene]
            questions.append([scene.questions[i] for i in order])
            for name, grid in scene.labels.items():
                helper.setdefault(f"{task}_{name}", {})[row] = torch.as_tensor(grid).reshape(-1).long()
        return {"inputs": pack(self.processor, [scene for _, scene in scenes], questions), "helper": helper}


class Helper(nn.Module):
    """Names what lies under each visual token, in the model's own word embeddings.

    A class is the mean embedding of its word's tokens, as a question and as an answer spell it; so a visual token comes
    to lie near the words for what it shows, and the decoder can find it by a word and copy its name. With free linear
    heads instead, the decoder had learned no such look-up after 700 steps (docs/log.md). Where the token is, it is told
    too: its row and column (linear heads), left or right, top or bottom.
    """

    def __init__(self, hidden: int, tokenizer):
        super().__init__()
        words = {f"{task.name}_{name}": w for task in TASKS.values() for name, w in task.label_words.items()}
        words |= {"across": ("left", "right"), "down": ("top", "bottom")}
        self.tokens = {
            name: [
                [
                    t
                    for form in (word, f" {word}", f" {word.upper()}"[: 2 if len(word) == 1 else 0])
                    for t in tokenizer.encode(form)
                ]
                for word in row
            ]
            for name, row in words.items()
        }
        self.nothing = nn.ParameterDict({name: torch.zeros(1, hidden) for name in words})
        self.place = nn.ModuleDict({name: nn.Linear(hidden, 8) for name in ("row", "col")})

    def named(self, name: str, features: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        """Logits (N, classes), class 0 nothing; features (N, hidden), embedding (V, hidden)."""
        words = torch.stack([embedding[tokens].mean(0) for tokens in self.tokens[name]])
        return features @ torch.cat([self.nothing[name], words]).T

    def forward(self, features: list[torch.Tensor], grids: torch.Tensor, helper: dict, embedding) -> dict[str, torch.Tensor]:
        """Cross-entropy per head; `features` one (T*H*W, hidden) per scene, `grids` (B, 3) in patches."""
        losses = {}
        for name, rows in helper.items():
            target = torch.cat(list(rows.values()))
            loss = F.cross_entropy(
                self.named(name, torch.cat([features[row] for row in rows]), embedding), target, reduction="none"
            )
            # Most cells hold nothing: let both halves count the same.
            losses[name] = torch.stack([loss[part].mean() for part in (target == 0, target > 0) if part.any()]).mean()
        t, h, w = grids[0].tolist()  # all scenes of a batch have one size
        h, w = h // 2, w // 2
        index = torch.arange(t * h * w).repeat(len(features))
        row, col = index // w % h, index % w
        everything = torch.cat(features)
        for name, position in (("row", row), ("col", col)):
            losses[name] = F.cross_entropy(self.place[name](everything), position)
        for name, half in (("down", row // (h // 2)), ("across", col // (w // 2))):
            losses[name] = F.cross_entropy(self.named(name, everything, embedding)[:, 1:], half)
        return losses


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
            examples = [TASKS[name].example("val", i) for i in range(begin, min(begin + 20, config.eval_questions))]
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
    """Trains, writes the checkpoint and log.jsonl to `output_dir`, and returns the last validation scores."""
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    processor = build_processor()
    model = build_model(processor, config.seed)
    if config.init:
        model.load_state_dict(type(model).from_pretrained(config.init, dtype=torch.float32).state_dict())
    helper = Helper(model.config.text_config.hidden_size, processor.tokenizer)
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n] + list(helper.parameters())
    optimizers = [
        torch.optim.Muon(matrices, lr=config.learning_rate, weight_decay=config.weight_decay, adjust_lr_fn="match_rms_adamw"),
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
                frozen = step >= config.freeze_from
                model.model.visual.requires_grad_(not frozen)
                encoded = encode(model, batch["inputs"])
                grids = batch["inputs"].get("image_grid_thw", batch["inputs"].get("video_grid_thw"))
                named = helper(encoded.features, grids, batch["helper"], model.get_input_embeddings().weight)
                loss = 0.0 if frozen else config.helper_weight * torch.stack(list(named.values())).mean()
                record[f"{kind}_helper"] = {name: round(value.item(), 3) for name, value in named.items()}
                if step >= config.vision_steps:
                    answers, hits = answer_loss(model, encoded.embeds, batch["inputs"])
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
