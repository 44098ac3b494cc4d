"""The shapes in which data sets keep a chat and its answer, brought to `prompt` and `completion`.

    {"conversations": [{"from": "human", "value": "<image>What?"}, {"from": "gpt", "value": "A"}]}
    {"messages": [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "A"}]}
    {"prompt": [{"role": "user", ...}], "completion": [{"role": "assistant", "content": "A"}]}
    {"instruction": "What?", "input": "", "output": "A"}

LLaVA and ShareGPT write the first, TRL the second and third, LLaMA-Factory the first, second and
fourth; its columns `system` and `history` are read too.
"""

import re

from zipr1.common.errors import InputError
from zipr1.data.chats import text_of, turn
from zipr1.data.row import text
from zipr1.data.source import short

ANSWERS = ("answer", "completion", "solution")
CHATS = ("messages", "conversations")
# [{"role": "user", ...}] as a text
WRITTEN_CHAT = re.compile(r"\s*\[\s*\{\s*['\"](role|from|content|value)['\"]\s*:")
FORMAT_COLUMNS = frozenset({*CHATS, "instruction", "input", "output", "history", "system"})


def readable(columns: set[str]) -> bool:
    """Whether rows with these columns can be read by `unified`."""
    return bool(
        columns & set(CHATS)
        or {"instruction", "output"} <= columns
        or ("prompt" in columns and columns & set(ANSWERS))
    )


def unified(row: dict, row_id: str) -> tuple[dict, str]:
    """(the row with its chat as `prompt` and its last answer as `completion`, the column that the
    chat is in). A row that has a prompt and its answer, or no chat, stays as it is. Raises
    InputError."""
    name = next((name for name in CHATS if row.get(name) is not None), None)
    answered = any(row.get(answer) is not None for answer in ANSWERS)
    if row.get("prompt") is not None and (answered or name is None):
        return split_completion(with_system(row, row_id), row_id), "prompt"
    if name is not None:
        messages = row[name]
        if not isinstance(messages, list):
            raise InputError(
                f"row {row_id}: column {name!r} is {short(repr(messages))}: give a list of messages"
            )
    elif row.get("instruction") is not None or row.get("output") is not None:
        name, messages = "instruction", instruction_chat(row, row_id)
    else:
        return row, "prompt"
    messages = [*system_turn(row, messages, row_id), *messages]
    rest = {key: value for key, value in row.items() if key not in FORMAT_COLUMNS}
    if messages and turn(messages[-1], len(messages) - 1, row_id, name)["role"] == "assistant":
        *messages, last = messages
        if not answered:
            rest["completion"] = answer_of(last, len(messages), row_id, name)
    elif not answered:
        raise InputError(
            f"row {row_id}: column {name!r} does not end with the assistant's answer: add it, or "
            "give the answer as column 'answer'"
        )
    return rest | {"prompt": messages}, name


def with_system(row: dict, row_id: str) -> dict:
    """A row with its system prompt, if it has one, as the first message of its prompt."""
    prompt = row["prompt"]
    if isinstance(prompt, str) and WRITTEN_CHAT.match(prompt):
        return row  # `columns.general_row` refuses it
    messages = prompt if isinstance(prompt, list) else [{"role": "user", "content": prompt}]
    turns = system_turn(row, messages, row_id)
    if not turns:
        return row
    if not isinstance(prompt, list):
        messages = [{"role": "user", "content": text(row, "prompt", row_id)}]
    rest = {key: value for key, value in row.items() if key != "system"}
    return rest | {"prompt": [*turns, *messages]}


def system_turn(row: dict, messages: list, row_id: str) -> list[dict]:
    """The column `system` as a list of one message, empty without it. Raises InputError."""
    system = row.get("system")
    if system is None or system == "":
        return []
    where = f"row {row_id}: column 'system' is {short(repr(system))}"
    if not isinstance(system, str):
        raise InputError(f"{where}: give a text")
    chat = [one for one in messages if isinstance(one, dict)]
    said = [
        one.get("content") or one.get("value")
        for one in chat
        if "system" in (one.get("role"), one.get("from"))
    ]
    if said == [system]:
        return []
    if said:
        raise InputError(f"{where}, and the chat has a message of the system: remove one")
    return [{"role": "system", "content": system}]


def split_completion(row: dict, row_id: str) -> dict:
    """A completion that is a chat of one message becomes its text."""
    completion = row.get("completion")
    if not isinstance(completion, list):
        return row
    if len(completion) != 1:
        raise InputError(
            f"row {row_id}: column 'completion' holds {len(completion)} messages: give the "
            "assistant's answer only"
        )
    return row | {"completion": answer_of(completion[0], 0, row_id, "completion")}


def answer_of(message, place: int, row_id: str, name: str) -> str:
    """The text of the assistant's last message. Raises InputError."""
    answer = turn(message, place, row_id, name)
    if answer["role"] != "assistant" or any(part["type"] != "text" for part in answer["content"]):
        raise InputError(
            f"row {row_id}: message {place} of column {name!r} is {short(repr(message))}: expected "
            "a text of the assistant"
        )
    return text_of(answer)


def instruction_chat(row: dict, row_id: str) -> list[dict]:
    """Alpaca's columns as a chat. Raises InputError."""
    values = {name: row.get(name) or "" for name in ("instruction", "input", "output")}
    history = row.get("history") or []
    if not all(isinstance(value, str) for value in values.values()) or not (
        isinstance(history, list)
        and all(isinstance(pair, list) and len(pair) == 2 for pair in history)
    ):
        raise InputError(
            f"row {row_id}: give instruction, input and output as texts, and history as a list of "
            "[question, answer]"
        )
    question = "\n".join(filter(None, (values["instruction"], values["input"])))
    pairs = [*history, [question, values["output"]]]
    return [
        {"role": role, "content": content}
        for pair in pairs
        for role, content in zip(("user", "assistant"), pair, strict=True)
    ]
