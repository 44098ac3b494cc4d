"""Two turns about one image; the second continues on the sparse KV cache of the first."""

import zipr1

model, processor = zipr1.load("zipr1/tiny")
template = {"tokenize": True, "return_dict": True, "return_tensors": "pt"}
cache, chat, media = None, [], [{"type": "image", "path": "docs/shapes.png"}]
with zipr1.sparse(model, zipr1.TopP(0.9)) as trace:
    for text in ("What colour is the circle?", "What colour is the square?"):
        chat += [{"role": "user", "content": [*media, {"type": "text", "text": text}]}]
        inputs = processor.apply_chat_template(chat, add_generation_prompt=True, **template)
        if not media:  # the image is in the cache already
            del inputs["pixel_values"], inputs["image_grid_thw"]
        out = model.generate(**inputs, past_key_values=cache, return_dict_in_generate=True)
        cache, media = out.past_key_values, []
        text = processor.decode(out.sequences[0, inputs["input_ids"].shape[1] : -1])
        chat += [{"role": "assistant", "content": [{"type": "text", "text": text}]}]
        print(text, trace)
