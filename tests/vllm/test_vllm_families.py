"""Every family and scope in vLLM equals the transformers path, images and videos included."""

import pytest
import vllm_engine as v
from conftest import family_processor, random_model
from safetensors.torch import load_file, save_file

import zipr1
from zipr1.models.positions import correct_positions
from zipr1.models.saving import save

pytestmark = pytest.mark.vllm

TEXT = (
    v.Question(f"Read this list. {v.LIST} What colour is the circle?", 24),
    v.Question("Say a word.", 24),
)
VISION = (
    v.Question("What colour is the circle?", 24, images=1),
    v.Question("Which of the two?", 24, images=2),
    *TEXT[:1],
)
VIDEO = (
    v.Question("What happens in the video?", 24, video=v.VIDEO),
    v.Question("Is the image in the video?", 24, images=1, video=v.VIDEO),
)
CASES = [  # scope, rule, settings of the request
    ("attention", None, {}),
    *(
        (scope, rule, {"scope": scope, "return_kept": 1} | settings)
        for scope in ("attention", "layer", "keys")
        for rule, settings in (
            (zipr1.TopP(0.9), {"p": 0.9}),
            (zipr1.TopP(0.5), {"p": 0.5}),
            (zipr1.TopK(0.3), {"ratio": 0.3}),
        )
    ),
]


def compare(folder, model, processor, questions, cases=CASES):
    suppressed = model.generation_config.suppress_tokens or ()
    questions = [v.prepare(processor, v.copied(question)) for question in questions]
    keys, jobs, answers = [], [], {}
    for number, question in enumerate(questions):
        for scope, rule, settings in cases:
            key = (number, scope, rule)
            answers[key] = v.transformers_answer(model, question, rule, scope)
            keys.append(key)
            jobs.append((question, settings))
    with v.engine(model=folder) as llm:
        outputs = v.ask(llm, jobs, suppressed)
    for (question, _), output in zip(jobs, outputs, strict=True):
        assert list(output.prompt_token_ids) == question.ids, "the same prompt in both engines"
    assert v.differences(keys, outputs, answers) == []


SLOW = [pytest.param(family, marks=pytest.mark.slow) for family in ("qwen3_moe", "qwen3_vl_moe")]


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "qwen2_vl", "qwen3_vl", *SLOW])
def test_a_family_of_random_weights(family, tmp_path):
    model, processor = saved_model(family, tmp_path)
    questions = VISION + VIDEO if "_vl" in family else TEXT
    compare(tmp_path, model, processor, questions)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_a_video_of_ten_minutes(family, tmp_path):
    """64 frames, whose times make positions, or timestamps, that are far apart."""
    model, processor = saved_model(family, tmp_path)
    question = v.Question("What happens in the video?", 24, video=v.TEN_MINUTES)
    assert len(v.prepare(processor, v.copied(question)).ids) > 400
    compare(tmp_path, model, processor, [question])


def saved_model(family: str, folder):
    """(random model, processor), which are also in the folder."""
    model, processor = random_model(family), family_processor(family)
    if family.startswith("qwen3_vl"):  # transformers interleaves always, vLLM if told to
        model.config.text_config.rope_parameters["mrope_interleaved"] = True
        # vLLM normalises frames as the processor of images says; those of Qwen3-VL say the same.
        for name in ("image_mean", "image_std"):
            setattr(processor.video_processor, name, getattr(processor.image_processor, name))
    correct_positions(model)
    save(model, processor, folder)
    if family == "qwen3_vl_moe":  # as published; transformers writes so only what it has read so
        weights = {
            name: weight.transpose(1, 2).contiguous() if ".experts." in name else weight
            for name, weight in load_file(folder / "model.safetensors").items()
        }
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return model, processor


def test_the_embedded_model():
    model, processor = zipr1.load("zipr1/tiny")
    compare(v.EMBEDDED["zipr1/tiny"], model, processor, VISION + VIDEO)


def test_a_model_trained_on_the_positions_of_transformers_5(tmp_path):
    source, processor = zipr1.load("zipr1/tiny")
    source.config.positions_after_video = "spatial"
    zipr1.save(source, processor, tmp_path)
    model, processor = zipr1.load(tmp_path)
    compare(tmp_path, model, processor, VIDEO)


def test_qwen2_5_vl_with_the_positions_of_its_published_weights(tmp_path):
    model, processor = saved_model("qwen2_5_vl", tmp_path)
    compare(tmp_path, model, processor, VIDEO, cases=CASES[:3])
