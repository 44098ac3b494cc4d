"""The mathematics of the choice, by numbers worked out by hand."""

import math

import pytest
import torch

from zipr1.sparsity.budget import keep_best, relaxed_count, top_p_count
from zipr1.sparsity.probes import Scores, find_probes, probe_ranks, probe_scores
from zipr1.sparsity.rules import KeepAll, Random, Recent, TopK, TopP
from zipr1.training.sharpness import entropy_count, soft_count


def scores(accumulated, counts=None, valid=None) -> Scores:
    accumulated = torch.tensor(accumulated)
    counts = torch.ones_like(accumulated) if counts is None else torch.tensor(counts)
    valid = torch.ones_like(accumulated, dtype=torch.bool) if valid is None else torch.tensor(valid)
    return Scores(lambda: (accumulated, counts), valid, layer=0)


def test_count_is_the_least_that_holds_p():
    # 4 probes; sorted 2.0, 1.0, 0.6, 0.3, 0.1 -> cumulative shares 0.5, 0.75, 0.9, 0.975, 1
    a = torch.tensor([[0.3, 2.0, 0.1, 1.0, 0.6]])
    valid = torch.ones(1, 5, dtype=torch.bool)
    for p, n in (
        (0.4, 1),
        (0.5, 1),
        (0.51, 2),
        (0.75, 2),
        (0.89, 3),
        (0.97, 4),
        (0.98, 5),
        (1.0, 5),
    ):
        assert top_p_count(a, torch.tensor([p]), valid).item() == n, p


def test_count_is_minimal_and_monotone_in_p():
    generator = torch.Generator().manual_seed(0)
    a = torch.rand(64, 37, generator=generator) ** 4
    valid = torch.ones(64, 37, dtype=torch.bool)
    before = torch.zeros(64, dtype=torch.long)
    for p in torch.linspace(0.05, 0.995, 40).tolist():
        n = top_p_count(a, torch.full((64,), p), valid)
        curve = a.sort(-1, descending=True).values.cumsum(-1)
        wanted = p * curve[:, -1]
        assert (curve.gather(1, n[:, None] - 1)[:, 0] >= wanted).all()
        shorter = torch.where(
            n > 1, curve.gather(1, (n - 2).clamp(min=0)[:, None])[:, 0], -torch.ones(64)
        )
        assert (shorter < wanted).all()
        assert (n >= before).all()
        before = n


def test_choice_is_by_normalised_scores_and_keeps_the_last_token():
    # accumulated favours the first token, which all 4 probes see; normalised: 0.5, 0.4, 0.45, 0.3
    s = scores([[2.0, 1.2, 0.9, 0.3]], [[4.0, 3.0, 2.0, 1.0]])
    assert TopP(0.7).keep(s).tolist() == [
        [True, False, False, True]
    ]  # n = 2: best normalised, and the last
    assert TopP(0.9).keep(s).tolist() == [
        [True, False, True, True]
    ]  # n = 3: 0.5, 0.45 and the last
    assert TopP(0.9, choice="accumulated").keep(s).tolist() == [[True, True, False, True]]


def test_accumulated_choice_holds_the_share_except_for_the_last_token():
    generator = torch.Generator().manual_seed(1)
    a = torch.rand(16, 50, generator=generator) ** 6
    a[:, -1] = 9.0  # the last token is chosen anyway
    kept = TopP(0.9, choice="accumulated").keep(scores(a.tolist()))
    assert ((a * kept).sum(-1) >= 0.9 * a.sum(-1)).all()


def test_padding_is_never_kept_and_p_differs_by_sample():
    s = scores(
        [[0.0, 3.0, 1.0, 0.0], [1.0, 1.0, 1.0, 1.0]], valid=[[False, True, True, False], [True] * 4]
    )
    kept = TopP((0.5, 0.5)).keep(s)
    assert kept.tolist() == [[False, False, True, False], [True, False, False, True]]
    assert TopP((0.9, 1.0)).keep(s).tolist() == [[False, True, True, False], [True] * 4]
    with pytest.raises(ValueError, match="3 values for a batch of 2"):
        TopP((0.5, 0.5, 0.5)).keep(s)


@pytest.mark.parametrize("p", [0.0, -0.1, 1.01, float("nan")])
def test_a_threshold_outside_its_range_is_refused(p):
    with pytest.raises(ValueError, match=r"\(0, 1\]"):
        TopP(p)


def test_relaxed_count_by_hand():
    # sorted 2, 1, 0.6, 0.3, 0.1 (total 4); p = 0.8: 3.2 is a third of the way from C(2) = 3 to
    # C(3) = 3.6
    a = torch.tensor([[0.3, 2.0, 0.1, 1.0, 0.6]], requires_grad=True)
    count = relaxed_count(a, torch.tensor([0.8]), torch.ones(1, 5, dtype=torch.bool))
    assert count.item() == pytest.approx(2 + 1 / 3, abs=1e-5)


def test_relaxed_gradient_is_that_of_a_finite_difference():
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(3, 12, 11, generator=generator, dtype=torch.float64) * 2
    direction = torch.randn(3, 12, 11, generator=generator, dtype=torch.float64)
    p, valid = (
        torch.tensor([0.6, 0.8, 0.95], dtype=torch.float64),
        torch.ones(3, 11, dtype=torch.bool),
    )

    def count(x: torch.Tensor) -> torch.Tensor:
        return relaxed_count(
            x.softmax(-1).sum(1), p, valid
        )  # 12 probes: accumulated scores sum to 12

    logits.requires_grad_(True)
    (gradient,) = torch.autograd.grad(count(logits).sum(), logits)
    step = 1e-6
    with torch.no_grad():
        difference = (count(logits + step * direction) - count(logits - step * direction)) / (
            2 * step
        )
    torch.testing.assert_close((gradient * direction).sum((1, 2)), difference, rtol=1e-4, atol=1e-6)


def test_floor_bounds_the_gradient_and_leaves_the_value():
    a = torch.tensor([[3.0, 0.9, 1e-7, 0.1 - 1e-7]], requires_grad=True)
    p, valid = torch.tensor([1.0 - 1e-8]), torch.ones(1, 4, dtype=torch.bool)
    free, bounded = relaxed_count(a, p, valid), relaxed_count(a, p, valid, floor=0.1)
    assert free.item() == bounded.item()
    assert torch.autograd.grad(bounded.sum(), a)[0].abs().max() <= 10.5  # 1 / (0.1 * mean score 1)


def test_other_measures_of_sharpness_by_hand():
    p, valid = torch.tensor([0.9, 0.9]), torch.ones(2, 5, dtype=torch.bool)
    even, peaked = [1.0, 1.0, 1.0, 1.0, 0.0], [8.0, 0.0, 0.0, 0.0, 0.0]
    torch.testing.assert_close(
        entropy_count(torch.tensor([even, peaked]), p, valid), torch.tensor([4.0, 1.0])
    )
    # of 4 equal scores 90 % takes all four, and each lies at the edge; the peak is its own edge
    torch.testing.assert_close(
        soft_count(torch.tensor([even, peaked]), p, valid), torch.tensor([2.0, 0.5])
    )
    steps = torch.tensor(
        [[math.e, 1.0, 1 / math.e, 0.0, 0.0]] * 2
    )  # p = 0.9 ends at the second: 1, 0 and -1 nats from it
    expected = sum(1 / (1 + math.exp(-nats / 0.5)) for nats in (1, 0, -1))
    torch.testing.assert_close(soft_count(steps, p, valid), torch.tensor([expected] * 2))


@pytest.mark.parametrize("measure", [entropy_count, soft_count])
def test_a_step_down_the_other_measures_sharpens_attention(measure):
    logits = torch.randn(1, 12, 11, generator=torch.Generator().manual_seed(2), requires_grad=True)
    p, valid = (
        torch.tensor([0.9]),
        torch.arange(11)[None] > 1,
    )  # two of padding, which no probe sees

    def scores(logits: torch.Tensor) -> torch.Tensor:
        return logits.masked_fill(~valid, float("-inf")).softmax(-1).sum(1)

    (gradient,) = torch.autograd.grad(measure(scores(logits), p, valid).sum(), logits)
    with torch.no_grad():
        before, after = (
            relaxed_count(scores(x), p, valid) for x in (logits, logits - 5 * gradient)
        )
    assert after < before - 0.1


def test_probes_are_the_recent_ones_and_others_evenly_spaced():
    probes = probe_ranks(torch.tensor([3, 5, 11]), 11, recent=2, others=3)
    assert probes.tolist() == [[0, 1, 2, -1, -1], [0, 1, 2, 3, 4], [0, 3, 6, 9, 10]]


def test_scores_by_hand_with_padding_and_grouped_heads():
    # two query heads share one key head; keys ln 1, ln 3: a query of 1 has weights (1), (1/4, 3/4),
    # a query of 0 (1), (1/2, 1/2)
    key = torch.log(torch.tensor([7.0, 1.0, 3.0])).view(1, 1, 3, 1)
    query = torch.tensor([[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]]).view(1, 2, 3, 1)
    valid = torch.tensor([[False, True, True]])
    accumulated, counts = probe_scores(
        query, key, find_probes(torch.tensor([[0, 1, -1]]), valid), scaling=1.0
    )
    torch.testing.assert_close(
        accumulated, torch.tensor([[0.0, 1 + (0.25 + 0.5) / 2, (0.75 + 0.5) / 2]])
    )
    assert counts.tolist() == [[0, 2, 1]]


def test_fixed_ratio_rules():
    s = scores([[0.1, 0.2, 0.9, 0.8, 0.3, 0.4]])
    assert TopK(0.5).keep(s).tolist() == [[False, False, True, True, False, True]]
    assert Recent(0.5, sinks=1).keep(s).tolist() == [[True, False, False, False, True, True]]
    assert KeepAll().keep(s).all()
    assert Random(0.5).keep(s).sum() == 3
    padded = scores([[0.0] * 2 + [0.1] * 6], valid=[[False] * 2 + [True] * 6])
    assert (
        Random(0.5).keep(padded)[0, 2:].tolist() == Random(0.5).keep(s)[0].tolist()
    )  # not a matter of padding


def test_ties_go_to_the_earlier_token():
    assert keep_best(
        torch.ones(1, 4), torch.tensor([3]), torch.ones(1, 4, dtype=torch.bool)
    ).tolist() == [[True, True, False, True]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_scores_are_made_in_float32(dtype):
    """Norms of 280, as the key biases of Qwen2 make them: the product of two overflows float16, and
    bfloat16 rounds the differences between tokens away. Also under autocast."""
    torch.manual_seed(0)
    query, key = (25 + torch.randn(1, heads, 16, 128).to(dtype) for heads in (2, 1))
    probes = find_probes(torch.arange(16)[None], torch.ones(1, 16, dtype=torch.bool))
    expected = probe_scores(query.float(), key.float(), probes, 128**-0.5)[0]
    assert expected.std() > 0.1
    assert torch.equal(probe_scores(query, key, probes, 128**-0.5)[0], expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(probe_scores(query.float(), key.float(), probes, 128**-0.5)[0], expected)


def test_a_share_is_not_rounded_up_by_rounding_errors():
    everything = scores([[1.0] * 300])
    for ratio, count in ((0.09, 27), (0.1, 30), (0.101, 31), (1.0, 300)):
        assert TopK(ratio).keep(everything).sum() == count, ratio
