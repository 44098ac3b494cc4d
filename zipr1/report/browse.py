"""Runs -> the questions and answers that a page shows, with their images rendered again."""

import base64
import io
import re

from PIL import Image

from zipr1.common.progress import progress
from zipr1.data.example import Example
from zipr1.evaluation.methods import SHORTENERS
from zipr1.evaluation.records import Record
from zipr1.report.runs import Run
from zipr1.tasks import ALL_TASKS
from zipr1.tasks.base import SPLITS

PAIR = 2  # frames of a video that share their visual tokens
Answers = dict[int, Record]  # to one question, by index of method


def browsable(runs: list[Run], per_task: int) -> dict:
    """At most `per_task` questions of each task: first those on which Full and a sparse method
    disagree, else in the order of the records.

    {"asked": number of all questions, "methods": `methods_of`, "questions": list of `entry`}
    """
    methods = methods_of(runs)
    # By the expected answer too: a task may have changed between two runs.
    questions: dict[tuple[str, str], Answers] = {}
    for index, records in enumerate(records for run in runs for records in run.records.values()):
        for record in records:
            questions.setdefault((record.id, record.expected), {})[index] = record

    def agreed(answers: Answers) -> bool:
        return not any(differs(answers, index, methods) for index in answers)

    tasks: dict[str, list[Answers]] = {}
    for answers in sorted(questions.values(), key=agreed):  # stable
        tasks.setdefault(next(iter(answers.values())).task, []).append(answers)
    known = sorted(tasks, key=lambda task: [*ALL_TASKS, task].index(task))
    chosen = [answers for task in known for answers in tasks[task][:per_task]]
    # The frames of the task "ego" take seconds: its game is started.
    bar = progress(chosen, desc="rendering the images", unit="question", leave=False)
    return {
        "asked": len(questions),
        "methods": methods,
        "questions": [entry(answers, methods) for answers in bar],
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


def entry(answers: Answers, methods: list[dict]) -> dict:
    """A question: "id", "task", "question", "expected", "answers" by method, and its image, or why
    there is none ("missing").

    "picture" is a data URI: of a video the first frame of each pair, on a sheet of "columns"; "alt"
    describes it.
    """
    record = next(iter(answers.values()))
    example = rendered_again(record)
    found = {"id": record.id, "task": record.task, "expected": record.expected}
    if isinstance(example, str):
        found |= {"question": record.id, "missing": example}
    else:
        tiles = [example.image] if example.frames is None else list(example.frames[::PAIR])
        columns = 1 if len(tiles) == 1 else 2
        what = (
            "The image" if example.frames is None else f"{len(tiles)} frames of the video, in rows,"
        )
        found |= {
            "question": example.question,
            "picture": data_uri(sheet(tiles, columns)),
            "columns": columns,
        }
        found["alt"] = f"{what} of the question: {example.question}"
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


def rendered_again(record: Record) -> Example | str:
    """The question with its image, from its id alone; or a sentence that says why there is none."""
    place = re.fullmatch(rf"(\w+)/({'|'.join(SPLITS)})/(\d+)/(\d+)", record.id)
    if place is None or place[1] not in ALL_TASKS:
        return "No image: not a question of the embedded tasks, which can be rendered again."
    scene = ALL_TASKS[place[1]].scene(place[2], int(place[3]))
    number = int(place[4])
    if number >= len(scene.questions) or scene.questions[number][1] != record.expected:
        return "No image: the task renders another scene today than when this was asked."
    return Example(record.id, record.task, *scene.questions[number], scene.image, scene.frames)


def sheet(tiles: list[Image.Image], columns: int) -> Image.Image:
    """Tiles of one size in rows of `columns`."""
    width, height = tiles[0].size
    page = Image.new("RGB", (columns * width, -(-len(tiles) // columns) * height))
    for i, tile in enumerate(tiles):
        page.paste(tile, (i % columns * width, i // columns * height))
    return page


def data_uri(image: Image.Image) -> str:
    """WebP of a quality whose loss is not visible, a quarter of the size of a PNG."""
    file = io.BytesIO()
    image.save(file, "WEBP", quality=90, method=4)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"
