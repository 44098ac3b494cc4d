"""Are the patches that hold the answer kept more often than the others?

    python experiments/answer_patches.py zipr1/tiny runs/demo/exact/final

For each model, over validation questions of `shapes`, `digits` and `sign`: the fraction of layers
that keep a visual token, for tokens on what the question or the answer names (the circle, its
colour, the letters of the word) and for all others. The boxes come from the labels with which the
embedded model was pretrained; a question about a place on the image names its object.
"""

import argparse
import re

import numpy as np
import torch

import zipr1
from zipr1.data.processor import prepare
from zipr1.models.settings import trained_settings
from zipr1.tasks import TASKS
from zipr1.tasks.base import Scene, Task

TASK_NAMES = ("shapes", "digits", "sign")


def named_cells(task: Task, scene: Scene, question: str, answer: str) -> np.ndarray:
    """(T, H, W) bool: the visual tokens whose content the question or the answer names."""
    words = set(re.findall(r"\w+", f"{question} {answer}".lower())) | set(answer)
    found = np.zeros_like(next(iter(scene.labels.values())), bool)
    for label, cells in scene.labels.items():
        classes = [i for i, word in enumerate(task.label_words[label], 1) if word in words]
        found |= np.isin(cells, classes)
    return found


@torch.no_grad()
def kept_fractions(model, processor, task: Task, count: int, rule, scope: str) -> list[float]:
    """[of named visual tokens, of the others]: the fraction of layers that keep one."""
    parts: tuple[list, list] = [], []
    for index in range(count):
        scene, example = task.scene("val", index), task.example("val", index)
        inputs = prepare(processor, [example])
        with zipr1.sparse(model, rule, scope=scope) as trace:
            model(**inputs, use_cache=False)
        visual = inputs["mm_token_type_ids"][0].bool()
        layers = torch.stack([kept[0] for kept in trace.kept]).float().mean(0)[visual].numpy()
        named = named_cells(task, scene, example.question, example.answer).ravel()
        for part, cells in zip(parts, (named, ~named), strict=True):
            part.extend(layers[cells].tolist())
    return [float(np.mean(part)) for part in parts]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("models", nargs="+")
    parser.add_argument("--questions", type=int, default=100, help="of each task")
    parser.add_argument("--p", type=float, default=0.975)
    given = parser.parse_args()
    print("| model | task | named tokens kept | others | quotient |\n|---|---|---|---|---|")
    for name in given.models:
        used = trained_settings(name)
        loaded, rule = zipr1.load(name), zipr1.TopP(given.p, used.choice)
        for task in TASK_NAMES:
            named, others = kept_fractions(*loaded, TASKS[task], given.questions, rule, used.scope)
            quotient = named / others
            print(f"| {name} | {task} | {named:.1%} | {others:.1%} | {quotient:.2f} |")


if __name__ == "__main__":
    main()
