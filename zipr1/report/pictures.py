"""Questions of records and samples with their images again: embedded tasks are rendered, rows of
the user's data are read from where the run has read them."""

import base64
import io
import re
from collections.abc import Iterable

from PIL import Image

from zipr1.common.errors import RunError
from zipr1.data.example import Example
from zipr1.data.rows import Rows, open_rows
from zipr1.tasks import ALL_TASKS
from zipr1.tasks.base import SPLITS

PAIR = 2  # frames of a video that share their visual tokens
SIDE = 480  # pixels of the longer side of an image in the page
Question = tuple[str, str]  # its id and the expected answer, which may have changed since


def examples_again(questions: Iterable[Question], settings: dict) -> dict[Question, Example | str]:
    """Each question, or a sentence that says why there is none.

    settings: of the evaluation or the training; with "data" its rows are read again.
    """
    if settings.get("data"):
        return rows_again(list(questions), settings)
    return {question: rendered_again(*question) for question in questions}


def rendered_again(id: str, expected: str) -> Example | str:
    """A question of the embedded tasks from its id alone."""
    place = re.fullmatch(rf"(\w+)/({'|'.join(SPLITS)})/(\d+)/(\d+)", id)
    if place is None or place[1] not in ALL_TASKS:
        return "No image: not a question of the embedded tasks, which can be rendered again."
    scene = ALL_TASKS[place[1]].scene(place[2], int(place[3]))
    number = int(place[4])
    if number >= len(scene.questions) or scene.questions[number][1] != expected:
        return "No image: the task renders another scene today than when this was asked."
    return Example(id, place[1], *scene.questions[number], scene.image, scene.frames)


def rows_again(questions: list[Question], settings: dict) -> dict[Question, Example | str]:
    """Rows of the user's data; of a data set that is not there any more, why."""
    data = str(settings["data"])
    try:
        rows = open_rows(
            data,
            settings.get("media_root"),
            settings.get("max_frames") or 16,
            bool(settings.get("think")),
            columns=settings.get("columns"),
        )
    except (ValueError, RunError, OSError) as error:  # InputError is a ValueError
        return dict.fromkeys(questions, f"No image: {error}")
    numbers = numbers_of(rows, {id for id, _ in questions})
    found: dict[Question, Example | str] = {}
    for id, expected in questions:
        if id not in numbers:
            found[id, expected] = f"No image: {data} has no such row today."
            continue
        try:
            example = rows.example(numbers[id])
        except ValueError as error:
            found[id, expected] = f"No image: {error}"
            continue
        same = example.answer == expected
        changed = "No image: the row has another answer today than when this was asked."
        found[id, expected] = example if same else changed
    return found


def numbers_of(rows: Rows, wanted: set[str]) -> dict[str, int]:
    """Id -> number of its row, as an evaluation names them: a repeated id with the number."""
    found: dict[str, int] = {}
    known: set[str] = set()
    for number in range(len(rows)):
        if len(found) == len(wanted):
            break
        try:
            id = rows.row(number).example.id
        except ValueError:  # left out then, too
            continue
        id = f"{id} (row {number})" if id in known else id
        known.add(id)
        if id in wanted:
            found[id] = number
    return found


def picture(example: Example, pairs: int | None = None) -> dict:
    """ "picture" (a data URI), "columns" of tiles and "alt"; or "missing", of a text alone.

    pairs: of a video's frames that share their tokens, where it is known; the first frame of each
    is shown.
    """
    if example.frames is None:
        tiles = list(example.all_images)
        what = "The image" if len(tiles) == 1 else f"{len(tiles)} images, in rows,"
    else:
        step = PAIR if pairs is None else max(len(example.frames) // pairs, 1)
        tiles = list(example.frames[::step])[:pairs]
        what = f"{len(tiles)} frames of the video, in rows,"
    if not tiles:
        return {"missing": "The question has no image."}
    columns = 1 if len(tiles) == 1 else 2
    return {
        "picture": data_uri(sheet([small(tile) for tile in tiles], columns)),
        "columns": columns,
        "alt": f"{what} of the question: {example.question}",
    }


def small(image: Image.Image) -> Image.Image:
    """Shrunk to SIDE where it is larger."""
    image = image.convert("RGB")
    image.thumbnail((SIDE, SIDE))
    return image


def sheet(tiles: list[Image.Image], columns: int) -> Image.Image:
    """Tiles in rows of `columns`, each in a cell of the largest one's size."""
    width, height = (max(tile.size[side] for tile in tiles) for side in (0, 1))
    page = Image.new("RGB", (columns * width, -(-len(tiles) // columns) * height))
    for i, tile in enumerate(tiles):
        page.paste(tile, (i % columns * width, i // columns * height))
    return page


def data_uri(image: Image.Image) -> str:
    """WebP of a quality whose loss is not visible, a quarter of the size of a PNG."""
    file = io.BytesIO()
    image.save(file, "WEBP", quality=90, method=4)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"
