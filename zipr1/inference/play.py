"""`zipr1 play`: a page in the browser that answers questions, sparse and dense, and draws the kept
tokens."""

import html
import sys
from functools import partial
from pathlib import Path
from threading import Event

from zipr1.common.errors import InputError, MissingExtra, RunError
from zipr1.common.progress import announced
from zipr1.common.scope import SCOPES
from zipr1.common.tables import markdown_table
from zipr1.data.source import MediaFile
from zipr1.evaluation.methods import selection_of
from zipr1.inference.answer import comparison_cells, describe, load_model, respond
from zipr1.inference.config import AnswerConfig
from zipr1.inference.play_config import PlayConfig
from zipr1.inference.prompt import prompt_of, read_media
from zipr1.models.families import is_vision
from zipr1.models.settings import TrainedSettings
from zipr1.sparsity.rules import TopP

try:
    import gradio
except ModuleNotFoundError as error:
    raise MissingExtra("gradio is needed for `zipr1 play`: pip install 'zipr1[play]'") from error

DAY_S = 24 * 60 * 60  # that files of the page are kept while it is served; its end deletes them
Answered = tuple[str, str, gradio.Gallery, str]  # sparse, dense, the pages, the numbers


def play(config: PlayConfig) -> None:
    """Loads the model and serves the page until it is interrupted.

    Raises InputError for a model that cannot be loaded, and OSError for a port that is taken.
    """
    start = selection_of(config.model, config.p, config.scope)
    with announced(f"loading {config.model}"):
        loaded = load_model(AnswerConfig("?", **settings_of(config)), media=False)
    page = page_of(config, start, loaded)
    page.launch(
        server_name=config.host, server_port=config.port, share=False, ssr_mode=False, quiet=True,
        prevent_thread_lock=True,
    )  # fmt: skip
    print(f"zipr1 play: {config.model} at {page.local_url} (Ctrl-C ends it)", file=sys.stderr)
    try:
        Event().wait()
    finally:
        page.close(verbose=False)


def settings_of(config: PlayConfig) -> dict:
    """What the page does not ask for, as settings of `zipr1 answer`."""
    names = ("model", "dtype", "max_new_tokens", "max_frames", "max_pixels")
    return {name: getattr(config, name) for name in names}


def page_of(config: PlayConfig, start: TrainedSettings, loaded: tuple) -> "gradio.Blocks":
    """The page; nothing is fetched from elsewhere, and nothing is reported."""
    vision = is_vision(loaded[0].config)
    options = {"analytics_enabled": False, "delete_cache": (DAY_S, DAY_S)}  # of uploads, too
    with gradio.Blocks(title="zipr1 play", **options) as page:
        gradio.Markdown(f"# zipr1 play\n{html.escape(config.model)}")
        with gradio.Row():
            with gradio.Column():
                files = gradio.Gallery(
                    label="Images and videos", type="filepath", sources=["upload"], height=320,
                    object_fit="contain", interactive=True, visible=vision,
                )  # fmt: skip
                question = gradio.Textbox(label="Question")
                p = gradio.Slider(
                    min(0.05, start.p), 1, start.p, step=0.001, label="p: attention to keep"
                )
                scope = gradio.Radio(SCOPES, value=start.scope, label="Scope")
                compare = gradio.Checkbox(True, label="Compare with dense attention, with times")
                button = gradio.Button("Answer", variant="primary")
            with gradio.Column():
                with gradio.Row():
                    sparse = gradio.Textbox(label="Sparse attention")
                    dense = gradio.Textbox(label="Dense attention")
                pages = gradio.Gallery(
                    label="Kept tokens: all layers, then each layer", format="png", height=600,
                    object_fit="contain", interactive=False, visible=vision,
                    buttons=["download", "fullscreen"],  # none that sends an image elsewhere
                )  # fmt: skip
                numbers = gradio.Markdown(label="Numbers")
        gradio.on(
            [button.click, question.submit],
            partial(answered, config, start, loaded),
            [files, question, p, scope, compare],
            [sparse, dense, pages, numbers],
            api_name="answer",
            api_description="Answers a question about images and videos.",
            concurrency_limit=1,  # a model is sparse or dense for all threads at once
        )
    return page


def answered(
    config: PlayConfig,
    start: TrainedSettings,
    loaded: tuple,
    files: list[tuple[str, str | None]] | None,
    question: str,
    p: float,
    scope: str,
    compare: bool,
) -> Answered:
    """What the page shows of one question; a failure that the user can act on is a message."""
    try:
        paths = [path for path, _ in files or []]
        asked = AnswerConfig(
            question, paths, p=p, scope=scope, compare=compare, **settings_of(config)
        )
        return respond_to(asked, start, loaded)
    except (InputError, RunError, OSError) as error:
        message = html.escape(str(error), quote=False)  # gradio shows HTML
        raise gradio.Error(message, duration=None, print_exception=False) from error


def respond_to(asked: AnswerConfig, start: TrainedSettings, loaded: tuple) -> Answered:
    model, processor = loaded
    vision = is_vision(model.config)
    if vision and not asked.files:
        raise InputError("no image or video: upload one")
    media = read_media(
        [MediaFile(Path(path).name, Path(path).read_bytes()) for path in asked.files],
        asked.max_frames,
        lambda: processor,
    )
    prompt = prompt_of(media, asked.question, None)
    drawable = "image_grid_thw" in getattr(processor, "model_input_names", ())
    rule = TopP(asked.p, start.choice)
    result, pages = respond(asked, prompt, loaded, rule, asked.scope, bool(media) and drawable)
    full = result.pop("full", None)
    lines = describe(result | {"answer": ""}).splitlines()[2:]
    numbers = "\n".join(["```", *lines, "```"])
    if full:
        columns = [row[:1] + row[2:] for row in comparison_cells(result, full)]
        head, *rows = map(list, zip(*columns, strict=True))
        numbers = f"{markdown_table(head, rows)}\n{numbers}"
    drawn = list(pages)
    gallery = gradio.Gallery(drawn, selected_index=0 if drawn else None)
    return result["answer"], full["answer"] if full else "", gallery, numbers
