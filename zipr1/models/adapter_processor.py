"""The processor of an adapter: its base's, except for the parts that are saved with the adapter."""

from pathlib import Path
from tempfile import TemporaryDirectory

from transformers.utils import cached_file

TOKENIZER = ("tokenizer_config.json", "tokenizer.json")
PROCESSOR = ("processor_config.json", "preprocessor_config.json")
FURTHER = (
    *("video_preprocessor_config.json", "chat_template.jinja", "chat_template.json", "vocab.json"),
    *("merges.txt", "tokenizer.model", "special_tokens_map.json", "added_tokens.json"),
)


def with_own_parts(processor, location: str, options: dict):
    """The processor, or a text model's tokenizer, with what the adapter's folder has in its place:
    a whole processor, a tokenizer, or an image processor."""
    tokenizer, rest = found(TOKENIZER, location, options), found(PROCESSOR, location, options)
    if not (tokenizer or rest):
        return processor
    found(FURTHER, location, options)
    folder = str((tokenizer or rest).parent)  # of a hub id, in the cache
    if not hasattr(processor, "tokenizer"):
        return like(processor, folder) if tokenizer else processor
    if tokenizer and rest:
        return like(processor, folder)
    if rest:
        processor.image_processor = like(processor.image_processor, folder)
        return processor
    with TemporaryDirectory() as whole:  # a processor derives its token ids from the tokenizer
        processor.save_pretrained(whole)
        like(processor.tokenizer, folder).save_pretrained(whole)
        return like(processor, whole)


def like(part, folder: str):
    """A processor or tokenizer of the class of `part`; it can pad."""
    own = type(part).from_pretrained(folder)
    tokenizer = getattr(own, "tokenizer", own)
    if getattr(tokenizer, "pad_token_id", 0) is None:
        tokenizer.pad_token = tokenizer.eos_token
    return own


def found(files: tuple[str, ...], location: str, options: dict) -> Path | None:
    """Where one of these files is that a folder or hub id has; they are downloaded."""
    paths = [
        cached_file(location, file, **options, _raise_exceptions_for_missing_entries=False)
        for file in files
    ]
    return next((Path(path) for path in paths if path), None)
