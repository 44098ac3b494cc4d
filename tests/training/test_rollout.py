"""Rollouts on the embedded model, what the reference says of them, and the loss of a batch."""

import copy
from dataclasses import replace

import pytest
import torch
from conftest import tiny_processor

import zipr1
from zipr1.data.example import Example
from zipr1.data.processor import prepare
from zipr1.models.encode import encode
from zipr1.models.families import decoder
from zipr1.rewards.reward import Reward, reward
from zipr1.sparsity.context import sparse
from zipr1.sparsity.rules import TopP
from zipr1.tasks import examples_of
from zipr1.training.config import Ablation, TrainConfig
from zipr1.training.draws import draw_thresholds, token_draws
from zipr1.training.experience import Experience, split
from zipr1.training.grpo import Governor, gate
from zipr1.training.loss import accuracy_gaps, losses
from zipr1.training.modes import DataRows, EmbeddedTasks, GivenCompletions, mode_of
from zipr1.training.reference import score_expected_answer, score_rollouts
from zipr1.training.rollout import completion_states, repeat, token_states
from zipr1.training.sampling import sample, score_given


def experience_of(model, examples, rollout, rewards, score, expected) -> Experience:
    """What the trainer gathers, with what the reference says."""
    scores = score_rollouts(model, rollout, len(rollout.p) // len(examples))
    return Experience(
        examples,
        rollout,
        rewards,
        score,
        expected,
        scores.logprobs,
        token_states(model, rollout, scores.hidden),
        list(range(len(examples))),
    )


def reference_logits(model, rollout, group: int) -> torch.Tensor:
    """(N, T, V)."""
    return token_states(model, rollout, score_rollouts(model, rollout, group).hidden).logits()


@pytest.fixture(scope="module")
def rolled(tiny):
    model, processor = tiny
    examples = examples_of(["shapes", "digits"], "val", 2)
    with torch.no_grad():
        encoded = encode(model, prepare(processor, examples))
    place = (0, 0, range(4), 4)
    p = draw_thresholds("grid", *place)
    return (
        examples,
        encoded,
        sample(
            model, encoded, TopP(p), max_new_tokens=4, temperature=1.0, draws=token_draws(*place, 4)
        ),
    )


def test_thresholds_are_a_function_of_the_question():
    whole = draw_thresholds("grid", 3, 5, range(10, 14), 8)
    assert whole[16:] == draw_thresholds("grid", 3, 5, range(12, 14), 8)
    assert sorted(whole[:8]) == [0.94, 0.945, 0.95, 0.955, 0.96, 0.965, 0.97, 0.975]
    uniform = draw_thresholds("uniform", 3, 5, range(10, 110), 8)
    assert 0 < min(uniform) < 0.05 and 0.95 < max(uniform) <= 1


def test_rollout_logprobs_are_those_of_one_pass(tiny, rolled):
    model, _ = tiny
    _, _, rollout = rolled
    prompt = rollout.embeds["attention_mask"].shape[1]
    with (
        torch.no_grad(),
        sparse(
            model,
            TopP(rollout.p),
            prompt_length=prompt,
            training=zipr1.TrainingPass(replay=rollout.kept),
        ) as trace,
    ):
        logp = (
            completion_states(model, rollout)
            .logits()
            .log_softmax(-1)
            .gather(2, rollout.tokens[..., None])[..., 0]
        )
    torch.testing.assert_close(
        logp[rollout.mask], rollout.logprobs[rollout.mask], rtol=1e-4, atol=1e-4
    )
    torch.testing.assert_close(trace.token_ratio, rollout.token_ratio)
    assert torch.stack(trace.flipped).max() < 0.02


def test_a_row_of_a_rollout_does_not_depend_on_its_neighbours(tiny, rolled):
    model, processor = tiny
    examples, _, rollout = rolled
    with torch.no_grad():
        encoded = encode(model, prepare(processor, examples[2:3]))
    p = draw_thresholds("grid", 0, 0, [2], 4)
    alone = sample(
        model,
        encoded,
        TopP(p),
        max_new_tokens=4,
        temperature=1.0,
        draws=token_draws(0, 0, [2], 4, 4),
    )
    assert alone.p == rollout.p[8:12]
    length = min(alone.tokens.shape[1], rollout.tokens.shape[1])
    mask = alone.mask[:, :length]
    assert alone.tokens[:, :length][mask].tolist() == rollout.tokens[8:12, :length][mask].tolist()


def test_reference_is_dense_and_computed_once_per_answer(tiny, rolled):
    model, processor = tiny
    examples, _, rollout = rolled
    with torch.no_grad():
        every = completion_states(model, rollout).logits()
    once = reference_logits(model, rollout, group=4)
    mask = rollout.mask[..., None].expand_as(every) & torch.isfinite(every)
    torch.testing.assert_close(once[mask], every[mask], rtol=1e-4, atol=1e-4)
    # With the expected answers beside them, in one pass: each answer to a question once.
    tokenizer, batches = processor.tokenizer, []
    with decoder(model).register_forward_pre_hook(
        lambda module, args, inputs: batches.append(tuple(inputs["inputs_embeds"].shape[:2])),
        with_kwargs=True,
    ):
        scores, _ = score_expected_answer(model, tokenizer, examples, rollout)
    logits = token_states(model, rollout, scores.hidden).logits()
    torch.testing.assert_close(logits[mask], every[mask], rtol=1e-4, atol=1e-4)
    logprobs = every.log_softmax(-1).gather(2, rollout.tokens[..., None])[..., 0]
    real = rollout.mask
    torch.testing.assert_close(scores.logprobs[real], logprobs[real], rtol=1e-4, atol=1e-4)
    different = {
        (i // 4, *row[real].tolist())
        for i, (row, real) in enumerate(zip(rollout.tokens, rollout.mask, strict=True))
    }
    different |= {
        (i, *tokenizer.encode(example.answer), tokenizer.eos_token_id)
        for i, example in enumerate(examples)
    }
    length = rollout.prompt_length
    assert batches == [
        (4, length),
        (len(different), max(map(len, different)) - 1),
    ]  # each prompt once


def test_a_prompt_is_embedded_by_the_model_that_reads_it(tiny, rolled):
    """What the policy encoded gives the reference its own prompt, and a gradient the way through the prompt's words."""
    model, processor = tiny
    examples, _, rollout = rolled
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.get_input_embeddings().weight.mul_(1.1)
        prompts = prepare(processor, examples)
        alone = replace(rollout, embeds=repeat(encode(other, prompts), 4)[0])
        theirs, mine = (
            completion_states(other, alone).logits(),
            completion_states(other, rollout).logits(),
        )
    finite = torch.isfinite(theirs)
    torch.testing.assert_close(mine[finite], theirs[finite], rtol=1e-4, atol=1e-4)
    table = other.get_input_embeddings().weight.requires_grad_(True)
    logp = (
        completion_states(other, rollout)
        .logits()
        .log_softmax(-1)
        .gather(2, rollout.tokens[..., None])
    )
    (gradient,) = torch.autograd.grad(logp.sum(), table)
    asked = processor.tokenizer.encode(examples[0].question)[1]
    with torch.no_grad():
        step = 1e-2 * gradient[asked] / gradient[asked].norm()
        table[asked] += step
        after = (
            completion_states(other, rollout)
            .logits()
            .log_softmax(-1)
            .gather(2, rollout.tokens[..., None])
        )
    assert (after - logp).sum().item() == pytest.approx(
        (gradient[asked] * step).sum().item(), rel=0.1
    )


def test_expected_accuracy_is_the_share_of_right_samples(tiny, rolled):
    """Against 200 dense samples of each question."""
    model, processor = tiny
    examples, encoded, rollout = rolled
    _, expected = score_expected_answer(model, processor.tokenizer, examples, rollout)
    place = (1, 0, range(4), 200)
    many = sample(
        model,
        encoded,
        TopP((1.0,) * 800),
        max_new_tokens=5,
        temperature=1.0,
        draws=token_draws(*place, 5),
    )
    tokens = many.tokens.masked_fill(~many.mask, processor.tokenizer.pad_token_id)
    right = reward(
        examples, processor.batch_decode(tokens, skip_special_tokens=True), many.token_ratio
    ).accuracy
    torch.testing.assert_close(right.mean(-1), expected, rtol=0, atol=0.1)


def test_the_baseline_does_not_know_the_first_rollout(tiny):
    """The reference's own answer to a row is another draw than that of a dense rollout of the same model."""
    model, processor = tiny
    config = TrainConfig(dense_share=1.0, num_generations=2, temperature=5.0)
    examples = examples_of(["shapes"], "val", 8)
    mode, place = DataRows(config, processor), (list(range(8)), 0, False)
    seen, widths, asked = [], [], []
    with model.model.visual.register_forward_hook(lambda *_: seen.append(1)):
        rolled = mode.rollout(model, prepare(processor, examples), examples, *place)
        with decoder(model).register_forward_pre_hook(
            lambda module, args, inputs: widths.append(inputs["inputs_embeds"].shape[1]),
            with_kwargs=True,
        ):

            def reference(work, *args):
                scores, answers = work(model, *args)
                asked.append(answers)
                return scores, answers

            scores, _ = mode.score_with_reference(reference, examples, rolled, *place)
    (asked,) = asked
    assert len(seen) == 1  # pictures are encoded once
    assert (
        widths.count(rolled.prompt_length) == 1 and max(widths[1:]) < 10
    )  # and read once, for its answers and for its scores
    expected = score_rollouts(model, rolled, 2)
    torch.testing.assert_close(scores.hidden, expected.hidden)
    torch.testing.assert_close(scores.logprobs, expected.logprobs)
    again = sample(
        model, encode(model, prepare(processor, examples)), TopP((1.0,) * 8), max_new_tokens=config.max_completion_length,
        temperature=5.0, draws=token_draws(0, 0, range(8), 1, config.max_completion_length, reference=True),
    )  # fmt: skip
    assert (
        asked.tokens.tolist() == again.tokens.tolist()
        and asked.mask.tolist() == again.mask.tolist()
    )
    assert len(asked.p) == 8 and set(rolled.p + asked.p) == {1.0}
    first, second, reference = (
        [tuple(tokens.tolist()) for tokens in one[:, :2]]
        for one in (rolled.tokens[::2], rolled.tokens[1::2], asked.tokens)
    )
    same = [sum(a == b for a, b in zip(reference, one, strict=True)) for one in (first, second)]
    assert max(same) < 4, same  # all eight, were it the same draw


def test_answers_that_did_not_end_are_told(tiny):
    """Sampled ones by the end of turn, the data's by where they were cut."""
    model, processor = tiny
    examples = examples_of(["chart"], "val", 4)
    inputs = prepare(processor, examples)
    for length, kind in ((1, "sampled"), (6, "sampled"), (1, "given"), (6, "given")):
        config = TrainConfig(
            num_generations=2, max_completion_length=length, completions=kind, gate="none"
        )
        mode = mode_of(config, processor)
        rollout = mode.rollout(model, inputs, examples, list(range(4)), 0, False)
        assert rollout.clipped.shape == (8,) and rollout.clipped.all() == (length == 1), kind
        assert rollout.clipped.any() == (length == 1), kind


def test_a_group_in_parts_has_the_losses_of_the_whole(tiny, rolled):
    """Its advantages, gates, metrics and places in the run are those of all its rollouts."""
    model, _ = tiny
    examples, _, rollout = rolled
    answered = torch.tensor([[1.0, 0, 0, 1], [0, 1, 0, 0], [0, 0, 0, 0], [1, 1, 1, 0]])
    rewards = Reward(answered, 1 - rollout.token_ratio.view(4, 4), answered.bool())
    config = TrainConfig(baseline="group", gate="group", kl="sampled")
    part = experience_of(model, examples, rollout, rewards, answered, torch.full((4,), 0.5))
    pieces = split(part, 8 * (rollout.prompt_length + rollout.tokens.shape[1]))
    assert [len(piece.rollout.p) for piece in pieces] == [8, 8] and split(part, 10**6) == [part]
    assert part.rollout_numbers == list(range(16)) and [
        piece.rollout_numbers[:3] for piece in pieces
    ] == [[0, 1, 4], [2, 3, 6]]

    def lost(part: Experience):
        choice = {
            "prompt_length": rollout.prompt_length,
            "training": zipr1.TrainingPass(replay=part.rollout.kept, relax=zipr1.relaxed_count),
        }
        with torch.no_grad(), sparse(model, TopP(part.rollout.p), **choice) as trace:
            return losses(model, trace, part, Governor(0.02, 0.04), config.objective)

    whole, metrics = lost(part)
    found = [lost(piece) for piece in pieces]
    for name, value in metrics.items():
        parts = torch.cat([piece[1][name].view(4, 2) for piece in found], dim=1).flatten()
        torch.testing.assert_close(parts, value, rtol=1e-4, atol=1e-5, msg=name)
    assert metrics["loss"].tolist() == whole.tolist()


def test_a_small_grade_opens_no_gate():
    """Graded answers earn for sparsity where they would be right; a user's reward from one half on, as on the probe set."""
    examples = [
        Example(str(i), "", "?", "10", problem_type=kind)
        for i, kind in enumerate(("regression", "free-form", "exact"))
    ]
    grades = torch.tensor([[0.94, 0.95], [0.49, 0.5], [0.0, 1.0]])
    rewards = Reward(grades, grades, grades.bool())
    graded = EmbeddedTasks(TrainConfig(graded=True), None).score(examples, rewards)
    assert graded.tolist() == [[0, 1]] * 3
    own = EmbeddedTasks(TrainConfig(reward_function="mine:own"), None).score(examples, rewards)
    assert own.tolist() == [[1, 1], [0, 0], [0, 1]]
    assert gate(graded, "answer").tolist() == [[0, 1]] * 3


def test_placeholders_are_never_sampled(tiny, rolled):
    model, _ = tiny
    _, _, rollout = rolled
    assert set(rollout.suppress) == {
        tiny_processor().tokenizer.convert_tokens_to_ids(f"<|{name}|>")
        for name in ("image_pad", "video_pad", "vision_start", "vision_end")
    }
    assert (reference_logits(model, rollout, 4).softmax(-1)[..., rollout.suppress] == 0).all()


def test_reward_parts():
    examples = examples_of(["shapes"], "val", 2)
    got = reward(
        examples,
        [examples[0].answer, "nonsense", "", examples[1].answer + "."],
        torch.tensor([0.8, 0.6, 0.5, 0.4]),
    )
    assert got.accuracy.tolist() == [[1, 0], [0, 1]]
    torch.testing.assert_close(got.efficiency, torch.tensor([[0.2, 0.4], [0.5, 0.6]]))
    gates = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    torch.testing.assert_close(got.total(1.0, gates), torch.tensor([[1.2, 0.0], [0.0, 1.6]]))


def test_equal_answers_earn_alike_if_asked(tiny, rolled):
    _, processor = tiny
    examples, _, rollout = rolled
    configs = [
        TrainConfig(preset="paper", ablation=Ablation(share_ties=on)) for on in (False, True)
    ]
    own, shared = (
        EmbeddedTasks(config, processor).rewards(examples, rollout, 0) for config in configs
    )
    assert own.accuracy.tolist() == shared.accuracy.tolist()
    assert own.efficiency.flatten().tolist() == pytest.approx((1 - rollout.token_ratio).tolist())
    answers = [
        tuple(row[real].tolist()) for row, real in zip(rollout.tokens, rollout.mask, strict=True)
    ]
    for row, answer in enumerate(answers):
        group = row // 4
        alike = [other for other in range(4 * group, 4 * group + 4) if answers[other] == answer]
        expected = sum(own.efficiency[group, other % 4].item() for other in alike) / len(alike)
        assert shared.efficiency[group, row % 4].item() == pytest.approx(expected)
    assert not torch.allclose(own.efficiency, shared.efficiency)


def test_each_kind_of_question_has_its_own_sparsity_weight(tiny, rolled):
    """Digits have fallen behind: their rollouts lose the sparsity term, those of shapes keep it."""
    model, processor = tiny
    examples, _, rollout = rolled
    tokens = rollout.tokens.masked_fill(~rollout.mask, processor.tokenizer.pad_token_id)
    rewards = reward(
        examples, processor.batch_decode(tokens, skip_special_tokens=True), rollout.token_ratio
    )
    config, half = TrainConfig(sparsity_weight=2.0).objective, torch.full((4,), 0.5)
    part = experience_of(model, examples, rollout, rewards, rewards.accuracy, half)
    choice = {
        "prompt_length": rollout.prompt_length,
        "training": zipr1.TrainingPass(replay=rollout.kept, relax=zipr1.relaxed_count),
    }
    with torch.no_grad(), sparse(model, TopP(rollout.p), **choice) as trace:
        free, metrics = losses(model, trace, part, Governor(0.02, 0.04), config)
        held, _ = losses(model, trace, part, Governor(0.02, 0.04, gaps={"digits": -0.04}), config)
        middle = rollout.token_ratio.median().item()  # itself, the target is reached
        reached, told = losses(
            model, trace, part, Governor(0.02, 0.04), replace(config, target_ratio=middle)
        )
        back, asked = losses(
            model, trace, part, Governor(0.02, 0.04), replace(config, give_back=3.0)
        )
        dense = replace(part, rollout=replace(rollout, p=(1.0,) * 8 + rollout.p[8:]))
        spared, _ = losses(
            model, trace, dense, Governor(0.02, 0.04), replace(config, give_back=3.0)
        )
        ratio = trace.relaxed_ratio
    assert [example.task for example in examples] == ["shapes"] * 2 + ["digits"] * 2
    torch.testing.assert_close(held[:8], free[:8])
    above = rollout.token_ratio > middle
    assert 0 < above.sum() < len(above) and torch.equal(told["frac_above_target"], above.float())
    torch.testing.assert_close(free - reached, ~above * 2.0 * rewards.accuracy.flatten() * ratio)
    lost = 0.5 * (
        1 - rewards.accuracy.flatten()
    )  # wrong, where the reference is right every other time
    assert lost[:8].any() and not lost.all()
    torch.testing.assert_close(back, free - 3.0 * 2.0 * lost * ratio)
    assert torch.equal(asked["given_back"], lost) and "given_back" not in metrics
    torch.testing.assert_close(
        spared[:8], (free - 2.0 * rewards.accuracy.flatten() * ratio)[:8]
    )  # dense ones need no tokens
    torch.testing.assert_close(spared[8:], back[8:])
    right = rewards.accuracy.flatten()[8:]
    assert right.any()
    torch.testing.assert_close(
        free[8:] - held[8:], 0.5 * 2.0 * right * ratio[8:]
    )  # half way through the margin
    gaps = accuracy_gaps(part, ["shapes", "digits"])
    gap = (rewards.accuracy[2:] - 0.5).sum()
    torch.testing.assert_close(gaps["gap/digits"].sum(), gap)
    assert gaps["sparse/digits"].tolist() == [0.0] * 8 + [1.0] * 8


def test_given_completions_are_learned_by_their_cross_entropy(tiny, rolled):
    """Plain fine-tuning under sparse attention: the gradient of the loss is that of torch's cross-entropy."""
    model, processor = tiny
    examples, encoded, _ = rolled
    config = TrainConfig(
        completions="given", gate="none", reward_weight=1.0, beta=0.0, sparsity_weight=0.0
    )
    tokens, mask, clipped = GivenCompletions(config, processor).tokens(examples, "cpu")
    assert not clipped.any()
    assert tokens[0][mask[0]].tolist() == [
        *processor.tokenizer.encode(examples[0].answer),
        processor.tokenizer.eos_token_id,
    ]
    rollout = score_given(model, encoded, TopP((0.95,) * 4), tokens=tokens, mask=mask)
    rollout = replace(
        rollout, logprobs=rollout.logprobs - 1
    )  # of an older policy: nothing is clipped here
    zeros = torch.zeros(4, 1)
    rewards = Reward(zeros, zeros, zeros.bool())
    part = experience_of(model, examples, rollout, rewards, zeros, zeros[:, 0])
    part.supervised = True
    weight = model.model.language_model.layers[1].mlp.up_proj.weight.requires_grad_(True)
    try:
        with sparse(
            model,
            TopP(rollout.p),
            prompt_length=rollout.prompt_length,
            training=zipr1.TrainingPass(replay=rollout.kept),
        ) as trace:
            (ours,) = torch.autograd.grad(
                losses(model, trace, part, Governor(0.02, 0.04), config.objective)[0].mean(), weight
            )
            logits = completion_states(model, rollout).logits()
        nll = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), tokens.flatten(), reduction="none"
        ).view(tokens.shape)
        (theirs,) = torch.autograd.grad(((nll * mask).sum(1) / mask.sum(1)).mean(), weight)
    finally:
        weight.requires_grad_(False)
    assert theirs.abs().max() > 1e-4
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
