"""Questions to the model class of lmms-eval, as lmms-eval asks them."""

from lmms_eval.api.instance import Instance

QUESTION = {"type": "text", "text": "What colour is the circle?"}


def ask(model, *contents: list[dict]) -> list[tuple[str, float, str]]:
    """(answer, token ratio, media) of each question."""

    def messages(content: list[dict]) -> list[dict]:
        return [{"role": "user", "content": [*content, QUESTION]}]

    return answered(model, list(contents), messages)


def ask_rows(model, rows) -> list[tuple[str, float, str]]:
    """The same about the column "image" of a data set."""

    def messages(row: dict) -> list[dict]:
        return [{"role": "user", "content": [*image(row["image"]), QUESTION]}]

    return answered(model, rows, messages)


def answered(model, docs, messages) -> list[tuple[str, float, str]]:
    model.task_dict = {"t": {"test": docs}}
    settings = {"max_new_tokens": 4}
    requests = [
        Instance(
            request_type="generate_until",
            arguments=("", messages, settings, number, "t", "test"),
            idx=0,
            metadata={"task": "t", "doc_id": number, "repeats": 1},
        )
        for number in range(len(docs))
    ]
    return [
        (result.text, result.token_counts.token_ratio, result.token_counts.medium)
        for result in model.generate_until(requests)
    ]


def image(url) -> list[dict]:
    return [{"type": "image", "url": url}]


def video(url) -> list[dict]:
    return [{"type": "video", "url": url}]
