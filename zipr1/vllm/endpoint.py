"""What vLLM's server lacks: bad settings are HTTP 400 before a stream begins, on every route, beam
search is refused, and answers carry `kv_transfer_params`, a stream in the last chunk that has a
choice.

This endpoint plugin overrides the dependency that all routes with a JSON body have, and replaces
handlers by subclasses; without our connector in the engine's configuration they answer as vLLM's
own.
"""

import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

from fastapi import Request
from vllm.entrypoints.anthropic.serving import AnthropicServingMessages
from vllm.entrypoints.openai.chat_completion.batch_serving import OpenAIServingChatBatch
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionResponse
from vllm.entrypoints.openai.chat_completion.serving import OpenAIServingChat
from vllm.entrypoints.openai.completion.serving import OpenAIServingCompletion
from vllm.entrypoints.serve.utils.api_utils import validate_json_request

from zipr1.common.errors import InputError, RunError
from zipr1.vllm.checks import CONNECTOR
from zipr1.vllm.guard import Guard
from zipr1.vllm.request import RequestSettings, asked, meant_for_zipr1

SCORING = ("/generative_scoring", "/v1/systemone")  # routes without request settings
STOPPED = "the answer ended with a stop string, for which vLLM sends no ratio"
MERGED = "vLLM sent no ratio with the end of this choice; of several (n), the last one has it"


async def checked_json_request(raw_request: Request) -> None:
    """In the place of vLLM's `validate_json_request`."""
    await validate_json_request(raw_request)
    body = await raw_request.json()
    if isinstance(body, dict):
        check(raw_request.url.path, body, raw_request.app.state.vllm_config)


def check(path: str, body: dict[str, Any], config) -> None:
    """Raises InputError, which vLLM turns into HTTP 400, for a request that cannot be served."""
    places = {"the body": body, "kv_transfer_params": body.get("kv_transfer_params")}
    for place, found in places.items():
        for name in filter(meant_for_zipr1, mapping(found)):
            raise InputError(f"{name}: not read in {place}; put it in vllm_xargs")
    extra = mapping(body.get("vllm_xargs"))
    if path.endswith(SCORING):
        for name in filter(meant_for_zipr1, extra):
            raise InputError(
                f"{name}: {path} takes no zipr1 settings and stays dense; leave it out"
            )
    Guard.check(extra)
    Guard.check(mapping(mapping(body.get("sampling_params")).get("extra_args")))
    if body.get("use_beam_search") and expected(config, extra):
        raise InputError(
            "use_beam_search: each of its steps is a request of its own, without these zipr1 "
            "settings and with other kept tokens; leave it out, or serve dense (--p 1)"
        )


def mapping(value: Any) -> Mapping[str, Any]:
    """A JSON object; vLLM itself refuses other values."""
    return value if isinstance(value, dict) else {}


def expected(config, xargs: Mapping[str, Any] | None) -> bool:
    """Whether zipr1 says something in the answer to a request."""
    transfer = config.kv_transfer_config
    if transfer is None or transfer.kv_connector != CONNECTOR:
        return False
    defaults = RequestSettings(**transfer.kv_connector_extra_config.get("defaults", {}))
    return defaults.sparse or bool(asked(xargs))


class Noted:
    """Mixin before a handler of vLLM."""

    def expects(self, request) -> bool:
        # A batch of chats has its vllm_xargs among the fields that vLLM does not declare.
        return expected(self.engine_client.vllm_config, getattr(request, "vllm_xargs", None))

    async def chat_completion_full_generator(self, request, result_generator, *args, **kwargs):
        results = noted(result_generator, {}, self.expects(request))
        return await super().chat_completion_full_generator(request, results, *args, **kwargs)

    async def chat_completion_stream_generator(self, request, result_generator, *args, **kwargs):
        found: dict[str, Any] = {}
        results = noted(result_generator, found, self.expects(request))
        stream = super().chat_completion_stream_generator(request, results, *args, **kwargs)
        async for line in stream:
            yield with_answer(line, found)


class NotedChat(Noted, OpenAIServingChat):
    pass


class NotedMessages(Noted, AnthropicServingMessages):
    pass


class NotedBatch(Noted, OpenAIServingChatBatch):
    async def chat_completion_full_generator_batch(self, request, generators, *args, **kwargs):
        """vLLM's response has no ratio; this one has a list, an entry per conversation."""
        wanted, found = self.expects(request), [{} for _ in generators]
        pairs = zip(generators, found, strict=True)
        results = [noted(one, place, wanted) for one, place in pairs]
        response = await super().chat_completion_full_generator_batch(
            request, results, *args, **kwargs
        )
        if wanted and isinstance(response, ChatCompletionResponse):
            response.kv_transfer_params = {"zipr1": [one.get("zipr1") for one in found]}
        return response


class NotedCompletion(Noted, OpenAIServingCompletion):
    def request_output_to_completion_response(self, final_res_batch, request, *args, **kwargs):
        """Of several prompts, vLLM's response has the first one's ratio; this one has a list."""
        response = super().request_output_to_completion_response(
            final_res_batch, request, *args, **kwargs
        )
        if self.expects(request):
            said = [answer_of(output).get("zipr1") for output in final_res_batch]
            rest = response.kv_transfer_params or {}
            response.kv_transfer_params = rest | {"zipr1": said if len(said) > 1 else said[0]}
        return response

    async def completion_stream_generator(
        self, request, engine_inputs, result_generator, *args, **kwargs
    ):
        found: dict[str, Any] = {}
        results = noted(result_generator, found, self.expects(request))
        stream = super().completion_stream_generator(
            request, engine_inputs, results, *args, **kwargs
        )
        async for line in stream:
            yield with_answer(line, found)


def answer_of(output) -> dict[str, Any]:
    """`kv_transfer_params` of an output; a stop string ends a choice without any."""
    stopped = any(isinstance(choice.stop_reason, str) for choice in output.outputs)
    if stopped and not output.kv_transfer_params:
        return unknown(STOPPED)
    return output.kv_transfer_params or {}


def unknown(reason: str) -> dict[str, Any]:
    return {"zipr1": {"token_ratio": None, "unknown": reason}}


async def noted(results: AsyncIterator, found: dict[str, Any], wanted: bool) -> AsyncIterator:
    """The same results; while one is worked on, `found` has what zipr1 says of its prompt.

    wanted: whether zipr1 says something of this request.
    """
    known: dict[int, dict[str, Any]] = {}
    async for result in results:
        if wanted:
            prompt, output = result if isinstance(result, tuple) else (0, result)
            # In a stream, vLLM merges the outputs of choices and keeps the last one's ratio.
            if output.kv_transfer_params:
                known[prompt] = output.kv_transfer_params
            output.kv_transfer_params = known.get(prompt) or answer_of(output) or None
            found.clear()
            found.update(output.kv_transfer_params or unknown(MERGED))
        yield result


def with_answer(line: str, found: dict[str, Any]) -> str:
    """A line of the stream; the chunk that ends a choice gets `kv_transfer_params`."""
    if not found or not line.startswith("data: {"):
        return line
    chunk = json.loads(line.removeprefix("data: "))
    if not any(choice.get("finish_reason") for choice in chunk.get("choices", ())):
        return line
    return f"data: {json.dumps(chunk | {'kv_transfer_params': found})}\n\n"


class Streaming:
    """The endpoint plugin."""

    name = "zipr1"
    required_tasks = ("generate",)

    def attach_router(self, app) -> None:
        app.dependency_overrides[validate_json_request] = checked_json_request

    async def init_state(self, engine_client, state, args) -> None:
        """Raises RunError where another plugin has replaced a handler."""
        for name, stock, ours in (
            ("openai_serving_chat", OpenAIServingChat, NotedChat),
            ("openai_serving_chat_batch", OpenAIServingChatBatch, NotedBatch),
            ("openai_serving_completion", OpenAIServingCompletion, NotedCompletion),
            ("anthropic_serving_messages", AnthropicServingMessages, NotedMessages),
        ):
            handler = getattr(state, name, None)
            if handler is None:
                continue
            if type(handler) is not stock:
                raise RunError(
                    f"zipr1 in vLLM: {name} is a {type(handler).__name__} of another plugin, whose "
                    "answers could not carry the token ratio; leave that plugin out of VLLM_PLUGINS"
                )
            replaced = ours.__new__(ours)
            vars(replaced).update(vars(handler))
            setattr(state, name, replaced)
