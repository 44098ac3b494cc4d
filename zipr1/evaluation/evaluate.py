"""Tasks x methods -> records, one an answer; through generate(), as any user would."""

from collections.abc import Callable, Iterator

import torch

from zipr1.common.progress import progress
from zipr1.data.example import Example
from zipr1.data.processor import prepare, visual_grid
from zipr1.evaluation.config import MAX_NEW_TOKENS
from zipr1.evaluation.input_baselines import Shorter, without_minimum
from zipr1.evaluation.records import Record, packed
from zipr1.models.encode import check_length
from zipr1.models.loading import tokenizer_of
from zipr1.rewards.graders import grade
from zipr1.sparsity.context import sparse
from zipr1.sparsity.rules import Rule, TopP


def batches(examples: list[Example], size: int) -> Iterator[list[Example]]:
    """Batches of one kind of medium: a clip's prompt is twice as long as a picture's."""
    for clip in (False, True):
        kind = [example for example in examples if (example.frames is not None) == clip]
        yield from (kind[i : i + size] for i in range(0, len(kind), size))


@torch.no_grad()
def evaluate(
    model,
    processor,
    examples: list[Example],
    rule: Rule | Shorter | None,
    method: str,
    batch_size: int = 25,
    quiet: bool = False,
    scope: str = "attention",
    max_new_tokens: int = MAX_NEW_TOKENS,
    raw: bool = False,
    function: Callable[[list[tuple[Example, str]], list[list[int]]], list[float]] | None = None,
    synced: bool = False,
) -> list[Record]:
    """Greedy answers to all examples under one rule; `raw` prompts have no chat template; `function` gives a number for each
    question with its answer, of which more than half is right, and gets the answers' tokens too; `synced`: all processes go on
    until the last has finished. Raises ValueError where a shorter prompt is asked for and none can be."""
    model.eval()
    shorter = rule if hasattr(rule, "shorten") else None
    if shorter and not (examples := [example for example in examples if shorter.takes(example)]):
        raise ValueError(
            f"{method}: nothing to leave out of any question; choose tasks that show clips"
        )
    records = []
    bar = progress(total=len(examples), desc=method, unit="answer", disable=quiet, leave=False)
    for part in batches(examples, batch_size):
        inputs = prepare(processor, part, raw=raw).to(model.device)
        lengths, layers = (
            inputs["attention_mask"].sum(-1),
            model.config.get_text_config().num_hidden_layers,
        )
        if shorter:
            inputs = shortened(processor, part, inputs, shorter).to(model.device)
        check_length(model, inputs, max_new_tokens)
        settings = {"max_new_tokens": max_new_tokens, "do_sample": False, "synced_gpus": synced}
        if rule is None or shorter:
            out, kept = model.generate(**inputs, **settings), None
            ratios = (inputs["attention_mask"].sum(-1) / lengths)[:, None].expand(-1, layers)
        else:
            with sparse(model, rule, scope=scope) as trace:
                out, ratios = model.generate(**inputs, **settings), trace.layer_ratios
                kept = [layer.cpu().numpy() for layer in trace.kept]
        new, pad = out[:, inputs["input_ids"].shape[1] :], tokenizer_of(processor).pad_token_id
        answers = tokenizer_of(processor).batch_decode(new, skip_special_tokens=True)
        if function:
            pairs = list(zip(part, answers, strict=True))
            given = function(pairs, [row[row != pad].tolist() for row in new])
        drawn = kept is not None and all(
            len(example.pictures) + (example.frames is not None) == 1 for example in part
        )
        visual = inputs["mm_token_type_ids"].bool().cpu().numpy() if drawn else None
        rows = zip(part, answers, ratios.tolist(), lengths.tolist(), strict=True)
        for i, (example, answer, layer_ratios, tokens) in enumerate(rows):
            right = given[i] > 0.5 if function else grade(example, answer) == 1
            mean = sum(layer_ratios) / layers
            p = rule.p if isinstance(rule, TopP) else None
            row = (example.task, example.id, method, p, answer, example.answer, right, mean)
            where = (
                (
                    visual_grid(inputs, i, processor),
                    tuple(packed(layer[i][visual[i]]) for layer in kept),
                )
                if drawn
                else ()
            )
            records.append(
                Record(*row, tuple(round(ratio, 4) for ratio in layer_ratios), tokens, *where)
            )
        bar.update(len(part))
    bar.close()
    return records


def shortened(processor, examples: list[Example], inputs, shorter: Shorter):
    """The batch again, showing less; `inputs` are those of the questions as they are."""
    kind = processor.image_processor if "image_grid_thw" in inputs else processor.video_processor
    cell = kind.patch_size * kind.merge_size
    less = [
        shorter.shorten(example, visual_grid(inputs, i, processor), cell)
        for i, example in enumerate(examples)
    ]
    return prepare(without_minimum(processor), less)
