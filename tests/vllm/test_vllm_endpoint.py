"""The endpoint plugin on vLLM's own routes and outputs, without an engine."""

import asyncio
from argparse import Namespace
from types import SimpleNamespace

import pytest
import vllm_engine as v

pytestmark = pytest.mark.vllm


@pytest.fixture(scope="module")
def client():
    """The routes of a server whose handlers are missing: a request that is not refused is no 400."""
    from fastapi import FastAPI
    from fastapi.testclient import TestClient
    from vllm.config import KVTransferConfig
    from vllm.entrypoints.generate.api_router import register_generate_api_routers
    from vllm.entrypoints.generate.structured_decisions.api_router import (
        register_structured_decisions_api_router,
    )
    from vllm.entrypoints.scale_out.token_in_token_out.api_router import attach_router
    from vllm.entrypoints.serve.exception_handling.register import init_exception_handler

    import zipr1.vllm.connector  # noqa: F401 - as vLLM does, with the engine's configuration
    from zipr1.vllm.endpoint import Streaming

    app = FastAPI()
    app.state.args = Namespace(log_error_stack=False)
    app.state.vllm_config = SimpleNamespace(
        kv_transfer_config=KVTransferConfig(**v.connector(p=0.9))
    )
    register_generate_api_routers(app)
    register_structured_decisions_api_router(app)
    attach_router(app)
    Streaming().attach_router(app)
    init_exception_handler(app)
    return TestClient(app, raise_server_exceptions=False)


CHAT = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}
BODIES = {
    "/v1/chat/completions": CHAT,
    "/v1/chat/completions/batch": CHAT | {"messages": [CHAT["messages"]]},
    "/v1/completions": {"model": "m", "prompt": "Hi"},
    "/v1/responses": {"model": "m", "input": "Hi"},
    "/v1/messages": CHAT,
}


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"vllm_xargs": {"zipr1_p": 7}}, "zipr1_p=7"),
        ({"vllm_xargs": {"zipr1_ratoi": 0.5}}, "did you mean zipr1_ratio"),
        ({"zipr1_p": 0.5}, "zipr1_p: not read in the body; put it in vllm_xargs"),
        (
            {"kv_transfer_params": {"zipr1-p": 0.5}},
            "zipr1-p: not read in kv_transfer_params; put it in vllm_xargs",
        ),
        ({"use_beam_search": True}, "use_beam_search: each of its steps"),
    ],
    ids=["value", "name", "top level", "kv_transfer_params", "beam search"],
)
def test_every_route_refuses_before_a_stream_begins(client, path, stream, extra, message):
    answer = client.post(path, json=BODIES[path] | {"stream": stream} | extra)
    assert answer.status_code == 400 and message in answer.text


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_tokens_in_and_out_refuse_too(client, stream):
    body = {"token_ids": [1, 2], "sampling_params": {"extra_args": {"zipr1_p": 7}}}
    answer = client.post("/inference/v1/generate", json=body | {"stream": stream})
    assert answer.status_code == 400 and "zipr1_p=7" in answer.text


@pytest.mark.parametrize("path", ["/generative_scoring", "/v1/systemone"])
def test_scoring_takes_no_settings(client, path):
    answer = client.post(path, json={"vllm_xargs": {"zipr1_p": 0.5}})
    assert answer.status_code == 400
    assert f"zipr1_p: {path} takes no zipr1 settings" in answer.text


def test_good_settings_and_bodies_that_are_no_object_go_on_to_vllm(client):
    good = {"vllm_xargs": {"zipr1_p": 0.5, "zipr1_return_kept": True}}
    client.app.state.openai_serving_chat = None
    answer = client.post("/v1/chat/completions", json=CHAT | good)
    assert "The model does not support Chat Completions API" in answer.text
    for body in ([], {"vllm_xargs": "x", "kv_transfer_params": 1, "sampling_params": []}):
        answer = client.post("/v1/chat/completions", json=body)
        assert answer.status_code == 400 and "validation error" in answer.text


def output(*finished: str | None, stop_reason=None, **params):
    """An output of a stream, a choice for each reason to finish."""
    from vllm.outputs import CompletionOutput, RequestOutput

    choices = [
        CompletionOutput(n, "", [1], None, None, finish_reason=reason, stop_reason=stop_reason)
        for n, reason in enumerate(finished)
    ]
    ended = all(finished)
    return RequestOutput("r", "", [1], None, choices, ended, kv_transfer_params=params or None)


def said_of(*outputs) -> list[dict]:
    """What the last chunk of a choice would carry after each output."""
    from zipr1.vllm.endpoint import noted

    async def results():
        for one in outputs:
            yield one

    async def collect():
        found: dict = {}
        return [dict(found["zipr1"]) async for _ in noted(results(), found, True)]

    return asyncio.run(collect())


RATIO = {"token_ratio": 0.5}


def test_the_ratio_of_a_choice_that_vllm_merges_with_a_later_one_is_unknown_and_says_so():
    merged = output("stop", zipr1=RATIO)
    merged.add(output(None), aggregate=True)
    assert merged.kv_transfer_params is None, "vLLM keeps those of the last output"
    first, last = said_of(merged, output("stop", zipr1=RATIO))
    assert first["token_ratio"] is None and "the last one has it" in first["unknown"]
    assert last == RATIO


def test_choices_of_one_prompt_have_the_ratio_that_is_known():
    said = said_of(output("stop", None, zipr1=RATIO), output("stop", stop_reason="x"))
    assert said == [RATIO, RATIO]


def test_plugins_replace_the_handlers_of_answers_without_ratio():
    from vllm.entrypoints.anthropic.serving import AnthropicServingMessages
    from vllm.entrypoints.openai.chat_completion.batch_serving import OpenAIServingChatBatch

    from zipr1.vllm.endpoint import NotedBatch, NotedMessages, Streaming

    state = SimpleNamespace()
    for name, kind in (
        ("openai_serving_chat_batch", OpenAIServingChatBatch),
        ("anthropic_serving_messages", AnthropicServingMessages),
    ):
        setattr(state, name, kind.__new__(kind))
    asyncio.run(Streaming().init_state(None, state, None))
    assert type(state.openai_serving_chat_batch) is NotedBatch
    assert type(state.anthropic_serving_messages) is NotedMessages
