"""Runs -> the questions and answers that a page shows, with their images."""

from itertools import zip_longest

from zipr1.common.progress import progress
from zipr1.data.example import Example
from zipr1.evaluation.methods import SHORTENERS
from zipr1.evaluation.records import Record
from zipr1.report.pictures import Question, examples_again, picture
from zipr1.report.runs import Run
from zipr1.tasks import ALL_TASKS

Answers = dict[int, Record]  # to one question, by index of method


def browsable(runs: list[Run], per_task: int) -> dict:
    """At most `per_task` questions of each task, the tasks in turn: first those on which Full and a
    sparse method disagree, else in the order of the records.

    {"asked": number of all questions, "methods": `methods_of`, "questions": list of `entry`}
    """
    methods = methods_of(runs)
    # By the data set too ("": embedded tasks), and by the expected answer: a task may have changed
    # between two runs.
    questions: dict[tuple[str, str, str], Answers] = {}
    settings: dict[str, dict] = {}  # of the first run on a data set
    owners = [(run, records) for run in runs for records in run.records.values()]
    for index, (run, records) in enumerate(owners):
        config = run.settings.get("config", {})
        data = str(config.get("data") or "")
        settings.setdefault(data, config)
        for record in records:
            questions.setdefault((data, record.id, record.expected), {})[index] = record

    def agreed(question: tuple[str, str, str]) -> bool:
        answers = questions[question]
        return not any(differs(answers, index, methods) for index in answers)

    tasks: dict[str, list[tuple[str, str, str]]] = {}
    for question in sorted(questions, key=agreed):  # stable
        tasks.setdefault(next(iter(questions[question].values())).task, []).append(question)
    known = sorted(tasks, key=lambda task: [*ALL_TASKS, task].index(task))
    in_turn = zip_longest(*(tasks[task][:per_task] for task in known))
    chosen = [question for part in in_turn for question in part if question]
    examples: dict[str, dict[Question, Example | str]] = {}
    for data, config in settings.items():
        own = [question[1:] for question in chosen if question[0] == data]
        # The frames of the task "ego" take seconds: its game is started.
        bar = progress(own, desc="reading the images", unit="question", leave=False)
        examples[data] = examples_again(bar, config)
    return {
        "asked": len(questions),
        "methods": methods,
        "questions": [entry(questions[one], methods, examples[one[0]][one[1:]]) for one in chosen],
    }


def methods_of(runs: list[Run]) -> list[dict]:
    """[{"name", "full", "shorter"}] in the order of the runs and their records.

    full: index of the method it is compared with (Full of the same run or, where there is none, of
    the first run that has one), or None. shorter: whether it shortens the prompt.
    """
    kinds = [
        (run.name, name, kind_of(records[0].method))
        for run in runs
        for name, records in run.records.items()
    ]
    fulls = {
        run: index for index, (run, _, kind) in reversed([*enumerate(kinds)]) if kind == "full"
    }
    first = min(fulls.values(), default=None)
    return [
        {
            "name": f"{run}: {name}" if len(runs) > 1 else name,
            "full": None if kind == "full" else fulls.get(run, first),
            "shorter": kind in SHORTENERS,
        }
        for run, name, kind in kinds
    ]


def kind_of(method: str) -> str:
    """The name on the command line of what a table calls "Full" or "Fewer frames"."""
    return method.lower().replace(" ", "_")


def differs(answers: Answers, index: int, methods: list[dict]) -> bool:
    """Whether a method's answer is another than Full's, case and a final full stop aside."""
    full = methods[index]["full"]
    return full in answers and plain(answers[full].answer) != plain(answers[index].answer)


def plain(answer: str) -> str:
    return answer.strip().rstrip(".").casefold()


def entry(answers: Answers, methods: list[dict], example: Example | str) -> dict:
    """A question: "id", "task", "question", "expected", "answers" by method, and its image, or why
    there is none ("missing"); `example`: of `examples_again`."""
    record = next(iter(answers.values()))
    found = {"id": record.id, "task": record.task, "expected": record.expected}
    if isinstance(example, str):
        found |= {"question": record.id, "missing": example}
    else:
        grid = next((one.grid for one in answers.values() if one.grid), None)
        found |= {"question": example.question or record.id}
        found |= picture(example, grid and grid[0])
    found["answers"] = {
        index: {
            "answer": one.answer,
            "right": one.correct,
            "differs": differs(answers, index, methods),
            "ratio": one.token_ratio,
            "layers": one.layer_ratios,
            "grid": one.grid,
            "kept": one.kept,
        }
        for index, one in answers.items()
    }
    return found
