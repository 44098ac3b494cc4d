"""Your rows from the check to the comparison: python own_data.py rows.jsonl held_out.jsonl"""

import sys

import zipr1
from zipr1.cli.main import main

train, held_out = sys.argv[1:3]
names = "prompt=question,answer=solution"  # zipr1's names = yours
main(["data", "check", train, "--columns", names, "--write", "clean.jsonl"])
settings = {"columns": names, "baseline": "group", "max_steps": 2, "probe_per_task": 4}
args = zipr1.TrainConfig(output_dir="runs/mine", num_generations=4, **settings)
final = zipr1.Trainer("zipr1/tiny", args, train, held_out).train()
main(["eval", str(final), "--data", held_out, "--columns", names])
