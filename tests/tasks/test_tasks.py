"""Scenes depend on (split, index) only, splits have no common source, answers match the pixels."""

import json
import math
from collections import Counter

import numpy as np
import pytest
from PIL import Image, ImageFont

from zipr1.rewards.graders import exact
from zipr1.tasks import (
    ALL_TASKS,
    TASKS,
    chart,
    choose,
    digits,
    ego,
    lecture,
    needle,
    photos,
    reason,
    relate,
    sign,
    street,
    text_only_prior,
    walks,
)
from zipr1.tasks.base import CELL, SPLITS, Scene, Task
from zipr1.tasks.draw import COLOUR_NAMES, COLOURS, SHAPES

ALL_MAPS = dict(walks.MAPS)
DIRECTIONS = {
    "left": (-1, 0),
    "right": (1, 0),
    "up": (0, -1),
    "down": (0, 1),
}  # x to the right, y down
every_task_and_family = pytest.mark.parametrize("task", ALL_TASKS.values(), ids=ALL_TASKS)
every_task = pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)


@pytest.fixture(autouse=True)
def few_maps(monkeypatch):
    """Two maps per split: clips of a map take about a second, once."""
    for split, maps in ALL_MAPS.items():
        monkeypatch.setitem(walks.MAPS, split, maps[:2])


def pixels(scene: Scene) -> np.ndarray:
    return np.stack([np.asarray(picture, np.int16) for picture in scene.frames or (scene.image,)])


def answer(scene: Scene, question: str) -> str:
    return dict(scene.questions)[question]


@every_task_and_family
def test_a_scene_is_a_function_of_split_and_index(task):
    again = type(task)()
    for split in SPLITS:
        one, same, other = task.scene(split, 5), again.scene(split, 5), task.scene(split, 7)
        assert one.questions == same.questions
        assert one.id == same.id == f"{task.name}/{split}/5"
        assert np.array_equal(pixels(one), pixels(same))
        assert not np.array_equal(pixels(one), pixels(other))
        assert task.example(split, 5) == again.example(split, 5)
    with pytest.raises(ValueError, match="split"):
        task.scene("training", 5)


def test_the_clips_of_a_map_do_not_depend_on_what_ran_before():
    name = ALL_MAPS["val"][0]
    walks.recordings(*ALL_MAPS["val"][1])
    for kept, fresh in zip(
        walks.recordings(*name), walks.recordings.__wrapped__(*name), strict=True
    ):
        assert kept.action == fresh.action
        assert np.array_equal(kept.frames, fresh.frames)


def test_no_source_serves_two_splits():
    family = {
        split: {sign.font(name, 20).getname()[0].removesuffix(" Display") for name in names}
        for split, names in sign.FONTS.items()
    }
    samples = {
        split: {sample.tobytes() for group in digits.by_value(split) for sample in group}
        for split in SPLITS
    }
    assert samples.pop("sealed") == samples["test"]  # other numbers of the same digits
    assert sum(map(len, samples.values())) == 1797
    sources = {
        "photographs": {
            split: {name.replace("_right", "_left") for _, name in photos.PHOTOS[split]}
            for split in SPLITS
        },
        "makes of cars": {
            split: {row["Name"].split()[0] for row in chart.rows(split)}
            for split in SPLITS
            if split != "sealed"
        },
        "values of bars": {
            split: {json.dumps(row) for row in chart.rows(split)} for split in SPLITS
        },
        "digits": samples,
        "font families": family,
        "maps": ALL_MAPS,
        "frames of the street": {
            split: {(file, k) for file, *shot in street.SHOTS[split] for k in range(*shot)}
            for split in SPLITS
        },
    }
    for name, by_split in sources.items():
        items = [item for found in by_split.values() for item in set(found)]
        assert all(by_split.values())
        assert len(items) == len(set(items)), name


@pytest.mark.parametrize("split", SPLITS)
def test_a_piece_of_street_stays_in_one_shot_of_its_split(split, monkeypatch):
    """Frames that are one colour each, their number: the pieces tell where they come from."""
    films = {
        file: tuple(Image.new("RGB", (300, 128), (k, 0, 0)) for k in range(len(street.film(file))))
        for file, _, _ in street.SHOTS[split]
    }
    monkeypatch.setattr(street, "film", lambda file: films[file])
    rng = np.random.default_rng(0)
    for _ in range(100):
        frames = [frame.getpixel((0, 0))[0] for frame in street.piece(split, rng, 96, 8)]
        assert len(set(np.diff(frames))) == 1 and frames[1] > frames[0]
        assert any(first <= frames[0] and frames[-1] < end for _, first, end in street.SHOTS[split])


def test_the_shots_of_the_street_end_where_the_film_is_cut():
    for shots in street.SHOTS.values():
        for file, first, end in shots:
            small = [np.asarray(frame.resize((64, 27))) for frame in street.film(file)]
            change = np.abs(np.diff(np.stack(small).astype(float), axis=0)).mean((1, 2, 3))
            assert change[first : end - 1].max() < 30  # from each frame to the next
            assert end == len(small) or change[end - 1] > 30


@pytest.mark.parametrize("split", SPLITS)
def test_scenes_use_the_sources_of_their_split_only(split, monkeypatch):
    used: dict[str, set] = {
        "photo": set(),
        "font": set(),
        "digit": set(),
        "row": set(),
        "map": set(),
        "street": set(),
    }

    def spy(module, function: str, kind: str, take) -> None:
        real = getattr(module, function)
        monkeypatch.setattr(
            module, function, lambda *given: (used[kind].add(take(*given)), real(*given))[1]
        )

    spy(photos, "photo", "photo", lambda *given: given)
    for module in (sign, relate, reason, lecture):
        spy(module, "font", "font", lambda name, _: name)
    for module in (digits, choose):
        spy(module, "by_value", "digit", lambda which: which)
    spy(chart, "values", "row", lambda which, _: which)
    spy(ego, "recordings", "map", lambda *given: given)
    spy(needle, "piece", "street", lambda which, *_: which)
    for task in ALL_TASKS.values():
        for index in range(12):
            task.scene(split, index)
    assert used["photo"] and used["photo"] <= set(photos.PHOTOS[split])
    assert used["font"] and used["font"] <= set(sign.FONTS[split])
    assert used["digit"] == used["row"] == used["street"] == {split}
    assert used["map"] and used["map"] <= set(ALL_MAPS[split])


@every_task
def test_labels_have_one_class_per_visual_token(task):
    seen = {name: set() for name in task.label_words}
    for index in range(40):
        scene = task.scene("train", index)
        grid = (4, 6, 6) if task.video else (1, 8, 8)
        assert pixels(scene).shape == ((8, 96, 96, 3) if task.video else (1, 128, 128, 3))
        assert scene.labels.keys() == task.label_words.keys()
        for name, label in scene.labels.items():
            assert label.shape == grid
            assert np.issubdtype(label.dtype, np.integer)
            assert label.min() >= 0 and label.max() <= len(task.label_words[name])
            seen[name] |= set(label.ravel().tolist())
    for name, classes in seen.items():
        assert len(classes) > 0.5 * len(task.label_words[name])


def test_labels_lie_where_the_things_are():
    for index in range(40):
        scene = TASKS["shapes"].scene("test", index)
        colour, shape = scene.labels["colour"][0], scene.labels["shape"][0]
        assert np.array_equal(colour > 0, shape > 0)
        image = pixels(scene)[0]
        for number, name in enumerate(SHAPES, start=1):
            cells = np.argwhere(shape == number)
            if len(cells) and f"What colour is the {name}?" in dict(scene.questions):
                expected = answer(scene, f"What colour is the {name}?")
                assert {COLOUR_NAMES[colour[y, x] - 1] for y, x in cells} == {expected}
                found = np.concatenate(
                    [image[y * CELL :, x * CELL :][:CELL, :CELL].reshape(-1, 3) for y, x in cells]
                )
                assert (np.abs(found - COLOURS[expected]).max(1) <= 14).mean() > 0.1, (
                    "the pixels have the colour"
                )

        scene = TASKS["digits"].scene("test", index)
        columns = [set(column[column > 0].tolist()) for column in scene.labels["digit"][0].T]
        order = [next(iter(column)) - 1 for column in columns if len(column) == 1]
        number = answer(scene, "What number is written?")
        assert [str(d) for i, d in enumerate(order) if i == 0 or d != order[i - 1]] == [
            d for i, d in enumerate(number) if i == 0 or d != number[i - 1]
        ]

        scene = TASKS["sign"].scene("test", index)
        letters = scene.labels["letter"][0]
        first = letters[:, (letters > 0).any(0).argmax()]
        assert chr(first.max() - 1 + ord("a")) == answer(scene, "What is the first letter?")


@every_task
def test_questions_and_answers_keep_to_the_form(task):
    for split in SPLITS:
        for index in range(20):
            scene = task.scene(split, index)
            assert 4 <= len(scene.questions) <= 10
            assert len({question for question, _ in scene.questions}) == len(scene.questions)
            for question, reply in scene.questions:
                assert len(question.split()) <= 12
                assert reply == reply.lower() and 1 <= len(reply.split()) <= 2
                assert exact(reply, reply) and exact(reply, f" {reply.upper()}.\n")
                assert not any(
                    exact(reply, other) for _, other in scene.questions if other != reply
                )
                assert not exact(reply, "") and not exact(reply, f"{reply} {reply}")
            example = task.example(split, index)
            assert (example.question, example.answer) in scene.questions


def test_yes_and_no_are_balanced():
    """Over all such questions, and so over each way to begin one."""
    task = TASKS["ego"]  # the only one that asks them
    by_start: dict[str, Counter] = {}
    for index in range(112):
        for question, reply in task.scene("train", index).questions:
            if reply in ("yes", "no"):
                by_start.setdefault(" ".join(question.split()[:2]), Counter())[reply] += 1
    total = sum(by_start.values(), Counter())
    assert 0.45 < total["yes"] / total.total() < 0.55
    for start, counts in by_start.items():
        assert 0.4 < counts["yes"] / counts.total() < 0.6, start


@every_task
def test_the_question_alone_does_not_give_the_answer(task):
    assert text_only_prior(task, 200) < 0.45


def test_the_text_only_prior_counts_train_and_scores_test():
    class Toy(Task):
        name = "toy"

        def __init__(self, asked: str):
            self.asked = asked

        def scene(self, split, index):
            rare = index % 4 == 0
            if split == "test":
                return Scene("", ((self.asked, "a" if rare else "b"),))
            return Scene("", (("Which?", "b" if rare else "a"), ("Other?", "c"), ("Another?", "c")))

    assert text_only_prior(Toy("Which?"), 100) == 0.25, "train says a, which a quarter of test is"
    assert text_only_prior(Toy("Unseen?"), 100) == 0, "c is the most frequent answer of all"


def test_the_tallest_bar_is_the_tallest_on_the_picture():
    for index in range(60):
        scene = TASKS["chart"].scene("test", index)
        image = pixels(scene)[0][:106]  # above the letters
        ink = (image.max(2) - image.min(2)) > 90  # paper and lines are pale
        heights = [int(column.sum()) for column in ink.T]
        bars = [heights[x] for x in range(1, 128) if heights[x] > 5 and heights[x - 1] <= 5]
        assert len(bars) == 4
        assert "abcd"[int(np.argmax(bars))] == answer(scene, "Which bar is the tallest?")
        assert "abcd"[int(np.argmin(bars))] == answer(scene, "Which bar is the shortest?")
        assert np.diff(sorted(bars)).min() >= 0.08 * max(bars)


def test_the_direction_is_that_of_the_pixels():
    moved = 0
    for index in range(60):
        scene = TASKS["motion"].scene("test", index)
        asked = dict(scene.questions).get("Which way does the moving object go?")
        clip = pixels(scene)
        if asked is None:
            assert not scene.labels["direction"].any()
            continue
        # Only the moving object differs between two frames, and the centre of the difference moves.
        away = np.abs(np.diff(clip, axis=0)).max(-1) > 12
        (y0, x0), (y1, x1) = (np.argwhere(away[t]).mean(0) for t in (0, -1))
        dx, dy = DIRECTIONS[asked]
        assert dx * (x1 - x0) + dy * (y1 - y0) > 30
        assert abs(dy * (x1 - x0)) + abs(dx * (y1 - y0)) < 6
        labels = set(scene.labels["direction"].ravel().tolist())
        assert labels == {0, list(DIRECTIONS).index(asked) + 1}
        moved += 1
    assert moved > 20


def test_the_order_of_appearance_is_that_of_the_frames():
    seen = 0
    for index in range(60):
        scene = TASKS["motion"].scene("test", index)
        first = dict(scene.questions).get("What colour is the object that appears first?")
        if first is None:
            continue
        clip = pixels(scene)
        last = answer(scene, "What colour is the object that appears last?")
        counts = {
            name: (np.abs(clip - COLOURS[name]).max(-1) <= 14).sum((1, 2)) for name in (first, last)
        }
        begins = {name: int((count > 60).argmax()) for name, count in counts.items()}
        assert all(count[-1] > 60 for count in counts.values())
        assert begins[first] < begins[last]
        seen += 1
    assert seen > 10


def turn_of(clip: walks.Recording) -> float:
    """Degrees to the left, all frames together."""
    steps = np.diff(clip.poses[:, 2])
    return float(((steps + 180) % 360 - 180).sum())


@pytest.mark.parametrize("split", SPLITS)
def test_the_camera_did_what_the_answer_says(split):
    size = 2 * walks.RECORDINGS_PER_MAP
    actions = Counter()
    for index in range(2 * size):  # the second half are mirror images
        clip, scene = ego.walk(split, index), TASKS["ego"].scene(split, index)
        said = answer(scene, "What does the camera do?")
        x, y, _angle = clip.poses[-1] - clip.poses[0]
        heading = math.radians(clip.poses[0, 2])
        ahead, turned = x * math.cos(heading) + y * math.sin(heading), turn_of(clip)
        found = {
            "forward": ahead > 90 and abs(turned) < 1,
            "backward": ahead < -90 and abs(turned) < 1,
            "turn left": turned > 25 and math.hypot(x, y) < 5,
            "turn right": turned < -25 and math.hypot(x, y) < 5,
        }
        assert found[said] and sum(found.values()) == 1
        assert answer(scene, "Does the camera turn?") == (
            "yes" if said.startswith("turn") else "no"
        )
        assert set(scene.labels["action"].ravel().tolist()) == {walks.ACTIONS.index(said) + 1}
        actions[said] += 1
    assert set(actions.values()) == {size // 2}


def test_a_turn_shifts_the_picture_the_other_way():
    """On the pixels alone: turning left moves what is seen to the right."""
    agree = total = 0
    for index in range(4 * walks.RECORDINGS_PER_MAP):
        scene = TASKS["ego"].scene("test", index)
        said = answer(scene, "What does the camera do?")
        if not said.startswith("turn"):
            continue
        grey = pixels(scene).mean(-1)[:, 24:72]
        errors = {
            shift: np.abs(grey[1:, :, 12 + shift : 84 + shift] - grey[:-1, :, 12:84]).mean()
            for shift in range(-12, 13)
        }
        agree += (min(errors, key=errors.get) > 0) == (said == "turn left")
        total += 1
    assert total >= walks.RECORDINGS_PER_MAP and agree / total > 0.9


def test_the_fonts_and_photographs_are_in_the_wheels():
    for split in SPLITS:
        for source in photos.PHOTOS[split]:
            assert min(photos.photo(*source).size) == photos.SHORT_SIDE
        assert all(
            isinstance(sign.font(name, 20), ImageFont.FreeTypeFont) for name in sign.FONTS[split]
        )
