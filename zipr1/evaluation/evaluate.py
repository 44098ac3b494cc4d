"""Questions under a method -> records, one an answer."""

from collections.abc import Callable, Iterator
from pathlib import Path

from zipr1.common.errors import InputError
from zipr1.common.progress import progress
from zipr1.data.example import Example
from zipr1.evaluation.generation import (
    Answer,
    GenerationSettings,
    as_shortener,
    batches,
    generate,
)
from zipr1.evaluation.input_baselines import Shortener
from zipr1.evaluation.records import (
    Record,
    append_records,
    read_records,
    readable_records,
    write_records,
)
from zipr1.rewards.graders import grade
from zipr1.sparsity.rules import Rule, TopP

Scorer = Callable[[list[Answer]], list[bool]]  # a batch of answers -> which are correct


def score(answers: list[Answer]) -> list[bool]:
    """By the problem type of each question."""
    return [grade(answer.example, answer.text) == 1 for answer in answers]


def evaluate(
    model,
    processor,
    examples: list[Example],
    rule: Rule | Shortener | None,
    method: str,
    settings: GenerationSettings | None = None,
    scorer: Scorer = score,
) -> list[Record]:
    """Records of all examples under one rule, batch by batch.

    Raises InputError where a shorter prompt is wanted and none of them can be shortened.
    """
    settings = settings or GenerationSettings()
    parts = list(batches(applicable(examples, rule, method), settings.batch_size))
    model.eval()
    return [
        record
        for part in remaining(parts, method, settings.quiet)
        for record in batch_records(
            generate(model, processor, part, rule, settings), rule, method, scorer
        )
    ]


def evaluate_to_file(
    path: Path,
    model,
    processor,
    examples: list[Example],
    rule: Rule | Shortener | None,
    method: str,
    settings: GenerationSettings,
) -> list[Record]:
    """`evaluate`, whose records are in `path` once it is complete.

    Each batch is appended to `path`.part; a run that was killed continues after the last whole
    batch of it, so that its records are those of an uninterrupted run.
    """
    if not path.is_file():
        partial = path.with_name(f"{path.name}.part")
        parts = list(batches(applicable(examples, rule, method), settings.batch_size))
        done = whole_batches(partial, parts)
        model.eval()
        for part in remaining(parts, path.stem, settings.quiet, done):
            answers = generate(model, processor, part, rule, settings)
            append_records(batch_records(answers, rule, method, score), partial)
        partial.replace(path)
    return read_records(path)


def answers_file(folder: Path, method: str, number: float, questions: int) -> Path:
    """Where `evaluate_to_file` leaves the records of a method, below the folder of an evaluation.

    number: its threshold or token ratio.
    """
    return folder / "answers" / f"{method} {number} x {questions}.jsonl"


def applicable(
    examples: list[Example], rule: Rule | Shortener | None, method: str
) -> list[Example]:
    """The examples that a rule can be applied to. Raises InputError where there are none."""
    shortener = as_shortener(rule)
    found = [example for example in examples if not shortener or shortener.takes(example)]
    if examples and not found:
        raise InputError(
            f"{method}: no question can be shortened so; choose tasks that show videos"
        )
    return found


def whole_batches(partial: Path, parts: list[list[Example]]) -> int:
    """The number of batches whose records a killed run has left; what follows them is cut off."""
    records = readable_records(partial)[0] if partial.is_file() else []
    ids, done, count = [record.id for record in records], 0, 0
    for part in parts:
        if ids[count : count + len(part)] != [example.id for example in part]:
            break
        done, count = done + 1, count + len(part)
    write_records(records[:count], partial)
    return done


def remaining(
    parts: list[list[Example]], title: str, quiet: bool, done: int = 0
) -> Iterator[list[Example]]:
    """The batches after the first `done`, with a bar of answers."""
    total = sum(map(len, parts))
    first = sum(map(len, parts[:done]))
    options = {"total": total, "initial": first, "disable": quiet, "leave": False}
    with progress(desc=title, unit="answer", **options) as bar:
        for part in parts[done:]:
            yield part
            bar.update(len(part))


def batch_records(
    answers: list[Answer], rule: Rule | Shortener | None, method: str, scorer: Scorer
) -> list[Record]:
    return [
        Record(
            task=answer.example.task,
            id=answer.example.id,
            method=method,
            p=rule.p if isinstance(rule, TopP) else None,
            answer=answer.text,
            expected=answer.example.answer,
            correct=correct,
            token_ratio=sum(answer.layer_ratios) / len(answer.layer_ratios),
            layer_ratios=tuple(round(ratio, 4) for ratio in answer.layer_ratios),
            tokens=answer.tokens,
            grid=answer.grid,
            kept=answer.kept,
        )
        for answer, correct in zip(answers, scorer(answers), strict=True)
    ]
