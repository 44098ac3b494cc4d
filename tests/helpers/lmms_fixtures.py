"""Small data sets in the schema of the thirteen benchmarks: lmms-eval runs them without a network.

    python tests/helpers/lmms_fixtures.py FOLDER

writes FOLDER/tasks/*.yaml (for --include_path; each includes lmms-eval's own task and swaps its
data), FOLDER/data and FOLDER/hf (for HF_HOME, where lmms-eval looks for videos). About half of the
questions have the correct answer "A" or "yes".
"""

import importlib.util
import sys
from pathlib import Path

import av
import numpy as np
from datasets import Dataset, Features, Image, Sequence, Value
from PIL import Image as Pillow
from PIL import ImageDraw

COLOURS = {"red": (220, 30, 30), "blue": (30, 30, 220), "green": (30, 160, 30)}


def picture(colour: str) -> Pillow.Image:
    image = Pillow.new("RGB", (96, 96), "white")
    ImageDraw.Draw(image).ellipse((24, 24, 72, 72), fill=COLOURS[colour])
    return image


def clip(path: Path) -> None:
    """One second of a red disc that moves to the right."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=8)
        stream.width = stream.height = 96
        stream.pix_fmt = "yuv420p"
        for i in range(8):
            image = Pillow.new("RGB", (96, 96), "white")
            ImageDraw.Draw(image).ellipse((8 * i, 32, 8 * i + 32, 64), fill=COLOURS["red"])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.asarray(image))))
        container.mux(stream.encode())


OPTIONS = ["A. right", "B. left", "C. up", "D. down"]
LETTERS = ("A", "B")  # the right answers of the two rows of a multiple choice task
WHERE = {
    "duration": "short",
    "domain": "Knowledge",
    "sub_category": "Geography",
    "task_type": "Action Recognition",
}
PLOTS = ("anomaly_reco", "count", "ego", "needle", "order", "plotQA", "topic_reasoning")
DIMENSIONS = ("speed", "direction", "action", "order", "attribute_change")
MOVE = "Which way does the disc move?"


def tempcompass(answers: tuple[str, ...], question: str) -> list[dict]:
    return [
        {"video_id": "v", "question": question, "answer": answers[i % 2], "dim": dim}
        for i, dim in enumerate(DIMENSIONS)
    ]


def videommmu() -> list[dict]:
    return [
        {
            "id": f"validation_Art_{i}",
            "question": MOVE,
            "options": ["right", "left", "up"],
            "answer": letter,
            "question_type": "multiple-choice",
        }
        for i, letter in enumerate(LETTERS)
    ]


def video_mme() -> list[dict]:
    return [
        {
            "videoID": "v",
            "question_id": f"q{i}",
            "question": MOVE,
            "options": OPTIONS,
            "answer": letter,
        }
        | WHERE
        for i, letter in enumerate(LETTERS)
    ]


# task -> (its YAML in lmms_eval/tasks, configuration or None, split, rows)
TASKS = {
    "mme": (
        "mme/mme.yaml",
        None,
        "test",
        [
            {
                "question_id": "red.png",
                "image": picture("red"),
                "category": category,
                "answer": answer,
                "question": f"Is there a {colour} disc? Please answer yes or no.",
            }
            for category in ("existence", "commonsense_reasoning")
            for colour, answer in (("red", "Yes"), ("blue", "No"))
        ],
    ),
    "mmbench_en_dev_static": (
        "mmbench/mmbench_en_dev_static.yaml",
        "en",
        "dev",
        [
            {
                "index": i,
                "question": "What colour is the disc?",
                "hint": "nan",
                "answer": letter,
                "A": "red",
                "B": "blue",
                "C": "green",
                "D": "nan",
                "category": "attribute",
                "L2-category": "fine",
                "source": "drawn",
                "split": "dev",
                "image": picture("red" if letter == "A" else "blue"),
                "comment": "nan",
            }
            for i, letter in enumerate(LETTERS)
        ],
    ),
    "mmstar": (
        "mmstar/mmstar.yaml",
        None,
        "val",
        [
            {
                "index": i,
                "question": "What colour is the disc?\nOptions: A: red, B: blue, C: green, D: none",
                "image": picture("red" if letter == "A" else "blue"),
                "answer": letter,
                "category": "coarse perception",
                "l2_category": "image scene and topic",
                "meta_info": "drawn",
            }
            for i, letter in enumerate(LETTERS)
        ],
    ),
    "chartqa": (
        "chartqa/chartqa.yaml",
        None,
        "test",
        [
            {
                "type": kind,
                "question": "What colour is the disc?",
                "answer": answer,
                "image": picture("red"),
            }
            for kind, answer in (("human_test", "yes"), ("augmented_test", "red"))
        ],
    ),
    "textvqa_val": (
        "textvqa/textvqa_val.yaml",
        None,
        "validation",
        [
            {
                "image_id": str(i),
                "question_id": i,
                "question": "what does the sign say?",
                "ocr_tokens": ["yes"],
                "image": picture("green"),
                "answers": [answer] * 10,
            }
            for i, answer in enumerate(("yes", "stop"))
        ],
    ),
    "ocrbench": (
        "ocrbench/ocrbench.yaml",
        None,
        "test",
        [
            {
                "dataset": "drawn",
                "question": "what is written?",
                "question_type": "Regular Text Recognition",
                "answer": [answer],
                "image": picture("red"),
            }
            for answer in ("yes", "stop")
        ],
    ),
    "mmmu_pro_standard": (
        "mmmu_pro/mmmu_pro_standard.yaml",
        "standard (10 options)",
        "test",
        [
            {
                "id": f"test_Art_{i}",
                "question": "<image 1> and <image 2>: what colour is the first disc?",
                "options": "['red', 'blue', 'green']",
                "answer": letter,
                "subject": "Art",
                "image_2": picture("green"),
                "image_1": picture("red" if letter == "A" else "blue"),
            }
            | {f"image_{n}": None for n in range(3, 8)}
            for i, letter in enumerate(LETTERS)
        ],
    ),
    "mmmu_pro_vision": (
        "mmmu_pro/mmmu_pro_vision.yaml",
        "vision",
        "test",
        [
            {
                "id": f"test_Art_{i}",
                "image": picture("red"),
                "options": "['red', 'blue']",
                "answer": letter,
                "subject": "Art",
            }
            for i, letter in enumerate(LETTERS)
        ],
    ),
    "videomme": ("videomme/videomme.yaml", None, "test", video_mme()),
    "videomme_w_subtitle": ("videomme/videomme_w_subtitle.yaml", None, "test", video_mme()),
    "mlvu_dev": (
        "mlvu/mlvu_dev.yaml",
        None,
        "test",
        [
            {
                "video_name": "v.mp4",
                "question": MOVE + "\n(A) right\n(B) left",
                "answer": letter,
                "task_type": kind,
                "duration": 1.0,
            }
            for kind in PLOTS
            for letter in LETTERS
        ],
    ),
    "video_mmmu_perception": ("videommmu/perception.yaml", "Perception", "test", videommmu()),
    "video_mmmu_comprehension": (
        "videommmu/comprehension.yaml",
        "Comprehension",
        "test",
        videommmu(),
    ),
    "video_mmmu_adaptation": ("videommmu/adaptation.yaml", "Adaptation", "test", videommmu()),
    "perceptiontest_val_mc": (
        "perceptiontest/val/perceptiontest_mc.yaml",
        "mc_question_val",
        "validation",
        [
            {
                "video_name": "v",
                "question": MOVE,
                "question_id": str(i),
                "options": ["right", "left", "up"],
                "answer_id": str(i),
                "area": "physics",
                "reasoning": "descriptive",
                "tag": ["motion"],
            }
            for i in range(2)
        ],
    ),
    "egoschema_subset": (
        "egoschema/egoschema_subset.yaml",
        "Subset",
        "test",
        [
            {
                "video_idx": "v",
                "question": MOVE,
                "option": [*OPTIONS, "E. nowhere"],
                "answer": str(i),
                "question_idx": str(i),
            }
            for i in range(2)
        ],
    ),
    "tempcompass_multi_choice": (
        "tempcompass/tempcompass_mc.yaml",
        "multi-choice",
        "test",
        tempcompass(("A. right", "B. left"), MOVE + "\nA. right\nB. left"),
    ),
    "tempcompass_yes_no": (
        "tempcompass/tempcompass_yes_no.yaml",
        "yes_no",
        "test",
        tempcompass(("yes", "no"), "Does the disc move?"),
    ),
    "tempcompass_caption_matching": (
        "tempcompass/tempcompass_caption_matching.yaml",
        "caption_matching",
        "test",
        tempcompass(
            ("Caption A: up", "Caption B: down"), "Which fits?\nCaption A: up\nCaption B: down"
        ),
    ),
}
CLIPS = (
    "videomme/data/v.mp4",
    "mlvu/v.mp4",
    "perceptiontest_val/videos/v.mp4",
    "egoschema/videos/v.mp4",
    "tempcompass/videos/v.mp4",
    "video_mmmu/Art/validation_Art_0.mp4",
    "video_mmmu/Art/validation_Art_1.mp4",
)
SUBTITLE = (
    '1\n00:00:00,000 --> 00:00:01,000\n<font color="white" size=".72c">A disc moves.</font>\n\n'
)


def features(rows: list[dict]) -> Features:
    """Columns that hold pictures, also where a row has none, are of the type Image."""

    def kind(name: str):
        values = [row[name] for row in rows]
        if name.startswith("image") and name != "image_id":
            return Image()
        if isinstance(values[0], list):
            return Sequence(Value("string"))
        return Value({int: "int64", float: "float64", str: "string"}[type(values[0])])

    return Features({name: kind(name) for name in rows[0]})


def write(folder: Path) -> dict[str, str]:
    """Writes everything under `folder`; returns the environment for lmms-eval without a network."""
    source = Path(importlib.util.find_spec("lmms_eval").submodule_search_locations[0]) / "tasks"
    for name in CLIPS:
        clip(folder / "hf" / name)
    subtitle = folder / "hf" / "videomme" / "subtitle" / "v.srt"
    subtitle.parent.mkdir(parents=True, exist_ok=True)
    subtitle.write_text(SUBTITLE)
    (folder / "tasks").mkdir(parents=True, exist_ok=True)
    for name, (yaml, configuration, split, rows) in TASKS.items():
        data = folder / "data" / name
        data.mkdir(parents=True, exist_ok=True)
        file = f"{split}-00000-of-00001.parquet"
        Dataset.from_list(rows, features=features(rows)).to_parquet(data / file)
        # Without this header `datasets` calls a split "val" "validation".
        files = f"data_files:\n  - split: {split}\n    path: {file}\n"
        header = f"configs:\n- config_name: {configuration or 'default'}\n  {files}"
        (data / "README.md").write_text(f"---\n{header}---\n")
        lines = (f"include: {source / yaml}", f"task: fixture_{name}", f"dataset_path: {data}")
        (folder / "tasks" / f"{name}.yaml").write_text("\n".join(lines) + "\n")
    return {
        "HF_HOME": str(folder / "hf"),
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "WANDB_MODE": "disabled",
    }


if __name__ == "__main__":
    for name, value in write(Path(sys.argv[1]).resolve()).items():
        print(f"export {name}={value}")
