"""The processor of an adapter: its base's, except for the parts that are saved with the adapter."""

from tempfile import TemporaryDirectory

from transformers.utils import cached_file

TOKENIZER = ("tokenizer_config.json", "tokenizer.json")
PROCESSOR = ("processor_config.json", "preprocessor_config.json")


def with_own_parts(processor, location: str, options: dict):
    """The processor, or a text model's tokenizer, with what the adapter's folder has in its place:
    a whole processor, a tokenizer, or an image processor."""
    tokenizer = any(holds(location, file, options) for file in TOKENIZER)
    if not hasattr(processor, "tokenizer"):
        return like(processor, location, options) if tokenizer else processor
    if any(holds(location, file, options) for file in PROCESSOR):
        if tokenizer:
            return like(processor, location, options)
        processor.image_processor = like(processor.image_processor, location, options)
    elif tokenizer:  # through files: a processor derives its token ids from the tokenizer
        with TemporaryDirectory() as folder:
            processor.save_pretrained(folder)
            like(processor.tokenizer, location, options).save_pretrained(folder)
            return like(processor, folder, {})
    return processor


def like(part, location: str, options: dict):
    """A processor or tokenizer of the class of `part`; it can pad."""
    found = type(part).from_pretrained(location, **options)
    tokenizer = getattr(found, "tokenizer", found)
    if getattr(tokenizer, "pad_token_id", 0) is None:
        tokenizer.pad_token = tokenizer.eos_token
    return found


def holds(location: str, file: str, options: dict) -> bool:
    """Whether a folder or hub id has that file; it is downloaded."""
    return (
        cached_file(location, file, **options, _raise_exceptions_for_missing_entries=False)
        is not None
    )
