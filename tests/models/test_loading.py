"""Files that do not fit a model are refused by `zipr1.load` with the file and the keys."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from command_line import run
from conftest import random_model, tiny_processor
from safetensors.torch import load_file, save_file

import zipr1
from zipr1.common.errors import InputError, RunError
from zipr1.models.location import EMBEDDED

TINY = EMBEDDED["zipr1/tiny"]


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    """A small text model, its language head not tied to the embedding."""
    folder = tmp_path_factory.mktemp("llama")
    model = random_model("llama")
    model.config.tie_word_embeddings = False
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    zipr1.save(model, tiny_processor().tokenizer, folder)
    return folder


@pytest.fixture
def copy(llama, tmp_path):
    return Path(shutil.copytree(llama, tmp_path / "copy"))


@pytest.fixture(scope="module")
def adapter(llama, tmp_path_factory):
    """A LoRA adapter of rank 2 on the query projections, its weights not zero."""
    from peft import LoraConfig

    folder = tmp_path_factory.mktemp("adapter")
    model, processor = zipr1.load(llama)
    model.add_adapter(LoraConfig(r=2, target_modules=["q_proj"]))
    model.peft_config["default"].base_model_name_or_path = str(llama)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_" in name:
                weight.copy_(0.1 * torch.randn_like(weight))
    zipr1.save(model, processor, folder, {"p": 0.9, "scope": "layer"})
    return folder


@pytest.fixture
def adapter_copy(adapter, tmp_path):
    return Path(shutil.copytree(adapter, tmp_path / "adapter"))


def change(path: Path, edit) -> None:
    """Rewrites a safetensors or JSON file by `edit(contents)`."""
    if path.suffix == ".json":
        contents = json.loads(path.read_text())
        path.write_text(json.dumps(edit(contents) or contents))
    else:
        contents = load_file(path)
        save_file(edit(contents) or contents, path, metadata={"format": "pt"})


def renamed(old: str, new: str):
    return lambda weights: {name.replace(old, new): weight for name, weight in weights.items()}


def without(word: str):
    return lambda weights: {name: w for name, w in weights.items() if word not in name}


def added(weights: dict) -> None:
    weights["model.layers.0.self_attn.extra"] = torch.ones(2)


def short(weights: dict) -> None:
    weights["model.norm.weight"] = weights["model.norm.weight"][:7].clone()


CHECKPOINTS = {
    "one layer": (without("layers.1."), "missing.*model.layers.1"),
    "lm_head of an untied model": (without("lm_head"), r"1 missing \(lm_head.weight\)"),
    "an extra tensor": (added, r"1 unexpected \(model.layers.0.self_attn.extra\)"),
    "another shape": (short, r"mismatched \(model.norm.weight: \(7,\) in the file, \(128,\)"),
    "other names": (renamed("self_attn", "attention"), "missing.*unexpected"),
    "nothing that fits": (renamed("", "x."), "missing.*unexpected"),
}


@pytest.mark.parametrize("case", CHECKPOINTS)
def test_a_checkpoint_with_other_keys_is_refused(copy, case):
    edit, words = CHECKPOINTS[case]
    change(copy / "model.safetensors", edit)
    with pytest.raises(InputError, match=words) as error:
        zipr1.load(copy)
    assert str(copy) in str(error.value) and "\n" not in str(error.value)


def test_a_vision_model_without_its_vision_tower_is_refused(tmp_path, capsys):
    folder = Path(shutil.copytree(TINY, tmp_path / "blind"))
    change(folder / "model.safetensors", without("visual"))
    with pytest.raises(InputError, match=r"missing \(model.visual"):
        zipr1.load(folder)
    image = tmp_path / "a.png"
    from PIL import Image

    Image.new("RGB", (32, 32)).save(image)
    status, out, err = run(capsys, "answer", str(image), "What?", "--model", str(folder))
    assert (status, out) == (2, "") and "model.visual" in err and "Traceback" not in err


@pytest.mark.parametrize(
    ("family", "words"),
    [("qwen3", "missing.*q_norm"), ("qwen2", "missing.*q_proj.bias"), ("bert", "not supported")],
)
def test_weights_of_another_model_type_are_refused(copy, family, words):
    change(copy / "config.json", lambda config: config.update(model_type=family, head_dim=32))
    with pytest.raises(InputError, match=words):
        zipr1.load(copy)


def test_a_tied_model_needs_no_language_head(tmp_path):
    model = random_model("llama")
    model.config.tie_word_embeddings = True
    model.tie_weights()
    zipr1.save(model, tiny_processor().tokenizer, tmp_path)
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")
    again, _ = zipr1.load(tmp_path)
    assert torch.equal(again.lm_head.weight, model.lm_head.weight)


@pytest.mark.parametrize("text", ["[]", "null", "{", '{"hidden_size": 8}', '{"model_type": 3}'])
def test_a_broken_configuration_is_named(copy, text):
    (copy / "config.json").write_text(text)
    with pytest.raises(InputError, match=r"config\.json: "):
        zipr1.load(copy)


def test_a_setting_of_the_wrong_type_is_named(copy):
    change(copy / "config.json", lambda config: config.update(hidden_size="wide"))
    with pytest.raises(InputError, match=r"config\.json: .*hidden_size"):
        zipr1.load(copy)


def test_a_cut_file_is_named(copy):
    path = copy / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match="cannot be read"):
        zipr1.load(copy)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.ckpt"])
def test_weights_that_are_not_safetensors_are_refused(copy, name):
    weights = load_file(copy / "model.safetensors")
    (copy / "model.safetensors").unlink()
    torch.save(weights, copy / name)
    with pytest.raises(InputError, match="safetensors"):
        zipr1.load(copy)


@pytest.mark.parametrize("option", ["use_safetensors", "ignore_mismatched_sizes"])
def test_the_checks_cannot_be_switched_off(llama, option):
    with pytest.raises(InputError, match=option):
        zipr1.load(llama, **{option: False})


def test_a_folder_without_a_tokenizer_is_named(copy):
    for path in copy.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(InputError, match="no processor"):
        zipr1.load(copy)


@pytest.mark.parametrize("below", ["final", "exact/final", "checkpoint-10"])
def test_the_folder_of_a_run_names_the_models_in_it(llama, tmp_path, below):
    place = tmp_path / "run" / below
    place.parent.mkdir(parents=True)
    shutil.copytree(llama, place)
    with pytest.raises(InputError, match="give one of the models in it") as error:
        zipr1.load(tmp_path / "run")
    assert str(place) in str(error.value)


@pytest.mark.parametrize("name", ["nothing", "a/b/c", "", "owner/"])
def test_a_name_that_is_no_model_is_refused(name):
    with pytest.raises(InputError):
        zipr1.load(name)


# Adapters


def test_an_adapter_computes_what_it_was_saved_with(adapter, llama):
    model, _ = zipr1.load(adapter)
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        ours, base = model(ids).logits, zipr1.load(llama)[0](ids).logits
    assert not torch.allclose(ours, base, atol=1e-3)
    weights = load_file(adapter / "adapter_model.safetensors")
    found = {name: w for name, w in model.named_parameters() if "lora_" in name}
    assert len(found) == len(weights)
    for name, weight in weights.items():
        name = name.replace("base_model.model.", "").replace(".weight", ".default.weight")
        assert torch.equal(found[name], weight), name


ADAPTER_WEIGHTS = {
    "no key fits": (renamed("layers", "blocks"), "missing.*unexpected"),
    "some keys fit": (renamed("layers.1.", "layers.91."), "missing.*unexpected"),
    "a layer is missing": (without("layers.2."), "missing"),
    "a key too many": (
        lambda weights: (
            weights | {"base_model.model.model.layers.0.x.lora_A.weight": torch.ones(2)}
        ),
        "unexpected",
    ),
    "of the keys of another module": (renamed("q_proj", "k_proj"), "missing.*unexpected"),
    "another rank": (
        lambda weights: {
            name: torch.cat([w, w], dim=0 if "lora_A" in name else 1) for name, w in weights.items()
        },
        "mismatched.*in the file",
    ),
}


@pytest.mark.parametrize("case", ADAPTER_WEIGHTS)
def test_an_adapter_with_other_keys_is_refused(adapter_copy, case):
    edit, words = ADAPTER_WEIGHTS[case]
    change(adapter_copy / "adapter_model.safetensors", edit)
    with pytest.raises(InputError, match=words) as error:
        zipr1.load(adapter_copy)
    assert str(adapter_copy) in str(error.value) and "\n" not in str(error.value)


ADAPTER_CONFIGS = {
    "no base": ({"base_model_name_or_path": None}, "base_model_name_or_path"),
    "a base that is absent": ({"base_model_name_or_path": "no/such"}, "no/such"),
    "unknown type": ({"peft_type": "TELEPATHY"}, "TELEPATHY"),
    "another type": ({"peft_type": "PROMPT_TUNING"}, "PROMPT_TUNING"),
    "a larger rank": ({"r": 4}, "mismatched"),
    "no rank": ({"r": None}, "r=None"),
    "a rank of 0": ({"r": 0}, "r=0"),
    "modules the base does not have": ({"target_modules": ["qkv_proj"]}, "does not fit"),
    "modules without weights": ({"target_modules": ["q_proj", "v_proj"]}, "missing.*v_proj"),
}


@pytest.mark.parametrize("case", ADAPTER_CONFIGS)
def test_an_adapter_with_another_configuration_is_refused(adapter_copy, case):
    edit, words = ADAPTER_CONFIGS[case]
    change(adapter_copy / "adapter_config.json", lambda config: config.update(edit))
    with pytest.raises(InputError, match=words):
        zipr1.load(adapter_copy)


def test_an_adapter_of_an_adapter_or_of_itself_is_refused(adapter_copy, adapter):
    for base in (adapter, adapter_copy):
        path = adapter_copy / "adapter_config.json"
        change(path, lambda config, base=base: config.update(base_model_name_or_path=str(base)))
        with pytest.raises(InputError, match="itself an adapter"):
            zipr1.load(adapter_copy)


@pytest.mark.parametrize("text", ["[]", "null", "{"])
def test_a_broken_adapter_configuration_is_named(adapter_copy, text):
    (adapter_copy / "adapter_config.json").write_text(text)
    with pytest.raises(InputError, match=r"adapter_config\.json: "):
        zipr1.load(adapter_copy)


def test_a_cut_or_absent_or_pickled_adapter_is_named(adapter_copy):
    path = adapter_copy / "adapter_model.safetensors"
    whole = path.read_bytes()
    for cut in (whole[:-10], whole[:20], b""):
        path.write_bytes(cut)
        with pytest.raises(InputError, match=r"adapter_model\.safetensors"):
            zipr1.load(adapter_copy)
    path.write_bytes(whole)
    weights = load_file(path)
    path.unlink()
    with pytest.raises(InputError, match=r"adapter_model\.safetensors"):
        zipr1.load(adapter_copy)
    torch.save(weights, adapter_copy / "adapter_model.bin")
    with pytest.raises(InputError, match=r"adapter_model\.safetensors"):
        zipr1.load(adapter_copy)


# Saving


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_never_saved(tmp_path, value):
    model = random_model("llama")
    with torch.no_grad():
        model.model.layers[2].mlp.up_proj.weight[3, 4] = value
    with pytest.raises(RunError, match=r"model\.layers\.2\.mlp\.up_proj\.weight"):
        zipr1.save(model, tiny_processor().tokenizer, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_of_an_adapter_its_own_weights_are_checked(tmp_path):
    """The base is not written, and reading all of a large one takes as long as a training step."""
    from peft import LoraConfig

    model = random_model("llama")
    model.add_adapter(LoraConfig(r=2, target_modules=["q_proj"]))
    model.peft_config["default"].base_model_name_or_path = str(tmp_path / "base")
    with torch.no_grad():
        model.model.layers[2].mlp.up_proj.weight[3, 4] = float("nan")
    zipr1.save(model, tiny_processor().tokenizer, tmp_path / "good")
    with torch.no_grad():
        model.model.layers[1].self_attn.q_proj.lora_B["default"].weight[1, 1] = float("nan")
    with pytest.raises(RunError, match=r"layers\.1\.self_attn\.q_proj\.lora_B"):
        zipr1.save(model, tiny_processor().tokenizer, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_given_weights_are_checked_instead_of_the_models_own(tmp_path):
    model = random_model("llama")
    weights = {name: w.clone() for name, w in model.state_dict().items()}
    weights["model.norm.weight"][0] = float("nan")
    with pytest.raises(RunError, match=r"model\.norm\.weight"):
        zipr1.save(model, tiny_processor().tokenizer, tmp_path / "new", weights=weights)


def test_loading_and_saving_from_python_show_no_bar_and_leave_those_of_others(tmp_path):
    """In a process of its own, where nothing has switched bars off."""
    code = """
import sys, zipr1
from transformers import AutoModelForImageTextToText
from transformers.utils import logging
seen = []
logging.set_tqdm_hook(lambda bar, args, options: seen.append("own") or bar(*args, **options))
zipr1.save(*zipr1.load("zipr1/tiny"), sys.argv[2])
assert not seen and logging.is_progress_bar_enabled()
print("zipr1 is done", file=sys.stderr)
AutoModelForImageTextToText.from_pretrained(sys.argv[1])
assert seen == ["own"], seen
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(TINY), str(tmp_path / "saved")],
        capture_output=True,
        text=True,
        check=True,
    )
    ours, theirs = done.stderr.split("zipr1 is done")
    assert "weights" not in ours and "shards" not in ours and "Loading weights" in theirs
