"""What a user's script does: import zipr1 and nothing else of it."""

import subprocess
import sys

SCRIPT = """
import torch, zipr1
model, tokenizer = zipr1.load("zipr1/tiny")
with torch.no_grad(), zipr1.sparse(model, zipr1.TopP(0.5)) as trace:
    model(torch.arange(5, 45)[None])
print(trace.token_ratio.item())
"""


def test_the_public_names_suffice():
    """In a process of its own: in this one, another test may have imported the engine."""
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert 0 < float(done.stdout) < 1
