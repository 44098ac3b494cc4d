"""`trace.draw(...)`, the short repr of a trace, and what a notebook shows of it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import tiny_processor
from PIL import Image

import zipr1
from zipr1.common.errors import InputError, RunError
from zipr1.common.overlay import LEAST_SIDE, shade
from zipr1.data.processor import prepare, visual_grid
from zipr1.tasks.motion import Motion
from zipr1.tasks.shapes import Shapes


def traced(examples):
    model, processor = zipr1.load("zipr1/tiny")
    inputs = prepare(processor, examples)
    with torch.no_grad(), zipr1.sparse(model, zipr1.TopP(0.8)) as trace:
        model(**inputs)
    return trace, inputs, processor


def test_each_row_of_a_batch_is_drawn_over_its_own_image():
    examples = [Shapes().example("test", index) for index in range(3)]
    wide = examples[1].image.resize((192, 96))  # with other tokens than the others
    examples[1] = replace(examples[1], image=wide)
    trace, inputs, processor = traced(examples)
    for row, example in enumerate(examples):
        for layer in (None, 2):
            found = trace.draw(example.image, inputs, processor, row=row, layer=layer)
            visual = inputs["mm_token_type_ids"][row].bool()
            kept = torch.stack([one[row][visual] for one in trace.kept]).float().numpy()
            kept = kept.mean(0) if layer is None else kept[layer]
            _, rows, columns = visual_grid(inputs, row, processor)
            expected = shade(example.image, kept.reshape(rows, columns))
            part = np.asarray(found)[: expected.height, : expected.width]
            assert np.array_equal(part, np.asarray(expected)), (row, layer)


def test_videos_and_captions():
    examples = [Shapes().example("test", 0), Motion().example("test", 0)]
    trace, inputs, processor = traced(examples)
    frames = examples[1].frames
    found = trace.draw([frames], inputs, processor, row=1, caption="What moves?")
    pairs = visual_grid({"video_grid_thw": inputs["video_grid_thw"]}, 0, processor)[0]
    assert found.height > -(-pairs // 2) * LEAST_SIDE and found.width == 2 * LEAST_SIDE
    trace.draw(examples[0].image, inputs, processor)


def test_media_that_are_not_those_of_the_prompt_are_named():
    example = Shapes().example("test", 0)
    trace, inputs, processor = traced([example])
    image = example.image
    for media, word in (
        ([image, image], "the prompt has fewer images"),
        ([(image, image)], "the prompt has fewer videos"),
        ([], "the given media have 0 visual tokens, the prompt 64"),
    ):
        with pytest.raises(InputError, match=word):
            trace.draw(media, inputs, processor)
    with pytest.raises(
        InputError, match="layer=5: the sparse layers of the model are 0, 1, 2, 3, 4"
    ):
        trace.draw(image, inputs, processor, layer=5)
    with pytest.raises(RunError, match="nothing was recorded"):
        zipr1.Trace().draw(image, inputs, processor)
    text = tiny_processor().tokenizer("one", return_tensors="pt")
    with pytest.raises(InputError, match="do not say which tokens are visual"):
        trace.draw(Image.new("RGB", (8, 8)), text, processor)


def test_a_trace_is_short_and_shows_itself_in_a_notebook():
    trace, _, _ = traced([Shapes().example("test", index) for index in range(2)])
    first, second = trace.token_ratio.tolist()
    lengths = ", ".join(map(str, trace.lengths.tolist()))
    expected = (
        f"Trace(token_ratio=[{first:.3f}, {second:.3f}], layers=5, prompt_tokens=[{lengths}])"
    )
    assert repr(trace) == expected
    page = trace._repr_html_()
    assert page.count("<rect ") == 10 and f"<td>{first:.1%}</td>" in page
    assert f"layer 1: {trace.layer_ratios[0, 0].item():.1%}" in page
    empty = zipr1.Trace()
    assert repr(empty) == empty._repr_html_() == "Trace(nothing recorded)"
