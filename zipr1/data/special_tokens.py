"""Special tokens that a user typed: they would end a turn, or stand for a missing image."""

from zipr1.common.errors import InputError
from zipr1.models.loading import tokenizer_of


def check_special_tokens(processor, chat: list[dict]) -> None:
    """Raises InputError for a chat whose texts or roles contain a special token of the tokenizer,
    or a placeholder that the processor replaces by an image or a video.

    A tokenizer cannot tell them from those that the chat template sets. `chat` holds messages with
    a role and a content of parts.
    """
    tokens = special_tokens(processor)
    for message in chat:
        # Adjacent texts are joined by the template; between them a medium stands as a line feed.
        parts = [part.get("text", "\n") for part in message["content"]]
        for text in (message["role"], "".join(parts)):
            typed = next((token for token in tokens if token in text), None)
            if typed is not None:
                raise InputError(
                    f"the text of a message with the role {message['role']!r:.40} contains "
                    f"{typed!r}, a special token of the model: remove it, or put a space into it"
                )


def special_tokens(processor) -> list[str]:
    """All texts that the tokenizer reads as one special token, or that the processor replaces; the
    longest first."""
    tokenizer = tokenizer_of(processor)
    added = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    names = ("image_token", "video_token")
    replaced = [token for name in names if (token := getattr(processor, name, None))]
    return sorted({*added, *tokenizer.all_special_tokens, *replaced}, key=len, reverse=True)
