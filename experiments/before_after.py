"""The kept tokens of the demo's first test questions, before and after post-training, as a GIF.

    python experiments/before_after.py zipr1/tiny runs/demo/exact/final docs/images/before_after.gif

The trained model is of `make demo`. One frame a question: on the left the model before training, on
the right after it, both with the p, the choice of tokens and the scope of the training. The
questions are the first of the test split (--index for others), whether they are answered correctly
or not.
"""

import argparse
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont

import zipr1
from zipr1.common.overlay import INK, MARGIN, PAPER
from zipr1.data.example import Example
from zipr1.data.processor import prepare
from zipr1.models.loading import tokenizer_of
from zipr1.models.settings import TrainedSettings, trained_settings
from zipr1.tasks import ALL_TASKS

SIDE, GAP, HEAD = 400, 12, 32  # width of a panel, what lies between, height of its title; pixels
COLOURS = 160
FRAME_MS = 2500


@torch.no_grad()
def panel(loaded: tuple, example: Example, used: TrainedSettings, title: str) -> Image.Image:
    """The kept tokens, all layers, with the token ratio above and the answer below."""
    model, processor = loaded
    inputs = prepare(processor, [example])
    with zipr1.sparse(model, zipr1.TopP(used.p, used.choice), scope=used.scope) as trace:
        out = model.generate(**inputs, max_new_tokens=8, do_sample=False)
    new = out[0, inputs["input_ids"].shape[1] :]
    answer = tokenizer_of(processor).decode(new, skip_special_tokens=True).strip()
    media = example.image if example.frames is None else [example.frames]
    page = trace.draw(media, inputs, processor, caption=f"{example.question} {answer}")
    page = page.resize((SIDE, round(page.height * SIDE / page.width)), Image.Resampling.LANCZOS)
    found = Image.new("RGB", (SIDE, HEAD + page.height), PAPER)
    text = f"{title}: {trace.token_ratio.item():.0%} of the tokens"
    ImageDraw.Draw(found).text((MARGIN, 4), text, INK, ImageFont.load_default(18))
    found.paste(page, (0, HEAD))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("trained")
    parser.add_argument("out", type=Path)
    parser.add_argument("--tasks", default="shapes,digits,motion")
    parser.add_argument("--index", type=int, default=0, help="which scene of the test split")
    arguments = parser.parse_args()
    models = {
        "before training": zipr1.load(arguments.model),
        "after training": zipr1.load(arguments.trained),
    }
    used = trained_settings(arguments.trained)
    names = arguments.tasks.split(",")
    examples = [ALL_TASKS[name].example("test", arguments.index) for name in names]
    pairs = [
        [panel(loaded, example, used, title) for title, loaded in models.items()]
        for example in examples
    ]
    height = max(one.height for pair in pairs for one in pair)
    frames = []
    for pair in pairs:
        frame = Image.new("RGB", (2 * SIDE + GAP, height), PAPER)
        for place, one in enumerate(pair):
            frame.paste(one, (place * (SIDE + GAP), 0))
        frames.append(frame.quantize(COLOURS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE))
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    frames[0].save(
        arguments.out, save_all=True, append_images=frames[1:], duration=FRAME_MS, loop=0
    )
    print(f"{arguments.out}: {len(frames)} frames, {arguments.out.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
