"""Several questions packed behind one picture must be what they are alone."""

import torch
from conftest import random_model, tiny_processor

from zipr1.inputs import conversation, prepare
from zipr1.model import encode
from zipr1.packing import IGNORE, isolate, pack
from zipr1.tasks import TASKS
from zipr1.tasks.base import Example


def test_packed_questions_equal_single_ones():
    model, processor = random_model("qwen2_5_vl"), tiny_processor()
    scenes = [TASKS["shapes"].scene("val", i) for i in range(2)]
    asked = [list(scene.questions[: 3 + i]) for i, scene in enumerate(scenes)]
    inputs = pack(processor, scenes, asked)
    with torch.no_grad():
        embeds = isolate(encode(model, inputs).embeds, inputs["segment"], inputs["offset"])
        hidden = model.model.language_model(**embeds, use_cache=False).last_hidden_state
        for row, (scene, questions) in enumerate(zip(scenes, asked, strict=True)):
            for number, (question, answer) in enumerate(questions, 1):
                example = Example("x", "shapes", question, answer, scene.image)
                chat = [*conversation(example), {"role": "assistant", "content": [{"type": "text", "text": answer}]}]
                alone = prepare(processor, [example], [chat])
                single = model.model(**alone, use_cache=False).last_hidden_state[0]
                packed = hidden[row][inputs["segment"][row] == number]
                length = len(packed)  # the chat closes with a line break that is not in the segment
                torch.testing.assert_close(packed, single[-length - 1 : -1], rtol=1e-4, atol=1e-4)


def test_labels_are_the_answers():
    processor = tiny_processor()
    scene = TASKS["digits"].scene("val", 3)
    inputs = pack(processor, [scene], [list(scene.questions[:2])])
    labels = inputs["labels"][0]
    assert processor.tokenizer.decode(labels[labels != IGNORE]) == "".join(f"{a}<|im_end|>" for _, a in scene.questions[:2])
