"""Refuses bad request settings at admission (HTTP 400).

vLLM has one hook that sees a request's extra arguments before the engine does: the validation of
custom logits processors. This one changes no logits. It derives from both of vLLM's interfaces,
since each model runner accepts only its own.
"""

import sys
from collections.abc import Mapping
from typing import Any

from vllm.v1.sample.logits_processor.interface import LogitsProcessor
from vllm.v1.worker.gpu.sample.logits_processor.interface import (
    LogitsProcessor as LogitsProcessorV2,
)

from zipr1.common.errors import InputError
from zipr1.vllm.request import PREFIX, RequestSettings, meant_for_zipr1, settings_of

CONNECTOR = "zipr1.vllm.connector"


class Guard(LogitsProcessor, LogitsProcessorV2):
    """no_layer: why this server cannot run scope "layer"; None where it can, or is not known."""

    no_layer: str | None = None

    def __init__(self, *args):
        pass

    @classmethod
    def validate_params(cls, sampling_params) -> None:
        """Raises InputError, a ValueError, which vLLM turns into HTTP 400."""
        cls.check(sampling_params.extra_args)

    @classmethod
    def check(cls, extra_args: Mapping[str, Any] | None) -> None:
        """Raises InputError for the extra arguments of a request that cannot be served."""
        # vLLM imports the connector with the engine's configuration, if it is configured.
        if CONNECTOR not in sys.modules:
            for name in filter(meant_for_zipr1, extra_args or ()):
                raise InputError(
                    f"{name}: this server runs without zipr1: start it with `zipr1 serve`, or with "
                    "the kv_transfer_config of zipr1.vllm.serve"
                )
            return
        settings = settings_of(extra_args, RequestSettings())
        if settings.scope == "layer" and cls.no_layer:
            raise InputError(f"{PREFIX}scope='layer': {cls.no_layer}")

    def is_argmax_invariant(self) -> bool:
        return True

    def update_state(self, batch_update) -> None:
        pass

    def add_request(self, req_idx, sampling_params) -> bool:
        return False

    def apply(self, logits, ctx=None):
        return logits
