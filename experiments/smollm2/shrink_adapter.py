"""Reduces a LoRA adapter to a smaller rank in bfloat16, small enough for the repository.

python experiments/smollm2/shrink_adapter.py runs/train/final adapters/smollm2
"""

import argparse
import json
import shutil
from pathlib import Path

import torch
from peft import convert_to_lora
from safetensors.torch import save_file

from zipr1.models.loading import load


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("trained", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--rank", type=int, default=4)
    arguments = parser.parse_args()
    model, _ = load(str(arguments.trained))
    settings, weights = convert_to_lora(model, arguments.rank)
    trained = json.loads((arguments.trained / "adapter_config.json").read_text())
    settings.base_model_name_or_path = trained["base_model_name_or_path"]
    settings.save_pretrained(arguments.output)
    halved = {name: weight.to(torch.bfloat16) for name, weight in weights.items()}
    save_file(halved, arguments.output / "adapter_model.safetensors", metadata={"format": "pt"})
    shutil.copy(arguments.trained / "zipr1.json", arguments.output)
    card = (
        (arguments.trained / "README.md")
        .read_text()
        .replace(str(arguments.trained.resolve()), str(arguments.output))
    )
    card += (
        "\nThe numbers are those of the adapter as trained; this is its best approximation of rank "
        f"{arguments.rank}, in bfloat16.\n"
    )
    (arguments.output / "README.md").write_text(card)


if __name__ == "__main__":
    main()
