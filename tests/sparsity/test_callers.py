"""The ways in which users call a transformers model: under sparse attention each works, or is
refused with a message."""

import numpy as np
import pytest
import torch
import transformers
from conftest import extended, front, prompts, random_model
from transformers import DynamicCache, GenerationConfig

from zipr1.common.errors import InputError
from zipr1.common.scope import SCOPES
from zipr1.data.example import Example
from zipr1.models.families import VISION_FAMILIES, decoder
from zipr1.sparsity.context import sparse
from zipr1.sparsity.rules import KeepAll, TopP

RULE = TopP(0.9)
TOLERANCE = {"rtol": 1e-4, "atol": 1e-4}


def generate(model, inputs, rule=RULE, block: dict | None = None, **settings):
    settings = {"max_new_tokens": 5, "do_sample": False} | settings
    with torch.no_grad(), sparse(model, rule, **block or {}) as trace:
        return model.generate(**inputs, **settings), trace


def test_beam_search_of_a_batch_equals_single_runs(model, processor, examples, batch):
    together, trace = generate(model, batch, num_beams=3)
    assert trace.token_ratio.min() > 0 and trace.token_ratio.max() < 1
    for row, example in enumerate(examples):
        alone, _ = generate(model, prompts(processor, [example]), num_beams=3)
        assert together[row, -5:].tolist() == alone[0, -5:].tolist()


def test_beam_search_over_every_token_equals_dense(model, batch):
    with torch.no_grad():
        dense = model.generate(**batch, max_new_tokens=5, do_sample=False, num_beams=3)
    assert generate(model, batch, KeepAll(), num_beams=3)[0].tolist() == dense.tolist()


def test_embeddings_instead_of_tokens(model, batch):
    if model.config.model_type in VISION_FAMILIES:
        pytest.skip("a Qwen-VL model needs the tokens for its positions")
    embeds = {
        "inputs_embeds": model.get_input_embeddings()(batch["input_ids"]),
        "attention_mask": batch["attention_mask"],
    }
    from_tokens, trace = generate(model, batch)
    from_embeds, other = generate(model, embeds)
    assert from_tokens[:, -5:].tolist() == from_embeds.tolist()
    assert torch.equal(trace.token_ratio, other.token_ratio)


def test_several_pictures_and_clips_in_a_prompt_and_none_in_another(model, processor):
    if model.config.model_type not in VISION_FAMILIES:
        pytest.skip("text models see no pictures")
    rng = np.random.default_rng(1)
    pictures = [rng.integers(0, 255, (96, 96 + 16 * i, 3), dtype=np.uint8) for i in range(3)]
    clips = [rng.integers(0, 255, (4, 64, 64, 3), dtype=np.uint8) for _ in range(2)]
    rows = [
        (["image", "image", "video"], pictures[:2], clips[:1]),
        ([], [], []),
        (["video", "image"], pictures[2:], clips[1:]),
    ]

    def inputs(rows):
        chats = [
            [
                {
                    "role": "user",
                    "content": [{"type": k} for k in kinds] + [{"type": "text", "text": "What?"}],
                }
            ]
            for kinds, *_ in rows
        ]
        media = {
            "images": [p for _, found, _ in rows for p in found],
            "videos": [c for *_, found in rows for c in found],
        }
        if media["videos"]:
            media["video_metadata"] = [
                {"fps": 2.0, "total_num_frames": 4, "frames_indices": list(range(4))}
                for _ in media["videos"]
            ]
        text = processor.apply_chat_template(chats, add_generation_prompt=True, tokenize=False)
        media = {name: found for name, found in media.items() if found}
        return processor(
            text=text,
            **media,
            do_sample_frames=False,
            padding=True,
            padding_side="left",
            return_tensors="pt",
        )

    together, trace = generate(model, inputs(rows))
    for i, row in enumerate(rows):
        alone, single = generate(model, inputs([row]))
        assert together[i, -5:].tolist() == alone[0, -5:].tolist()
        assert trace.token_ratio[i] == single.token_ratio[0]


def second_turn(model, batch, first, **settings):
    """Hidden states of a second turn of unequal lengths on the cache of the first, the cache, the
    trace, both turns as one input, and which tokens of the second are real."""
    embeds = front(model, batch)
    new = batch["input_ids"][:, -9:].clone()
    mask = torch.ones_like(new)
    mask[1, :4] = 0  # padded on the left
    text = decoder(model)
    with torch.no_grad(), sparse(model, RULE, **settings) as trace:
        cache = first(text, embeds)
        long = extended(model, embeds, new)
        attention = torch.cat([embeds["attention_mask"], mask], dim=1)
        out = text(
            inputs_embeds=long["inputs_embeds"][:, -9:], attention_mask=attention,
            position_ids=long["position_ids"][..., -9:], past_key_values=cache, use_cache=True,
        )  # fmt: skip
    return out.last_hidden_state, cache, trace, long | {"attention_mask": attention}, mask.bool()


def prefill(text, embeds):
    return text(**embeds, use_cache=True).past_key_values


def test_a_second_turn_on_the_evicted_cache_equals_one_pass(model, batch):
    hidden, cache, trace, together, real = second_turn(model, batch, prefill)
    length = batch["input_ids"].shape[1]
    with torch.no_grad(), sparse(model, RULE, prompt_length=length) as once:
        expected = decoder(model)(**together, use_cache=False).last_hidden_state[:, -9:]
    torch.testing.assert_close(hidden[real], expected[real], **TOLERANCE)
    assert cache.get_seq_length() == length + 9
    # The second turn is part of what was read, none of it dropped.
    kept = (torch.stack(once.kept).sum(-1) + real.sum(-1)).float().mean(0)
    torch.testing.assert_close(trace.token_ratio, kept / together["attention_mask"].sum(-1))


@pytest.mark.parametrize("scope", SCOPES)
def test_a_second_turn_with_every_key_kept_is_dense_from_there_on(model, batch, scope):
    """keep_kv: the prompt is read sparsely, what follows sees all of it."""
    hidden, cache, _, together, real = second_turn(model, batch, prefill, keep_kv=True, scope=scope)
    length = batch["input_ids"].shape[1]
    plain = DynamicCache()
    for i, layer in enumerate(cache.layers):
        assert layer.keys.shape[2] == length + 9
        plain.update(layer.keys[:, :, :length], layer.values[:, :, :length], i)
    with torch.no_grad():
        dense = decoder(model)(
            inputs_embeds=together["inputs_embeds"][:, length:],
            attention_mask=together["attention_mask"],
            position_ids=together["position_ids"][..., length:],
            past_key_values=plain,
            use_cache=True,
        ).last_hidden_state
    torch.testing.assert_close(hidden[real], dense[real], **TOLERANCE)


@pytest.mark.parametrize("keep_kv", [False, True])
def test_a_chat_of_three_turns_goes_on_with_the_cache_of_generate(model, processor, keep_kv):
    """Text turns through generate(past_key_values=...): each answer is what one pass over the chat
    predicts next."""
    turns = [
        "What is red? A red thing is",
        " And blue? Blue is",
        " So what is green, and what is it not?",
    ]
    turns = [processor(text=turn, return_tensors="pt")["input_ids"] for turn in turns]
    first, cache, ids = (
        turns[0].shape[1],
        DynamicCache(config=decoder(model).config),
        turns[0][:, :0],
    )
    with torch.no_grad():
        with sparse(model, RULE, keep_kv=keep_kv) as trace:
            for turn in turns:
                ids = torch.cat([ids, turn], dim=1)
                mask = torch.ones_like(ids)
                ids = model.generate(
                    ids,
                    attention_mask=mask,
                    past_key_values=cache,
                    max_new_tokens=4,
                    do_sample=False,
                )
        assert trace.kept[0].shape[1] < ids.shape[1] and (trace.token_ratio < 1).all()
        stored = ids.shape[1] - 1  # the last token was never read
        assert (cache.layers[-1].keys.shape[2] < stored) == (not keep_kv)
        if keep_kv:
            return
        with sparse(model, RULE, prompt_length=first):
            logits = model(ids, use_cache=False).logits
    end = 0
    for turn in turns:
        end += turn.shape[1]
        assert logits[0, end - 1 : end + 3].argmax(-1).tolist() == ids[0, end : end + 4].tolist()
        end += 4


def cut(embeds: dict, begin: int, end: int) -> dict:
    """Columns of a prompt; the mask stays whole up to `end`, as it does for a cache."""
    part = {
        "inputs_embeds": embeds["inputs_embeds"][:, begin:end],
        "attention_mask": embeds["attention_mask"][:, :end],
        "position_ids": embeds["position_ids"][..., begin:end],
    }
    if "visual_pos_masks" in embeds:
        visual, first = embeds["visual_pos_masks"], int(embeds["visual_pos_masks"][:, :begin].sum())
        count = int(visual[:, begin:end].sum())
        part["visual_pos_masks"] = visual[:, begin:end]
        part["deepstack_visual_embeds"] = [
            layer[first : first + count] for layer in embeds["deepstack_visual_embeds"]
        ]
    return part


def test_a_new_picture_in_the_second_turn(model, processor):
    """Through the decoder: stock generate() of transformers 5.23 wants all images again, and then
    counts their tokens twice."""
    if model.config.model_type not in VISION_FAMILIES:
        pytest.skip("text models see no pictures")
    rng = np.random.default_rng(2)
    pictures = [rng.integers(0, 255, (96, 96 + 32 * i, 3), dtype=np.uint8) for i in range(2)]
    turns = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "A cat."}]},
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "And this?"}]},
    ]
    texts = [
        processor.apply_chat_template([turns[:n]], add_generation_prompt=True, tokenize=False)
        for n in (1, 3)
    ]
    first, both = (
        front(model, processor(text=text, images=pictures[: i + 1], return_tensors="pt"))
        for i, text in enumerate(texts)
    )
    length, end = first["inputs_embeds"].shape[1], both["inputs_embeds"].shape[1]
    text = decoder(model)
    with torch.no_grad():
        with sparse(model, RULE) as trace:
            past = text(**cut(both, 0, length), use_cache=True).past_key_values
            hidden = text(
                **cut(both, length, end), past_key_values=past, use_cache=True
            ).last_hidden_state
        with sparse(model, RULE, prompt_length=length):
            expected = text(**both, use_cache=False).last_hidden_state[:, length:]
        torch.testing.assert_close(hidden, expected, **TOLERANCE)
        assert trace.lengths.tolist() == [end] and all(
            kept[:, length:].all() for kept in trace.kept
        )
        with sparse(model, RULE, keep_kv=True):
            past = text(**cut(both, 0, length), use_cache=True).past_key_values
            whole = text(
                **cut(both, length, end), past_key_values=past, use_cache=True
            ).last_hidden_state
        assert past.layers[0].keys.shape[2] == end and not torch.allclose(
            whole, hidden, **TOLERANCE
        )


def test_a_prefill_in_chunks_is_refused(model, batch):
    """The tokens of a chunk cannot be selected before the last queries of the prompt are known."""
    for given in (
        {"prefill_chunk_size": 32},
        {"generation_config": GenerationConfig(prefill_chunk_size=32, max_new_tokens=2)},
    ):
        with pytest.raises(InputError, match=r"prefill_chunk_size=32.*leave it out"):
            generate(model, batch, KeepAll(), **given)


@pytest.mark.parametrize("kind", ["static", "quantized"])
def test_another_kind_of_cache_says_what_to_use(model, batch, kind):
    settings = {"cache_implementation": kind}
    if kind == "quantized":
        if not hasattr(transformers.cache_utils, "Fp8QuantizedLayer"):
            pytest.skip("this transformers quantises with further packages only")
        settings["cache_config"] = {"backend": "fp8"}
    with torch.no_grad():
        assert model.generate(**batch, max_new_tokens=2, do_sample=False, **settings).shape[
            0
        ] == len(batch["input_ids"])
    with pytest.raises(InputError, match="leave out cache_implementation"):
        generate(model, batch, **settings)


@pytest.mark.parametrize("scope", SCOPES)
def test_assisted_decoding_generates_the_same_tokens(model, processor, scope):
    """Drafts, in the first pass and later, are no part of the prompt; those refused are cropped."""
    question = "What is red? A red thing is. What is red? A red"
    row = prompts(processor, [Example("a", "none", question, "red")])
    settings = {"max_new_tokens": 9, "do_sample": False}
    with torch.no_grad(), sparse(model, TopP(0.8), scope=scope) as trace:
        expected = model.generate(**row, **settings)
        kept = [layer.clone() for layer in trace.kept]
        drafts = random_model(model.config.model_type)  # of the same weights: most are accepted
        for assistant in ({"prompt_lookup_num_tokens": 3}, {"assistant_model": drafts}):
            out = model.generate(**row, **settings, **assistant, return_dict_in_generate=True)
            assert out.sequences.tolist() == expected.tolist()
            for one, other in zip(kept, trace.kept, strict=True):
                assert torch.equal(one, other)
            stored = out.past_key_values.layers[0]
            assert stored.seen == expected.shape[1] - 1
            count = int(kept[0].sum()) + 8
            assert stored.keys.shape[2] == stored.valid.shape[1] == count
    assert trace.token_ratio < 1
    with pytest.raises(InputError, match="leave out keep_kv"):
        generate(
            model,
            row,
            TopP(0.8),
            {"scope": scope, "keep_kv": True},
            **settings,
            prompt_lookup_num_tokens=3,
        )


def test_a_cache_is_cropped_by_generated_tokens_only(model, processor, examples):
    with torch.no_grad(), sparse(model, TopP(0.6)):
        out = model.generate(
            **prompts(processor, examples[:1]), max_new_tokens=4, do_sample=False,
            return_dict_in_generate=True,
        )  # fmt: skip
    with pytest.raises(RuntimeError, match="cropped by 4 tokens, 3 were generated"):
        out.past_key_values.crop(-4)
    out.past_key_values.crop(-3)
    with pytest.raises(RuntimeError, match="cropped by 1 tokens, 0 were generated"):
        out.past_key_values.crop(-1)


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("beams", [1, 2])
def test_generation_without_a_cache_is_the_same(model, batch, scope, beams):
    settings = {"max_new_tokens": 5, "do_sample": False, "num_beams": beams}
    outs = []
    for use_cache in (True, False):
        with torch.no_grad(), sparse(model, TopP(0.8), scope=scope) as trace:
            outs.append(model.generate(**batch, **settings, use_cache=use_cache))
            outs.append(trace.token_ratio)
    assert outs[0].tolist() == outs[2].tolist() and torch.equal(outs[1], outs[3])
    with torch.no_grad(), sparse(model, KeepAll()):
        assert model.generate(**batch, **settings).tolist() != outs[0].tolist()


@pytest.mark.parametrize("scope", SCOPES)
def test_a_cache_goes_on_in_a_later_block_and_leaves_its_trace_alone(model, batch, scope):
    embeds = front(model, batch)
    new = extended(model, embeds, batch["input_ids"][:, -3:])
    length = batch["input_ids"].shape[1]
    more = {
        "attention_mask": new["attention_mask"],
        "position_ids": new["position_ids"][..., length:],
    }
    more |= {"inputs_embeds": new["inputs_embeds"][:, length:], "use_cache": True}
    outs = []
    for blocks in (1, 2):
        with torch.no_grad(), sparse(model, RULE, scope=scope) as trace:
            past = prefill(decoder(model), embeds)
            ratio = trace.token_ratio
            if blocks == 1:
                outs.append(decoder(model)(**more, past_key_values=past).last_hidden_state)
                assert (trace.token_ratio > ratio).all()
        if blocks == 2:
            with torch.no_grad(), sparse(model, RULE, scope=scope) as other:
                outs.append(decoder(model)(**more, past_key_values=past).last_hidden_state)
            assert torch.equal(trace.token_ratio, ratio) and not other.kept
    assert torch.equal(*outs)


def test_a_turn_on_an_older_cache_is_not_counted_for_the_newer_prompt(model, processor, examples):
    text = decoder(model)
    first, second = (front(model, prompts(processor, [examples[i]])) for i in (0, 2))
    with torch.no_grad(), sparse(model, RULE) as trace:
        older = prefill(text, first)
        newer = prefill(text, second)
        kept = [layer.clone() for layer in trace.kept]
        text(inputs_embeds=first["inputs_embeds"][:, -3:], past_key_values=older, use_cache=True)
        assert all(torch.equal(*pair) for pair in zip(kept, trace.kept, strict=True))
        text(inputs_embeds=first["inputs_embeds"][:, -3:], past_key_values=newer, use_cache=True)
        assert trace.kept[0].shape[1] == kept[0].shape[1] + 3


def test_an_evicted_cache_is_refused_outside_the_block(model, processor, examples, batch):
    """Stock attention would take empty places for tokens, or, if another row kept everything, moved
    tokens for padding."""
    with torch.no_grad(), sparse(model, KeepAll()):
        past = prefill(decoder(model), front(model, batch))
    assert past.layers[0].keys.shape[2] == batch["input_ids"].shape[1]
    with torch.no_grad(), pytest.raises(RuntimeError, match="inside `with"):
        decoder(model)(
            inputs_embeds=front(model, batch)["inputs_embeds"][:, -1:],
            past_key_values=past,
            use_cache=True,
        )
    embeds = front(model, prompts(processor, examples[:1]))
    word = embeds["inputs_embeds"][:, -1:]
    with torch.no_grad():
        with sparse(model, RULE):
            past = prefill(decoder(model), embeds)
        with pytest.raises(RuntimeError, match="inside `with"):
            decoder(model)(inputs_embeds=word, past_key_values=past, use_cache=True)
        with sparse(model, RULE, keep_kv=True):
            past = prefill(decoder(model), embeds)
        assert not past.layers[0].ragged  # a mask without padding: decoding needs none
        decoder(model)(
            inputs_embeds=word, past_key_values=past, use_cache=True
        )  # nothing was dropped
