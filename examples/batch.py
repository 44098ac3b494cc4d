"""Answers one question about several images in one batch, with the token ratio of each.

python examples/batch.py "What colour is the circle?" docs/shapes.png docs/shapes.png --p 0.9
"""

import argparse

import torch

import zipr1


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("question")
    parser.add_argument("images", nargs="+")
    parser.add_argument("--model", default="zipr1/tiny")
    parser.add_argument("--p", type=float, default=0.975)
    options = parser.parse_args(arguments)

    model, processor = zipr1.load(options.model)
    chats = [
        [
            {
                "role": "user",
                "content": [
                    {"type": "image", "path": path},
                    {"type": "text", "text": options.question},
                ],
            }
        ]
        for path in options.images
    ]
    inputs = processor.apply_chat_template(
        chats,
        tokenize=True,
        add_generation_prompt=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"padding": True, "padding_side": "left"},
    ).to(model.device)

    with torch.no_grad(), zipr1.sparse(model, zipr1.TopP(options.p)) as trace:
        out = model.generate(**inputs, max_new_tokens=32, do_sample=False)
    answers = processor.batch_decode(
        out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True
    )
    for path, answer, ratio in zip(
        options.images, answers, trace.token_ratio.tolist(), strict=True
    ):
        print(f"{path}\t{answer.strip()}\ttoken ratio {ratio:.1%}")


if __name__ == "__main__":
    main()
