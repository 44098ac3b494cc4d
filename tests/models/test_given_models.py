"""An adapter names its base: a model that is given to the Trainer must be the one of that name."""

import pytest
import torch
from peft import LoraConfig, PeftModel
from transformers import AutoModelForImageTextToText

import zipr1
from zipr1 import TrainConfig, Trainer
from zipr1.common.errors import InputError

SMALL = {
    "tasks": ["shapes"],
    "prompts_per_step": 2,
    "num_generations": 2,
    "probe_per_task": 2,
    "max_steps": 1,
}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    zipr1.save(*zipr1.load("zipr1/tiny"), folder)
    return folder


def plain(base, **options):
    return AutoModelForImageTextToText.from_pretrained(base, **options)


def merged(base, tmp_path):
    model, processor = zipr1.load(base)
    model.add_adapter(LoraConfig(target_modules=["q_proj"], init_lora_weights=False))
    zipr1.save(model, processor, tmp_path / "adapter")
    return PeftModel.from_pretrained(plain(base), tmp_path / "adapter").merge_and_unload()


def edited(base, tmp_path):
    model = plain(base)
    with torch.no_grad():
        model.lm_head.weight[5, 5] += 1
    return model


def larger(base, tmp_path):
    model = plain(base)
    model.resize_token_embeddings(model.get_input_embeddings().num_embeddings + 8)
    return model


@pytest.mark.parametrize("change", [merged, edited, larger])
def test_other_weights_than_those_of_its_name_are_refused(base, tmp_path, change):
    model = change(base, tmp_path)
    config = TrainConfig(**SMALL, use_peft=True, output_dir=str(tmp_path / "out"))
    with pytest.raises(InputError, match=r"not those of .*save the model first.*by its folder"):
        Trainer(model=model, args=config).train(quiet=True)
    assert not (tmp_path / "out" / "final").exists()


def test_what_it_advises_works(base, tmp_path):
    zipr1.save(merged(base, tmp_path), zipr1.load(base)[1], tmp_path / "merged")
    config = TrainConfig(**SMALL, use_peft=True, output_dir=str(tmp_path / "out"))
    final = Trainer(model=tmp_path / "merged", args=config).train(quiet=True)
    assert str(tmp_path / "merged") in (final / "adapter_config.json").read_text()
    zipr1.load(final)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_model_of_that_name_is_trained(base, tmp_path, dtype):
    config = TrainConfig(**SMALL, use_peft=True, output_dir=str(tmp_path / "out"))
    final = Trainer(model=plain(base, dtype=dtype), args=config).train(quiet=True)
    assert (final / "adapter_model.safetensors").exists()
