"""Tensor and pipeline parallel workers agree on every choice (two processes; slow)."""

import json
import os
import subprocess
import sys

import pytest
import vllm_engine as v

import zipr1

pytestmark = [pytest.mark.vllm, pytest.mark.slow]

CODE = """
import json, sys
import vllm_engine as v
import zipr1

settings = json.loads(sys.argv[1])
if __name__ == "__main__":
    _, processor = zipr1.load("zipr1/tiny")
    questions = [v.prepare(processor, question) for question in v.QUESTIONS]
    jobs = [(q, {"p": p, "return_kept": 1} if p < 1 else {}) for q in questions for p in (0.9, 0.6, 1)]
    with v.engine(**settings) as llm:
        for output in v.ask(llm, jobs, json.loads(sys.argv[2])):
            print("FOUND", json.dumps([list(output.outputs[0].token_ids), v.answer_of(output)]))
"""


@pytest.mark.parametrize(
    "settings",
    [{"tensor_parallel_size": 2}, {"pipeline_parallel_size": 2, "enforce_eager": False}],
    ids=["tensor", "pipeline"],
)
def test_two_processes_equal_transformers(tmp_path, settings):
    model, processor = zipr1.load("zipr1/tiny")
    questions = [v.prepare(processor, question) for question in v.QUESTIONS]
    suppressed = list(model.generation_config.suppress_tokens or ())
    script = tmp_path / "ask.py"
    script.write_text(CODE)
    path = os.pathsep.join(sys.path)
    done = subprocess.run(
        [sys.executable, str(script), json.dumps(settings), json.dumps(suppressed)],
        capture_output=True, text=True, env=os.environ | {"PYTHONPATH": path}, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found = [json.loads(line[6:]) for line in done.stdout.splitlines() if line[:6] == "FOUND "]
    jobs = [(question, p) for question in questions for p in (0.9, 0.6, 1)]
    for (question, p), (tokens, said) in zip(jobs, found, strict=True):
        rule = zipr1.TopP(p) if p < 1 else None
        want = v.transformers_answer(model, question, rule)
        assert tokens == want.tokens
        assert said.get("kept_tokens") == want.kept
