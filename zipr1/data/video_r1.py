"""Video-R1-260k as published (arXiv 2503.21776): one JSON list of rows such as

{"problem_id": 2, "problem": "What appears on the screen?", "data_type": "video",
 "problem_type": "multiple choice", "options": ["A. A dog", "B. A cat"],
 "solution": "<answer>B</answer>", "path": "./PerceptionTest/video_1.mp4",
 "data_source": "PerceptionTest"}
"""

from pathlib import Path

from zipr1.common.errors import InputError
from zipr1.data.chats import chat, has_placeholder, text_of
from zipr1.data.example import Example, final
from zipr1.data.media_column import media_of_column
from zipr1.data.options import lettered
from zipr1.data.placeholders import check_foreign, has_number
from zipr1.data.row import Row, name_of, text
from zipr1.data.source import short
from zipr1.data.unseen_media import check_unseen_media
from zipr1.data.unseen_text import CUT_COLUMNS, check_no_cut, check_unseen_text

TEXTS = frozenset({"problem_id", "problem", "options", "solution"})
ONE = (
    "a row of Video-R1 has one media file, its path, and none if its data_type is text; correct "
    "it, or use the columns prompt, images and answer"
)
SYSTEM = "remove it, or use the columns system, prompt and answer"
# By which such a file is recognised.
COLUMNS = frozenset({"problem", "solution", "data_type", "problem_type"})

INSTRUCTIONS = {
    "multiple choice": "Answer with the letter of the right option only.",
    "numerical": "Answer with the number only.",
    "OCR": "Answer with the text as it is written, and nothing else.",
    "free-form": "Answer as briefly as you can.",
    "regression": "Answer with the number only.",
}
THINK = (
    "Think first, between <think> and </think>; then put what you answer between <answer> and "
    "</answer>."
)


def video_r1_row(row: dict, number: int, root: Path, think: bool = False) -> Row:
    """A published row: the problem, its options one a line, how to answer; paths lie below `root`.
    Raises InputError."""
    row_id = name_of(row.get("problem_id"), number)
    kind, data_type = row.get("problem_type"), row.get("data_type")
    if not isinstance(kind, str) or kind not in INSTRUCTIONS:
        raise InputError(
            f"row {row_id}: column 'problem_type' is {short(repr(kind))}: expected one of "
            f"{', '.join(INSTRUCTIONS)}"
        )
    if data_type not in ("image", "video", "text"):
        raise InputError(
            f"row {row_id}: column 'data_type' is {short(repr(data_type))}: expected image, video "
            "or text"
        )
    answer = final(text(row, "solution", row_id))
    if not answer:
        raise InputError(
            f"row {row_id}: column 'solution' is {short(repr(row['solution']))}: put an answer "
            "between <answer> and </answer>"
        )
    problem = text(row, "problem", row_id).strip()
    options = lettered(row.get("options"), kind, problem, row_id)
    lines = [
        problem,
        *(["Options:", *options] if options else []),
        INSTRUCTIONS[kind],
    ]
    question = "\n".join([*lines, THINK] if think else lines)
    columns = {name: value for name, value in row.items() if name != "problem_type"}
    columns["prompt"] = [{"role": "user", "content": question}]  # a chat, as its own trainer has it
    messages: tuple[dict, ...] = ()
    if has_placeholder(question) or has_number(question):
        media = (int(data_type == "image"), int(data_type == "video"))
        messages = chat(columns["prompt"], *media, row_id, "problem")
    example = Example(
        row_id, "", question, answer, messages=messages, problem_type=kind, columns=columns
    )
    if row.get("system") not in (None, ""):
        raise InputError(f"row {row_id}: column 'system' is not shown to the model: {SYSTEM}")
    file = None if data_type == "text" else media_of_column(row.get("path"), root, "path", row_id)
    texts = map(text_of, messages) if messages else [question]
    check_foreign(texts, f"row {row_id}: the prompt", file is not None)
    said = {name: value for name, value in row.items() if name != "options"}
    check_unseen_text(said, [question], "problem", row_id)
    others = {name: value for name, value in row.items() if name not in TEXTS}
    check_unseen_media(others, (file,) if file else (), root, row_id, ONE)
    if file is None:
        return Row(example)
    check_no_cut(row, CUT_COLUMNS[data_type], f"row {row_id}: its {data_type}")
    return Row(example, images=(file,)) if data_type == "image" else Row(example, video=file)
