"""`zipr1 serve --min_tokens auto`: from which prompt length on a sparse prefill is not slower.

Times one engine with the arguments of the server, in a process of its own, whose memory is free
again when the server starts.
"""

import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from zipr1.common.errors import RunError
from zipr1.vllm.request import PREFIX

RATIO = 0.5  # of the tokens is kept; a prompt that keeps fewer gains earlier
LENGTHS = (256, 512, 1024, 2048, 4096, 8192)
ROUNDS = 3
LEAST = 0.97  # of dense speed: below it, a length counts as slower

Row = tuple[int, float]  # prompt tokens, dense time / sparse time


def measured_min_tokens(
    command: list[str], environment: dict[str, str], longest: int, scope: str
) -> int:
    """The number for `min_tokens` of a server that `command` starts, and on stderr what was
    measured. longest: tokens of a prompt and its answer; scope: the server's default. Raises
    RunError where vLLM fails."""
    with tempfile.TemporaryDirectory(prefix="zipr1-min-tokens-") as folder:
        found = Path(folder) / "rows.json"
        own = [sys.executable, "-m", "zipr1.vllm.break_even", str(found), str(longest)]
        # One process for the engine, that no time is spent between processes.
        environment = environment | {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
        status = subprocess.run([*own, *command[3:]], env=environment).returncode
        if status:
            raise RunError(
                f"min_tokens=auto: vLLM ended with status {status}; its messages above have the "
                "reason, or give a number"
            )
        rows = [(tokens, speed) for tokens, speed in json.loads(found.read_text())]
    least = shortest(rows)
    print(f"zipr1: {described(rows, least, longest, scope)}", file=sys.stderr, flush=True)
    return longest if least is None else least


def shortest(rows: list[Row]) -> int | None:
    """The shortest measured prompt from which on sparse is not slower; None where there is none."""
    found = None
    for tokens, speed in sorted(rows, reverse=True):
        if speed < LEAST:
            break
        found = tokens
    return found


def described(rows: list[Row], least: int | None, longest: int, scope: str) -> str:
    """What was measured, and the number that follows from it, in one line."""
    speeds = ", ".join(f"{speed:.2f} at {tokens}" for tokens, speed in rows)
    number = f"min_tokens={least}"
    if least is None:
        number = f"min_tokens={longest}, every prompt stays dense"
    return (
        f"{number}: dense prefill time over sparse, keeping {RATIO:.0%} of the tokens, scope "
        f"{scope}: {speeds} tokens (one prompt at a time, median of {ROUNDS}; not slower from "
        f"{LEAST:g} on)"
    )


def main(path: str, longest: str, *arguments: str) -> None:
    """Writes the rows to `path`. arguments: those of vLLM's server."""
    from vllm import LLM
    from vllm.engine.arg_utils import EngineArgs
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    # The parser of the server, so that no spelling of an argument is lost.
    parsed = make_arg_parser(FlexibleArgumentParser()).parse_args(list(arguments))
    llm = LLM.from_engine_args(EngineArgs.from_cli_args(parsed))
    Path(path).write_text(json.dumps(measure(llm, int(longest))))


def measure(llm, longest: int) -> list[Row]:
    """Rows of rising length, until sparse is not slower twice in a row. longest: tokens of a prompt
    and the one token of its answer."""
    rows: list[Row] = []
    lengths = [tokens for tokens in LENGTHS if tokens < longest] or [longest - 1]
    for ratio in (1.0, RATIO):  # not counted: the first steps are slower
        seconds(llm, lengths[0], ratio)
    for tokens in lengths:
        times: dict[float, list[float]] = {1.0: [], RATIO: []}
        for _ in range(ROUNDS):
            for ratio, found in times.items():
                found.append(seconds(llm, tokens, ratio))
        rows.append((tokens, median(times[1.0]) / median(times[RATIO])))
        if all(speed >= LEAST for _, speed in rows[-2:]) and len(rows) > 1:
            break
    return rows


def seconds(llm, tokens: int, ratio: float) -> float:
    """Until the first token of one prompt of random tokens, which no cache has seen."""
    from vllm import SamplingParams

    ids = [random.randint(10, 1000) for _ in range(tokens)]  # no special tokens there
    request = {f"{PREFIX}ratio": ratio, f"{PREFIX}min_tokens": 0}
    params = SamplingParams(temperature=0, max_tokens=1, extra_args=request)
    began = time.perf_counter()
    llm.generate([{"prompt_token_ids": ids}], params, use_tqdm=False)
    return time.perf_counter() - began


if __name__ == "__main__":
    main(*sys.argv[1:])
