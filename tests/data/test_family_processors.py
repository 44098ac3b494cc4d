"""Images, videos and text through the processor of every vision family, as one batch and alone."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import tiny_processor
from family_folders import IMAGES_ONLY, PLACEHOLDERS, new_family
from PIL import Image

from zipr1.common.errors import InputError
from zipr1.data.collate import alike, collate
from zipr1.data.example import Example, Video
from zipr1.data.processor import limit_pixels, prepare, tensors
from zipr1.evaluation.lmms_settings import set_pixels
from zipr1.models.encode import encode
from zipr1.models.families import decoder

GLM = ("glm4v", "glm46v")
TOLERANCE = {"rtol": 1e-3, "atol": 2e-4}  # float32: attention over padding, logits of 1 to 10


@pytest.fixture(scope="module", params=sorted(PLACEHOLDERS))
def family(request):
    return request.param


@pytest.fixture(scope="module")
def model_and_processor(family):
    return new_family(family)


def noise(seed: int, height: int, width: int) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8))


def frames(count: int, seed: int = 9) -> tuple[Image.Image, ...]:
    return tuple(noise(seed + i, 48, 64) for i in range(count))


EXAMPLES = {
    "image": Example("a", "", "What colour?", "red", image=noise(0, 60, 100)),
    "text": Example("b", "", "Say a word.", "word"),
    "two images": Example("c", "", "Which?", "one", images=(noise(1, 40, 40), noise(2, 90, 40))),
    "video": Example("d", "", "Which way?", "left", frames=frames(6)),
    "one frame": Example("e", "", "What?", "that", frames=frames(1)),
}


def rows_of(family: str) -> list[Example]:
    names = ["image", "text", "two images", "video", "one frame"]
    return [EXAMPLES[name] for name in (names[:3] if family in IMAGES_ONLY else names)]


@torch.no_grad()
def last_logits(model, inputs) -> torch.Tensor:
    return model(**inputs, use_cache=False).logits[:, -1]


def test_a_batch_equals_its_prompts_alone(family, model_and_processor):
    """In value, whatever else is in the batch; also through the encoder that training uses."""
    model, processor = model_and_processor
    parts = [prepare(processor, [example]) for example in rows_of(family)]
    alone = torch.cat([last_logits(model, part) for part in parts])
    groups = alike(processor, parts)
    assert len(groups) == (2 if family in (*GLM, "llava_onevision") else 1)
    for group in groups:
        batch = collate(processor, [parts[number] for number in group])
        torch.testing.assert_close(last_logits(model, batch), alone[group], **TOLERANCE)
        with torch.no_grad():
            hidden = decoder(model)(**encode(model, batch).embeds, use_cache=False)[0]
            got = model.lm_head(hidden[:, -1])
        torch.testing.assert_close(got, alone[group], **TOLERANCE)
    if len(groups) == 1:
        together = prepare(processor, rows_of(family))
        assert all(torch.equal(together[name], batch[name]) for name in batch)
    else:
        with pytest.raises(InputError, match="cannot share a batch: set the batch size to 1"):
            prepare(processor, rows_of(family))


def test_what_is_shown_changes_the_answer(family, model_and_processor):
    """The second image and the last frame reach the model."""
    model, processor = model_and_processor
    one, other = EXAMPLES["image"], EXAMPLES["two images"]
    pairs = [(other, Example("c", "", "Which?", "", images=(other.images[0], noise(7, 90, 40))))]
    pairs.append((one, Example("a", "", "What colour?", "", image=noise(8, 60, 100))))
    if family not in IMAGES_ONLY:
        video = EXAMPLES["video"]
        changed = (*video.frames[:-1], noise(30, 48, 64))
        pairs.append((video, Example("d", "", "Which way?", "", frames=changed)))
    for before, after in pairs:
        found = [last_logits(model, prepare(processor, [one])) for one in (before, after)]
        assert (found[0] - found[1]).abs().max() > 1e-3


def chat(*kinds: str, text: str = "What?") -> list[dict]:
    content = [{"type": kind} for kind in kinds]
    return [{"role": "user", "content": [*content, {"type": "text", "text": text}]}]


def test_images_beside_videos(family, model_and_processor):
    _, processor = model_and_processor
    given = {"images": [noise(0, 40, 40)], "videos": [Video(frames(4), 2.0)]}
    if family in IMAGES_ONLY:
        with pytest.raises(InputError, match="Processor takes no videos"):
            tensors(processor, [chat("video")], [], given["videos"])
    elif family in (*GLM, "smolvlm"):
        with pytest.raises(InputError, match="takes images or videos in one prompt, not both"):
            tensors(processor, [chat("image", "video")], **given)
    else:
        model = model_and_processor[0]
        found = last_logits(model, tensors(processor, [chat("image", "video")], **given))
        other = last_logits(model, tensors(processor, [chat("video", "image")], **given))
        assert (found - other).abs().max() > 1e-3


def test_two_videos_in_one_prompt(family, model_and_processor):
    model, processor = model_and_processor
    if family in IMAGES_ONLY:
        pytest.skip("takes no videos")
    videos = [Video(frames(4), 2.0), Video(frames(4, seed=20), 2.0)]
    both = [last_logits(model, tensors(processor, [chat("video", "video")], [], order))
            for order in (videos, videos[::-1])]  # fmt: skip
    assert (both[0] - both[1]).abs().max() > 1e-3
    longer = [videos[0], Video(frames(6), 2.0)]
    if hasattr(processor.image_processor, "merge_size"):
        last_logits(model, tensors(processor, [chat("video", "video")], [], longer))
    else:
        with pytest.raises(InputError, match="takes videos of equally many frames"):
            tensors(processor, [chat("video", "video")], [], longer)


def test_media_that_the_chats_do_not_name_are_refused(family, model_and_processor):
    _, processor = model_and_processor
    image = noise(0, 40, 40)
    with pytest.raises(InputError, match="the chat names 2 images, but 1 are there"):
        tensors(processor, [chat("image", "image")], [image], [])
    with pytest.raises(InputError, match="1 images and 0 videos more than the chats name"):
        tensors(processor, [chat("image")], [image, image], [])


def test_typed_placeholders_are_refused(family, model_and_processor):
    """Also those that the tokenizer does not know, and the processor would replace."""
    _, processor = model_and_processor
    for name in ("image_token", "video_token"):
        if token := getattr(processor, name, None):
            with pytest.raises(InputError, match="a special token of the model"):
                tensors(processor, [chat("image", text=f"a {token} b")], [noise(0, 40, 40)], [])


@pytest.mark.parametrize("size", [(1, 1), (1, 150), (150, 1), (3, 500), (900, 700)])
def test_sizes_of_images(family, model_and_processor, size):
    """Read, or refused in one line."""
    model, processor = model_and_processor
    example = Example("a", "", "What?", "", image=noise(0, *size))
    try:
        inputs = prepare(processor, [example])
    except InputError as error:
        assert "pixels" in str(error)
    else:
        assert last_logits(model, inputs).isfinite().all()


@pytest.mark.parametrize("height", [1, 3])
def test_frames_as_high_as_there_are_colours(family, model_and_processor, height):
    """The first dimensions of such a video could be taken for its colours."""
    _, processor = model_and_processor
    if family not in ("internvl", "llava_onevision"):
        pytest.skip("its frames keep their proportions")
    videos = [
        Video((Image.new("RGB", (32, rows), (200, 100, 0)),) * 4, 2.0) for rows in (height, 32)
    ]
    flat, square = (tensors(processor, [chat("video")], [], [video]) for video in videos)
    assert all(torch.allclose(flat[name].float(), square[name].float(), atol=1e-5) for name in flat)


def test_bounds_of_pixels(family):
    _, processor = new_family(family)
    if hasattr(processor.image_processor, "merge_size"):
        before = prepare(processor, [EXAMPLES["image"]])["input_ids"].shape[1]
        limit_pixels(processor, 1024, 4096)
        assert prepare(processor, [EXAMPLES["image"]])["input_ids"].shape[1] < before
        return
    with pytest.raises(InputError, match=r"max_pixels=1024: \w+ has no bound of pixels"):
        limit_pixels(processor, 1024, None)
    with pytest.raises(InputError, match="has no pixel bounds"):
        set_pixels(processor, "image_processor", None, 1024)


def test_a_processor_whose_package_is_missing_is_named(tmp_path: Path, monkeypatch):
    """SmolVLM's writes numbers as words."""
    from family_folders import write_family
    from transformers.models.smolvlm import processing_smolvlm

    from zipr1.common.errors import MissingExtra
    from zipr1.models.loading import load_processor

    write_family("smolvlm", tmp_path)
    monkeypatch.setattr(processing_smolvlm, "num2words", None)
    with pytest.raises(MissingExtra, match="pip install num2words"):
        load_processor(tmp_path)


def test_qwen_batches_are_those_of_one_call():
    """The tensors of one call of the processor for the whole batch."""
    processor = tiny_processor()
    rows = [EXAMPLES[name] for name in ("image", "text", "two images")]
    got = prepare(processor, rows)
    texts = [
        processor.apply_chat_template(
            chat(*["image"] * len(row.all_images), text=row.question), add_generation_prompt=True
        )
        for row in rows
    ]
    images = [image for row in rows for image in row.all_images]
    expected = processor(
        text=texts, images=images, padding=True, padding_side="left", return_tensors="pt"
    )
    assert got.keys() == expected.keys()
    assert all(torch.equal(got[name], expected[name]) for name in expected)
