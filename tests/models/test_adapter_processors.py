"""The processor of an adapter: its own where it has one, else its base's."""

import pytest
import torch
from conftest import random_model, tiny_processor
from hub_cache import publish
from peft import LoraConfig
from PIL import Image

import zipr1
from zipr1 import TrainConfig, Trainer
from zipr1.common.errors import InputError
from zipr1.models.loading import load_processor

SMALL = {"tasks": ["shapes"], "prompts_per_step": 2, "num_generations": 2, "probe_per_task": 2}
MARK = "{# of the adapter #}"
SIZE = {"shortest_edge": 1024, "longest_edge": 4096}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    zipr1.save(*zipr1.load("zipr1/tiny"), folder)
    return folder


@pytest.fixture
def adapter(base, tmp_path):
    """Only the files of the adapter."""
    model, _ = zipr1.load(base)
    model.add_adapter(LoraConfig(target_modules=["q_proj"], init_lora_weights=False))
    model.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def tokens(processor, side: int = 256) -> int:
    """The tokens of a square image."""
    image = Image.new("RGB", (side, side))
    text = "<|vision_start|><|image_pad|><|vision_end|>"
    return processor(images=[image], text=[text], return_tensors="pt")["input_ids"].shape[1]


def test_without_files_of_its_own_it_has_its_bases(base, adapter):
    _, found = zipr1.load(adapter)
    _, expected = zipr1.load(base)
    assert found.to_dict() == expected.to_dict()
    assert found.chat_template == expected.chat_template


def test_a_whole_processor_is_its_own(base, adapter):
    _, own = zipr1.load(base)
    before = tokens(own)
    own.image_processor.size = SIZE
    own.chat_template += MARK
    own.save_pretrained(adapter)
    for found in (zipr1.load(adapter)[1], load_processor(adapter)):
        assert found.chat_template.endswith(MARK)
        assert tokens(found) == tokens(own) < before


def test_a_tokenizer_alone_is_put_into_the_processor_of_the_base(base, adapter):
    _, own = zipr1.load(base)
    own.tokenizer.chat_template = own.chat_template + MARK
    own.tokenizer.model_max_length = 77
    own.tokenizer.save_pretrained(adapter)
    _, found = zipr1.load(adapter)
    assert found.tokenizer.model_max_length == 77
    assert found.chat_template.endswith(MARK)
    assert found.image_token_id == own.image_token_id and tokens(found) == tokens(own)


def test_an_image_processor_alone_is_put_into_the_processor_of_the_base(base, adapter):
    _, own = zipr1.load(base)
    own.image_processor.size = SIZE
    own.image_processor.save_pretrained(adapter)
    _, found = zipr1.load(adapter)
    assert tokens(found) == tokens(own)
    assert len(found.tokenizer) == len(own.tokenizer)


@pytest.mark.parametrize("below", ["", "lora"])
def test_an_adapter_on_a_hub(base, adapter, tmp_path, below):
    """Without the hub, from the cache."""
    options = {"cache_dir": str(tmp_path / "cache"), "revision": "r1"}
    options |= {"subfolder": below} if below else {}
    _, own = zipr1.load(base)
    own.chat_template += MARK
    for name, marked in (("me/bare", False), ("me/whole", True)):
        if marked:
            own.save_pretrained(adapter)
        publish(tmp_path / "cache", name, adapter, "r1", below)
        assert zipr1.load(name, **options)[1].chat_template.endswith(MARK) is marked


@pytest.mark.parametrize("alone", [False, True], ids=["a processor", "a tokenizer"])
def test_more_tokens_than_the_model_has_are_refused(base, adapter, alone):
    _, own = zipr1.load(base)
    own.tokenizer.add_tokens([f"<new{i}>" for i in range(50)])
    (own.tokenizer if alone else own).save_pretrained(adapter)
    with pytest.raises(InputError, match=r"the tokenizer has \d+ tokens, the model \d+"):
        zipr1.load(adapter)


@pytest.mark.parametrize(
    "file", ["tokenizer.json", "tokenizer_config.json", "processor_config.json"]
)
def test_a_damaged_file_of_its_own_is_named(base, adapter, file):
    zipr1.load(base)[1].save_pretrained(adapter)
    (adapter / file).write_text("{")
    with pytest.raises(InputError, match=r"adapter: its processor could not be loaded"):
        zipr1.load(adapter)


def test_the_tokenizer_of_a_text_model(tmp_path):
    zipr1.save(random_model("llama"), tiny_processor().tokenizer, tmp_path / "base")
    model, tokenizer = zipr1.load(tmp_path / "base")
    model.add_adapter(LoraConfig(target_modules=["q_proj"]))
    model.save_pretrained(tmp_path / "adapter")
    assert zipr1.load(tmp_path / "adapter")[1].chat_template == tokenizer.chat_template
    tokenizer.chat_template = MARK
    tokenizer.pad_token = None
    zipr1.save(model, tokenizer, tmp_path / "adapter")
    _, found = zipr1.load(tmp_path / "adapter")
    assert found.chat_template == MARK
    assert found.pad_token_id == found.eos_token_id


def test_a_trained_adapter_has_the_processor_it_was_trained_with(base, tmp_path):
    model, own = zipr1.load(base)
    before = tokens(own)
    own.chat_template += MARK
    config = TrainConfig(
        **SMALL, use_peft=True, max_steps=1, max_pixels=4096, output_dir=str(tmp_path)
    )
    final = Trainer(model=model, processing_class=own, args=config).train(quiet=True)
    trained, found = zipr1.load(final)
    assert found.chat_template.endswith(MARK) and tokens(found) < before
    assert trained.dtype == torch.float32
