"""`zipr1 bench serve`: vLLM's own benchmark client against `zipr1 serve`, dense and sparse in
turns."""

import json
import socket
import subprocess
import sys
import tempfile
import threading
import time
from argparse import ArgumentParser
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict, dataclass
from io import StringIO
from pathlib import Path
from statistics import median
from urllib.error import URLError
from urllib.request import urlopen

import torch

from zipr1.bench.config import BenchServeConfig
from zipr1.bench.serving_model import prompt_parts, write_model
from zipr1.common.documents import write_document
from zipr1.common.errors import InputError, RunError
from zipr1.common.progress import announced, progress
from zipr1.common.provenance import provenance
from zipr1.common.tables import markdown_table
from zipr1.models.flops import Shape, prefill_bound
from zipr1.models.loading import load_config, load_processor
from zipr1.models.location import EMBEDDED
from zipr1.vllm.serve import check_installed

TEMPLATE = 32  # tokens of a chat template, about
START = 900  # seconds until the server must answer
EAGER = "Dense and sparse run with `--enforce-eager`: without torch.compile and CUDA graphs."
SUMS = ("median_ttft_ms", "median_tpot_ms", "request_throughput")


def run_bench_serve(config: BenchServeConfig) -> tuple[list[dict], str]:
    """Writes serve.json and serve.md; returns the rows and the table."""
    check_installed()
    folder = Path(config.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="zipr1-bench-") as temporary:
        model = config.model
        if config.shape is not None:
            model = f"{temporary}/{config.shape}"
            dtype = torch.bfloat16 if torch.cuda.is_available() else torch.float32
            with announced(f"making a random model of {config.layers} layers"):
                write_model(config.shape, config.layers, Path(model), dtype)
        text_config = load_config(model).get_text_config()
        check_length(config, text_config.max_position_embeddings)
        with running(config, model, folder / "server.log") as server:
            tokenizer = str(EMBEDDED.get(model, model))
            client = Client(config, tokenizer, load_processor(model), server)
            rows = measure(config, Shape.of(text_config), client)
    text = table(rows)
    (folder / "serve.md").write_text(text)
    origin = {"rows": rows, "config": asdict(config)} | provenance()
    write_document(folder / "serve.json", "bench serve", origin)
    return rows, text


class RunningServer:
    """The server, seen from outside."""

    def __init__(self, port: int):
        self.port, self.url = port, f"http://127.0.0.1:{port}"

    def answers(self) -> bool:
        try:
            return urlopen(f"{self.url}/health", timeout=5).status == 200
        except (URLError, TimeoutError, ConnectionError):
            return False

    def gauges(self) -> tuple[float, float]:
        """(fraction of the KV blocks in use, running requests)."""
        text = urlopen(f"{self.url}/metrics", timeout=10).read().decode()
        found = {
            line.split("{")[0]: float(line.rpartition(" ")[2])
            for line in text.splitlines()
            if line.startswith(("vllm:kv_cache_usage_perc{", "vllm:num_requests_running{"))
        }
        return found["vllm:kv_cache_usage_perc"], found["vllm:num_requests_running"]


def longest(config: BenchServeConfig) -> int:
    """Tokens of the longest prompt, its chat template included, and its answer, with room for text
    that the server reads as a few tokens more."""
    return int(1.05 * max(config.numbers("tokens"))) + 2 * TEMPLATE + config.answer


def check_length(config: BenchServeConfig, positions: int) -> None:
    """Raises InputError for prompts that the model has no positions for."""
    if longest(config) > positions:
        raise InputError(
            f"tokens={config.tokens}: the model has {positions} positions, with the answer and the "
            f"chat template a prompt needs {longest(config)}; give shorter ones"
        )


@contextmanager
def running(config: BenchServeConfig, model: str, log: Path):
    """A server that is dense unless a request asks. Raises RunError if it does not start."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    length = longest(config)
    command = [sys.executable, "-m", "zipr1.cli", "serve", model, "--p", "1", "--name", "bench"]
    command += ["--port", str(port), "--max_model_len", str(length), "--"]
    command += ["--enforce-eager", "--no-enable-prefix-caching", "--disable-uvicorn-access-log"]
    if not torch.cuda.is_available():
        command += ["--kv-cache-memory-bytes", str(config.kv_mib << 20)]
    server = RunningServer(port)
    with log.open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
    try:
        with announced("starting the server"):
            for _ in range(START):
                if process.poll() is not None:
                    raise RunError(f"the server ended with {process.returncode}: see {log}")
                if server.answers():
                    break
                time.sleep(1)
            else:
                raise RunError(f"the server did not answer in {START} s: see {log}")
        yield server
    finally:
        process.terminate()
        process.wait()


def measure(config: BenchServeConfig, shape: Shape, client: "Client") -> list[dict]:
    """A row for each prompt length, concurrency, ratio and scope: medians over the rounds."""
    cases = [(1.0, "attention")]
    ratios, scopes = config.numbers("ratios", float), config.scopes.split(",")
    cases += [(ratio, scope) for ratio in ratios for scope in scopes]
    points = [(t, c) for t in config.numbers("tokens") for c in config.numbers("concurrency")]
    rows = []
    runs = len(points) * len(cases) * config.rounds
    bar = progress(total=runs, desc="bench serve", unit="run")
    for tokens, concurrency in points:
        # Not measured: fills vLLM's caches of images, which all cases then find alike.
        client.run(tokens, concurrency, *cases[0])
        found: dict[tuple, list[dict]] = {case: [] for case in cases}
        for number in range(config.rounds):
            for case in cases if number % 2 == 0 else reversed(cases):
                found[case].append(client.run(tokens, concurrency, *case))
                bar.update()
        middle = {
            case: {name: middle_of([run[name] for run in runs]) for name in runs[0]}
            for case, runs in found.items()
        }
        dense = middle[cases[0]]
        for (ratio, scope), values in middle.items():
            row = {"tokens": tokens, "concurrency": concurrency, "ratio": ratio, "scope": scope}
            bound = prefill_bound(shape, tokens, [ratio] * shape.layers, scope)
            row |= values | {"ttft_bound": bound}
            row["ttft_speedup"] = dense["median_ttft_ms"] / values["median_ttft_ms"]
            row["throughput"] = values["request_throughput"] / dense["request_throughput"]
            mine, whole = values["kv_per_request"], dense["kv_per_request"]
            row["fits"] = None if None in (mine, whole) else whole / mine
            rows.append(row)
    bar.close()
    return rows


@dataclass
class Client:
    """vLLM's benchmark client for one model. tokenizer: its folder or hub id."""

    config: BenchServeConfig
    tokenizer: str
    processor: object
    server: RunningServer

    def run(self, tokens: int, concurrency: int, ratio: float, scope: str) -> dict[str, float]:
        """The numbers of one run. Raises RunError where a request failed, or its prompt had another
        length."""
        side, text = prompt_parts(self.processor, tokens)
        answer, count = self.config.answer, max(self.config.requests, concurrency)
        body = {"vllm_xargs": {"zipr1_ratio": ratio, "zipr1_scope": scope}, "min_tokens": answer}
        arguments = [
            *("--backend", "openai-chat", "--base-url", self.server.url),
            *("--endpoint", "/v1/chat/completions", "--model", "bench"),
            *("--tokenizer", self.tokenizer, "--dataset-name", "random-mm"),
            *("--random-input-len", str(text), "--random-output-len", str(answer)),
            *("--random-range-ratio", "0", "--random-mm-num-mm-items-range-ratio", "0"),
            *("--random-mm-base-items-per-request", "1"),
            *("--random-mm-limit-mm-per-prompt", '{"image": 1, "video": 0}'),
            *("--random-mm-bucket-config", f"{{({side}, {side}, 1): 1.0}}"),
            *("--num-prompts", str(count), "--max-concurrency", str(concurrency), "--seed", "1"),
            *("--extra-body", json.dumps(body), "--temperature", "0", "--disable-tqdm"),
        ]
        with sampled(self.server) as usage:
            result = vllm_client(arguments)
        if result["completed"] != count:
            failed = count - result["completed"]
            raise RunError(f"{failed} of {count} requests failed: see server.log")
        found = {name: result[name] for name in SUMS}
        found["prompt_tokens"] = result["total_input_tokens"] / count
        if not 0.95 < found["prompt_tokens"] / (tokens + TEMPLATE) < 1.05:
            raise RunError(
                f"the server counts {found['prompt_tokens']:.0f} tokens in a prompt of {tokens}"
            )
        found["kv_per_request"] = kv_per_request(usage)
        found["kv_in_use"] = max((share for share, _ in usage), default=None)
        return found


def kv_per_request(usage: list[tuple[float, float]]) -> float | None:
    """The smallest fraction of the KV blocks that a running request held, since a prompt has all its
    blocks while it is read; None where requests were too short to be seen between two steps.

    usage: (fraction of the KV blocks in use, running requests), several times a second.
    """
    return min((share / requests for share, requests in usage if requests and share), default=None)


def middle_of(values: list[float | None]) -> float | None:
    """The median of what was measured; None where nothing was."""
    return median(known) if (known := [one for one in values if one is not None]) else None


def vllm_client(arguments: list[str]) -> dict:
    """The result of vLLM's benchmark client, in this process; what it prints is left out."""
    from vllm.benchmarks.serve import add_cli_args, main

    parser = ArgumentParser()
    add_cli_args(parser)
    with redirect_stdout(StringIO()):
        return main(parser.parse_args(arguments))


@contextmanager
def sampled(server: RunningServer):
    """Inside the block, (KV in use, running requests) of the server, several times a second."""
    found: list[tuple[float, float]] = []
    done = threading.Event()

    def watch():
        while not done.wait(0.1):
            try:
                found.append(server.gauges())
            except (URLError, TimeoutError, ConnectionError):  # too busy to answer now
                continue

    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(watch)
        try:
            yield found
        finally:
            done.set()
        reading.result()  # raises what ended it too early


def table(rows: list[dict]) -> str:
    """Markdown: a line for each row, then the prompt lengths from which sparse never loses."""
    head = ["tokens", "concurrency", "ratio", "scope", "TTFT ms", "TTFT speed-up (bound)"]
    head += ["TPOT ms", "requests/s", "of dense", "requests that fit", "KV in use"]
    cells = [
        [
            str(row["tokens"]),
            str(row["concurrency"]),
            "dense" if row["ratio"] == 1 else f"{row['ratio']:g}",
            "-" if row["ratio"] == 1 else row["scope"],
            f"{row['median_ttft_ms']:.0f}",
            f"**{row['ttft_speedup']:.2f}** ({row['ttft_bound']:.2f})",
            f"{row['median_tpot_ms']:.1f}",
            f"{row['request_throughput']:.3f}",
            f"{row['throughput']:.2f}",
            "-" if row["fits"] is None else f"{row['fits']:.2f} x",
            "-" if row["kv_in_use"] is None else f"{row['kv_in_use']:.0%}",
        ]
        for row in rows
    ]
    lines = [
        f"Ratio {ratio:g}, scope {scope}: "
        + (f"never below dense from {least} tokens on" if least else "below dense at every length")
        + " (min_tokens)"
        for (ratio, scope), least in break_even(rows).items()
    ]
    return "\n\n".join([EAGER, markdown_table(head, cells).rstrip("\n"), *lines]) + "\n"


def break_even(rows: list[dict]) -> dict[tuple[float, str], int | None]:
    """(ratio, scope) -> the shortest prompt from which on, at every concurrency, throughput is at
    least 97 % of dense; None where there is none."""
    found: dict[tuple[float, str], int | None] = {}
    for case in dict.fromkeys((r["ratio"], r["scope"]) for r in rows if r["ratio"] < 1):
        mine = [row for row in rows if (row["ratio"], row["scope"]) == case]
        found[case] = None
        for tokens in sorted({row["tokens"] for row in mine}, reverse=True):
            if min(row["throughput"] for row in mine if row["tokens"] == tokens) < 0.97:
                break
            found[case] = tokens
    return found
