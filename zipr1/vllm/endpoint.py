"""What vLLM's chat and completion handlers lack: bad settings are HTTP 400 before a stream begins,
beam search is refused, and every answer carries `kv_transfer_params`, a stream in the last chunk
that has a choice.

This endpoint plugin replaces the two handlers by subclasses; without our connector in the engine's
configuration they answer as vLLM's own.
"""

import json
from collections.abc import AsyncIterator
from typing import Any

from vllm.entrypoints.openai.chat_completion.serving import OpenAIServingChat
from vllm.entrypoints.openai.completion.serving import OpenAIServingCompletion

from zipr1.common.errors import InputError, RunError
from zipr1.vllm.checks import CONNECTOR
from zipr1.vllm.guard import Guard
from zipr1.vllm.request import RequestSettings, asked

STOPPED = "the answer ended with a stop string, for which vLLM sends no ratio"


class CheckedChat(OpenAIServingChat):
    async def create_chat_completion(self, request, raw_request=None):
        check(self, request)
        return await super().create_chat_completion(request, raw_request)

    async def chat_completion_full_generator(self, request, result_generator, *args, **kwargs):
        results = noted(result_generator, {}, expected(self, request))
        return await super().chat_completion_full_generator(request, results, *args, **kwargs)

    async def chat_completion_stream_generator(self, request, result_generator, *args, **kwargs):
        found: dict[str, Any] = {}
        results = noted(result_generator, found, expected(self, request))
        stream = super().chat_completion_stream_generator(request, results, *args, **kwargs)
        async for line in stream:
            yield with_answer(line, found)


class CheckedCompletion(OpenAIServingCompletion):
    async def create_completion(self, request, raw_request=None):
        check(self, request)
        return await super().create_completion(request, raw_request)

    def request_output_to_completion_response(self, final_res_batch, request, *args, **kwargs):
        """Of several prompts, vLLM's response has the first one's ratio; this one has a list."""
        response = super().request_output_to_completion_response(
            final_res_batch, request, *args, **kwargs
        )
        if expected(self, request):
            said = [answer_of(output).get("zipr1") for output in final_res_batch]
            rest = response.kv_transfer_params or {}
            response.kv_transfer_params = rest | {"zipr1": said if len(said) > 1 else said[0]}
        return response

    async def completion_stream_generator(
        self, request, engine_inputs, result_generator, *args, **kwargs
    ):
        found: dict[str, Any] = {}
        results = noted(result_generator, found, expected(self, request))
        stream = super().completion_stream_generator(
            request, engine_inputs, results, *args, **kwargs
        )
        async for line in stream:
            yield with_answer(line, found)


def check(handler, request) -> None:
    """Raises InputError, which vLLM turns into HTTP 400, for a request that cannot be served."""
    Guard.check(request.vllm_xargs)
    if request.use_beam_search and expected(handler, request):
        raise InputError(
            "use_beam_search: each of its steps is a request of its own, without these zipr1 "
            "settings and with other kept tokens; leave it out, or serve dense (--p 1)"
        )


def expected(handler, request) -> bool:
    """Whether zipr1 says something in the answer to a request."""
    transfer = handler.engine_client.vllm_config.kv_transfer_config
    if transfer is None or transfer.kv_connector != CONNECTOR:
        return False
    defaults = RequestSettings(**transfer.kv_connector_extra_config.get("defaults", {}))
    return defaults.sparse or bool(asked(request.vllm_xargs))


def answer_of(output) -> dict[str, Any]:
    """`kv_transfer_params` of an output; a stop string ends a choice without any."""
    stopped = any(isinstance(choice.stop_reason, str) for choice in output.outputs)
    if stopped and not output.kv_transfer_params:
        return {"zipr1": {"token_ratio": None, "unknown": STOPPED}}
    return output.kv_transfer_params or {}


async def noted(results: AsyncIterator, found: dict[str, Any], wanted: bool) -> AsyncIterator:
    """The same results; while one is worked on, `found` has what zipr1 says of its prompt.

    wanted: whether zipr1 says something of this request.
    """
    latest: dict[int, dict[str, Any]] = {}
    async for result in results:
        if wanted:
            prompt, output = result if isinstance(result, tuple) else (0, result)
            output.kv_transfer_params = answer_of(output) or None
            if output.kv_transfer_params:
                latest[prompt] = output.kv_transfer_params
            found.clear()
            found.update(latest.get(prompt, {}))
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
        pass

    async def init_state(self, engine_client, state, args) -> None:
        """Raises RunError where another plugin has replaced a handler."""
        for name, stock, ours in (
            ("openai_serving_chat", OpenAIServingChat, CheckedChat),
            ("openai_serving_completion", OpenAIServingCompletion, CheckedCompletion),
        ):
            handler = getattr(state, name, None)
            if handler is None:
                continue
            if type(handler) is not stock:
                raise RunError(
                    f"zipr1 in vLLM: {name} is a {type(handler).__name__} of another plugin, whose "
                    "streams could not carry the token ratio; leave that plugin out of VLLM_PLUGINS"
                )
            replaced = ours.__new__(ours)
            vars(replaced).update(vars(handler))
            setattr(state, name, replaced)
