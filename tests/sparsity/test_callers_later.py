"""What callers do between and after passes: later turns, chats in turn, two losses, own loops."""

import copy
import pickle
import threading
from contextlib import nullcontext

import pytest
import torch
from conftest import family_processor, random_model
from family_models import small_model
from PIL import Image
from tqdm import tqdm
from transformers import LogitsProcessor

import zipr1
from zipr1 import DenseFirst, FastV, KeepAll, TopK, TopP
from zipr1.common.errors import InputError, RunError
from zipr1.common.scope import SCOPES
from zipr1.sparsity.settings import TrainingPass

IDS = torch.arange(2, 102).view(2, 50) * 7 % 60 + 2
GREEDY = {"do_sample": False, "max_new_tokens": 6, "pad_token_id": 0}


@pytest.fixture(scope="module")
def llama():
    return random_model("llama")


class Ends(LogitsProcessor):
    """The first row ends at once, the others never."""

    def __call__(self, ids, scores):
        scores[1:, 1] = -float("inf")
        scores[0] = -float("inf")
        scores[0, 1] = 0.0
        return scores


def second_turn(model, block, rows: slice, turn: torch.Tensor, generate: bool) -> torch.Tensor:
    """The first row's logits after a turn, whose mask hides what the first answer was padded with."""
    ids, turn, new = IDS[rows], turn[rows], turn.shape[1]
    mask = torch.ones_like(ids)
    with torch.no_grad(), block:
        out = model.generate(
            ids, attention_mask=mask, eos_token_id=1, logits_processor=[Ends()],
            return_dict_in_generate=True, **GREEDY,
        )  # fmt: skip
        seen = torch.ones(len(ids), out.sequences.shape[1] - 1 - ids.shape[1], dtype=torch.long)
        seen[0] = 0  # the end of its answer, which it alone does not cache, and padding
        mask = torch.cat([mask, seen, torch.ones_like(turn)], dim=1)
        more = {"past_key_values": out.past_key_values, "attention_mask": mask}
        if not generate:
            return model(turn, position_ids=mask.cumsum(-1)[:, -new:] - 1, **more).logits[:1]
        whole = torch.cat([out.sequences[:, :-1], turn], dim=1)
        out = model.generate(
            whole, output_logits=True, return_dict_in_generate=True, **more, **GREEDY
        )
        return out.logits[0][:1]


@pytest.mark.parametrize("generate", [False, True])
@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("keep_kv", [False, True])
@pytest.mark.parametrize("new", [1, 4])
def test_a_later_turn_does_not_see_what_an_answer_was_padded_with(
    llama, generate, scope, keep_kv, new
):
    """The row that ended first, in the batch, goes on as it does alone."""
    both, alone = (
        second_turn(
            llama, zipr1.sparse(llama, TopP(0.8), scope=scope, keep_kv=keep_kv),
            rows, IDS[:, :new] + 1, generate,
        )
        for rows in (slice(0, 2), slice(0, 1))
    )  # fmt: skip
    assert torch.allclose(both, alone, atol=1e-4)


def test_a_later_turn_of_a_family_with_two_masks():
    """generate() makes masks of two kinds for Gemma 3, whose windows count padding."""
    model = small_model("gemma3_text")
    dense, kept = (
        second_turn(model, block, slice(0, 2), IDS[:, :4] + 1, True)
        for block in (nullcontext(), zipr1.sparse(model, KeepAll()))
    )
    assert torch.allclose(kept, dense, atol=1e-4)


def test_chats_in_turn_go_on_from_their_own_positions():
    model, processor = random_model("qwen2_5_vl"), family_processor("qwen2_5_vl")
    text = processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]}],
        add_generation_prompt=True,
    )
    inputs = [
        processor(text=[text], images=[Image.new("RGB", size, "red")], return_tensors="pt")
        for size in ((112, 128), (224, 224))
    ]

    def second_turn(between: bool) -> torch.Tensor:
        with torch.no_grad(), zipr1.sparse(model, TopP(0.8)):
            first = model.generate(**inputs[0], return_dict_in_generate=True, **GREEDY)
            if between:
                model.generate(**inputs[1], **GREEDY)
            ids = torch.cat([first.sequences, IDS[:1, :9]], dim=1)
            cache = first.past_key_values
            out = model.generate(
                ids, attention_mask=torch.ones_like(ids), past_key_values=cache,
                return_dict_in_generate=True, output_logits=True, **GREEDY,
            )  # fmt: skip
            return torch.stack(out.logits)

    assert torch.equal(second_turn(True), second_turn(False))


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("rule", [FastV(0.4), TopP(0.8)])
@pytest.mark.parametrize("second", [50, 40])
def test_two_losses_and_one_backward_under_gradient_checkpointing(llama, scope, rule, second):
    gradients, ratios = {}, []
    for checkpointing in (False, True):
        model = copy.deepcopy(llama).requires_grad_(True).train()
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        with zipr1.sparse(model, rule, scope=scope) as trace:
            loss = 0.0
            for ids in (IDS[:1], IDS[1:, :second]):
                labels = ids.clone()
                labels[:, :-10] = -100
                loss = loss + model(ids, labels=labels, use_cache=False).loss
            ratios.append(trace.token_ratio)
            loss.backward()
            ratios.append(trace.token_ratio)
        gradients[checkpointing] = [weight.grad for weight in model.parameters()]
    assert all(torch.equal(ratio, ratios[0]) for ratio in ratios)
    for one, other in zip(gradients[True], gradients[False], strict=True):
        assert torch.allclose(one, other, atol=1e-6)


@pytest.mark.parametrize("scope", SCOPES)
def test_reentrant_gradient_checkpointing_gives_the_same_gradients(llama, scope):
    labels = IDS.clone()
    labels[:, :-10] = -100
    gradients = {}
    for reentrant in (False, True):
        model = copy.deepcopy(llama).requires_grad_(True).train()
        model.gradient_checkpointing_enable({"use_reentrant": reentrant})
        model.enable_input_require_grads()
        with zipr1.sparse(model, TopP(0.8), scope=scope):
            model(IDS, labels=labels, use_cache=False).loss.backward()
        gradients[reentrant] = [weight.grad for weight in model.parameters()]
    for one, other in zip(gradients[True], gradients[False], strict=True):
        assert torch.allclose(one, other, atol=1e-4 * other.abs().max().item())


def test_reentrant_gradient_checkpointing_of_a_relaxed_count_is_refused(llama):
    model = copy.deepcopy(llama).requires_grad_(True).train()
    model.gradient_checkpointing_enable({"use_reentrant": True})
    training = TrainingPass(relax=zipr1.relaxed_count)
    with (
        pytest.raises(InputError, match=r"use_reentrant': False"),
        zipr1.sparse(model, TopP(0.8), prompt_length=40, training=training),
    ):
        model(IDS, use_cache=False)


def test_bars_inside_leave_nothing_behind(llama):
    with torch.no_grad(), zipr1.sparse(llama, TopP(0.8)):
        for _ in tqdm(range(2), disable=False):
            llama(IDS)
    assert "forward" not in vars(llama.get_decoder())


def test_a_thread_of_the_block_that_comes_late_is_still_refused(llama):
    go, found = threading.Event(), []

    def call():
        go.wait()
        try:
            llama(IDS)
        except RunError as error:
            found.append(str(error))

    with torch.no_grad(), zipr1.sparse(llama, TopP(0.8)):
        thread = threading.Thread(target=call)
        thread.start()
    go.set()
    thread.join()
    assert "join the thread inside the block" in found[0]


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"guidance_scale": 1.5, "negative_prompt_ids": IDS[:1, :7]}, "guidance_scale=1.5"),
        ({"assistant_early_exit": 2}, "assistant_early_exit"),
    ],
)
def test_generation_that_has_two_prompts_or_drafts_of_its_own_is_refused(llama, arguments, word):
    layers = llama.config.num_hidden_layers
    with pytest.raises(InputError, match=word), zipr1.sparse(llama, TopP(0.8)):
        llama.generate(IDS[:1], attention_mask=torch.ones_like(IDS[:1]), **arguments, **GREEDY)
    assert llama.config.num_hidden_layers == layers


def test_an_assistant_in_a_block_of_its_own_is_refused(llama):
    draft = copy.deepcopy(llama)
    with (
        zipr1.sparse(llama, TopP(0.8)),
        zipr1.sparse(draft, TopP(0.8)),
        pytest.raises(InputError, match="assistant_model: it is inside a block"),
    ):
        llama.generate(IDS[:1], assistant_model=draft, **GREEDY)


@pytest.mark.parametrize(
    "rule", [FastV(0.3, 99), DenseFirst(TopP(0.5), 99), DenseFirst(FastV(0.3, 9), 1)]
)
def test_a_rule_without_a_layer_to_drop_in_is_refused(llama, rule):
    with pytest.raises(InputError, match="nothing would be dropped"), zipr1.sparse(llama, rule):
        pass


def test_rows_of_a_cache_may_be_repeated_or_taken_out(llama):
    """One prefix and several questions; the trace stays that of the prefill."""
    model = copy.deepcopy(llama).double()  # a batch of three is rounded otherwise than a single one
    for scope in SCOPES:
        with torch.no_grad(), zipr1.sparse(model, TopP(0.8), scope=scope) as trace:
            cache = model(IDS[:1], use_cache=True).past_key_values
            ratio = trace.token_ratio
            alone = model(IDS[1:, :5], past_key_values=copy.deepcopy(cache)).logits
            cache.batch_repeat_interleave(3)
            many = model(IDS[1:, :5].expand(3, -1), past_key_values=cache).logits
            assert torch.allclose(many, alone.expand(3, -1, -1), atol=1e-9)
            assert len(trace.token_ratio) == 1 and ratio == trace.token_ratio


def test_under_scope_keys_every_query_of_a_later_turn_counts(llama):
    with torch.no_grad(), zipr1.sparse(llama, TopP(0.8), scope="keys") as trace:
        cache = llama(IDS[:1], use_cache=True).past_key_values
        llama(IDS[1:, :20], past_key_values=cache)
    assert trace.query_ratio.item() == 1 and trace.token_ratio.item() < 1


def test_the_threshold_is_not_rounded_to_the_default_dtype(llama):
    with torch.no_grad(), zipr1.sparse(llama, TopP(0.999)) as trace:
        llama(IDS)
        expected = trace.token_ratio
        torch.set_default_dtype(torch.bfloat16)
        try:
            llama(IDS)
        finally:
            torch.set_default_dtype(torch.float32)
    assert torch.equal(trace.token_ratio, expected) and expected.max() < 1


def test_an_attention_set_inside_the_block_is_noticed(llama):
    model = copy.deepcopy(llama)
    with torch.no_grad(), zipr1.sparse(model, TopP(0.8)):
        model.set_attn_implementation("sdpa")
        with pytest.raises(RunError, match=r"'sdpa' inside the block"):
            model(IDS)


def test_a_trace_can_be_saved(llama):
    with torch.no_grad(), zipr1.sparse(llama, TopP(0.8)) as trace:
        llama(IDS, use_cache=True)
        read = pickle.loads(pickle.dumps(trace))
    assert torch.equal(read.token_ratio, trace.token_ratio) and read.cache is None


@pytest.mark.parametrize("scope", SCOPES)
def test_a_decoder_without_a_language_head_is_sparse(llama, scope):
    with torch.no_grad():
        with zipr1.sparse(llama, TopP(0.8), scope=scope) as trace:
            expected = llama(IDS, output_hidden_states=True).hidden_states[-1]
        ratio = trace.token_ratio
        with zipr1.sparse(llama.model, TopP(0.8), scope=scope) as trace:
            found = llama.model(IDS).last_hidden_state
    assert torch.equal(found, expected) and torch.equal(trace.token_ratio, ratio)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"rule": TopP}, "expected a rule"),
        ({"rule": 0.975}, "rule=0.975"),
        ({"rule": None}, "rule=None"),
        ({"rule": KeepAll(), "rows": "keys"}, "rows='keys'"),
        ({"rule": KeepAll(), "min_tokens": "5"}, "min_tokens='5'"),
        ({"rule": KeepAll(), "min_tokens": -3}, "min_tokens=-3"),
        ({"rule": KeepAll(), "keep_kv": "no"}, "keep_kv='no'"),
    ],
)
def test_wrong_arguments_are_named(llama, arguments, word):
    with pytest.raises(InputError, match=word), zipr1.sparse(llama, **arguments):
        pass


@pytest.mark.parametrize("model", ["zipr1/tiny", None, ("model", "processor")])
def test_what_is_no_model_is_named(model):
    with pytest.raises(InputError, match="expected a transformers model"):
        zipr1.sparse(model, KeepAll()).__enter__()


@pytest.mark.parametrize(
    "make",
    [
        lambda: TopP([0.9]),
        lambda: TopP("0.9"),
        lambda: TopP(True),
        lambda: TopP(torch.tensor(0.9)),
        lambda: TopK("0.5"),
        lambda: FastV(0.5, -1),
        lambda: zipr1.Recent(0.3, sinks=-3),
        lambda: DenseFirst(TopP, 1),
    ],
)
def test_wrong_numbers_of_a_rule_are_named(make):
    with pytest.raises(InputError, match=r"expected|must lie"):
        make()
