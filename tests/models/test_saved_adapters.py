"""Adapters of every form that PEFT writes: `zipr1.load` gives the model that `zipr1.save` had."""

import json

import pytest
import torch
from conftest import random_model, tiny_processor
from peft import IA3Config, LoHaConfig, LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

import zipr1
from zipr1.common.errors import InputError

IDS = torch.arange(3, 40)[None]
NONE = {IA3Config: {"feedforward_modules": []}}  # an argument that PEFT demands


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    zipr1.save(random_model("llama"), tiny_processor().tokenizer, folder)
    return folder


def adapted(base, name: str = "default", **settings) -> PeftModel:
    """A PeftModel of the base, its adapter not zero."""
    model = get_peft_model(
        plain(base), LoraConfig(**{"target_modules": ["q_proj"]} | settings), name
    )
    return moved(model)


def plain(base):
    return AutoModelForCausalLM.from_pretrained(base).eval()


def moved(model):
    torch.manual_seed(4)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(0.1 * torch.randn_like(weight))
    return model.eval()


def again(model, folder) -> torch.Tensor:
    """The largest difference of the logits after saving and loading."""
    zipr1.save(model, tiny_processor().tokenizer, folder)
    loaded, _ = zipr1.load(folder)
    with torch.no_grad():
        return (loaded(IDS).logits - model(IDS).logits).abs().max()


FORMS = {
    "plain": {},
    "DoRA": {"use_dora": True},
    "DoRA of an embedding": {"use_dora": True, "target_modules": ["embed_tokens", "v_proj"]},
    "embedding": {"target_modules": ["q_proj", "embed_tokens"]},
    "single tokens": {"trainable_token_indices": [3, 5, 9]},
    "saved embedding": {"modules_to_save": ["embed_tokens"]},
    "saved norm": {"modules_to_save": ["norm"]},
    "bias of LoRA": {"lora_bias": True},
}


@pytest.mark.parametrize("form", FORMS)
def test_a_form_of_lora_is_loaded_as_it_was(base, tmp_path, form):
    model = adapted(base, **FORMS[form])
    with torch.no_grad():
        moved_by = (plain(base)(IDS).logits - model(IDS).logits).abs().max()
    assert moved_by > 0.01
    assert again(model, tmp_path) < 1e-4


def test_tokens_of_an_untied_head_are_still_missed(base, tmp_path):
    """Only a parameter that is loaded under another name may be missing."""
    from safetensors.torch import load_file, save_file

    again(adapted(base, trainable_token_indices=[3, 5]), tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    weights = {key: w for key, w in load_file(file).items() if "token_adapter" not in key}
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"missing.*token_adapter"):
        zipr1.load(tmp_path)


def test_the_only_adapter_may_have_any_name(base, tmp_path):
    assert again(adapted(base, "mine"), tmp_path) < 1e-4
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


@pytest.mark.parametrize("active", ["default", "two"])
def test_of_two_adapters_the_active_one_is_saved(base, tmp_path, active):
    model = adapted(base)
    model.add_adapter("two", LoraConfig(target_modules=["o_proj"]))
    model.set_adapter("two")
    moved(model).set_adapter(active)
    assert again(model, tmp_path) < 1e-4
    modules = json.loads((tmp_path / "adapter_config.json").read_text())["target_modules"]
    assert modules == ["q_proj" if active == "default" else "o_proj"]
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


def test_adapters_that_transformers_added(base, tmp_path):
    model = plain(base)
    for name, module in (("one", "q_proj"), ("two", "o_proj")):
        model.add_adapter(LoraConfig(target_modules=[module]), name)
        moved(model)
    model.set_adapter("one")
    assert again(model, tmp_path / "one") < 1e-4
    model.set_adapter(["one", "two"])
    with pytest.raises(InputError, match=r"2 adapters are active.*set_adapter"):
        again(model, tmp_path / "both")
    assert not (tmp_path / "both").exists()


def test_several_active_adapters_of_a_peft_model_are_refused(base, tmp_path):
    model = adapted(base)
    model.add_adapter("two", LoraConfig(target_modules=["o_proj"]))
    model.base_model.set_adapter(["default", "two"])
    with pytest.raises(InputError, match=r"2 adapters are active.*set_adapter"):
        again(model, tmp_path / "both")
    assert not (tmp_path / "both").exists()


def test_the_model_inside_a_peft_model_is_refused(base, tmp_path):
    with pytest.raises(InputError, match=r"has an adapter inside.*PeftModel"):
        again(adapted(base).get_base_model(), tmp_path / "inside")
    assert not (tmp_path / "inside").exists()


@pytest.mark.parametrize("kind", [IA3Config, LoHaConfig])
def test_an_adapter_that_load_does_not_read_is_not_saved(base, tmp_path, kind):
    model = get_peft_model(plain(base), kind(target_modules=["q_proj"], **NONE.get(kind, {})))
    with pytest.raises(InputError, match=r"its adapter is (IA3|LOHA).*only LORA"):
        again(model, tmp_path / "other")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("by", ["PEFT", "transformers"])
def test_an_adapter_whose_base_has_no_name_is_refused(tmp_path, by):
    model = random_model("llama")
    model.name_or_path = model.config.name_or_path = ""
    if by == "PEFT":
        model = get_peft_model(model, LoraConfig(target_modules=["q_proj"]))
    else:
        model.add_adapter(LoraConfig(target_modules=["q_proj"]))
    with pytest.raises(InputError, match=r"base has no name.*base_model_name_or_path"):
        again(model, tmp_path / "nameless")
    assert not (tmp_path / "nameless").exists()


def test_an_adapter_is_not_saved_over_its_base(base, tmp_path):
    before = sorted(base.iterdir())
    with pytest.raises(InputError, match="holds the base of this adapter"):
        again(adapted(base), base)
    assert sorted(base.iterdir()) == before


def test_a_relative_base_is_named_with_its_file(base, tmp_path, monkeypatch):
    again(adapted(base), tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_config.json"
    config = json.loads(file.read_text())
    monkeypatch.chdir(base.parent)
    for name in (base.name, f"./{base.name}", f"../{base.parent.name}/{base.name}", "runs/base"):
        file.write_text(json.dumps(config | {"base_model_name_or_path": name}))
        if name != "runs/base":
            zipr1.load(tmp_path / "adapter")
        with monkeypatch.context() as elsewhere:
            elsewhere.chdir(tmp_path)
            with pytest.raises(InputError, match=r"base_model_name_or_path=.*absolute") as error:
                zipr1.load(tmp_path / "adapter")
        assert str(error.value).startswith(f"{file}: base_model_name_or_path={name}")


def test_the_advice_for_a_nested_adapter_works(base, tmp_path):
    again(adapted(base), tmp_path / "inner")
    inner, _ = zipr1.load(tmp_path / "inner")
    again(adapted(base, target_modules=["o_proj"]), tmp_path / "outer")
    file = tmp_path / "outer" / "adapter_config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps(config | {"base_model_name_or_path": str(tmp_path / "inner")}))
    with pytest.raises(InputError, match=r"merge_and_unload\(\).save_pretrained\(folder\)"):
        zipr1.load(tmp_path / "outer")
    merged = PeftModel.from_pretrained(plain(base), tmp_path / "inner").merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    tiny_processor().tokenizer.save_pretrained(tmp_path / "merged")
    with torch.no_grad():
        found = zipr1.load(tmp_path / "merged")[0](IDS).logits
        assert torch.allclose(found, inner(IDS).logits, atol=1e-3)
