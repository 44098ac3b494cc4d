"""A resumed run has the rows that it was started with, in files and in memory."""

import datasets
import pytest
from task_rows import write_jsonl
from transformers import TrainerCallback

import zipr1
from zipr1.common.files import CheckpointError

SETTINGS = {
    "max_steps": 2, "save_steps": 1, "prompts_per_step": 2, "num_generations": 2,
    "probe_per_task": 3, "baseline": "group", "gate": "none", "max_completion_length": 4,
}  # fmt: skip


class Killed(TrainerCallback):
    def on_save(self, args, state, control, **more):
        raise InterruptedError("as if by power failure")


def sums(count: int, plus: int = 1, **changed) -> list[dict]:
    rows = [{"prompt": f"What is {i} plus {plus}?", "answer": str(i + plus)} for i in range(count)]
    rows[0] |= changed
    return rows


def chats(system: str) -> list[dict]:
    turns = [{"role": "system", "content": system}, {"role": "user", "content": "1 plus 1?"}]
    return [{"prompt": turns, "answer": "2"}] * 20


def run(folder, train, probe, memory: bool, **settings):
    if memory:
        train, probe = map(datasets.Dataset.from_list, (train, probe))
    else:
        train = write_jsonl(folder / "train.jsonl", train)
        probe = write_jsonl(folder / "probe.jsonl", probe)
    config = zipr1.TrainConfig(output_dir=str(folder / "run"), **SETTINGS | settings)
    trainer = zipr1.Trainer(args=config, train_dataset=train, eval_dataset=probe)
    if "resume" not in settings:
        trainer.callbacks = [Killed()]
    return trainer.train(quiet=True)


@pytest.mark.parametrize("memory", [False, True])
def test_other_rows_are_noticed(tmp_path, memory):
    with pytest.raises(InterruptedError):
        run(tmp_path, sums(20), sums(4), memory)
    others = [
        (sums(20, 2), sums(4), "data of 20 rows with other texts"),
        (sums(20)[::-1], sums(4), "data of 20 rows with other texts"),
        (sums(20, answer="7"), sums(4), "data of 20 rows with other texts"),
        (sums(20), sums(4, prompt="What?"), "probe_data of 3 rows with other texts"),
    ]
    if not memory:  # the name of rows in memory has their number
        others += [
            (sums(21), sums(4), "data of 20 rows, now 21"),
            (sums(20), sums(2), "probe_data of 3 rows, now 2"),
        ]
    for train, probe, message in others:
        with pytest.raises(CheckpointError, match=message):
            run(tmp_path, train, probe, memory, resume=True)
    assert run(tmp_path, sums(20), sums(4), memory, resume=True).is_dir()


def test_another_system_prompt_is_noticed(tmp_path):
    with pytest.raises(InterruptedError):
        run(tmp_path, chats("Be kind."), chats("Be kind."), False)
    with pytest.raises(CheckpointError, match="data of 20 rows with other texts"):
        run(tmp_path, chats("Be brief."), chats("Be kind."), False, resume=True)


def test_media_that_moved_and_rows_that_are_malformed(tmp_path):
    """Another media_root is no other row; a row that the run leaves out stays one."""
    rows = sums(20, answer="")
    with pytest.raises(InterruptedError):
        run(tmp_path, rows, sums(4), False)
    moved = str(tmp_path)
    assert run(tmp_path, rows, sums(4), False, resume=True, media_root=moved).is_dir()
