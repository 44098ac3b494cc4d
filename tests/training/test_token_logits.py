"""Logits a piece at a time give what all of them at once give, and never more at once than they may."""

import pytest
import torch

import zipr1
from zipr1.data.processor import prepare
from zipr1.models.encode import encode
from zipr1.rewards.reward import Reward
from zipr1.sparsity.rules import TopP
from zipr1.tasks import examples_of
from zipr1.training import token_logits
from zipr1.training.config import TrainConfig
from zipr1.training.draws import token_draws
from zipr1.training.experience import Experience, split
from zipr1.training.grpo import Governor
from zipr1.training.loss import losses
from zipr1.training.reference import score_expected_answer
from zipr1.training.sampling import sample
from zipr1.training.token_logits import TokenStates
from zipr1.training.training_step import training_pass

GROUP, LENGTH = 2, 6


@pytest.fixture(scope="module")
def setup():
    """Policy, another model as its reference, and sampled answers to two questions."""
    model, processor = zipr1.load("zipr1/tiny")
    reference, _ = zipr1.load("zipr1/tiny")
    with torch.no_grad():
        reference.lm_head.weight.mul_(1.1)  # tied: its embeddings too
    examples = examples_of(["shapes"], "val", 2)
    with torch.no_grad():
        encoded = encode(model, prepare(processor, examples))
    rollout = sample(
        model,
        encoded,
        TopP((0.9, 0.95) * GROUP),
        max_new_tokens=LENGTH,
        temperature=2.0,
        draws=token_draws(0, 0, range(2), GROUP, LENGTH),
    )
    return model, reference, processor, examples, rollout


def gathered(setup) -> tuple[Experience, torch.Tensor]:
    """What the trainer gathers, and the reference's probability of the expected answers."""
    _, reference, processor, examples, rollout = setup
    scores, expected = score_expected_answer(reference, processor.tokenizer, examples, rollout)
    right = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    part = Experience(
        examples,
        rollout,
        Reward(right, 1 - rollout.token_ratio.view(2, 2), torch.zeros(2, 2, dtype=torch.bool)),
        score=right,
        expected=expected,
        reference_logprobs=scores.logprobs,
        reference=TokenStates(scores.hidden, reference.lm_head, rollout.suppress, 2.0),
        numbers=[0, 1],
    )
    return part, expected


def learned(setup, part: Experience, kl: str) -> tuple[torch.Tensor, dict, dict]:
    """Loss, metrics and gradients."""
    model, objective = setup[0], TrainConfig(kl=kl).objective
    model.zero_grad()
    settings = {"prompt_length": part.rollout.prompt_length}
    rule = TopP(part.rollout.p)
    with zipr1.sparse(model, rule, training=training_pass(part, objective), **settings) as trace:
        loss, metrics = losses(model, trace, part, Governor(0.02, 0.04), objective)
        loss.sum().backward()
    gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return loss.detach(), metrics, gradients


@pytest.mark.parametrize("kl", ["full", "forward", "sampled"])
@pytest.mark.parametrize("tokens", [1, 2, 4])
def test_pieces_equal_the_whole(setup, monkeypatch, kl, tokens):
    """Of 1, 2 and 4 of the six tokens."""
    model, reference = setup[:2]
    for one in (model, reference):
        for name, parameter in one.named_parameters():
            parameter.requires_grad_("visual" not in name)
    part, expected = gathered(setup)
    whole = learned(setup, part, kl)
    rows, vocabulary = len(part.rollout.p), model.lm_head.out_features
    # The expected answers are scored beside the rollouts: half as many rows again.
    monkeypatch.setattr(token_logits, "MOST_LOGITS", tokens * rows * vocabulary)
    sizes = []
    for one in (model, reference):
        one.lm_head.register_forward_hook(lambda *seen: sizes.append(seen[2].numel()))
    part, again = gathered(setup)
    pieces = learned(setup, part, kl)
    for one in (model, reference):
        one.lm_head._forward_hooks.clear()
    assert max(sizes) <= max(tokens * rows, rows + 2) * vocabulary
    torch.testing.assert_close(again, expected)
    torch.testing.assert_close(pieces, whole, rtol=1e-4, atol=1e-5)
    assert reference.lm_head.weight.grad is None


def test_a_part_has_its_own_rows(setup):
    part, _ = gathered(setup)
    pieces = split(part, part.rollout.prompt_length + LENGTH)
    assert len(pieces) > 1
    for number, piece in enumerate(pieces):
        rows = torch.arange(number, len(part.rollout.p), len(pieces))
        torch.testing.assert_close(piece.reference.logits(), part.reference.logits()[rows])
        found = piece.reference.logprobs(piece.rollout.tokens)
        torch.testing.assert_close(found, piece.reference_logprobs)


@pytest.mark.parametrize(("width", "most", "count"), [(6, 24, 1), (6, 23, 2), (6, 1, 6), (0, 1, 1)])
def test_how_many_pieces(monkeypatch, width, most, count):
    """Two rows and a vocabulary of two: four logits for each token; none is left out."""
    monkeypatch.setattr(token_logits, "MOST_LOGITS", most)
    states = TokenStates(torch.zeros(2, width, 3), torch.nn.Linear(3, 2), [], 1.0)
    pieces = states.pieces()
    assert len(pieces) == count
    assert [column for piece in pieces for column in range(width)[piece]] == list(range(width))


@pytest.mark.parametrize("rows", [1, 3])
def test_no_copy_of_the_head_for_each_row(rows):
    """In bfloat16 on a CPU, torch multiplies a strided batch with a copy of the weights per row."""
    head = torch.nn.Linear(8, 1000, bias=False).requires_grad_(False)
    hidden = torch.randn(rows, 9, 8)[:, 2:-1]
    states = TokenStates(hidden, head, [], 1.0)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        found = states.logits(slice(1, 5))
    assert "aten::bmm" not in {event.key for event in profile.key_averages()}
    assert torch.allclose(found, hidden[:, 1:5] @ head.weight.T, atol=1e-6)
