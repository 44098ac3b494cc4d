"""Streamed answers carry what whole answers do: `kv_transfer_params`, in their last chunk.

vLLM's streams have no such field. This endpoint plugin replaces the two handlers that stream by
subclasses that add it.
"""

import json
from collections.abc import AsyncIterator
from typing import Any

from vllm.entrypoints.openai.chat_completion.serving import OpenAIServingChat
from vllm.entrypoints.openai.completion.serving import OpenAIServingCompletion

from zipr1.common.errors import RunError


class StreamingChat(OpenAIServingChat):
    async def chat_completion_stream_generator(self, request, result_generator, *args, **kwargs):
        found: dict[str, Any] = {}
        results = noted(result_generator, found)
        stream = super().chat_completion_stream_generator(request, results, *args, **kwargs)
        async for line in stream:
            yield with_answer(line, found)


class StreamingCompletion(OpenAIServingCompletion):
    async def completion_stream_generator(
        self, request, engine_inputs, result_generator, *args, **kwargs
    ):
        found: dict[str, Any] = {}
        results = noted(result_generator, found)
        stream = super().completion_stream_generator(
            request, engine_inputs, results, *args, **kwargs
        )
        async for line in stream:
            yield with_answer(line, found)


async def noted(results: AsyncIterator, found: dict[str, Any]) -> AsyncIterator:
    """The same results; `found` gets what zipr1 says in the last one."""
    async for result in results:
        output = result[1] if isinstance(result, tuple) else result
        if output.kv_transfer_params:
            found.update(output.kv_transfer_params)
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
            ("openai_serving_chat", OpenAIServingChat, StreamingChat),
            ("openai_serving_completion", OpenAIServingCompletion, StreamingCompletion),
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
