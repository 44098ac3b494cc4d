"""`zipr1.save` into a folder that has a model already, and what it refuses before it writes."""

import copy
from functools import partial

import pytest
import torch
from conftest import random_model, tiny_processor
from peft import LoraConfig, get_peft_model

import zipr1
from zipr1.common.errors import InputError, RunError
from zipr1.models.settings import TrainedSettings, trained_settings

IDS = torch.arange(3, 40)[None]


@pytest.fixture(scope="module")
def llama():
    return random_model("llama")


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_processor().tokenizer


def files(folder) -> dict:
    return {path.name: path.read_bytes() for path in folder.glob("*")}


def same(folder, model) -> bool:
    with torch.no_grad():
        return torch.equal(zipr1.load(folder)[0](IDS).logits, model(IDS).logits)


def test_a_model_saved_over_an_adapter_is_the_one_loaded(llama, tokenizer, tmp_path):
    zipr1.save(llama, tokenizer, tmp_path / "base")
    adapted, _ = zipr1.load(tmp_path / "base")
    adapted.add_adapter(LoraConfig(target_modules=["q_proj"], init_lora_weights=False))
    zipr1.save(adapted, tokenizer, tmp_path / "place", {"p": 0.5})
    other = copy.deepcopy(llama)
    other.model.norm.weight.data.mul_(2)
    zipr1.save(other, tokenizer, tmp_path / "place")
    assert same(tmp_path / "place", other)
    zipr1.save(adapted, tokenizer, tmp_path / "place")
    assert same(tmp_path / "place", adapted)


def test_settings_of_the_model_before_do_not_stay(llama, tokenizer, tmp_path):
    zipr1.save(llama, tokenizer, tmp_path, {"p": 0.5, "scope": "layer"})
    assert trained_settings(tmp_path).p == 0.5
    zipr1.save(llama, tokenizer, tmp_path)
    assert trained_settings(tmp_path) == TrainedSettings()
    zipr1.save(llama, tokenizer, tmp_path, {})
    assert (tmp_path / "zipr1.json").exists()


def test_weights_in_several_files_do_not_stay(llama, tokenizer, tmp_path):
    other = copy.deepcopy(llama)
    other.model.norm.weight.data.mul_(2)
    other.save_pretrained(tmp_path, max_shard_size="500KB")
    assert (tmp_path / "model.safetensors.index.json").exists()
    zipr1.save(llama, tokenizer, tmp_path)
    assert same(tmp_path, llama)
    assert [path.name for path in tmp_path.glob("model*")] == ["model.safetensors"]


def test_weights_in_one_file_do_not_stay(llama, tokenizer, tmp_path):
    """transformers writes several files above 50 GB, and leaves the one that was there."""
    zipr1.save(llama, tokenizer, tmp_path)
    other = copy.deepcopy(llama)
    other.model.norm.weight.data.mul_(2)
    other.save_pretrained = partial(other.save_pretrained, max_shard_size="500KB")
    zipr1.save(other, tokenizer, tmp_path)
    assert same(tmp_path, other) and len(list(tmp_path.glob("model-*"))) > 1


def test_a_chat_template_of_the_model_before_does_not_stay(llama, tmp_path):
    mute = tiny_processor().tokenizer
    mute.chat_template = "{{ messages }}"
    zipr1.save(llama, mute, tmp_path)
    assert zipr1.load(tmp_path)[1].chat_template
    mute.chat_template = None
    zipr1.save(llama, mute, tmp_path)
    assert zipr1.load(tmp_path)[1].chat_template is None


REFUSED = {
    "a processor that is none": (lambda m: m, None, {}, "processor: NoneType"),
    "a wrapper": (torch.nn.DataParallel, "own", {}, r"DataParallel.*model\.module"),
    "a scope that is none": (lambda m: m, "own", {"scope": "foo"}, "scope"),
    "a key that is none": (lambda m: m, "own", {"q": 1}, "'q'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_nothing_is_written_of_what_is_refused(llama, tokenizer, tmp_path, case):
    wrap, processor, settings, words = REFUSED[case]
    with pytest.raises(InputError, match=words):
        zipr1.save(wrap(llama), processor and tokenizer, tmp_path / "new", settings)
    assert not (tmp_path / "new").exists()
    zipr1.save(llama, tokenizer, tmp_path / "old", {"p": 0.5})
    before = files(tmp_path / "old")
    with pytest.raises(InputError, match=words):
        zipr1.save(wrap(llama), processor and tokenizer, tmp_path / "old", settings)
    assert files(tmp_path / "old") == before


def test_a_file_in_place_of_the_folder_is_refused(llama, tokenizer, tmp_path):
    (tmp_path / "note").write_text("mine")
    with pytest.raises(InputError, match="note: a file"):
        zipr1.save(llama, tokenizer, tmp_path / "note")
    assert (tmp_path / "note").read_text() == "mine"


def test_weights_that_are_not_in_memory_are_refused(llama, tokenizer, tmp_path):
    with pytest.raises(InputError, match="tensors are not in memory"):
        zipr1.save(copy.deepcopy(llama).to("meta"), tokenizer, tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("kind", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_float8_weights_are_saved_unless_they_are_not_numbers(llama, tokenizer, tmp_path, kind):
    from safetensors.torch import load_file

    small = copy.deepcopy(llama)
    weight = small.model.layers[0].mlp.up_proj.weight.data.to(kind)
    small.model.layers[0].mlp.up_proj.weight = torch.nn.Parameter(weight, requires_grad=False)
    zipr1.save(small, tokenizer, tmp_path / "fp8")
    found = load_file(tmp_path / "fp8" / "model.safetensors")
    assert found["model.layers.0.mlp.up_proj.weight"].dtype == kind
    weight.view(torch.uint8)[0, 0] = 0x7F  # NaN in both
    with pytest.raises(RunError, match=r"up_proj"):
        zipr1.save(small, tokenizer, tmp_path / "nan")
    assert not (tmp_path / "nan").exists()


def test_files_that_are_not_of_an_earlier_model_stay(llama, tokenizer, tmp_path):
    """Beside an adapter: a README.md, and a whole model in several files, which others read."""
    zipr1.save(llama, tokenizer, tmp_path / "base")
    base = type(llama).from_pretrained(tmp_path / "base")
    place = tmp_path / "place"
    llama.save_pretrained(place, max_shard_size="100KB")
    (place / "README.md").write_text("mine")
    zipr1.save(get_peft_model(base, LoraConfig(target_modules=["q_proj"])), tokenizer, place)
    assert (place / "README.md").read_text() == "mine"
    assert torch.equal(type(llama).from_pretrained(place)(IDS).logits, llama(IDS).logits)
