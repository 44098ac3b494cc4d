"""Folders of small random models of every vision family, with the family's own processor class.

The tokenizer is that of zipr1/tiny plus the family's special tokens; published chat templates are
not at hand, so each family has a plain one with its own placeholders.
"""

from copy import deepcopy
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from conftest import tiny_processor
from family_models import RECIPES, small_model
from transformers import (
    Gemma3ImageProcessor,
    Gemma3Processor,
    Glm4vImageProcessor,
    Glm4vProcessor,
    Glm4vVideoProcessor,
    Glm46VImageProcessor,
    Glm46VProcessor,
    Glm46VVideoProcessor,
    GotOcr2ImageProcessor,
    InternVLProcessor,
    InternVLVideoProcessor,
    LlavaOnevisionImageProcessor,
    LlavaOnevisionProcessor,
    LlavaOnevisionVideoProcessor,
    PixtralImageProcessor,
    PixtralProcessor,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
    SmolVLMImageProcessor,
    SmolVLMProcessor,
    SmolVLMVideoProcessor,
)

from zipr1.models.saving import save

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% for content in message['content'] %}{% if content['type'] == 'image' %}IMAGE"
    "{% elif content['type'] == 'video' %}VIDEO{% else %}{{ content['text'] }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
GLM = ("<|begin_of_image|><|image|><|end_of_image|>", "<|begin_of_video|><|video|><|end_of_video|>")
QWEN = (
    "<|vision_start|><|image_pad|><|vision_end|>",
    "<|vision_start|><|video_pad|><|vision_end|>",
)
QWEN_FAMILIES = ("qwen3_vl_moe", "qwen3_5", "qwen3_5_moe")  # with the processor of Qwen3-VL
PLACEHOLDERS = {  # of an image and of a video
    "qwen3_vl_moe": QWEN,
    "qwen3_5": QWEN,
    "qwen3_5_moe": QWEN,
    "gemma3": ("<start_of_image>", ""),
    "glm4v": GLM,
    "glm46v": GLM,
    "internvl": ("<IMG_CONTEXT>\n", "<video>\n"),
    "llava_onevision": ("<image>\n", "<video>\n"),
    "smolvlm": ("<image>", "<video>"),
    "mistral3": ("[IMG]", ""),
}
IMAGES_ONLY = ("gemma3", "mistral3")  # whose processors take no videos
GLM_TOKENS = {
    "image_token": "<|image|>", "video_token": "<|video|>", "image_start": "<|begin_of_image|>",
    "image_end": "<|end_of_image|>", "video_start": "<|begin_of_video|>",
    "video_end": "<|end_of_video|>",
}  # fmt: skip
TOKENS = {
    **{family: {} for family in QWEN_FAMILIES},
    "gemma3": {
        "image_token": "<image_soft_token>", "boi_token": "<start_of_image>",
        "eoi_token": "<end_of_image>",
    },
    "glm4v": GLM_TOKENS,
    "glm46v": GLM_TOKENS,
    "internvl": {
        "start_image_token": "<img>", "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>", "video_token": "<video>",
    },
    "llava_onevision": {"image_token": "<image>", "video_token": "<video>"},
    "smolvlm": {
        "fake_image_token": "<fake_token_around_image>", "image_token": "<image>",
        "end_of_utterance_token": "<end_of_utterance>", "global_image_token": "<global-img>",
    },
    "mistral3": {
        "image_token": "[IMG]", "image_break_token": "[IMG_BREAK]", "image_end_token": "[IMG_END]",
    },
}  # fmt: skip
PATCHES = {"patch_size": 8, "merge_size": 2}
PIXELS = {"size": {"shortest_edge": 32 * 32, "longest_edge": 64 * 64}} | PATCHES
SQUARE = {"size": {"height": 32, "width": 32}}
VIDEO_PIXELS = {"size": {"shortest_edge": 32 * 32, "longest_edge": 16 * 64 * 64}} | PATCHES


def new_processor(family: str):
    """The processor of a small model of the family; images of 32 x 32 are one patch of it."""
    tokenizer, template = with_tokens(TOKENS[family]), TEMPLATE
    for name, text in zip(("IMAGE", "VIDEO"), PLACEHOLDERS[family], strict=True):
        template = template.replace(name, text)
    chat = {"chat_template": template}
    if family in QWEN_FAMILIES:
        images = deepcopy(tiny_processor().image_processor)  # whose bounds a test may change
        videos = Qwen3VLVideoProcessor(**VIDEO_PIXELS)
        return Qwen3VLProcessor(images, tokenizer, videos, **chat)
    if family == "glm4v":
        images, videos = Glm4vImageProcessor(**PIXELS), Glm4vVideoProcessor(**VIDEO_PIXELS)
        return Glm4vProcessor(images, tokenizer, videos, **chat)
    if family == "glm46v":
        images, videos = Glm46VImageProcessor(**PIXELS), Glm46VVideoProcessor(**VIDEO_PIXELS)
        return Glm46VProcessor(images, tokenizer, videos, **chat)
    if family == "gemma3":
        images = Gemma3ImageProcessor(**SQUARE)
        return Gemma3Processor(images, tokenizer, image_seq_length=4, **chat)
    if family == "internvl":
        images = GotOcr2ImageProcessor(**SQUARE, crop_to_patches=True, max_patches=4)
        videos = InternVLVideoProcessor(**SQUARE)
        return InternVLProcessor(images, tokenizer, videos, image_seq_length=4, **chat)
    if family == "llava_onevision":
        pinpoints = [[32, 32], [32, 64], [64, 32], [64, 64]]
        images = LlavaOnevisionImageProcessor(**SQUARE, image_grid_pinpoints=pinpoints)
        videos = LlavaOnevisionVideoProcessor(**SQUARE)
        settings = {"num_image_tokens": 16, "vision_feature_select_strategy": "full"}
        return LlavaOnevisionProcessor(images, tokenizer, videos, **settings, **chat)
    if family == "smolvlm":
        images = SmolVLMImageProcessor(
            size={"longest_edge": 64}, max_image_size={"longest_edge": 32}
        )
        sampling = {"max_frames": 8, "fps": 1, "video_size": {"longest_edge": 32}}
        videos = SmolVLMVideoProcessor(max_image_size={"longest_edge": 32}, video_sampling=sampling)
        return SmolVLMProcessor(images, tokenizer, videos, image_seq_len=4, **chat)
    images = PixtralImageProcessor(size={"longest_edge": 96}, patch_size=8)
    return PixtralProcessor(images, tokenizer, patch_size=8, spatial_merge_size=2, **chat)


@cache
def token_folder() -> TemporaryDirectory:
    folder = TemporaryDirectory()
    tiny_processor().tokenizer.save_pretrained(folder.name)
    return folder


def with_tokens(tokens: dict):
    """The tokenizer of zipr1/tiny that also knows these special tokens, by their names."""
    kind = type(tiny_processor().tokenizer)
    return kind.from_pretrained(token_folder().name, extra_special_tokens=tokens)


def ids_of(family: str, processor) -> dict:
    """The token ids in the configuration of the family's model."""
    id_of = processor.tokenizer.convert_tokens_to_ids
    if family in QWEN_FAMILIES:
        return {
            "image_token_id": id_of("<|image_pad|>"), "video_token_id": id_of("<|video_pad|>"),
            "vision_start_token_id": id_of("<|vision_start|>"),
            "vision_end_token_id": id_of("<|vision_end|>"),
        }  # fmt: skip
    if family in ("glm4v", "glm46v"):
        named = {
            f"{kind}_{place}_token_id": id_of(f"<|{word}_of_{kind}|>")
            for kind in ("image", "video")
            for place, word in (("start", "begin"), ("end", "end"))
        }
        named |= {"image_token_id": id_of("<|image|>"), "video_token_id": id_of("<|video|>")}
        return named
    if family == "gemma3":
        return {
            "image_token_id": id_of("<image_soft_token>"), "boi_token_index": id_of("<start_of_image>"),
            "eoi_token_index": id_of("<end_of_image>"),
        }  # fmt: skip
    named = {"image_token_id": processor.image_token_id}
    if family == "llava_onevision":
        named |= {
            "video_token_id": processor.video_token_id,
            "image_grid_pinpoints": processor.image_processor.image_grid_pinpoints,
        }
    return named


def new_family(family: str) -> tuple:
    """(model, processor) of a family in PLACEHOLDERS, random."""
    processor = new_processor(family)
    ends = {
        "pad_token_id": processor.tokenizer.pad_token_id,
        "eos_token_id": processor.tokenizer.eos_token_id,
    }
    text = {"vocab_size": len(processor.tokenizer), "bos_token_id": None} | ends
    model = small_model(family, text, ids_of(family, processor))
    model.generation_config.pad_token_id = ends["pad_token_id"]
    return model, processor


def write_family(family: str, folder: Path) -> Path:
    save(*new_family(family), folder)
    return folder


assert PLACEHOLDERS.keys() <= RECIPES.keys()
