"""The objective, by numbers worked out by hand."""

import math

import pytest
import torch

from zipr1.training.grpo import (
    Governor,
    clipped_surrogate,
    full_kl,
    gate,
    group_advantages,
    reference_advantages,
    sampled_kl,
    share_ties,
    token_average,
)


def test_advantages_by_hand():
    # mean 1.5, deviations -0.5, 0.5 -> population std 0.5; the second group is all equal
    got = group_advantages(torch.tensor([[1.0, 2.0], [0.7, 0.7]]))
    torch.testing.assert_close(got, torch.tensor([[-1.0, 1.0], [0.0, 0.0]]))


def test_std_floor_keeps_small_differences_small():
    got = group_advantages(torch.tensor([[1.00, 1.02]]), std_floor=0.1)
    torch.testing.assert_close(got, torch.tensor([[-0.1, 0.1]]))


def test_ties_by_hand():
    answers = [
        [1, 2],
        [1, 2],
        [3],
        [1, 2],
        [3],
        [4],
    ]  # two groups of three: equal answers count within a group
    got = share_ties(torch.tensor([[0.2, 0.4, 0.9], [0.1, 0.5, 0.6]]), answers)
    torch.testing.assert_close(got, torch.tensor([[0.3, 0.3, 0.9], [0.1, 0.5, 0.6]]))


@pytest.mark.parametrize("chance", [0.2, 0.5, 0.9])
def test_the_baseline_of_a_reference_has_the_least_variance(chance):
    """A policy of two outcomes with one logit, every outcome counted with its chance."""
    chances = torch.tensor([chance, 1 - chance], dtype=torch.float64)
    slope = torch.tensor(
        [1 - chance, -chance], dtype=torch.float64
    )  # of log-probability: right, wrong

    def moments(baseline: float) -> tuple[float, float]:
        # rewards 1 and 0; c = 1 - baseline is what the reference would have to expect
        gradient = (
            reference_advantages(torch.tensor([[1.0, 0.0]]), torch.tensor([1 - baseline]))[
                0
            ].double()
            * slope
        )
        mean = (chances * gradient).sum()
        return mean.item(), (chances * (gradient - mean) ** 2).sum().item()

    mean, least = moments(1 - chance)
    assert mean == pytest.approx(chance * (1 - chance))  # d chance / d logit
    for baseline in (0.0, 0.3, chance + 0.05, 1.0):
        other, variance = moments(baseline)
        assert other == pytest.approx(mean) and variance > least


def test_surrogate_by_hand():
    # ratios 1.5 and 0.5, epsilon 0.2; A = 2: min(3, 2.4), min(1, 1.6) -> mean 1.7; A = -2: min(-3, -2.4), min(-1, -1.6) -> -2.3
    logprobs = torch.log(torch.tensor([[1.5, 0.5, 9.0]])).repeat(2, 1)
    mask = torch.tensor([[True, True, False]]).repeat(2, 1)
    got = clipped_surrogate(logprobs, torch.zeros(2, 3), torch.tensor([2.0, -2.0]), mask, 0.2)
    torch.testing.assert_close(got, torch.tensor([1.7, -2.3]))


def test_a_sequence_level_ratio_is_that_of_the_answer():
    """Eq. 5 as printed: 1.5 * 0.5 = 0.75 is clipped at 0.8 for A = -2, not for A = 2; no 1/|o|."""
    logprobs = torch.log(torch.tensor([[1.5, 0.5, 9.0]])).repeat(2, 1)
    mask = torch.tensor([[True, True, False]]).repeat(2, 1)
    old, advantages = torch.zeros(2, 3), torch.tensor([2.0, -2.0])
    got = clipped_surrogate(logprobs, old, advantages, mask, 0.2, "sequence")
    torch.testing.assert_close(got, torch.tensor([1.5, -1.6]))
    policy = torch.tensor([[-1.0, -2.0]], requires_grad=True)
    gain = clipped_surrogate(
        policy, policy.detach(), torch.tensor([3.0]), torch.ones(1, 2), 0.2, "sequence"
    )
    (gradient,) = torch.autograd.grad(gain.sum(), policy)
    torch.testing.assert_close(gradient, torch.tensor([[3.0, 3.0]]))  # A grad log pi(o|x)


def test_averages_over_the_tokens_of_an_answer():
    values, mask = torch.tensor([[1.0, 2.0, 9.0]]), torch.tensor([[True, True, False]])
    assert token_average("grpo", 6)(values, mask).item() == 1.5
    assert token_average("dr_grpo", 6)(values, mask).item() == 0.5
    old = torch.zeros(1, 3)
    gain = clipped_surrogate(
        old, old, torch.tensor([6.0]), mask, 0.2, average=token_average("dr_grpo", 4)
    )
    assert gain.item() == 3.0 and sampled_kl(old, old, mask, token_average("dr_grpo", 4)) == 0


def test_on_policy_gradient_is_the_score_function():
    logprobs = torch.tensor([[-1.0, -2.0]], requires_grad=True)
    clipped_surrogate(
        logprobs, logprobs.detach(), torch.tensor([3.0]), torch.ones(1, 2), 0.2
    ).sum().backward()
    torch.testing.assert_close(logprobs.grad, torch.tensor([[1.5, 1.5]]))  # A / |o|


def test_log_ratio_is_limited():
    got = clipped_surrogate(
        torch.tensor([[100.0]]),
        torch.tensor([[-100.0]]),
        torch.tensor([-1.0]),
        torch.ones(1, 1),
        0.2,
    )
    assert got.item() == pytest.approx(-math.exp(10), rel=1e-5)


def test_kl_by_hand():
    p, q = torch.tensor([[[0.75, 0.25]]]), torch.tensor([[[0.5, 0.5]]])
    exact = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert full_kl(p.log(), q.log()).item() == pytest.approx(exact, rel=1e-5)
    estimates = [
        sampled_kl(p.log()[..., i], q.log()[..., i], torch.ones(1, 1)).item() for i in (0, 1)
    ]
    assert 0.75 * estimates[0] + 0.25 * estimates[1] == pytest.approx(exact, rel=1e-5)  # unbiased
    assert min(estimates) >= 0


def test_the_forward_kl_still_pulls_a_policy_that_is_sure_and_wrong():
    """The policy gives the reference's answer 1e-6: its own KL has almost no gradient there, the other direction's is p - q."""
    reference = torch.tensor([[[0.9, 0.1]]]).log()
    policy = torch.tensor([[[1e-6, 1 - 1e-6]]]).log().requires_grad_(True)
    logp = policy.log_softmax(-1)
    (own,) = torch.autograd.grad(full_kl(logp, reference).sum(), policy, retain_graph=True)
    (forward,) = torch.autograd.grad(full_kl(reference, logp).sum(), policy)
    assert own.abs().max() < 1e-4
    torch.testing.assert_close(forward, torch.tensor([[[1e-6 - 0.9, 0.9 - 1e-6]]]))


def test_gates():
    right = torch.tensor([[True, False], [False, False]])
    assert gate(right, "none").tolist() == [[1, 1], [1, 1]]
    assert gate(right, "group").tolist() == [[1, 1], [0, 0]]
    assert gate(right, "answer").tolist() == [[1, 0], [0, 0]]


def test_governor_lets_go_when_accuracy_falls():
    governor = Governor(tolerance=0.02, margin=0.1, momentum=0.5)
    assert governor.factor("chart") == 1.0
    governor.update("chart", -0.04)  # running gap -0.02: as far as is tolerated
    assert governor.factor("chart") == pytest.approx(1.0)
    governor.update("chart", -0.12)  # running gap -0.07: half way down
    assert governor.factor("chart") == pytest.approx(0.5)
    assert governor.factor("digits") == 1.0  # each kind of question by its own
    governor.update("chart", -1.0)
    assert governor.factor("chart") == 0.0
    governor.update("chart", 1.0)
    assert governor.factor("chart") == 1.0
