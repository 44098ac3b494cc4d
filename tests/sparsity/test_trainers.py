"""Other people's trainers inside `zipr1.sparse`: the prompt is read from their calls."""

import pytest
import torch
from conftest import random_model, tiny_processor
from datasets import Dataset
from installed_trl import trl_or_skip
from transformers import Trainer, TrainerCallback, TrainingArguments

import zipr1
from zipr1.common.errors import InputError
from zipr1.common.scope import SCOPES

all_scopes = pytest.mark.parametrize("scope", SCOPES)
RULE = zipr1.TopP(0.6)
LENGTHS = [(40, 5), (33, 9)]  # prompt and completion
ARGUMENTS = {
    "per_device_train_batch_size": 2, "report_to": "none", "use_cpu": True, "max_steps": 1,
    "logging_steps": 1, "save_strategy": "no", "disable_tqdm": True, "learning_rate": 1e-9,
}  # fmt: skip


def rows(side: str = "right") -> dict:
    """A padded batch of two rows with labels on their completions."""
    generator = torch.Generator().manual_seed(1)
    length = max(map(sum, LENGTHS))
    batch = {
        "input_ids": torch.zeros(2, length, dtype=torch.long),
        "attention_mask": torch.zeros(2, length, dtype=torch.long),
        "labels": torch.full((2, length), -100),
    }
    for row, (prompt, completion) in enumerate(LENGTHS):
        total = prompt + completion
        ids = torch.randint(5, 4000, (total,), generator=generator)
        at = slice(0, total) if side == "right" else slice(length - total, length)
        batch["input_ids"][row, at] = ids
        batch["attention_mask"][row, at] = 1
        batch["labels"][row, at] = ids.where(torch.arange(total) >= prompt, -100)
    return batch


def prefill_and_decode(model, ids: torch.Tensor, prompt: int, scope: str):
    """Mean loss of a completion, token by token, and the kept tokens of the prompt."""
    losses = []
    with torch.no_grad(), zipr1.sparse(model, RULE, scope=scope) as trace:
        out = model(input_ids=ids[None, :prompt], use_cache=True)
        kept = torch.cat(trace.kept)
        for token in ids[prompt:]:
            losses.append(-out.logits[0, -1].float().log_softmax(-1)[token])
            cache = out.past_key_values
            out = model(input_ids=token[None, None], past_key_values=cache, use_cache=True)
    return torch.stack(losses), kept


@all_scopes
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("family", ["llama", "qwen2_5_vl", "qwen3_vl"])
def test_a_loss_with_labels_is_that_of_prefill_and_decoding(family, side, scope):
    model, batch = random_model(family), rows(side)
    with zipr1.sparse(model, RULE, scope=scope) as trace:
        loss = model(**batch).loss
        kept = torch.stack(trace.kept)
        assert trace.lengths.tolist() == [40, 33]
    found = []
    for row, (prompt, _) in enumerate(LENGTHS):
        real = batch["attention_mask"][row].bool()
        losses, expected = prefill_and_decode(model, batch["input_ids"][row, real], prompt, scope)
        found.append(losses)
        assert torch.equal(kept[:, row, real[: kept.shape[-1]]][:, :prompt], expected)
        assert not kept[:, row, real[: kept.shape[-1]]][:, prompt:].any()
    torch.testing.assert_close(loss, torch.cat(found).mean(), rtol=1e-4, atol=1e-4)
    with zipr1.sparse(model, zipr1.KeepAll(), scope=scope):
        torch.testing.assert_close(model(**batch).loss, model(**batch).loss)


@all_scopes
@pytest.mark.parametrize("kind", ["number", "indices"])
def test_logits_to_keep_tells_the_prompt(scope, kind):
    model, batch = random_model("llama"), rows("left")
    batch.pop("labels")
    length, completion = batch["input_ids"].shape[1], 9
    keep = completion + 1 if kind == "number" else torch.arange(length - completion - 1, length)
    with torch.no_grad():
        with zipr1.sparse(model, RULE, scope=scope) as trace:
            logits = model(**batch, logits_to_keep=keep).logits
        with zipr1.sparse(model, RULE, scope=scope, prompt_length=length - completion) as expected:
            all_logits = model(**batch).logits
    assert trace.kept[0].shape[1] == length - completion
    assert all(torch.equal(*pair) for pair in zip(trace.kept, expected.kept, strict=True))
    torch.testing.assert_close(logits, all_logits[:, -10:])


def test_prompt_lengths_of_each_row_are_those_of_the_labels():
    model, batch = random_model("llama"), rows("right")
    labels = batch.pop("labels")
    traces = []
    for settings, extra in (
        ({"prompt_length": [40, 33]}, {}),
        ({"prompt_length": torch.tensor([40, 33])}, {}),
        ({}, {"labels": labels}),
        ({}, {"shift_labels": torch.nn.functional.pad(labels, (0, 1), value=-100)[:, 1:],
              "labels": None}),
    ):  # fmt: skip
        with torch.no_grad(), zipr1.sparse(model, RULE, **settings) as trace:
            model(**batch, **extra)
        traces.append(torch.stack(trace.kept))
    assert all(torch.equal(traces[0], other) for other in traces[1:])


def test_what_leaves_no_prompt_or_no_hint_is_refused():
    model, batch = random_model("llama"), rows("right")
    everything = batch | {"labels": batch["input_ids"].masked_fill(batch["input_ids"] == 0, -100)}
    with zipr1.sparse(model, RULE):
        with pytest.raises(InputError, match="row 0 has no prompt"):
            model(**everything)
        batch["labels"][1] = everything["labels"][1]
        with pytest.raises(InputError, match="row 1 has no prompt"):
            model(**batch)
    batch.pop("labels")
    with zipr1.sparse(model.train().requires_grad_(True), RULE):
        with pytest.raises(InputError, match="prompt_length="):
            model(**batch)
        model(**batch, logits_to_keep=1)  # of the last position: all columns are the prompt
        with torch.no_grad():
            model(**batch)
    for settings, message in (
        ({"prompt_length": [1, 2, 3]}, "3 values for a batch of 2"),
        ({"prompt_length": 10, "keep_kv": True}, "leave out keep_kv"),
        *(({"prompt_length": wrong}, "prompt_length=") for wrong in (0, -1, [3, 0], True, [], "3")),
    ):
        with pytest.raises(InputError, match=message), zipr1.sparse(model, RULE, **settings):
            model(**batch)


class Traces(TrainerCallback):
    """What the trace of each training step has recorded."""

    def __init__(self, trace):
        self.trace, self.found = trace, []

    def on_substep_end(self, *args, **kwargs):
        self.found.append((self.trace.kept[0].shape[1], self.trace.token_ratio.tolist()))

    on_step_end = on_substep_end


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_trainer_of_transformers(tmp_path, checkpointing):
    model, batch = random_model("llama").requires_grad_(True), rows("right")
    data = Dataset.from_list([{k: v[i].tolist() for k, v in batch.items()} for i in range(2)])
    arguments = TrainingArguments(
        str(tmp_path), gradient_checkpointing=checkpointing, **ARGUMENTS, seed=0
    )
    expected = [prefill_and_decode(model, batch["input_ids"][row, : sum(LENGTHS[row])],
                                   LENGTHS[row][0], "attention")[0] for row in range(2)]  # fmt: skip
    with zipr1.sparse(model, RULE) as trace:
        trainer = Trainer(model, arguments, train_dataset=data, eval_dataset=data)
        trainer.train()
        assert trace.token_ratio.max() < 1
    loss = trainer.state.log_history[0]["loss"]
    assert loss == pytest.approx(torch.cat(expected).mean().item(), rel=1e-3)
    smoothed = TrainingArguments(str(tmp_path), label_smoothing_factor=0.1, **ARGUMENTS)
    with zipr1.sparse(model, RULE), pytest.raises(InputError, match="prompt_length="):
        Trainer(model, smoothed, train_dataset=data).train()  # takes the labels out of the call


@pytest.mark.parametrize("adapter", ["none", "before", "trainer"])
@pytest.mark.parametrize("made", ["inside", "before"])
def test_sft_of_trl(tmp_path, adapter, made):
    """A trainer that is made inside the block, or before it; an adapter by the user or by TRL."""
    trl, peft = trl_or_skip(), pytest.importorskip("peft")
    lora = peft.LoraConfig(target_modules=["q_proj", "o_proj"], r=4)
    tokenizer = tiny_processor().tokenizer
    data = Dataset.from_list(
        [
            {"prompt": "What is red and what is blue? Say it", "completion": " now and here"},
            {"prompt": "Which way is it?", "completion": " left, of course it is left"},
        ]
    )
    arguments = trl.SFTConfig(str(tmp_path), bf16=False, completion_only_loss=True, **ARGUMENTS)
    model = random_model("llama").requires_grad_(True)
    model = peft.get_peft_model(model, lora) if adapter == "before" else model

    def make():
        extra = {"peft_config": lora} if adapter == "trainer" else {}
        return trl.SFTTrainer(
            model, arguments, train_dataset=data, processing_class=tokenizer, **extra
        )

    def train(trainer, rule):
        trainer.train()
        return trainer.state.log_history[0]["loss"]

    trainer = make() if made == "before" else None
    losses = []
    for rule in (zipr1.KeepAll(), RULE):
        with zipr1.sparse(trainer.model if trainer else model, rule) as trace:
            used = trainer or make()
            losses.append(train(used, rule))
            inputs = next(iter(used.get_train_dataloader()))
            lengths = inputs["attention_mask"].sum(-1) - (inputs["labels"] != -100).sum(-1)
            assert sorted(trace.lengths.tolist()) == sorted(lengths.tolist())
        trainer = None if made == "inside" else trainer
    dense = make() if made == "inside" else trainer
    assert losses[0] == pytest.approx(train(dense, None), rel=1e-3)
    assert losses[1] != pytest.approx(losses[0], rel=1e-3)


@pytest.mark.parametrize("family", ["llama", "qwen2_5_vl"])
@all_scopes
def test_grpo_of_trl(tmp_path, family, scope):
    """KL to the untouched model is 0 if all is kept; the scoring pass equals prefill and decoding."""
    trl = trl_or_skip()
    random_model(family).save_pretrained(tmp_path / "model")
    processor = tiny_processor()
    processor = processor.tokenizer if family == "llama" else processor
    processor.save_pretrained(tmp_path / "model")
    model, _ = zipr1.load(tmp_path / "model", dtype=torch.float32)
    model.requires_grad_(True)
    model.generation_config.eos_token_id = None
    arguments = trl.GRPOConfig(
        str(tmp_path / "run"), bf16=False, beta=0.1, num_generations=2, max_completion_length=6,
        temperature=1.0, **ARGUMENTS,
    )  # fmt: skip
    data = Dataset.from_list([{"prompt": "What is red and what is blue? Say it now"}] * 2)

    def reward(completions, **kwargs):
        return [float(len(completion)) for completion in completions]

    with zipr1.sparse(model, zipr1.KeepAll(), scope=scope):
        trainer = trl.GRPOTrainer(
            model, reward, args=arguments, train_dataset=data, processing_class=processor
        )
        trainer.train()
    history = trainer.state.log_history[0]
    assert abs(history["kl"]) < 1e-4
    ids = torch.randint(5, 4000, (2, 40), generator=torch.Generator().manual_seed(2))
    with torch.no_grad(), zipr1.sparse(model.eval(), RULE, scope=scope) as trace:
        out = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=6, do_sample=False,
            return_dict_in_generate=True, output_logits=True,
        )  # fmt: skip
        kept = torch.stack(trace.kept)
        mask = torch.ones_like(out.sequences)
        scored = trainer._get_per_token_logps_and_entropies(model, out.sequences, mask, 6)[0]
        assert torch.equal(torch.stack(trace.kept), kept) and trace.token_ratio.max() < 1
    expected = torch.stack(out.logits, dim=1).log_softmax(-1)
    expected = expected.gather(-1, out.sequences[:, -6:, None])[..., 0]
    torch.testing.assert_close(scored, expected, rtol=1e-3, atol=1e-3)
