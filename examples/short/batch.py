"""Several images in one batch, each with its own token ratio."""

import zipr1

model, processor = zipr1.load("zipr1/tiny")
template = {"tokenize": True, "return_dict": True, "return_tensors": "pt"}
template |= {"add_generation_prompt": True, "processor_kwargs": {"padding": True}}
processor.tokenizer.padding_side = "left"
question = {"type": "text", "text": "What colour is the circle?"}
images = [{"type": "image", "path": path} for path in ("docs/shapes.png", "docs/shapes.png")]
chats = [[{"role": "user", "content": [image, question]}] for image in images]
inputs = processor.apply_chat_template(chats, **template)
with zipr1.sparse(model, zipr1.TopP(0.9)) as trace:
    out = model.generate(**inputs, max_new_tokens=8)
print(
    processor.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True), trace
)
