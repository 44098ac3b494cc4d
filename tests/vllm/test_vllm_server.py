"""`zipr1 serve` over HTTP, with the client that users have."""

import base64
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
import vllm_engine as v

import zipr1

pytestmark = pytest.mark.vllm

CPU = (
    *("--block-size", "32", "--kv-cache-memory-bytes", str(64 << 20), "--max-num-seqs", "16"),
    *("--enforce-eager", "--disable-uvicorn-access-log"),
    *("--distributed-executor-backend", "uni"),  # one process less
)
PORT_WAIT = 900  # seconds; four processes import vLLM, perhaps on busy cores


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class Server:
    """A `zipr1 serve` process."""

    def __init__(self, log, model, *arguments, vllm=()):
        self.port, self.log, self.model = free_port(), log, str(model)
        command = [sys.executable, "-m", "zipr1.cli", "serve", str(model), *arguments]
        command += ["--port", str(self.port), "--max_model_len", "1024", "--", *CPU, *vllm]
        environment = os.environ | {"VLLM_LOGGING_LEVEL": "INFO"}
        environment.pop("VLLM_ENABLE_V1_MULTIPROCESSING", None)
        with open(log, "w") as out:
            self.process = subprocess.Popen(
                command, stdout=out, stderr=subprocess.STDOUT, env=environment
            )

    def wait(self):
        """Until the server answers."""
        for _ in range(PORT_WAIT * 2):
            if self.process.poll() is not None:
                pytest.fail(f"the server ended: {self.log.read_text()[-3000:]}")
            try:
                return urlopen(f"http://127.0.0.1:{self.port}/health", timeout=5).status
            except OSError:
                time.sleep(0.5)
        pytest.fail(f"no answer in {PORT_WAIT} s: {self.log.read_text()[-3000:]}")

    def client(self):
        from openai import OpenAI

        return OpenAI(base_url=f"http://127.0.0.1:{self.port}/v1", api_key="none", max_retries=0)

    def post(self, path: str, body: dict) -> dict:
        address = f"http://127.0.0.1:{self.port}{path}"
        headers = {"Content-Type": "application/json"}
        return json.load(urlopen(Request(address, json.dumps(body).encode(), headers)))

    def metrics(self) -> dict[str, float]:
        """Name without labels -> value, of the counters and gauges."""
        text = urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=10).read().decode()
        lines = [line for line in text.splitlines() if line and not line.startswith("#")]
        return {
            line.split("{")[0]: float(line.rpartition(" ")[2])
            for line in lines
            if "le=" not in line
        }

    def end(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    one = Server(tmp_path_factory.mktemp("serve") / "log", "zipr1/tiny", "--p", "0.9")
    try:
        assert one.wait() == 200
        yield one
    finally:
        status = one.end()
    assert status == 0, "SIGTERM ends the server with success"


@pytest.fixture(scope="module")
def reference():
    """(questions, {(question, p): answer of transformers}, suppressed tokens)."""
    model, processor = zipr1.load("zipr1/tiny")
    questions = [v.prepare(processor, question) for question in v.QUESTIONS[:5]]
    answers = {}
    for number, question in enumerate(questions):
        answers[number, 1] = v.transformers_answer(model, question)
        for p in (0.9, 0.6):
            answers[number, p] = v.transformers_answer(model, question, zipr1.TopP(p))
    return questions, answers, model.generation_config.suppress_tokens or ()


def body(question, suppressed, **xargs) -> dict:
    content = [{"type": "text", "text": question.text}]
    if question.images:
        data = base64.b64encode(v.SHAPES.read_bytes()).decode()
        content.insert(
            0, {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}
        )
    return {
        "model": "zipr1/tiny",
        "messages": [{"role": "user", "content": content}],
        "temperature": 0,
        "max_tokens": question.tokens,
        "logit_bias": {str(token): -100 for token in suppressed},
        "extra_body": {
            "min_tokens": question.tokens,
            "return_token_ids": True,
            "vllm_xargs": {f"zipr1_{name}": value for name, value in xargs.items()} or None,
        },
    }


def test_concurrent_chats_equal_transformers_and_carry_their_ratio(server, reference):
    questions, answers, suppressed = reference
    client = server.client()
    jobs = [(n, p) for n in range(len(questions)) for p in (0.9, 0.6, 1)] * 2

    def ask(job):
        number, p = job
        xargs = {} if p == 0.9 else {"p": p}  # 0.9 is the server's default
        return client.chat.completions.create(**body(questions[number], suppressed, **xargs))

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(ask, jobs))
    for (number, p), answer in zip(jobs, found, strict=True):
        want, said = answers[number, p], answer.kv_transfer_params["zipr1"]
        assert answer.choices[0].token_ids == want.tokens, (number, p)
        assert said["token_ratio"] == pytest.approx(want.ratio), (number, p)
        assert said["prompt_tokens"] == answer.usage.prompt_tokens == len(questions[number].ids)
        if p < 1:
            assert said["kept"] == [len(layer) for layer in want.kept]


@pytest.mark.parametrize("n", [1, 2])
def test_a_streamed_chat_carries_its_ratio_in_the_last_chunk_of_a_choice(server, reference, n):
    questions, answers, suppressed = reference
    request = body(questions[2], suppressed, p=0.6) | {"temperature": n - 1}
    chunks = list(server.client().chat.completions.create(**request, stream=True, n=n))
    said = {
        chunk.choices[0].index: chunk.model_extra["kv_transfer_params"]["zipr1"]
        for chunk in chunks
        if "kv_transfer_params" in chunk.model_extra
    }
    last = [chunk.choices[0] for chunk in chunks if chunk.choices[0].finish_reason]
    assert [choice.finish_reason for choice in last] == ["length"] * n
    assert sorted(said) == sorted(choice.index for choice in last) == list(range(n))
    assert said.pop(last[-1].index)["token_ratio"] == pytest.approx(answers[2, 0.6].ratio)
    for other in said.values():
        assert other["token_ratio"] == pytest.approx(answers[2, 0.6].ratio) or other["unknown"]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_each_prompt_of_a_completion_has_its_ratio(server, stream):
    prompts = ["red blue green " * 30, "one two three four " * 12]
    request = {"model": "zipr1/tiny", "max_tokens": 3}
    request["extra_body"] = {"vllm_xargs": {"zipr1_p": 0.6}, "min_tokens": 3}
    create = server.client().completions.create
    want = [create(prompt=one, **request).kv_transfer_params["zipr1"] for one in prompts]
    assert want[0]["prompt_tokens"] != want[1]["prompt_tokens"]
    answer = create(prompt=prompts, stream=stream, **request)
    if not stream:
        assert answer.kv_transfer_params["zipr1"] == want
        return
    chunks: tuple[list, list] = [], []
    for chunk in answer:
        chunks[chunk.choices[0].index].append(chunk.model_extra.get("kv_transfer_params"))
    for said, one in zip(chunks, want, strict=True):
        assert said == [None] * (len(said) - 1) + [{"zipr1": one}]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("kind", ["chat", "completion"])
def test_an_answer_that_ends_with_a_stop_string_says_why_it_has_no_ratio(
    server, reference, kind, stream
):
    questions, _, suppressed = reference
    request = body(questions[2], suppressed, p=0.6)
    request["extra_body"]["min_tokens"] = 0
    create = server.client().chat.completions.create
    if kind == "completion":
        create = server.client().completions.create
        request["prompt"] = request.pop("messages")[0]["content"][-1]["text"]
    whole = create(**request)
    assert whole.kv_transfer_params["zipr1"]["token_ratio"] < 1
    text = whole.choices[0].message.content if kind == "chat" else whole.choices[0].text
    answer = create(**request, stop=[text.strip()[2:5]], stream=stream)
    if stream:
        (answer,) = (one for one in answer if one.choices[0].finish_reason)
    assert answer.choices[0].finish_reason == "stop"
    said = answer.model_extra["kv_transfer_params"]["zipr1"]
    assert said["token_ratio"] is None and "stop string" in said["unknown"]


def test_a_batch_of_chats_has_a_ratio_for_each(server):
    chats = [[{"role": "user", "content": text}] for text in ("red blue " * 30, "one two " * 12)]
    request = {"model": "zipr1/tiny", "max_tokens": 2, "vllm_xargs": {"zipr1_p": 0.6}}
    single = [server.post("/v1/chat/completions", request | {"messages": one}) for one in chats]
    want = [one["kv_transfer_params"]["zipr1"] for one in single]
    batch = server.post("/v1/chat/completions/batch", request | {"messages": chats})
    assert batch["kv_transfer_params"]["zipr1"] == want
    assert want[0]["prompt_tokens"] != want[1]["prompt_tokens"] and want[0]["token_ratio"] < 1


def test_a_message_that_ends_with_a_stop_string_says_why_it_has_no_ratio(server, reference):
    (question, *_), _, _ = reference
    data = base64.b64encode(v.SHAPES.read_bytes()).decode()
    source = {"type": "base64", "media_type": "image/png", "data": data}
    content = [{"type": "image", "source": source}, {"type": "text", "text": question.text}]
    request = {"model": "zipr1/tiny", "max_tokens": 8, "vllm_xargs": {"zipr1_p": 0.6}}
    request["messages"] = [{"role": "user", "content": content}]
    whole = server.post("/v1/messages", request)
    assert whole["kv_transfer_params"]["zipr1"]["token_ratio"] < 1
    stops = [whole["content"][0]["text"].strip()[1:3]]
    answer = server.post("/v1/messages", request | {"stop_sequences": stops})
    assert answer["stop_reason"] == "stop_sequence"
    said = answer["kv_transfer_params"]["zipr1"]
    assert said["token_ratio"] is None and "stop string" in said["unknown"]


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"use_beam_search": True}, "use_beam_search: each of its steps"),
        ({"vllm_xargs": {"zipr1_p": 7}}, "zipr1_p=7"),
    ],
    ids=["beam_search", "setting"],
)
def test_endpoints_refuse_before_a_stream_begins(server, extra, message):
    from openai import BadRequestError

    client = server.client()
    request = {"model": "zipr1/tiny", "max_tokens": 2, "stream": True, "extra_body": extra}
    with pytest.raises(BadRequestError, match=message):
        client.chat.completions.create(messages=[{"role": "user", "content": "Hi"}], **request)
    with pytest.raises(BadRequestError, match=message):
        client.completions.create(prompt="Hi", **request)
    request |= request.pop("extra_body")
    request["messages"] = [{"role": "user", "content": "Hi"}]
    for path, body in (("/v1/messages", request), ("/v1/responses", request | {"input": "Hi"})):
        with pytest.raises(HTTPError, match="400"):
            server.post(path, body)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(
    ("xargs", "message"),
    [
        ({"p": 7}, "zipr1_p=7"),
        ({"p": "x"}, "zipr1_p='x'"),
        ({"p": 0}, "zipr1_p=0"),
        ({"ratio": 1.5}, "zipr1_ratio=1.5"),
        ({"p": 0.9, "ratio": 0.5}, "exclude each other"),
        ({"scope": "all"}, "zipr1_scope='all'"),
        ({"min_tokens": -1}, "zipr1_min_tokens=-1"),
        ({"ratoi": 0.5}, "did you mean zipr1_ratio"),
    ],
    ids=["high", "text", "zero", "ratio", "both", "scope", "min_tokens", "name"],
)
def test_a_bad_setting_is_http_400_and_the_server_lives(server, reference, xargs, message, stream):
    from openai import BadRequestError

    questions, _, suppressed = reference
    with pytest.raises(BadRequestError) as caught:
        request = body(questions[0], suppressed, **xargs)
        server.client().chat.completions.create(**request, stream=stream)
    assert message in str(caught.value)
    assert server.wait() == 200


def test_a_client_that_leaves_in_the_middle_leaves_nothing_behind(server, reference):
    questions, _, suppressed = reference
    request = body(questions[4], suppressed, p=0.6)
    request["max_tokens"] = request["extra_body"]["min_tokens"] = 400
    stream = server.client().chat.completions.create(**request, stream=True)
    for _ in range(3):
        next(stream)
    stream.close()
    for _ in range(100):
        metrics = server.metrics()
        if metrics["vllm:num_requests_running"] == 0:
            break
        time.sleep(0.1)
    assert metrics["vllm:num_requests_running"] == 0
    assert metrics["vllm:kv_cache_usage_perc"] == 0
    assert server.wait() == 200


def test_the_metrics_tell_ratios_and_blocks_given_back(server, reference):
    questions, answers, suppressed = reference
    before = server.metrics()
    server.client().chat.completions.create(**body(questions[3], suppressed, p=0.6))
    for _ in range(100):
        after = server.metrics()
        if after["zipr1:token_ratio_count"] > before["zipr1:token_ratio_count"]:
            break
        time.sleep(0.1)
    ratio = after["zipr1:token_ratio_sum"] - before["zipr1:token_ratio_sum"]
    assert ratio == pytest.approx(answers[3, 0.6].ratio)
    name = "zipr1:kv_blocks_given_back_total"
    assert after[name] > before[name]


@pytest.mark.slow
def test_min_tokens_auto_is_the_number_that_was_measured(tmp_path):
    """Whatever the measurement says, prompts below it stay dense and longer ones do not."""
    server = Server(tmp_path / "log", "zipr1/tiny", "--p", "0.6", "--min_tokens", "auto")
    try:
        assert server.wait() == 200
        (found,) = re.findall(r"^zipr1: min_tokens=(\d+).* at 256", server.log.read_text(), re.M)
        assert found in ("256", "512", "1024")
        client = server.client()
        for words in (int(found) - 100, int(found) + 20):
            if words > 900:
                continue
            answer = client.completions.create(
                model="zipr1/tiny", prompt=[20] * words, max_tokens=1
            )
            said = answer.kv_transfer_params["zipr1"]
            assert ("shorter than min_tokens" in said.get("dense", "")) == (words < int(found))
    finally:
        server.end()
