"""Positions of text after a video: Qwen's own rule (written plainly below), in every way of calling."""

import copy
import pickle

import numpy as np
import pytest
import torch
from conftest import family_processor, prompts, random_model
from PIL import Image
from transformers import GenerationConfig

import zipr1
from zipr1.common.errors import InputError
from zipr1.data.example import Example, Video
from zipr1.data.processor import tensors
from zipr1.models.encode import encode, following
from zipr1.models.families import decoder
from zipr1.models.positions import FAMILIES, correct_positions

every_family = pytest.mark.parametrize("family", FAMILIES)


def expected_positions(model, inputs) -> list[torch.Tensor]:
    """(3, tokens) of each row, padding left out: the algorithm of transformers 4, token by token."""
    config, merge = model.config, model.config.vision_config.spatial_merge_size
    rate = getattr(config.vision_config, "tokens_per_second", None)
    image, video, found = 0, 0, []
    for row, mask in zip(inputs["input_ids"], inputs["attention_mask"].bool(), strict=True):
        ids = row[mask].tolist()
        points: list[tuple[int, int, int]] = []  # (time, height, width) of the tokens so far
        at = 0
        while at < len(ids):
            start = max(map(max, points)) + 1 if points else 0
            if ids[at] not in (config.image_token_id, config.video_token_id):
                points.append((start, start, start))
                at += 1
                continue
            if ids[at] == config.image_token_id:
                t, h, w = inputs["image_grid_thw"][image].tolist()
                step, image = 0.0, image + 1
            else:
                t, h, w = inputs["video_grid_thw"][video].tolist()
                seconds = inputs["second_per_grid_ts"][video] if rate else 1
                step, video = float(seconds) * (rate or 1), video + 1
            for a in range(t):
                for b in range(h // merge):
                    for c in range(w // merge):
                        points.append((start + int(a * step), start + b, start + c))
            at += t * (h // merge) * (w // merge)
        found.append(torch.tensor(points).T)
    return found


def noise(height: int, width: int) -> Image.Image:
    rng = np.random.default_rng(height)
    return Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8))


def chat(*turns) -> list[dict]:
    """User and assistant in turn; "image" and "video" stand for media."""
    parts = [
        [{"type": p} if p in ("image", "video") else {"type": "text", "text": p} for p in turn]
        for turn in turns
    ]
    return [
        {"role": "assistant" if i % 2 else "user", "content": part} for i, part in enumerate(parts)
    ]


def many(family: str):
    """(model, inputs): a padded batch of all that can stand around a video."""
    model, processor = random_model(family), family_processor(family)
    long = tuple(noise(64, 64) for _ in range(16))  # longer in time than it is high or wide
    short = tuple(noise(96, 128) for _ in range(4))
    chats = [
        chat(["video", "What?"]),
        chat(["video", "Then", "video", "and then?"]),  # several videos
        chat(["video", "Is this in it?", "image"]),  # an image after a video
        chat(["image", "Where is it?", "video", "Say."]),
        chat(["video", "What?"], ["A cat."], ["image", "And this?"], ["A dog."], ["Sure?"]),
        chat(["Nothing to see here."]),
    ]
    videos = [Video(v, 4.0) for v in (long, long, short, short, long, long)]
    images = [noise(96, 96), noise(64, 128), noise(128, 64)]
    inputs = tensors(processor, chats, images, videos)
    assert not inputs["attention_mask"].all() and inputs["video_grid_thw"][0].tolist() == [8, 8, 8]
    return model, inputs


def real(positions: torch.Tensor, mask: torch.Tensor) -> list[torch.Tensor]:
    return [positions[-3:, row, keep] for row, keep in enumerate(mask.bool())]


def spy(model):
    """Records the positions that the decoder gets; (3 or 4, B, L) a call."""
    seen = []

    def look(module, args, kwargs):
        seen.append(kwargs["position_ids"].clone())

    return seen, decoder(model).register_forward_pre_hook(look, with_kwargs=True)


@every_family
def test_encode_gives_the_positions_of_transformers_4(family):
    model, inputs = many(family)
    got = real(encode(model, inputs).embeds["position_ids"], inputs["attention_mask"])
    for one, other in zip(got, expected_positions(model, inputs), strict=True):
        assert torch.equal(one, other)


def sparse(model, inputs, **settings):
    with zipr1.sparse(model, zipr1.TopP(0.9)):
        return model.generate(**inputs, **settings)


def plain(model, inputs, **settings):
    correct_positions(model)
    return model.generate(**inputs, **settings)


@every_family
@pytest.mark.parametrize("way", [sparse, plain])
@pytest.mark.parametrize("beams", [1, 2])
def test_generate_goes_on_after_the_largest_position(family, way, beams):
    """Prompt and generated tokens, under zipr1.sparse and, after one line, in plain generate()."""
    model, inputs = many(family)
    seen, handle = spy(model)
    with torch.no_grad():
        way(model, inputs, max_new_tokens=4, do_sample=False, num_beams=beams)
    expected = [row for row in expected_positions(model, inputs) for _ in range(beams)]
    mask = inputs["attention_mask"].repeat_interleave(beams, dim=0)
    for one, other in zip(real(seen[0], mask), expected, strict=True):
        assert torch.equal(one, other)
    for step, positions in enumerate(seen[1:]):
        for row, other in enumerate(expected):
            assert positions[-3:, row].unique().tolist() == [int(other.max()) + 1 + step]
    handle.remove()


@every_family
def test_forward_without_a_cache_has_them_too(family):
    """As a trainer calls the model."""
    model, inputs = many(family)
    seen, handle = spy(model)
    with torch.no_grad(), zipr1.sparse(model, zipr1.TopP(0.9)):
        model(**inputs, use_cache=False)
    handle.remove()
    for one, other in zip(
        real(seen[0], inputs["attention_mask"]), expected_positions(model, inputs), strict=True
    ):
        assert torch.equal(one, other)


@every_family
def test_rollout_and_log_probabilities_go_on_there(family):
    """The positions of the completion tokens in training."""
    model, inputs = many(family)
    embeds = encode(model, inputs).embeds
    for row, other in enumerate(expected_positions(model, inputs)):
        after = following(embeds, 3)[:, row]
        assert after.tolist() == [[int(other.max()) + 1 + i for i in range(3)]] * 3


@every_family
def test_generate_and_encode_compute_the_same_logits(family):
    model, inputs = many(family)
    with torch.no_grad(), zipr1.sparse(model, zipr1.KeepAll()):
        out = model(**inputs, use_cache=False).logits[:, -1]
    with torch.no_grad():
        hidden = decoder(model)(**encode(model, inputs).embeds, use_cache=False)[0][:, -1]
    torch.testing.assert_close(model.lm_head(hidden), out, rtol=1e-4, atol=1e-4)


def case(seconds: float, rows: int = 1) -> tuple:
    """The row of cases.md: 15 tokens, a video of 84 x 24 x 32 patches, 10 tokens. No pixels."""
    model = random_model("qwen2_5_vl")
    model.config.vision_config.tokens_per_second = 2
    ids = [5] * 15 + [model.config.video_token_id] * (84 * 12 * 16) + [6] * 10
    ids = torch.tensor([ids] * rows)
    grid = torch.tensor([[84, 24, 32]] * rows)
    settings = {"video_grid_thw": grid, "second_per_grid_ts": torch.tensor([seconds] * rows)}
    settings["mm_token_type_ids"] = torch.where(ids == model.config.video_token_id, 2, 0)
    return model, ids, settings


def test_the_numbers_of_the_report():
    """2 s a pair: the last frame at 347, text from 348, the first generated token at 358."""
    model, ids, settings = case(2.0)
    correct_positions(model)
    positions, deltas = model.model.get_rope_index(ids, **settings)
    assert positions[0, 0, 15:-10].max() == 347
    assert positions[:, 0, -10:].tolist() == [list(range(348, 358))] * 3
    assert ids.shape[1] + int(deltas[0, 0]) == 358


@pytest.mark.parametrize(("seconds", "last"), [(0.5, 83), (0.25, 41), (1.5, 249), (1 / 3, 55)])
def test_fractions_of_a_second_are_rounded_down_at_the_end(seconds, last):
    """Not before they are multiplied, as transformers up to 5.17 did: all frames were at one time."""
    model, ids, settings = case(seconds)
    correct_positions(model)
    positions, _ = model.model.get_rope_index(ids, **settings)
    assert positions[0, 0, 15:-10].max() - 15 == last
    assert (positions[:, 0, -10] == max(last, 15) + 16).all()


def test_two_videos_without_text_between_are_told_apart():
    model = random_model("qwen2_vl")
    video = model.config.video_token_id
    correct_positions(model)
    ids = torch.tensor([[5] + [video] * 8 + [6]])
    positions, _ = model.model.get_rope_index(ids, video_grid_thw=torch.tensor([[4, 2, 2]] * 2))
    assert positions[0, 0].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    assert positions[1, 0].tolist() == [0, 1, 1, 1, 1, 5, 5, 5, 5, 9]


@pytest.mark.parametrize("grid", [[4, 2, 2], [2, 2, 2], [3, 8, 8]])
def test_media_of_another_size_than_the_text_has_room_for_are_refused(grid):
    model = random_model("qwen2_vl")
    correct_positions(model)
    ids = torch.tensor([[5] + [model.config.video_token_id] * 3 + [6]])
    with pytest.raises(InputError, match="do not belong together"):
        model.model.get_rope_index(ids, video_grid_thw=torch.tensor([grid]))


@every_family
def test_the_context_leaves_a_model_as_it_was(family):
    model, inputs = many(family)
    stock = encode_plainly(model, inputs)
    with zipr1.sparse(model, zipr1.TopP(0.9)):
        inside = encode_plainly(model, inputs)
        copied = copy.deepcopy(model)
    assert torch.equal(encode_plainly(model, inputs), stock) and not torch.equal(inside, stock)
    correct_positions(model)
    with zipr1.sparse(model, zipr1.TopP(0.9)):
        pass
    assert torch.equal(encode_plainly(model, inputs), inside)
    for other in (copied, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(encode_plainly(other, inputs), inside)
        assert other.model.get_rope_index.args[0] is other.model


def encode_plainly(model, inputs) -> torch.Tensor:
    names = ("mm_token_type_ids", "image_grid_thw", "video_grid_thw", "attention_mask")
    more = {name: inputs[name] for name in (*names, "second_per_grid_ts") if name in inputs}
    return model.model.get_rope_index(inputs["input_ids"], **more)[0]


def test_a_loaded_model_has_them_and_saves_as_before(tmp_path):
    source, processor = zipr1.load("zipr1/tiny")
    zipr1.save(source, processor, tmp_path / "first")
    model, processor = zipr1.load(tmp_path / "first")
    assert model.model.get_rope_index.func.__module__ == "zipr1.models.positions"
    zipr1.save(model, processor, tmp_path)
    again, _ = zipr1.load(tmp_path)
    assert {n for n, _ in again.named_parameters()} == {n for n, _ in model.named_parameters()}
    model.generation_config = GenerationConfig(max_new_tokens=2)
    clip = Example("a", "", "What?", "", frames=tuple(noise(64, 64) for _ in range(12)))
    inputs = prompts(processor, [clip])
    seen, handle = spy(model)
    with torch.no_grad():
        model.generate(**inputs)  # plain, dense
    handle.remove()
    (expected,) = expected_positions(model, inputs)
    assert torch.equal(seen[0][-3:, 0], expected)


def test_a_model_trained_on_the_other_positions_keeps_them(tmp_path):
    source, processor = zipr1.load("zipr1/tiny")
    source.config.positions_after_video = "spatial"
    zipr1.save(source, processor, tmp_path)
    model, processor = zipr1.load(tmp_path)
    zipr1.save(model, processor, tmp_path / "again")
    for one in (model, zipr1.load(tmp_path / "again")[0]):
        assert one.config.positions_after_video == "spatial"
        assert "get_rope_index" not in vars(one.model)
        with zipr1.sparse(one, zipr1.TopP(0.9)):
            assert "get_rope_index" not in vars(one.model)
    model.config.positions_after_video = "temporal"
    with pytest.raises(InputError, match="positions_after_video='temporal'"):
        correct_positions(model)


def test_a_peft_model_has_them_too():
    from peft import LoraConfig, get_peft_model

    model, inputs = many("qwen2_5_vl")
    wrapped = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"]))
    correct_positions(wrapped)
    got = real(encode_plainly(model, inputs), inputs["attention_mask"])
    for one, other in zip(got, expected_positions(model, inputs), strict=True):
        assert torch.equal(one, other)
