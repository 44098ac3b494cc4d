"""Packed against padded attention. Torch's kernel needs CUDA; elsewhere a loop replaces it."""

import pytest
import torch
from conftest import front

import zipr1
from zipr1.models.families import decoder
from zipr1.sparsity import varlen
from zipr1.sparsity.rules import TopP


def plain_varlen(query, key, value, starts, key_starts, most, most_keys, *, scale, window_size):
    """torch.nn.attention.varlen.varlen_attn as documented: (N, H, D), each sample causal."""
    assert (
        window_size == (-1, 0) and torch.equal(starts, key_starts) and starts.dtype == torch.int32
    )
    assert most == most_keys == int(starts.diff().max()) and query.shape == key.shape == value.shape
    parts = []
    for low, high in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
        one = [states[low:high].transpose(0, 1) for states in (query, key, value)]
        parts.append(
            torch.nn.functional.scaled_dot_product_attention(
                *one, is_causal=True, scale=scale
            ).transpose(0, 1)
        )
    return torch.cat(parts)


@pytest.mark.parametrize("scope", ["attention", "layer"])
def test_packed_equals_padded_in_value_and_gradient(model, batch, monkeypatch, request, scope):
    results = []
    real = batch["attention_mask"].bool()
    inputs = front(model, batch)
    request.addfinalizer(model.float)
    model.double()  # nothing but the order of sums may differ
    inputs["inputs_embeds"] = inputs["inputs_embeds"].double()
    inputs |= {
        name: [one.double() for one in inputs[name]]
        for name in inputs.keys() & {"deepstack_visual_embeds"}
    }
    for packs in (False, True):
        for module in ("attention", "gathered"):
            packable = f"zipr1.sparsity.{module}.packable"
            monkeypatch.setattr(packable, lambda *_, packs=packs, **__: packs)
        monkeypatch.setattr(varlen.varlen, "varlen_attn", plain_varlen)
        embeds = inputs["inputs_embeds"].detach().requires_grad_(True)
        with zipr1.sparse(model, TopP((0.6, 0.8, 0.9, 0.95)), scope=scope) as trace:
            hidden = decoder(model)(
                **inputs | {"inputs_embeds": embeds}, use_cache=False
            ).last_hidden_state
        assert len(set(trace.kept[1].sum(-1).tolist())) > 1  # unequal counts
        (gradient,) = torch.autograd.grad(hidden[real].square().sum() + hidden[real].sum(), embeds)
        results.append((hidden[real].detach(), gradient))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_torchs_kernel_equals_its_contract(dtype):
    torch.manual_seed(0)
    states = [torch.randn(3, heads, 40, 64, device="cuda", dtype=dtype) for heads in (4, 2, 2)]
    kept = torch.rand(3, 40, device="cuda") < torch.tensor([[0.3], [0.6], [0.9]], device="cuda")
    counts = kept.sum(-1)
    rows = kept.flatten().nonzero()[:, 0]
    assert varlen.packable(states[0], 0.0)
    found = varlen.packed_attention(*states, rows, counts, int(counts.max()), 0.125)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(varlen.varlen, "varlen_attn", plain_varlen)
        expected = varlen.packed_attention(
            *[one.float() for one in states], rows, counts, int(counts.max()), 0.125
        )
    torch.testing.assert_close(found.float(), expected, rtol=2e-2, atol=2e-2)
