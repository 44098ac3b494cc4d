"""Adapters, arguments and models whose tokens a sparse pass could misread: read rightly or refused."""

import copy

import pytest
import torch
from conftest import random_model
from peft import (
    AdaptionPromptConfig,
    LoraConfig,
    PrefixTuningConfig,
    PromptTuningConfig,
    get_peft_model,
)
from transformers import (
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    Trainer,
    TrainingArguments,
)

import zipr1
from zipr1 import KeepAll, TopK, TopP
from zipr1.common.errors import InputError
from zipr1.common.scope import SCOPES

IDS = torch.arange(2, 102).view(2, 50) * 7 % 60 + 2
GREEDY = {"do_sample": False, "max_new_tokens": 3, "pad_token_id": 0}
TARGETS = {"target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"}


@pytest.fixture(scope="module")
def llama():
    return random_model("llama")


def adapted(config, name: str = "default"):
    model = get_peft_model(random_model("llama"), config, adapter_name=name)
    torch.manual_seed(1)
    for weight in model.parameters():
        if weight.requires_grad:
            weight.data += 0.1 * torch.randn_like(weight)
    return model.eval()


LAST = torch.arange(50) == 49


@pytest.mark.parametrize(
    ("keep", "prompt"),
    [
        (LAST, 50), (LAST.roll(-9), 41), (slice(-1, None), 50), (slice(-10, None), 41), (10, 41),
        (slice(None), 1), (torch.tensor([-1]), 50), (torch.tensor([-10, -1]), 41), ([-10, -1], 41),
        (LAST & False, 50), (0, 50), (80, 1),
    ],
)  # fmt: skip
def test_logits_to_keep_in_every_form(llama, keep, prompt):
    with torch.no_grad(), zipr1.sparse(llama, TopP(0.8)) as trace:
        llama(IDS, logits_to_keep=keep)
    assert trace.kept[0].shape == (2, prompt)


def dense_and_kept(model, scope, **inputs):
    with torch.no_grad():
        dense = model(**inputs)
        with zipr1.sparse(model, KeepAll(), scope=scope) as trace:
            kept = model(**inputs)
    return dense, kept, trace


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize(
    ("kind", "labels"),
    [
        (AutoModelForSequenceClassification, torch.tensor([1, 0])),
        (AutoModelForTokenClassification, IDS % 2),
    ],
)
def test_labels_of_a_classifier_are_no_tokens(llama, kind, labels, scope):
    torch.manual_seed(0)
    config = copy.deepcopy(llama.config)
    config.num_labels, config.pad_token_id = 2, 0
    model = kind.from_config(config).eval()
    dense, kept, trace = dense_and_kept(model, scope, input_ids=IDS, labels=labels)
    assert torch.allclose(kept.logits, dense.logits, atol=1e-4)
    assert torch.allclose(kept.loss, dense.loss, atol=1e-4) and trace.kept[0].shape == (2, 50)
    with zipr1.sparse(model.train(), TopK(0.5), scope=scope) as trace:
        model(input_ids=IDS, labels=labels).loss.backward()
    assert trace.token_ratio.tolist() == [0.5, 0.5]


ALORA = LoraConfig(alora_invocation_tokens=IDS[0, 30:32].tolist(), **TARGETS)


def test_an_activated_lora(llama):
    model = adapted(ALORA)
    for scope in ("attention", "keys"):
        dense, kept, _ = dense_and_kept(model, scope, input_ids=IDS[:1])
        assert torch.allclose(kept.logits, dense.logits, atol=1e-4)
    with zipr1.sparse(model, TopK(0.5), scope="layer"), torch.no_grad():
        for call in (model, lambda ids: model.generate(input_ids=ids, **GREEDY)):
            with pytest.raises(InputError, match="adapts tokens by their position"):
                call(IDS[:1])


def test_a_batch_of_several_adapters():
    model = adapted(LoraConfig(**TARGETS), "one")
    names = {"input_ids": IDS, "adapter_names": ["one", "__base__"]}
    for scope in ("attention", "keys"):
        dense, kept, _ = dense_and_kept(model, scope, **names)
        assert torch.allclose(kept.logits, dense.logits, atol=1e-4)
    with zipr1.sparse(model, TopK(0.5), scope="layer"), torch.no_grad():
        with pytest.raises(InputError, match="gives each row of the batch its own adapter"):
            model(**names)
        with pytest.raises(InputError, match="gives each row of the batch its own adapter"):
            model.generate(**names, **GREEDY)
        model(input_ids=IDS)
    dense, kept, _ = dense_and_kept(model, "keys", input_ids=IDS)  # PEFT's hooks are gone
    assert torch.allclose(kept.logits, dense.logits, atol=1e-4)


def test_adaption_prompts():
    model = adapted(AdaptionPromptConfig(adapter_len=4, adapter_layers=2, task_type="CAUSAL_LM"))
    dense, kept, _ = dense_and_kept(model, "attention", input_ids=IDS)
    assert torch.allclose(kept.logits, dense.logits, atol=1e-4)
    with (
        zipr1.sparse(model, TopK(0.5), scope="layer"),
        torch.no_grad(),
        pytest.raises(InputError, match="AdaptedAttention stands in place"),
    ):
        model(input_ids=IDS)


@pytest.mark.parametrize("scope", SCOPES)
def test_learned_prompts(scope):
    """Virtual tokens before the prompt are tokens; virtual keys and values are no prefill."""
    model = adapted(PromptTuningConfig(num_virtual_tokens=4, task_type="CAUSAL_LM"))
    dense, kept, trace = dense_and_kept(model, scope, input_ids=IDS)
    assert torch.allclose(kept.logits, dense.logits, atol=1e-4) and trace.kept[0].shape == (2, 54)
    model = adapted(PrefixTuningConfig(num_virtual_tokens=4, task_type="CAUSAL_LM"))
    with zipr1.sparse(model, TopK(0.5), scope=scope), torch.no_grad():
        for call in (model, lambda input_ids: model.generate(input_ids=input_ids, **GREEDY)):
            with pytest.raises(InputError, match=r"Prefix tuning .* is not supported"):
                call(input_ids=IDS)


@pytest.mark.parametrize(
    "packed",
    [
        {"position_ids": torch.cat([torch.arange(20), torch.arange(30)])[None]},
        {"position_ids": torch.cat([torch.arange(20), torch.arange(30)])[None], "use_cache": False},
        {"cu_seq_lens_q": torch.tensor([0, 20, 50])},
    ],
)
@pytest.mark.parametrize("scope", SCOPES)
def test_packed_sequences(llama, packed, scope):
    with (
        zipr1.sparse(llama, TopK(0.5), scope=scope),
        torch.no_grad(),
        pytest.raises(InputError, match="packed"),
    ):
        llama(IDS[:1], **packed)


def test_packed_sequences_of_a_vision_model():
    model = random_model("qwen2_5_vl")
    positions = torch.cat([torch.arange(20), torch.arange(30)]).expand(3, 1, -1)
    with zipr1.sparse(model, TopK(0.5)), torch.no_grad(), pytest.raises(InputError, match="packed"):
        model(IDS[:1], position_ids=positions)


def test_text_behind_a_long_video_is_the_same_sequence():
    """Under positions_after_video: spatial, its time is below that of the last frames."""
    model = random_model("qwen2_5_vl")
    time = torch.cat([torch.arange(40), torch.arange(5, 15)])
    space = torch.cat([torch.arange(40) % 4, torch.arange(5, 15)])
    positions = torch.stack([time, space, space])[:, None]
    with zipr1.sparse(model, TopK(0.5)) as trace, torch.no_grad():
        model(IDS[:1], position_ids=positions)
    assert trace.token_ratio == 0.5


@pytest.mark.parametrize(
    "single",
    [
        {"position_ids": torch.arange(0, 100, 2)[None]},
        {"cu_seq_lens_q": torch.tensor([0, 50])},
        {"position_ids": (torch.arange(50)[None] - 5).clamp(min=0),
         "attention_mask": (torch.arange(50)[None] >= 5).long()},
    ],
)  # fmt: skip
def test_a_single_sequence_with_positions(llama, single):
    dense, kept, _ = dense_and_kept(llama, "attention", input_ids=IDS[:1], **single)
    assert torch.allclose(kept.logits[:, 5:], dense.logits[:, 5:], atol=1e-4)


def test_continuous_batching(llama):
    prompts = IDS.tolist()
    with zipr1.sparse(llama, TopK(0.5)) as trace:
        for call in (
            lambda: llama.generate_batch(prompts),
            lambda: llama.init_continuous_batching(),
            lambda: llama.continuous_batching_context_manager().__enter__(),
        ):
            with pytest.raises(InputError, match="continuous batching puts several prompts"):
                call()
        llama.generate(IDS, **GREEDY)
    assert trace.token_ratio.tolist() == [0.5, 0.5]
    assert "init_continuous_batching" not in vars(llama)


@pytest.mark.parametrize("several", [{"num_beams": 2}, {"num_beams": 2, "num_return_sequences": 2}])
def test_a_p_for_each_prompt_with_beams(llama, several):
    refused = pytest.raises(InputError, match="num_beams and num_return_sequences repeat each row")
    with zipr1.sparse(llama, TopP((0.9, 0.6))), refused:
        llama.generate(IDS, **several, **GREEDY)
    with zipr1.sparse(llama, TopP(0.6), prompt_length=[40, 50]), refused:
        llama.generate(IDS, **several, **GREEDY)
    with zipr1.sparse(llama, TopP((0.9, 0.9, 0.6, 0.6))):
        both = llama.generate(IDS, **several, **GREEDY)
    with zipr1.sparse(llama, TopP(0.6)):
        second = llama.generate(IDS[1:], **several, **GREEDY)
    assert torch.equal(both[-len(second) :], second)


class Answers(torch.utils.data.Dataset):
    def __len__(self):
        return 2

    def __getitem__(self, number):
        labels = IDS[number].clone()
        labels[:30] = -100
        return {"input_ids": IDS[number], "labels": labels}


@pytest.mark.parametrize("own_loss", [{"label_smoothing_factor": 0.1}, {"loss": True}, {}])
def test_an_evaluation_whose_labels_the_trainer_keeps(llama, tmp_path, own_loss):
    own = own_loss.pop("loss", None) and {
        "compute_loss_func": lambda out, labels, **_: out[0].sum()
    }
    arguments = TrainingArguments(str(tmp_path), report_to=[], use_cpu=True, **own_loss)
    trainer = Trainer(llama, arguments, eval_dataset=Answers(), **own or {})
    with zipr1.sparse(llama, TopK(0.3)) as trace:
        if own or own_loss:
            with pytest.raises(InputError, match=r"num_items_in_batch.*pass labels"):
                trainer.evaluate()
        else:
            trainer.evaluate()
            assert trace.kept[0].shape == (2, 30)
    with zipr1.sparse(llama, TopK(0.3), prompt_length=30) as trace:
        trainer.evaluate()
    assert trace.kept[0].shape == (2, 30)
