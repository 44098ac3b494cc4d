"""A chat about one image: the second turn continues on the sparse KV cache of the first.

python examples/chat.py docs/shapes.png "What colour is the circle?" "What shape is the blue object?"
"""

import argparse

import torch

import zipr1


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("image")
    parser.add_argument("questions", nargs="+")
    parser.add_argument("--model", default="zipr1/tiny")
    parser.add_argument("--p", type=float, default=0.975)
    parser.add_argument("--keep-kv", action="store_true", help="Sparse in the prefill only.")
    options = parser.parse_args(arguments)

    model, processor = zipr1.load(options.model)
    image = [{"type": "image", "path": options.image}]
    chat, cache = [], None
    with (
        torch.no_grad(),
        zipr1.sparse(model, zipr1.TopP(options.p), keep_kv=options.keep_kv) as trace,
    ):
        for question in options.questions:
            chat.append({"role": "user", "content": [*image, {"type": "text", "text": question}]})
            image = []  # only the first turn shows it
            inputs = processor.apply_chat_template(
                chat,
                tokenize=True,
                add_generation_prompt=True,
                return_dict=True,
                return_tensors="pt",
            ).to(model.device)
            if cache is not None:  # the image is in the cache already
                inputs.pop("pixel_values"), inputs.pop("image_grid_thw")
            out = model.generate(
                **inputs,
                past_key_values=cache,
                max_new_tokens=16,
                do_sample=False,
                return_dict_in_generate=True,
            )
            cache = out.past_key_values
            answer = processor.decode(
                out.sequences[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True
            ).strip()
            chat.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
            stored = cache.layers[-1].keys.shape[2]
            print(f"{question}\t{answer}\ttoken ratio {trace.token_ratio.item():.1%}", end="\t")
            print(f"{stored} of {cache.get_seq_length()} tokens in the last layer's cache")


if __name__ == "__main__":
    main()
