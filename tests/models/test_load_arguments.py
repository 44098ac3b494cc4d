"""Arguments of `zipr1.load` that the model cannot take, and packages that a model needs."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from command_line import run
from PIL import Image
from transformers.utils import is_flash_attn_2_available, is_gptqmodel_available

import zipr1
from zipr1.common.errors import InputError, MissingExtra


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    zipr1.save(*zipr1.load("zipr1/tiny"), folder)
    return folder


ABSENT = {
    "max_pixels": (4096, "processor"),
    "min_pixels": (4096, "processor"),
    "use_fast": (True, "processor"),
    "device": ("cpu", "device_map"),
    "load_in_4bit": (True, "BitsAndBytesConfig"),
    "nonsense": (1, "leave it out"),
}


@pytest.mark.parametrize("name", ABSENT)
def test_an_argument_that_does_not_exist_is_named(base, name):
    value, advice = ABSENT[name]
    with pytest.raises(InputError, match=f"^{name}: .*{advice}") as error:
        zipr1.load(base, **{name: value})
    assert "files" not in str(error.value)


WRONG = {
    "dtype": ("nonsense", "float33", "nn"),
    "torch_dtype": ("nonsense",),
    "attn_implementation": ("nope",),
    "device_map": ("nope",),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_value_that_does_not_exist_is_named(base, name):
    for value in WRONG[name]:
        with pytest.raises(InputError, match=f"{name}.*{value}"):
            zipr1.load(base, **{name: value})


@pytest.mark.parametrize("dtype", ["auto", "bfloat16", torch.float16, {"text_config": "bfloat16"}])
def test_a_dtype_that_exists_is_taken(base, dtype):
    model, _ = zipr1.load(base, dtype=dtype)
    expected = {"auto": torch.float32, "bfloat16": torch.bfloat16}
    if not isinstance(dtype, dict):
        assert model.dtype == expected.get(dtype, dtype)


QUANTISED = [
    {"quant_method": "gptq", "bits": 4},
    {"quant_method": "awq", "bits": 4},
    {"quant_method": "bitsandbytes", "load_in_4bit": True},
    {"quant_method": "compressed-tensors"},
]


@pytest.fixture(params=QUANTISED, ids=lambda config: config["quant_method"])
def quantised(request, base, tmp_path):
    folder = Path(shutil.copytree(base, tmp_path / "quantised"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": request.param}))
    return folder


def test_a_package_that_a_quantised_model_needs_is_named(quantised, tmp_path, capsys):
    if is_gptqmodel_available():
        pytest.skip("the packages are installed")
    with pytest.raises(MissingExtra, match="quantised: no model could be loaded") as error:
        zipr1.load(quantised)
    assert "\n" not in str(error.value)
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    status, out, err = run(
        capsys, "answer", str(tmp_path / "a.png"), "What?", "--model", str(quantised)
    )
    assert (status, out) == (1, "") and "Traceback" not in err


def test_packages_that_arguments_need_are_named(base):
    from transformers import BitsAndBytesConfig

    if is_flash_attn_2_available():
        pytest.skip("the packages are installed")
    with pytest.raises(MissingExtra, match="FlashAttention2"):
        zipr1.load(base, attn_implementation="flash_attention_2")
    with pytest.raises(MissingExtra, match="bitsandbytes"):
        zipr1.load(base, quantization_config=BitsAndBytesConfig(load_in_8bit=True))
