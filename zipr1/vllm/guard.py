"""Refuses bad request settings at admission (HTTP 400).

vLLM has one hook that sees a request's extra arguments before the engine does: the validation of
custom logits processors. This one changes no logits. It derives from both of vLLM's interfaces,
since each model runner accepts only its own.
"""

import sys

from vllm.v1.sample.logits_processor.interface import LogitsProcessor
from vllm.v1.worker.gpu.sample.logits_processor.interface import (
    LogitsProcessor as LogitsProcessorV2,
)

from zipr1.common.errors import InputError
from zipr1.vllm.request import PREFIX, RequestSettings, asked, settings_of

CONNECTOR = "zipr1.vllm.connector"


class Guard(LogitsProcessor, LogitsProcessorV2):
    """eager: whether the engine runs with --enforce-eager; None where that is not known."""

    eager: bool | None = None

    def __init__(self, *args):
        pass

    @classmethod
    def validate_params(cls, sampling_params) -> None:
        """Raises InputError, a ValueError, which vLLM turns into HTTP 400."""
        found = asked(sampling_params.extra_args)
        if not found:
            return
        # vLLM imports the connector with the engine's configuration, if it is configured.
        if CONNECTOR not in sys.modules:
            raise InputError(
                f"{PREFIX}{next(iter(found))}: this server runs without zipr1: start it with "
                "`zipr1 serve`, or with the kv_transfer_config of zipr1.vllm.serve"
            )
        settings = settings_of(sampling_params.extra_args, RequestSettings())
        if settings.scope == "layer" and cls.eager is False:
            raise InputError(f"{PREFIX}scope='layer': needs a server with --enforce-eager")

    def is_argmax_invariant(self) -> bool:
        return True

    def update_state(self, batch_update) -> None:
        pass

    def add_request(self, req_idx, sampling_params) -> bool:
        return False

    def apply(self, logits, ctx=None):
        return logits
