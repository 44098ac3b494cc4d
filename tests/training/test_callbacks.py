"""Callbacks of `zipr1.Trainer`: what any event asks for is done, what cannot be done is refused."""

import json

import pytest
from train_runs import SMALL, metrics
from transformers import (
    EarlyStoppingCallback,
    PrinterCallback,
    ProgressCallback,
    TrainerCallback,
)
from transformers.integrations import TensorBoardCallback
from transformers.trainer_callback import DefaultFlowCallback

import zipr1
from zipr1.common.errors import InputError
from zipr1.training.checkpoint import checkpoints


class Sets(TrainerCallback):
    """Sets a flag of the control in an event, at a step."""

    def __init__(self, event: str, flag: str, step: int = 1):
        self.events = []
        for name in ("on_train_begin", "on_step_begin", "on_evaluate", "on_log", "on_save"):
            setattr(self, name, self.around(name, getattr(self, name)))
        self.event, self.flag, self.step = event, flag, step

    def around(self, name, event):
        def called(args, state, control, **more):
            self.events.append((name, state.global_step))
            if name == self.event and state.global_step == self.step:
                setattr(control, self.flag, True)
            return event(args, state, control, **more)

        return called


def train(folder, callback, **settings):
    config = SMALL | {"max_steps": 3, "save_steps": 100, "probe_every": 100} | settings
    trainer = zipr1.Trainer(
        args=zipr1.TrainConfig(**config, output_dir=str(folder)), callbacks=[callback]
    )
    return trainer.train(quiet=True)


def saved(folder) -> list[str]:
    return [path.name for path in checkpoints(folder)]


@pytest.mark.parametrize("event", ["on_step_begin", "on_evaluate", "on_log"])
def test_a_checkpoint_that_any_event_asks_for(tmp_path, event):
    # on_step_begin of the second step still has the step before as its global_step.
    train(
        tmp_path,
        Sets(event, "should_save"),
        max_steps=2 + (event == "on_step_begin"),
        probe_every=1,
    )
    assert saved(tmp_path) == ["checkpoint-2" if event == "on_step_begin" else "checkpoint-1"]


@pytest.mark.parametrize("event", ["on_evaluate", "on_log", "on_save"])
def test_a_stop_that_any_event_asks_for(tmp_path, event):
    probed = 1 if event == "on_evaluate" else 100
    saves = 1 if event == "on_save" else 100
    final = train(
        tmp_path, Sets(event, "should_training_stop"), probe_every=probed, save_steps=saves
    )
    assert json.loads((final / "zipr1.json").read_text())["step"] == 1
    rows = metrics(tmp_path)
    assert [row["step"] for row in rows] == [0, 1]
    assert ("probe/accuracy" in rows[1]) == (event != "on_save")


def test_a_measurement_that_on_log_asks_for(tmp_path):
    callback = Sets("on_log", "should_evaluate")
    train(tmp_path, callback, max_steps=2)
    names = [name for name, step in callback.events if step == 1]
    assert names == ["on_log", "on_evaluate", "on_step_begin"]
    assert ["probe/accuracy" in row for row in metrics(tmp_path)] == [True, True, True]


def test_a_stop_before_the_first_step(tmp_path):
    with pytest.raises(InputError, match="should_training_stop is set in on_train_begin"):
        train(tmp_path / "new", Sets("on_train_begin", "should_training_stop", 0))
    train(tmp_path / "old", Sets("on_step_begin", "should_save"), max_steps=3)
    final = train(tmp_path / "old", Sets("on_train_begin", "should_training_stop", 2), resume=True)
    assert json.loads((final / "zipr1.json").read_text())["step"] == 2


class Mine(EarlyStoppingCallback):
    pass


@pytest.mark.parametrize(
    ("callback", "name"),
    [
        (EarlyStoppingCallback, "EarlyStoppingCallback"),
        (EarlyStoppingCallback(3), "EarlyStoppingCallback"),
        (Mine, "EarlyStoppingCallback"),
        (TensorBoardCallback, "TensorBoardCallback"),
        (DefaultFlowCallback, "DefaultFlowCallback"),
    ],
)
def test_callbacks_of_transformers_own_arguments(tmp_path, callback, name):
    with pytest.raises(InputError, match=f"{name} reads transformers' TrainingArguments"):
        zipr1.Trainer(args=zipr1.TrainConfig(output_dir=str(tmp_path)), callbacks=[callback])


class Reads(TrainerCallback):
    def on_train_begin(self, args, state, control, **more):
        return args.eval_strategy


class Fails(TrainerCallback):
    def on_train_begin(self, args, state, control, **more):
        return state.no_such_name


def test_a_callback_that_reads_what_is_not_there(tmp_path):
    with pytest.raises(InputError, match=r"Reads.on_train_begin reads args.eval_strategy"):
        train(tmp_path / "one", Reads())
    with pytest.raises(AttributeError, match="no_such_name"):
        train(tmp_path / "two", Fails())


@pytest.mark.parametrize("callback", [PrinterCallback, ProgressCallback])
def test_callbacks_that_only_show(tmp_path, callback):
    assert train(tmp_path, callback, max_steps=1).is_dir()


def test_another_precision_in_one_process(tmp_path):
    train(tmp_path / "one", Sets("on_log", "should_save", 9), max_steps=1)
    with pytest.raises(InputError, match=r"bf16=True: .* start a new one"):
        train(tmp_path / "two", Sets("on_log", "should_save", 9), max_steps=1, bf16=True)
    train(tmp_path / "three", Sets("on_log", "should_save", 9), max_steps=1)
