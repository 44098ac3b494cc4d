"""The curves that matter: what the model can do at the fixed p, and dense, on a probe set that never changes."""

import time

import torch

from zipr1.data.example import Example
from zipr1.data.processor import prepare
from zipr1.evaluation.config import MAX_NEW_TOKENS
from zipr1.evaluation.evaluate import evaluate
from zipr1.models.encode import encode
from zipr1.rewards.functions import RewardLog, from_function, load_function
from zipr1.training.config import TrainConfig
from zipr1.training.rollout import completion_logits, given, given_tokens, mean_logprob


def measure(
    model, processor, probe: list[Example], config: TrainConfig, synced: bool = False
) -> dict[str, float]:
    """Accuracy and token ratio at the fixed p, and dense accuracy; of given completions, log-probabilities in place of
    accuracies; a user's reward function calls right what it gives more than half. Every process measures the whole probe
    set; `synced`: in step, as sharded weights need."""
    began = time.perf_counter()
    if config.completions == "given":
        found = measure_given(model, processor, probe, config)
    else:
        found = measure_answers(model, processor, probe, config, synced)
    return found | {"seconds/probe": time.perf_counter() - began}


def measure_answers(
    model, processor, probe: list[Example], config: TrainConfig, synced: bool
) -> dict[str, float]:
    settings = {
        "quiet": True,
        "synced": synced,
        "batch_size": config.probe_batch_size,
        "raw": not config.chat_template,
    }
    settings |= {
        "max_new_tokens": MAX_NEW_TOKENS if not config.data else config.max_completion_length
    }
    functions = load_function(config.reward_function)

    def own(pairs: list[tuple[Example, str]], ids: list[list[int]]) -> list[float]:
        log = RewardLog(
            config.max_steps, config.max_steps, len(pairs)
        )  # the yardstick stays that of the last step
        return from_function(functions, pairs, ids, log)

    settings["function"] = own if functions else None
    sparse_rows = evaluate(
        model, processor, probe, config.rule(config.p), "probe", scope=config.scope, **settings
    )
    dense_rows = evaluate(model, processor, probe, None, "probe", **settings)
    count = len(probe)
    return {
        "probe/accuracy": sum(row.right for row in sparse_rows) / count,
        "probe/token_ratio": sum(row.token_ratio for row in sparse_rows) / count,
        "probe/full_accuracy": sum(row.right for row in dense_rows) / count,
    }


@torch.no_grad()
def measure_given(model, processor, probe: list[Example], config: TrainConfig) -> dict[str, float]:
    """In nats a token, one prompt at a time."""
    rows = []
    for example in probe:
        encoded = encode(
            model, prepare(processor, [example], raw=not config.chat_template).to(model.device)
        )
        tokens, mask, _ = given_tokens(processor, [example], config, model.device)
        rollout = given(
            model, encoded, config.rule((config.p,)), tokens=tokens, mask=mask, scope=config.scope
        )
        dense = (
            completion_logits(model, rollout).log_softmax(-1).gather(2, tokens[..., None])[..., 0]
        )
        sparse = mean_logprob(rollout.logprobs, mask).item()
        rows.append((sparse, rollout.token_ratio.item(), mean_logprob(dense, mask).item()))
    names = ("probe/logprob", "probe/token_ratio", "probe/full_logprob")
    return dict(zip(names, torch.tensor(rows, dtype=torch.float64).mean(0).tolist(), strict=True))
