"""revision, cache_dir and subfolder reach configuration, weights, processor, adapter and zipr1.json."""

from pathlib import Path

import pytest
from conftest import tiny_processor
from hub_cache import publish
from transformers import LlamaConfig, LlamaForCausalLM

import zipr1
from zipr1.common.errors import InputError
from zipr1.models.loading import load_config
from zipr1.models.settings import trained_settings

NAME = "someone/model"


def make(folder: Path, layers: int, template: str) -> Path:
    """A text model of so many layers, whose tokenizer has the chat template `template`."""
    config = LlamaConfig(
        vocab_size=2048, hidden_size=16, intermediate_size=32, num_hidden_layers=layers,
        num_attention_heads=2, num_key_value_heads=1,
    )  # fmt: skip
    tokenizer = tiny_processor().tokenizer
    config.vocab_size = len(tokenizer)
    zipr1.save(LlamaForCausalLM(config), tokenizer, folder, {"p": layers / 10})
    (folder / "chat_template.jinja").write_text(template)
    return folder


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Branch main: 1 layer. Branch v2: 2 layers. Branch v3: 3 layers, in the subfolder deep."""
    folder = tmp_path_factory.mktemp("hub")
    for layers, revision, below in ((1, "main", ""), (2, "v2", ""), (3, "v3", "deep")):
        model = make(folder / revision, layers, f"template {layers}")
        publish(folder / "cache", NAME, model, revision, below)
    return folder / "cache"


@pytest.mark.parametrize(
    ("options", "layers"),
    [({}, 1), ({"revision": "v2"}, 2), ({"revision": "v3", "subfolder": "deep"}, 3)],
)
def test_they_reach_every_file(cache, options, layers):
    options = options | {"cache_dir": str(cache)}
    model, tokenizer = zipr1.load(NAME, **options)
    assert len(model.model.layers) == load_config(NAME, **options).num_hidden_layers == layers
    assert tokenizer.chat_template == f"template {layers}"
    assert trained_settings(NAME, **options).p == layers / 10


def test_a_revision_or_cache_without_the_model_is_an_error(cache, tmp_path):
    for options in ({"revision": "v9"}, {"cache_dir": str(tmp_path)}, {"subfolder": "deep"}):
        with pytest.raises(InputError, match=NAME):
            zipr1.load(NAME, **{"cache_dir": str(cache)} | options)


def test_a_subfolder_of_a_local_folder(tmp_path):
    make(tmp_path / "one" / "two", 2, "template")
    model, tokenizer = zipr1.load(tmp_path / "one", subfolder="two")
    assert len(model.model.layers) == 2 and tokenizer.chat_template == "template"
    assert trained_settings(tmp_path / "one", subfolder="two").p == 0.2
    with pytest.raises(InputError, match="three"):
        zipr1.load(tmp_path / "one", subfolder="three")


def test_a_local_folder_has_no_revisions(tmp_path):
    make(tmp_path, 1, "template")
    with pytest.raises(InputError, match="revision='v2'"):
        zipr1.load(tmp_path, revision="v2")


def test_they_reach_an_adapter_and_its_base(cache, tmp_path):
    """The adapter's own revision and subfolder; of its base the revision that the adapter names."""
    from peft import LoraConfig

    model, tokenizer = zipr1.load(NAME, cache_dir=str(cache), revision="v2")
    model.add_adapter(LoraConfig(r=2, target_modules=["q_proj"]))
    config = model.peft_config["default"]
    config.base_model_name_or_path, config.revision = NAME, "v2"
    zipr1.save(model, tokenizer, tmp_path / "adapter", {"p": 0.7})
    publish(cache, "someone/adapter", tmp_path / "adapter", "r1", "lora")
    options = {"cache_dir": str(cache), "revision": "r1", "subfolder": "lora"}
    again, tokenizer = zipr1.load("someone/adapter", **options)
    assert len(again.model.layers) == 2 and tokenizer.chat_template == "template 2"
    assert any("lora_A" in name for name, _ in again.named_parameters())
    assert trained_settings("someone/adapter", **options).p == 0.7


def test_the_token_reaches_every_request(cache, monkeypatch):
    """Offline, so it is seen where transformers hands it to the client of the hub."""
    import transformers.utils.hub as hub

    tokens, stock = [], hub.hf_hub_download

    def look(*args, **kwargs):
        tokens.append(kwargs.get("token"))
        return stock(*args, **kwargs)

    monkeypatch.setattr(hub, "hf_hub_download", look)
    zipr1.load(NAME, cache_dir=str(cache), token="hf_secret")
    trained_settings(NAME, cache_dir=str(cache), token="hf_secret")
    assert len(tokens) > 4 and set(tokens) == {"hf_secret"}
