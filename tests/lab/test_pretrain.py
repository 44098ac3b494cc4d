"""Several questions packed behind one picture must be what they are alone."""

import json

import torch
from command_line import run
from conftest import random_model, tiny_processor

from zipr1.cli.main import main
from zipr1.data.example import Example
from zipr1.data.processor import conversation, prepare
from zipr1.lab.packing import IGNORE, isolate, pack
from zipr1.models.encode import encode
from zipr1.models.loading import load
from zipr1.tasks import TASKS


def test_packed_questions_equal_single_ones():
    model, processor = random_model("qwen2_5_vl"), tiny_processor()
    scenes = [TASKS["shapes"].scene("val", i) for i in range(2)]
    asked = [list(scene.questions[: 3 + i]) for i, scene in enumerate(scenes)]
    inputs = pack(processor, scenes, asked)
    with torch.no_grad():
        embeds = isolate(encode(model, inputs).embeds, inputs["segment"], inputs["offset"])
        hidden = model.model.language_model(**embeds, use_cache=False).last_hidden_state
        for row, (scene, questions) in enumerate(zip(scenes, asked, strict=True)):
            for number, (question, answer) in enumerate(questions, 1):
                example = Example("x", "shapes", question, answer, scene.image)
                chat = [
                    *conversation(example),
                    {"role": "assistant", "content": [{"type": "text", "text": answer}]},
                ]
                alone = prepare(processor, [example], [chat])
                single = model.model(**alone, use_cache=False).last_hidden_state[0]
                packed = hidden[row][inputs["segment"][row] == number]
                length = len(packed)  # the chat closes with a line break that is not in the segment
                torch.testing.assert_close(packed, single[-length - 1 : -1], rtol=1e-4, atol=1e-4)


def test_labels_are_the_answers():
    processor = tiny_processor()
    scene = TASKS["digits"].scene("val", 3)
    inputs = pack(processor, [scene], [list(scene.questions[:2])])
    labels = inputs["labels"][0]
    assert processor.tokenizer.decode(labels[labels != IGNORE]) == "".join(
        f"{a}<|im_end|>" for _, a in scene.questions[:2]
    )


def test_the_command_trains_stage_by_stage_from_a_recipe(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    stage = (
        "{steps: 2, learning_rate: 0.002, adam_learning_rate: 0.001, warmup_steps: 1, "
        "decay_share: 0.5, vision_steps: %d}"
    )
    recipe.write_text(
        f"stages: [{stage % 1}, {stage % 0}]\ntasks: [shapes]\npictures_per_task: 1\n"
        "eval_questions: 4\n"
        f"output_dir: {tmp_path / 'out'}\n"
    )
    main(["pretrain", str(recipe)])
    rows = [json.loads(row) for row in (tmp_path / "out" / "log.jsonl").read_text().splitlines()]
    assert [(row["stage"], row["step"]) for row in rows] == [(1, 2), (2, 2)]
    assert rows[1]["pictures_loss"] < rows[0]["pictures_loss"]
    assert sum(p.numel() for p in load(str(tmp_path / "out" / "checkpoint"))[0].parameters()) > 1e6


def test_the_command_goes_on_from_a_model(tmp_path):
    """With another seed, whose random weights would be far away."""
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "stages: [{steps: 1, learning_rate: 1.e-4, adam_learning_rate: 1.e-4, warmup_steps: 1, "
        "decay_share: 0}]\n"
        "tasks: [perceive, lecture, tempo, digits]\npictures_per_task: 1\nclips_per_task: 1\n"
        "eval_questions: 2\n"
        "hidden_size: 64\nlayers: 2\n"
    )
    main(["pretrain", str(recipe), "--output_dir", str(tmp_path / "one")])
    first = str(tmp_path / "one" / "checkpoint")
    assert load(first)[0].config.text_config.num_hidden_layers == 2
    main(
        [
            "pretrain",
            str(recipe),
            "--seed",
            "1",
            "--start",
            first,
            "--output_dir",
            str(tmp_path / "two"),
        ]
    )
    one, two = (
        load(str(tmp_path / name / "checkpoint"))[0].state_dict() for name in ("one", "two")
    )
    moved = [(one[name] - two[name]).abs().max() for name in one]
    assert 0 < max(moved) < 1e-2
    (row,) = (tmp_path / "two" / "log.jsonl").read_text().splitlines()
    row = json.loads(row)
    assert row["val"].keys() == {"perceive", "lecture", "tempo", "digits"}
    assert {"letter", "colour", "shape", "direction", "change"} <= row["clips of 8_helper"].keys()


SMALL = (
    "tasks: [shapes]\npictures_per_task: 1\neval_questions: 1\nhidden_size: 64\nlayers: 2\n"
    "stages:\n"
)
STAGE = (
    "- {steps: 1, learning_rate: 0.002, adam_learning_rate: 0.001, warmup_steps: 1, decay_share: 0, "
    "vision_steps: %d}\n"
)


def vision_weights(folder):
    return load(str(folder / "checkpoint"))[0].model.visual.state_dict()


def test_the_weights_of_the_last_stage_are_saved_without_a_validation(tmp_path):
    """A stage of the vision tower alone answers no questions."""
    recipe = tmp_path / "recipe.yaml"
    for name, stages in (("one", [0]), ("two", [0, 1])):
        recipe.write_text(SMALL + "".join(STAGE % steps for steps in stages))
        (tmp_path / name).mkdir()
        (tmp_path / name / "log.jsonl").write_text("{}\n")  # of a run that saved nothing
        main(["pretrain", str(recipe), "--output_dir", str(tmp_path / name)])
    one, two = vision_weights(tmp_path / "one"), vision_weights(tmp_path / "two")
    assert any(not torch.equal(one[name], two[name]) for name in one)


def test_a_finished_run_is_not_replaced(tmp_path, capsys):
    recipe, folder = tmp_path / "recipe.yaml", tmp_path / "out"
    recipe.write_text(SMALL + STAGE % 9)
    assert run(capsys, "pretrain", str(recipe), "--output_dir", str(folder))[0] == 0
    assert (folder / "checkpoint" / "model.safetensors").is_file()
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    start = str(folder / "checkpoint")  # going on in the same folder would replace it too
    for more in ((), ("--start", start)):
        status, out, err = run(capsys, "pretrain", str(recipe), "--output_dir", str(folder), *more)
        assert status == 2 and not out
        assert f"{folder}: holds the checkpoint of an earlier run; give another --output_dir" in err
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
