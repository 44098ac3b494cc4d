"""Rewards by the problem type of a question, or by the user's own functions."""

import math
import re
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from zipr1.common.errors import InputError
from zipr1.data.columns import general_row
from zipr1.data.example import Example
from zipr1.data.video_r1 import video_r1_row
from zipr1.rewards.functions import (
    RewardLog,
    from_function,
    load_function,
    prompt_of,
    summary,
    without_non_finite,
)
from zipr1.rewards.reward import reward
from zipr1.tasks import TASKS

ROWS = [
    Example(
        "1",
        "",
        "Which?",
        "B",
        problem_type="multiple choice",
        columns={"level": 3, "path": "a.png"},
    ),
    Example("2", "", "How far?", "10", problem_type="regression", columns={"level": 5}),
]
SAID = ["B", "red", "9", "9.8"]  # two for each row
RATIO = torch.tensor([0.5, 0.25, 1.0, 0.75])


def test_each_row_by_its_own_type():
    got = reward(ROWS, SAID, RATIO)
    assert got.accuracy.tolist() == [[1, 0], [0, 1]]
    assert got.efficiency.tolist() == [[0.5, 0.75], [0, 0.25]]
    assert got.unparsable.tolist() == [[False, True], [False, False]]
    torch.testing.assert_close(
        reward(ROWS, SAID, RATIO, graded=True).accuracy, torch.tensor([[1, 0], [0.9, 0.98]])
    )


def test_a_task_and_a_row_in_one_batch():
    question = TASKS["shapes"].example("test", 0)
    got = reward([question, ROWS[0]], [question.answer + ".", "none", "(B)", "C"], RATIO)
    assert got.accuracy.tolist() == [[1, 0], [1, 0]] and not got.unparsable.any()


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A user's module in the current folder."""
    (tmp_path / "own_rewards.py").write_text(
        "seen = {}\n"
        "def by_length(completions, answer, level, **columns):\n"
        "    seen.update(columns, answer=answer, level=level)\n"
        "    return [len(said) / 10 for said in completions]\n"
        "def too_few(completions, **columns):\n    return [1.0]\n"
        "def few(completions, level, **columns):\n"
        "    return [None if one == 5 else len(said) for one, said in zip(level, completions)]\n"
        "def text(completions, **columns):\n    return [1.0, 0.0, '1', 1.0]\n"
        "def endless(completions, **columns):\n    return [1.0, float('inf'), 0.0, 1.0]\n"
        "number = 3\n"
        "async def later(completions, **columns):\n    return [1.0] * len(completions)\n"
    )
    (tmp_path / "torn_rewards.py").write_text("import no_such_library\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield
    sys.modules.pop("own_rewards", None)


@pytest.mark.parametrize("path", ["own_rewards:by_length", "own_rewards.by_length"])
def test_a_users_function_gets_the_columns(module, path):
    got = reward(ROWS, SAID, RATIO, function=load_function(path))
    torch.testing.assert_close(got.accuracy, torch.tensor([[0.1, 0.3], [0.1, 0.3]]))
    seen = sys.modules["own_rewards"].seen
    assert seen.keys() >= {"trainer_state", "log_extra", "log_metric"}
    assert {
        name: value
        for name, value in seen.items()
        if name in ("prompts", "answer", "level", "path", "problem_type")
    } == {
        "prompts": ["Which?", "Which?", "How far?", "How far?"],
        "answer": ["B", "B", "10", "10"],
        "level": [3, 3, 5, 5],
        "path": ["a.png", "a.png", None, None],
        "problem_type": ["multiple choice", "multiple choice", "regression", "regression"],
    }


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("too_few", "own_rewards:too_few returned 1 numbers for 4 completions"),
        ("text", "own_rewards:text returned '1' for the completion '9' of row 2"),
        ("endless", "own_rewards:endless returned inf for the completion 'red' of row 1"),
    ],
)
def test_what_a_function_must_return(module, name, word):
    with pytest.raises(ValueError, match=word):
        reward(ROWS, SAID, RATIO, function=load_function(f"own_rewards:{name}"))


def test_several_functions_with_weights(module):
    """None of one function leaves the sum of the others; None of all counts as unparsable."""
    got = reward(
        ROWS, SAID, RATIO, function=load_function("own_rewards:by_length, 0.5*own_rewards.few")
    )
    torch.testing.assert_close(got.accuracy, torch.tensor([[0.1 + 0.5, 0.3 + 1.5], [0.1, 0.3]]))
    assert not got.unparsable.any()
    got = reward(ROWS, SAID, RATIO, function=load_function("own_rewards:few"))
    assert got.accuracy.tolist() == [[1, 3], [0, 0]] and got.unparsable.tolist() == [
        [False, False],
        [True, True],
    ]


def accuracy_reward(
    completions: list[list[dict[str, str]]], solution: list[str], **kwargs
) -> list[float | None]:
    """As written for TRL: a chat's completion is a list of messages, the prompts are the rows'."""
    assert all(message["role"] == "assistant" for (message,) in completions)
    assert kwargs["prompts"][0][-1] == {"role": "user", "content": "Which letter?"}
    assert kwargs["completion_ids"] == [[1, 2], [3]]
    contents = [completion[0]["content"] for completion in completions]
    return [float(content == truth) for content, truth in zip(contents, solution, strict=True)]


def test_a_function_for_trls_chats_runs_unchanged():
    chat = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Which letter?"},
    ]
    row = general_row({"prompt": chat, "solution": "B"}, 0, Path())
    got = reward(
        [row.example],
        ["B", "C"],
        torch.ones(2),
        function=((1.0, accuracy_reward),),
        completion_ids=[[1, 2], [3]],
    )
    assert got.accuracy.tolist() == [[1, 0]]


def has_tags(completions, **kwargs) -> list[float]:
    """The format reward of TRL's documentation."""
    return [
        float(bool(re.fullmatch(r"<think>.*</think><answer>.*</answer>", one[0]["content"])))
        for one in completions
    ]


def test_rows_that_are_chats_to_trl(tmp_path):
    """Rows of Video-R1, and a plain prompt with an image, which TRL accepts in chats only."""
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    shared = {"problem": "?", "solution": "<answer>a</answer>", "path": "a.png"}
    shared["problem_type"] = "free-form"
    kinds = ({"data_type": "text", "path": ""}, {"data_type": "image"})
    texts = [video_r1_row(shared | kind, 0, tmp_path) for kind in kinds]
    rows = [
        *texts,
        general_row({"prompt": "Colour?", "image": "a.png", "answer": "red"}, 2, tmp_path),
    ]
    said = ["<think>b</think><answer>a</answer>", "a", "a"]
    examples = [row.read(1) for row in rows]
    got = reward(examples, said, torch.ones(3), function=((1.0, has_tags),))
    assert got.accuracy.tolist() == [[1], [0], [0]]
    assert (
        prompt_of(examples[1])[0]["content"] == examples[1].question
    )  # as the published trainer has it
    assert prompt_of(examples[2]) == [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Colour?"}]}
    ]


def test_a_function_that_fails_is_named():
    with pytest.raises(
        RuntimeError, match=r"test_rewards:has_tags failed on rows 1, 2: .*string indices"
    ) as failed:
        reward(ROWS, SAID, RATIO, function=((1.0, has_tags),))
    assert isinstance(failed.value.__cause__, TypeError)


def test_an_answer_reaches_a_function_as_it_stands():
    row = general_row({"prompt": "?", "answer": "Six. <answer>6</answer>"}, 0, Path())
    seen = {}
    reward(
        [row.example],
        ["6"],
        torch.ones(1),
        function=((1.0, lambda completions, **columns: seen.update(columns) or [1.0]),),
    )
    assert seen["answer"] == ["Six. <answer>6</answer>"] and seen["problem_type"] == ["exact"]


def curriculum(
    prompts, completions, completion_ids, trainer_state, log_extra, log_metric, level, **kwargs
):
    """All that TRL 1.x passes, as its documentation writes it."""
    log_extra("levels", level)
    log_extra("parts", map(torch.tensor, level))
    log_metric("mean_level", sum(level) / len(level))
    return [one * trainer_state.global_step / trainer_state.max_steps for one in level]


def test_what_a_function_says_beside_its_rewards():
    log, more = (RewardLog(step=1, max_steps=4, completions=4) for _ in range(2))
    functions = (
        (0.5, curriculum),
        (1.0, partial(lambda completions, **columns: [None, 1, 0, None])),
    )
    ids = [[1]] * 4
    got = reward(ROWS, SAID, RATIO, function=functions, completion_ids=ids, log=log)
    assert got.log is log and got.accuracy.tolist() == [[0.375, 1.375], [0.625, 0.625]]
    assert log.of(1) == {"curriculum": 0.75, "partial": 1.0, "levels": 3, "parts": "tensor(3)"}
    assert log.of(3)["partial"] is None
    reward([ROWS[1]], SAID, RATIO, function=functions, completion_ids=ids, log=more)
    found = summary([log, more])
    assert found.pop("mean_level") == 4.5  # of two passes: (3 + 5) / 2, and 5
    values = torch.tensor([0.75] * 2 + [1.25] * 6)
    assert (
        found.pop("rewards/curriculum/mean") == values.mean()
        and found.pop("rewards/partial/mean") == 0.5
    )
    assert found.pop("rewards/curriculum/std") == pytest.approx(values.std(correction=0).item())
    assert found == {"rewards/partial/std": 0.5}


def test_rewards_and_metrics_out_of_range():
    """Of float32, in which the objective has rewards; a metric may be anything."""
    huge = (1e30, lambda completions, **columns: [1e20] * len(completions))
    with pytest.raises(InputError, match=r"weighted sum is 1e\+50 .* must be finite in float32"):
        from_function((huge,), [(ROWS[0], "B")])
    with pytest.raises(InputError, match=r"returned 1e\+39 .* return a finite float"):
        from_function(((1.0, lambda **columns: [1e39]),), [(ROWS[0], "B")])
    lost: list[int] = []
    assert without_non_finite(lambda **columns: [1e39, 1e38], lost)() == [None, 1e38]
    assert lost == [0]
    log = RewardLog(0, 1, 1)
    for value in (float("inf"), float("-inf")):
        log.log_metric("level", value)
    assert math.isnan(summary([log])["level"])


def test_functions_of_one_name_are_told_apart():
    log, ones = RewardLog(0, 1, 1), []
    for module in ("mine", "yours"):
        ones.append((1.0, lambda completions, **columns: [1.0]))
        ones[-1][1].__module__, ones[-1][1].__name__ = module, "right"
    from_function((*ones, (1.0, partial(ones[0][1]))), [(ROWS[0], "B")], None, log)
    assert list(log.rewards) == ["mine.right", "yours.right", "partial"]


def test_a_column_of_another_length():
    def short(completions, log_extra, **columns):
        log_extra("first", completions[:1])
        return [1.0] * len(completions)

    with pytest.raises(
        RuntimeError,
        match=r"test_rewards:short failed on rows 1, 2: .*first: 1 values for 4 completions",
    ):
        reward(ROWS, SAID, RATIO, function=((1.0, short),))


@pytest.mark.parametrize(
    ("path", "error", "word"),
    [
        ("by_length", ValueError, "expected package.module:name"),
        ("no_such.module:f", ValueError, "no module 'no_such'"),
        ("own_rewards:nothing", ValueError, "own_rewards has no 'nothing'"),
        ("own_rewards:number", ValueError, "is no function"),
        ("own_rewards:later", ValueError, "is async"),
        ("much*own_rewards:few", ValueError, "'much' is not a weight"),
        ("own_rewards:few,", ValueError, "reward function '': expected package.module:name"),
        (
            "torn_rewards:f",
            ModuleNotFoundError,
            "no_such_library",
        ),  # the module is there, what it needs is not
    ],
)
def test_a_function_that_is_not_there(module, path, error, word):
    with pytest.raises(error, match=word):
        load_function(path)


def test_an_answer_column_that_arrow_filled():
    """A table has a column in all rows if one row has it, with None in the others."""
    rows = [
        Example("1", "", "?", "yes", columns={"answer": None, "solution": "yes"}),
        Example("2", "", "?", "no", columns={"answer": "No."}),
    ]
    seen = []
    from_function(
        ((1.0, lambda answer, **columns: seen.extend(answer) or [1.0, 1.0]),),
        [(row, "") for row in rows],
    )
    assert seen == ["yes", "No."]


@pytest.mark.parametrize("kind", [list, np.array, torch.tensor])
def test_numbers_that_are_not_finite_are_told_apart(kind):
    lost = []

    def half(**columns):
        return kind([1.0, float("nan"), 0.5])

    found = without_non_finite(half, lost)
    assert [value if value is None else float(value) for value in found()] == [
        1.0,
        None,
        0.5,
    ] and lost == [1]
    assert found.__name__ == "half"
    named = without_non_finite(partial(half), [])
    assert (named.__module__, named.__name__) == ("functools", "partial") and without_non_finite(
        half, []
    ).__module__ == __name__
