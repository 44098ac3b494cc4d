"""LoRA with TRL's GRPOTrainer under sparse attention, on the chats and images of rows.jsonl."""

from datasets import Image, load_dataset
from peft import LoraConfig
from trl import GRPOConfig, GRPOTrainer

import zipr1
from zipr1.trl import SparseGRPO, efficiency


def correct(completions, answer, **columns):
    return [one[0]["content"] == truth for one, truth in zip(completions, answer, strict=True)]


rows = load_dataset("json", data_files="rows.jsonl", split="train").cast_column("image", Image())
model, processor = zipr1.load("zipr1/tiny")
args = GRPOConfig("runs/lora", max_steps=2, num_generations=4, bf16=False, report_to="none")
lora = LoraConfig(target_modules=r".*language_model.*\.(q_proj|v_proj)")
kind = type("Trainer", (SparseGRPO, GRPOTrainer), {})
options = {"processing_class": processor, "peft_config": lora}
trainer = kind(model, [correct, efficiency], args, rows, **options)
trainer.train()
