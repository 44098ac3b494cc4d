"""`zipr1 eval --data`: the model for the rows, and what their answers depend on."""

from hashlib import file_digest, sha256
from pathlib import Path

import torch

from zipr1.common.errors import InputError
from zipr1.common.progress import announced
from zipr1.data.rows import named
from zipr1.evaluation.config import EvalConfig
from zipr1.evaluation.generation import GenerationSettings
from zipr1.evaluation.row_questions import RowQuestions
from zipr1.models.families import is_vision
from zipr1.models.loading import load, load_config, load_vision
from zipr1.sparsity.own_rules import code_of


def load_for_rows(config: EvalConfig, max_new_tokens: int) -> tuple:
    """(model, processor), on a GPU where there is one; text models too. Raises InputError."""
    model_config = load_config(config.model)
    positions = model_config.get_text_config().max_position_embeddings
    if max_new_tokens >= positions:
        raise InputError(
            f"max_new_tokens={max_new_tokens}: {config.model} has {positions} positions, for prompt "
            "and answer together; give fewer"
        )
    vision = is_vision(model_config)
    if vision and not config.chat_template:
        raise InputError(
            "chat_template=false: a vision model has its images in the template; leave it true"
        )
    with announced(f"loading {config.model}"):
        if vision:
            return load_vision(config.model)
        model, processor = load(config.model)
        return (model.to("cuda") if torch.cuda.is_available() else model), processor


def row_questions(
    config: EvalConfig, model, processor, folder: Path, max_new_tokens: int
) -> RowQuestions:
    """The rows, with the longest prompt that leaves room for an answer."""
    longest = model.config.get_text_config().max_position_embeddings - max_new_tokens
    return RowQuestions(
        config, processor, min(longest, config.max_prompt_length or longest), folder
    )


def row_identity(config: EvalConfig, questions: RowQuestions, settings: GenerationSettings) -> dict:
    """What the answers to rows, and their scores, depend on besides the model and the media."""
    names = (
        *("data", "columns", "media_root", "think", "chat_template", "graded", "reward_function"),
        *("max_frames", "max_pixels", "video_max_pixels", "max_prompt_length"),
    )
    functions = config.reward_function.split(",") if config.reward_function else []
    return {name: getattr(config, name) for name in names} | {
        "max_new_tokens": settings.max_new_tokens,
        "rows": content(config.data, questions),
        "functions": [code_of(one.rpartition("*")[2].strip()) for one in functions],
    }


def content(data: str, questions: RowQuestions) -> str:
    """Hash of a file of rows, or of the Arrow files in a saved folder; of anything else, of the
    names and sizes of its Arrow files, which `datasets` names after the revision."""
    source = Path(named(data)[0])
    if source.is_file():
        return digest(source)
    files = [Path(one["filename"]) for one in questions.rows.table.cache_files]
    saved = source.resolve()
    parts = [
        (file.parts[-5:], digest(file) if saved in file.resolve().parents else file.stat().st_size)
        for file in files
    ]
    return sha256(repr((len(questions.rows), parts)).encode()).hexdigest()[:16]


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()[:16]
