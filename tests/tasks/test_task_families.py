"""The thirteen families, one per benchmark: their answers agree with the pixels or the labels."""

import math
import re
from collections import Counter

import numpy as np
import pytest
from conftest import tiny_processor
from PIL import Image
from test_tasks import few_maps, pixels  # noqa: F401

from zipr1.data.processor import prepare
from zipr1.evaluation.paper.benchmarks import BENCHMARKS
from zipr1.tasks import ALL_TASKS, FAMILIES, TASKS, digits, ego, lecture, reason, text_only_prior
from zipr1.tasks.base import CELL, SPLITS, Scene
from zipr1.tasks.draw import COLOUR_NAMES, COLOURS, SHAPES
from zipr1.tasks.motion import DIRECTIONS

NEW = {
    name: task for name, task in FAMILIES.items() if name not in TASKS
}  # test_tasks.py has the others
FRAMES = {"short": 4, "needle": 16}  # of the others that are clips: 8
SIDES = ("left", "middle", "right")
every_new = pytest.mark.parametrize("task", NEW.values(), ids=NEW)
every_family = pytest.mark.parametrize("task", FAMILIES.values(), ids=FAMILIES)


def scenes(name: str, split: str = "test", count: int = 40) -> list[tuple[Scene, dict[str, str]]]:
    found = [FAMILIES[name].scene(split, index) for index in range(count)]
    return [(scene, dict(scene.questions)) for scene in found]


def of_colour(picture: np.ndarray, colour: str) -> np.ndarray:
    """Where a picture (..., 3) has a named colour, give or take the light."""
    return np.abs(picture - COLOURS[colour]).max(-1) <= 14


def cells(labels: np.ndarray, words: tuple[str, ...], word: str) -> np.ndarray:
    """(n, 3) or (n, 2): the visual tokens that labels call `word`."""
    return np.argwhere(labels == words.index(word) + 1)


def name_at(labels: np.ndarray, words: tuple[str, ...], where: np.ndarray) -> str:
    """What most of the visual tokens `where` (n, dimensions) are called."""
    found = Counter(labels[tuple(where.T)].tolist())
    return words[max((count, word) for word, count in found.items() if word)[1] - 1]


def test_each_benchmark_of_the_paper_has_its_family_in_the_papers_order():
    assert [task.mirrors for task in FAMILIES.values()] == [
        benchmark.name for benchmark in BENCHMARKS
    ]
    tables = [
        [task.name for task in FAMILIES.values() if task.video == clip] for clip in (False, True)
    ]
    assert [len(names) for names in tables] == [7, 6]
    assert list(FAMILIES) == tables[0] + tables[1]


def test_a_label_has_the_same_words_in_every_task():
    """So that the helper loss has one head a name."""
    words: dict[str, tuple[str, ...]] = {}
    for task in ALL_TASKS.values():
        for name, row in task.label_words.items():
            assert words.setdefault(name, row) == row, name


@every_new
def test_labels_have_one_class_per_visual_token(task):
    seen = {name: set() for name in task.label_words}
    for index in range(60):
        scene = task.scene("train", index)
        frames = FRAMES.get(task.name, 8) if task.video else 1
        assert pixels(scene).shape == ((frames, 96, 96, 3) if task.video else (1, 128, 128, 3))
        assert scene.labels.keys() == task.label_words.keys()
        for name, label in scene.labels.items():
            assert label.shape == ((frames // 2, 6, 6) if task.video else (1, 8, 8)), name
            assert np.issubdtype(label.dtype, np.integer)
            seen[name] |= set(label.ravel().tolist())
    for name, classes in seen.items():
        assert classes <= set(range(len(task.label_words[name]) + 1))
        assert len(classes - {0}) > 0.6 * len(task.label_words[name]), name


@every_new
def test_questions_and_answers_keep_to_the_form(task):
    answers: Counter[str] = Counter()
    for split in SPLITS:
        for index in range(30):
            scene = task.scene(split, index)
            assert 3 <= len(scene.questions) <= 10
            assert len({question for question, _ in scene.questions}) == len(scene.questions)
            for question, reply in scene.questions:
                assert len(question.split("\n")[0].split()) <= 12
                assert reply == reply.lower() and 1 <= len(reply.split()) <= 2
                answers[reply] += 1
    assert len(answers) <= 36, "a closed list: letters, shapes, colours"


@every_new
def test_the_question_alone_does_not_give_the_answer(task):
    assert text_only_prior(task, 200) < 0.45


@every_family
def test_prompts_are_mostly_visual_and_of_the_promised_length(task):
    processor = tiny_processor()
    visual = processor.tokenizer.convert_tokens_to_ids(["<|image_pad|>", "<|video_pad|>"])
    for index in range(4):
        ids = prepare(processor, [task.example("test", index)])["input_ids"][0]
        seen = sum(int((ids == token).sum()) for token in visual)
        assert seen == {"short": 72, "needle": 288}.get(task.name, 144 if task.video else 64)
        assert len(ids) - seen <= 60


def test_perceive_asks_in_pairs_and_says_yes_to_what_is_there():
    replies: dict[str, Counter] = {}
    for scene, asked in scenes("perceive", count=100):
        pairs = list(asked.items())[:6]
        for (yes, affirmed), (no, denied) in zip(pairs[::2], pairs[1::2], strict=True):
            assert (affirmed, denied) == ("yes", "no")
            assert yes.split()[:3] == no.split()[:3]
        for question, reply in pairs:
            replies.setdefault(question.split()[2], Counter())[reply] += 1
            if found := re.fullmatch(r"Is there anything (\w+)\?", question):
                there = of_colour(pixels(scene)[0], found[1]).sum() > 150
                assert there == (reply == "yes"), question
            if found := re.fullmatch(r"Is there a (\w+)\?", question):
                there = len(cells(scene.labels["shape"], SHAPES, found[1])) > 0
                assert there == (reply == "yes"), question
        large = asked["What colour is the large object?"]
        area = {name: of_colour(pixels(scene)[0], name).sum() for name in COLOUR_NAMES}
        assert max(area, key=area.get) == large
        assert asked[f"Is the large object {large}?"] == "yes"
    assert all(counts["yes"] == counts["no"] for counts in replies.values())


@pytest.mark.parametrize("name", ["perceive", "choose", "tempo"])
def test_two_examples_in_a_row_are_a_pair(name):
    task = FAMILIES[name]
    for index in range(0, 40, 2):
        one, two = task.example("test", index), task.example("test", index + 1)
        if name == "tempo":
            assert one.question == two.question and [one.id.split("/")[k] for k in (2, 3)] == [
                str(index),
                two.id.split("/")[3],
            ]
            assert sorted(frame.tobytes() for frame in one.frames) == sorted(
                frame.tobytes() for frame in two.frames
            )
        else:
            assert one.image == two.image and one.question != two.question
        if name == "choose":  # the same options, turned
            (asked, *options), (again, *turned) = (
                example.question.split("\n") for example in (one, two)
            )
            words, other = ([line[2:] for line in lines] for lines in (options, turned))
            assert (
                asked == again
                and words != other
                and any(words[k:] + words[:k] == other for k in (1, 2, 3))
            )
        assert one.answer != two.answer
    assert [one.pairs for one in FAMILIES.values()].count(True) == 3


def test_choose_has_the_answer_under_its_letter_and_nowhere_else():
    letters: Counter[str] = Counter()
    for scene, asked in scenes("choose", count=60):
        for text, letter in asked.items():
            question, *lines = text.split("\n")
            options = dict(line.split(" ") for line in lines)
            assert list(options) == list("abcd") and len(set(options.values())) == 4
            letters[letter] += 1
            shape, colour, digit = (scene.labels[name][0] for name in ("shape", "colour", "digit"))
            if found := re.fullmatch(r"What colour is the (\w+)\?", question):
                where = cells(shape, SHAPES, found[1])
                assert options[letter] == name_at(colour, COLOUR_NAMES, where)
                picture = pixels(scene)[0]
                patches = [picture[y * CELL :, x * CELL :][:CELL, :CELL] for y, x in where]
                shares = {
                    name: np.mean([of_colour(patch, name).mean() for patch in patches])
                    for name in COLOUR_NAMES
                }
                assert max(shares, key=shares.get) == options[letter]
            elif found := re.fullmatch(r"What shape is the (\w+) object\?", question):
                assert options[letter] == name_at(
                    shape, SHAPES, cells(colour, COLOUR_NAMES, found[1])
                )
            else:
                assert options[letter] == str(digit.max() - 1)
    assert max(letters.values()) < 0.35 * letters.total()


def test_the_digit_to_choose_is_a_sample_of_its_value():
    for scene, _ in scenes("choose", count=20):
        y, x = np.argwhere(scene.labels["digit"][0])[0] * CELL
        ink = 255 - pixels(scene)[0][y : y + CELL, x : x + CELL].mean(-1).ravel()
        likeness = {}
        for value, samples in enumerate(digits.by_value("test")):
            large = [
                Image.fromarray(sample).resize((CELL, CELL), Image.Resampling.BICUBIC)
                for sample in samples
            ]
            likeness[value] = max(
                np.corrcoef(ink, np.asarray(sample).ravel())[0, 1] for sample in large
            )
        assert max(likeness, key=likeness.get) == scene.labels["digit"].max() - 1
        assert max(likeness.values()) > 0.99


def test_relate_names_the_letter_that_stands_there():
    kinds: Counter[str] = Counter()
    for scene, asked in scenes("relate"):
        shape, colour, option = (scene.labels[name][0] for name in ("shape", "colour", "option"))
        places = {letter: cells(option, tuple("abcd"), letter)[0] for letter in "abcd"}
        for question, letter in asked.items():
            relation, thing = re.fullmatch(
                r"Which letter is (.+?) (?:of )?the (\w+)(?: object)?\?", question
            ).groups()
            where = (
                cells(shape, SHAPES, thing)
                if thing in SHAPES
                else cells(colour, COLOUR_NAMES, thing)
            )
            y, x = where.mean(0)
            dy, dx = places[letter] - (y, x)
            kinds[relation] += 1
            assert {
                "on": abs(dx) < 2 and abs(dy) < 2,
                "left": dx < -2 and abs(dy) < 2,
                "right": dx > 2 and abs(dy) < 2,
                "above": dy < -2 and abs(dx) < 2,
                "below": dy > 2 and abs(dx) < 2,
            }[relation], question
    assert kinds.keys() == {"on", "left", "right", "above", "below"}


def test_reason_follows_the_arrow_and_the_written_word():
    arrows = words = 0
    for scene, asked in scenes("reason", count=60):
        shape, colour, letter = (scene.labels[name][0] for name in ("shape", "colour", "letter"))
        if direction := asked.get("Which way does the arrow point?"):
            dx, dy = DIRECTIONS[direction]
            arrow = pixels(scene)[0][48:80, 48:80]
            dark = (
                arrow.max(-1) < 34
                if (arrow.max(-1) < 34).sum() > (arrow.min(-1) > 221).sum()
                else arrow.min(-1) > 221
            )
            lengths = dark.sum(0) if dx else dark.sum(1)  # the head is wider than the shaft
            assert (lengths.argmax() > 15.5) == (dx + dy > 0)
            y, x = 3 + 3 * dy, 3 + 3 * dx
            block = np.argwhere(np.ones((2, 2))) + np.array([y, x])
            assert asked["What colour does the arrow mean?"] == name_at(colour, COLOUR_NAMES, block)
            assert asked["What shape does the arrow mean?"] == name_at(shape, SHAPES, block)
            arrows += 1
        else:
            word = "".join(reason.ALPHABET[value - 1] for value in letter[0] if value)
            assert word == asked["Which word is written?"]
            if word in SHAPES:
                expected = name_at(colour, COLOUR_NAMES, cells(shape, SHAPES, word))
            else:
                expected = name_at(shape, SHAPES, cells(colour, COLOUR_NAMES, word))
            assert asked["Answer the question in the picture."] == expected
            words += 1
    assert arrows > 15 and words > 15


def test_short_says_what_is_there_when_and_where():
    for index, (scene, asked) in enumerate(scenes("short", count=30)):
        shape, colour = scene.labels["shape"], scene.labels["colour"]
        assert asked["What colour comes first?"] == name_at(
            colour, COLOUR_NAMES, np.argwhere(colour > 0)[:1]
        )
        assert asked["What shape comes last?"] == name_at(
            shape, SHAPES, np.argwhere(shape > 0)[-1:]
        )
        assert asked["What does the camera do?"] == ego.walk("test", index).action
        for question, reply in asked.items():
            if found := re.fullmatch(r"Does the (\w+) come first or last\?", question):
                assert set(cells(shape, SHAPES, found[1])[:, 0]) == {("first", "last").index(reply)}
            elif found := re.fullmatch(r"Is the (\w+) on the left or right\?", question):
                assert (cells(shape, SHAPES, found[1])[:, 2].mean() > 2.5) == (reply == "right")
            elif found := re.fullmatch(r"Is the (\w+) object at the top or bottom\?", question):
                assert (cells(colour, COLOUR_NAMES, found[1])[:, 1].mean() > 2.5) == (
                    reply == "bottom"
                )


def test_needle_counts_and_orders_the_cards():
    counts: Counter[str] = Counter()
    for scene, asked in scenes("needle"):
        clip = pixels(scene)
        edges = np.concatenate(
            [clip[:, :4].reshape(16, -1, 3), clip[:, -4:].reshape(16, -1, 3)], axis=1
        )
        cards = [
            t for t in range(0, 16, 2) if edges[t].std(0).max() == 0 and edges[t].min() >= 225
        ]  # plain paper
        assert asked["How many cards are shown?"] == str(len(cards))
        counts[asked["How many cards are shown?"]] += 1
        for end, t in (("first", cards[0]), ("last", cards[-1])):
            area = {name: of_colour(clip[t], name).sum() for name in COLOUR_NAMES}
            assert max(area, key=area.get) == asked[f"What colour is on the {end} card?"]
            shape = scene.labels["shape"][t // 2]
            assert (
                name_at(shape, SHAPES, np.argwhere(shape > 0))
                == asked[f"What shape is on the {end} card?"]
            )
    assert counts.keys() == {"1", "2", "3"}


def test_lecture_gives_the_letter_on_the_plate_of_the_same_colour():
    for scene, asked in scenes("lecture"):
        shape, colour, letter = (scene.labels[name] for name in ("shape", "colour", "letter"))
        decided = 0
        for question, reply in asked.items():
            if not (found := re.fullmatch(r"Which letter does the (\w+) get\?", question)):
                continue
            slide = cells(shape, SHAPES, found[1])[0, 0]
            area = {name: of_colour(pixels(scene)[2 * slide], name).sum() for name in COLOUR_NAMES}
            case = max(area, key=area.get)  # the colour of the shape, by the pixels
            plates = [tuple(where) for where in np.argwhere(letter > 0)]
            assert all(slide < 2 for slide, _, _ in plates), "the rule comes before the cases"
            on = {
                COLOUR_NAMES[colour[where] - 1]: lecture.ALPHABET[letter[where] - 1]
                for where in plates
            }
            assert len(on) == 4 and on[case] == reply
            decided += 1
        assert decided == 2


def test_objects_stay_under_their_cups():
    moved = 0
    for scene, asked in scenes("objects"):
        clip, shape = pixels(scene), scene.labels["shape"]
        colours = [
            COLOUR_NAMES[v - 1] for v in scene.labels["colour"][0, 1, ::2]
        ]  # raised cups, left to right
        under = [SHAPES[v - 1] for v in shape[0, 3, ::2]]
        assert not shape[1:].any(), "hidden from then on"
        ends = {}
        for name in colours:
            ends[name] = SIDES[
                int(np.argwhere(of_colour(clip[-1, 48:80], name))[:, 1].mean() // 32)
            ]
        moved += sum(ends[name] != SIDES[i] for i, name in enumerate(colours))
        for question, reply in asked.items():
            thing = next(
                word for word in re.findall(r"\w+", question) if word in SHAPES + COLOUR_NAMES
            )
            i = under.index(thing) if thing in SHAPES else colours.index(thing)
            if question.startswith("What is under"):
                assert reply == under[i]
            elif question.startswith("What colour"):
                assert reply == colours[i]
            else:
                assert reply == (ends[colours[i]] if question.endswith("at the end?") else SIDES[i])
    assert moved == 2 * 40, "two cups change places in every clip"


def test_tempo_pairs_have_the_same_single_frames_and_other_answers():
    kinds: Counter[str] = Counter()
    task = FAMILIES["tempo"]
    for index in range(0, 80, 2):
        one, two = task.scene("test", index), task.scene("test", index + 1)
        frames = [sorted(frame.tobytes() for frame in pixels(scene)) for scene in (one, two)]
        assert frames[0] == frames[1]
        assert not np.array_equal(pixels(one), pixels(two))
        first, second = dict(one.questions), dict(two.questions)
        assert first.keys() == second.keys()
        timeless = [question for question in first if first[question] == second[question]]
        assert (
            all(question.startswith("What colour is") for question in timeless)
            and len(timeless) <= 1
        )
        kinds[next(iter(first)).split()[0]] += 1
    assert len(kinds) == 4 and min(kinds.values()) >= 4


def test_tempo_says_what_the_pixels_do():
    for scene, asked in scenes("tempo", count=60):
        clip, colour = pixels(scene), scene.labels["colour"]
        name = name_at(colour, COLOUR_NAMES, np.argwhere(colour > 0)[:1])
        masks = [of_colour(frame, name) for frame in clip]
        areas = [mask.sum() for mask in masks]
        if reply := asked.get("Which way does the moving object go?"):
            (y0, x0), (y1, x1) = (np.argwhere(masks[t]).mean(0) for t in (0, -1))
            dx, dy = DIRECTIONS[reply]
            assert dx * (x1 - x0) + dy * (y1 - y0) > 40
        elif reply := asked.get("What colour comes first?"):
            assert reply == name and areas[0] > 60 and areas[-1] < 60
        elif reply := asked.get("Do the objects take turns fast or slow?"):
            changes = sum((areas[t] > 60) != (areas[t - 1] > 60) for t in range(1, 8))
            assert reply == {1: "slow", 3: "fast"}[changes]
        else:
            (reply,) = {reply for question, reply in asked.items() if "grow" in question}
            assert reply == ("grow" if areas[-1] > 4 * areas[0] else "shrink")
            assert math.log(areas[-1] / areas[0]) * (1 if reply == "grow" else -1) > 1
