"""GRPO with TRL's own trainer under sparse attention, on the embedded model and drawn questions.

python examples/trl_grpo.py runs/trl --steps 20

It needs the extra `trl`: pip install -c constraints.txt -e '.[trl]'
"""

import argparse

from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

import zipr1
from zipr1.tasks.shapes import Shapes
from zipr1.trl import SparseGRPO, SparseSettings, efficiency


class SparseGRPOTrainer(SparseGRPO, GRPOTrainer):
    """TRL's trainer, whose policy samples and learns under sparse attention."""


def correct(completions, answer, **columns) -> list[float]:
    texts = [completion[0]["content"].strip() for completion in completions]
    return [float(text == truth) for text, truth in zip(texts, answer, strict=True)]


def rows(count: int) -> Dataset:
    examples = [Shapes().example("train", index) for index in range(count)]
    return Dataset.from_dict(
        {
            "prompt": [[{"role": "user", "content": one.question}] for one in examples],
            "image": [one.image for one in examples],
            "answer": [one.answer for one in examples],
        }
    )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output")
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args(arguments)

    model, processor = zipr1.load("zipr1/tiny")
    model.requires_grad_(True)
    model.model.visual.requires_grad_(False)  # what becomes sparse is the text decoder
    trainer = SparseGRPOTrainer(
        model=model,
        processing_class=processor,
        reward_funcs=[correct, efficiency],
        train_dataset=rows(4 * options.steps),
        args=GRPOConfig(
            output_dir=options.output,
            max_steps=options.steps,
            per_device_train_batch_size=16,
            num_generations=4,
            max_completion_length=6,
            learning_rate=3e-4,
            beta=0.04,
            bf16=False,
            gradient_checkpointing=False,
            logging_steps=1,
            report_to="none",
            save_strategy="no",
        ),
        sparse=SparseSettings(sparsity_weight=10.0),
    )
    trainer.train()
    trainer.save_model()
    logs = [row for row in trainer.state.log_history if "token_ratio" in row]
    for row in (logs[0], logs[-1]):
        print(
            f"step {row['step']}\ttoken ratio {row['token_ratio']:.1%}\t"
            f"correct {row['rewards/correct/mean']:.1%}"
        )


if __name__ == "__main__":
    main()
