r"""LoRA post-training with ZipR1 on a JSONL file of rows with `image`, `prompt` and `answer`.

python examples/lora.py rows.jsonl held_out.jsonl runs/lora --steps 300

From the command line: zipr1 train --data rows.jsonl --probe_data held_out.jsonl \
    --use_peft true --baseline group ...
"""

import argparse
import json
from pathlib import Path

import zipr1


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows")
    parser.add_argument("held_out")
    parser.add_argument("output")
    parser.add_argument("--model", default="zipr1/tiny")
    parser.add_argument("--steps", type=int, default=300)
    options = parser.parse_args(arguments)

    config = zipr1.TrainConfig(
        output_dir=options.output,
        use_peft=True,
        baseline="group",  # for answers that the reference need not give word for word
        max_steps=options.steps,
        prompts_per_step=4,
        num_generations=4,
        learning_rate=1e-3,
        probe_every=min(50, options.steps),
        probe_per_task=16,
    )
    final = zipr1.Trainer(options.model, config, options.rows, options.held_out).train()

    steps = [json.loads(line) for line in (Path(options.output) / "metrics.jsonl").open()]
    for row in steps:
        if "probe/token_ratio" in row:
            print(
                f"step {row['step']}\ttoken ratio {row['probe/token_ratio']:.1%}",
                f"accuracy {row['probe/accuracy']:.1%}",
                sep="\t",
            )
    model, _ = zipr1.load(final)  # the adapter on its base model
    print(f"{final}\t{sum(p.numel() for p in model.parameters()):,} parameters")


if __name__ == "__main__":
    main()
