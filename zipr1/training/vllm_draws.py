"""Sampling in vLLM by given draws, as `training.sampling` samples: a logits processor."""

import torch
from vllm.v1.sample.logits_processor.builtin import process_dict_updates
from vllm.v1.sample.logits_processor.interface import LogitsProcessor

from zipr1.training.sampling import invert
from zipr1.training.token_logits import policy_logits


class Draws(LogitsProcessor):
    """Leaves of each row the one token that its draw chooses, for greedy sampling to take.

    A request brings extra_args["draws"]: `draws`, a number in [0, 1) for each token; `temperature`;
    `suppress`, the tokens that are never sampled.
    """

    def __init__(self, vllm_config, device: torch.device, is_pin_memory: bool):
        self.rows: dict[int, tuple[dict, list[int]]] = {}  # row -> (what it brings, its output)

    def is_argmax_invariant(self) -> bool:
        return False

    def update_state(self, batch_update) -> None:
        process_dict_updates(self.rows, batch_update, brought)

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """logits: (R, V), changed in place."""
        for row, (given, output) in self.rows.items():
            # A copy, because what is suppressed is written into it.
            one = policy_logits(
                logits[row : row + 1].clone(), given["suppress"], given["temperature"]
            )
            draw = torch.tensor([[given["draws"][len(output)]]], device=logits.device)
            token = invert(one.log_softmax(-1), draw)
            logits[row] = -torch.inf
            logits[row, token] = 0
        return logits


def brought(params, prompt: list[int] | None, output: list[int]) -> tuple[dict, list[int]] | None:
    """What a request brings, and its tokens so far, a list that vLLM appends to."""
    given = (params.extra_args or {}).get("draws")
    return None if given is None else (given, output)
