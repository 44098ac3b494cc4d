"""Questions under a method -> records, one an answer."""

from collections.abc import Callable, Iterator, Sequence, Set
from pathlib import Path

from zipr1.common.progress import progress
from zipr1.data.example import Example
from zipr1.evaluation.generation import Answer, GenerationSettings, batches, generate
from zipr1.evaluation.input_baselines import Shortener
from zipr1.evaluation.questions import Part, Questions, Score, applicable, score
from zipr1.evaluation.records import (
    Record,
    append_records,
    read_records,
    readable_records,
    write_records,
)
from zipr1.evaluation.usable_rows import task_group
from zipr1.sparsity.rules import Rule

Scorer = Callable[[list[Answer]], list[bool]]  # a batch of answers -> which are correct


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
        for record in scored(generate(model, processor, part, rule, settings), scorer, rule, method)
    ]


def scored(
    answers: list[Answer], scorer: Scorer, rule: Rule | Shortener | None, method: str
) -> list[Record]:
    return batch_records(answers, [Score(correct) for correct in scorer(answers)], rule, method)


def evaluate_to_file(
    path: Path,
    model,
    processor,
    questions: Questions,
    rule: Rule | Shortener | None,
    method: str,
    settings: GenerationSettings,
) -> list[Record]:
    """The records of all questions under one rule, which are in `path` once it is complete.

    Each batch is appended to `path`.part; a run that was killed continues after the last whole
    batch of it, so that its records are those of an uninterrupted run.
    """
    if not path.is_file():
        partial = path.with_name(f"{path.name}.part")
        parts = questions.parts(rule, method, settings.batch_size)
        done = whole_batches(partial, parts, questions.left_out())
        model.eval()
        for part in remaining(parts, path.stem, settings.quiet, done):
            if examples := questions.read(part):
                answers = generate(model, processor, examples, rule, settings)
                scores = questions.score(answers)
                append_records(batch_records(answers, scores, rule, method), partial)
        partial.replace(path)
    return read_records(path)


def answers_file(folder: Path, method: str, number: float, questions: int) -> Path:
    """Where `evaluate_to_file` leaves the records of a method, below the folder of an evaluation.

    number: its threshold or token ratio.
    """
    name = method.replace("/", "_").replace(":", "_")  # of an own rule, file.py:Rule
    return folder / "answers" / f"{name} {number} x {questions}.jsonl"


def whole_batches(partial: Path, parts: list[Sequence[Part]], left_out: Set[str]) -> int:
    """The number of batches whose records a killed run has left; what follows them is cut off.

    left_out: ids of questions that have no record.
    """
    records = readable_records(partial)[0] if partial.is_file() else []
    ids, done, count = [record.id for record in records], 0, 0
    for part in parts:
        expected = [question.id for question in part if question.id not in left_out]
        if ids[count : count + len(expected)] != expected:
            break
        done, count = done + 1, count + len(expected)
    write_records(records[:count], partial)
    return done


def remaining(parts: list, title: str, quiet: bool, done: int = 0) -> Iterator[Sequence]:
    """The batches after the first `done`, with a bar of answers."""
    total = sum(map(len, parts))
    first = sum(map(len, parts[:done]))
    options = {"total": total, "initial": first, "disable": quiet, "leave": False}
    with progress(desc=title, unit="answer", **options) as bar:
        for part in parts[done:]:
            yield part
            bar.update(len(part))


def batch_records(
    answers: list[Answer], scores: list[Score], rule: Rule | Shortener | None, method: str
) -> list[Record]:
    return [
        Record(
            task=task_group(answer.example),
            id=answer.example.id,
            method=method,
            p=getattr(rule, "p", None),
            answer=answer.text,
            expected=answer.example.answer,
            correct=score.correct,
            token_ratio=sum(answer.layer_ratios) / len(answer.layer_ratios),
            layer_ratios=tuple(round(ratio, 4) for ratio in answer.layer_ratios),
            tokens=answer.tokens,
            grid=answer.grid,
            kept=answer.kept,
            reward=score.reward,
            clipped=answer.clipped,
        )
        for answer, score in zip(answers, scores, strict=True)
    ]
