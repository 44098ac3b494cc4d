"""The model inside lmms-eval: `python -m lmms_eval --model zipr1 --model_args pretrained=...`."""

import os
import sys
import time
from collections import defaultdict
from functools import lru_cache, partial
from pathlib import Path
from statistics import mean
from zlib import crc32

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from lmms_eval.api.instance import GenerationResult, Instance
from lmms_eval.api.model import lmms
from lmms_eval.models.model_utils.gen_metrics import log_metrics
from lmms_eval.protocol import ChatMessage
from lmms_eval.utils import Collator

from zipr1.common.errors import InputError
from zipr1.common.progress import progress
from zipr1.data.processor import frame_size, tensors, texts_of
from zipr1.data.videos import read_video
from zipr1.evaluation.fingerprint import code, weights
from zipr1.evaluation.lmms_answers import AnswerFile, Counts, saved
from zipr1.evaluation.lmms_media import MediaReader, media_of, read_messages
from zipr1.evaluation.lmms_questions import Question, questions_of, request_of
from zipr1.evaluation.lmms_settings import set_pixels
from zipr1.evaluation.lmms_vllm import check_vllm, generate_in_vllm, start_vllm
from zipr1.evaluation.methods import rule_of, selection_of
from zipr1.evaluation.vllm_engine import prompt_of
from zipr1.models.encode import check_length
from zipr1.models.loading import load_vision
from zipr1.sparsity.context import sparse
from zipr1.sparsity.own_rules import CheckedRule, code_of

# Arguments that answers depend on.
IDENTIFYING = (
    *("pretrained", "method", "p", "ratio", "scope", "min_pixels", "max_pixels"),
    *("video_min_pixels", "video_max_pixels", "max_frames", "fps", "dtype"),
    *("attn_implementation", "batch_size", "engine"),
)


class ZipR1(lmms):
    """A vision model of any supported family under a method of `zipr1 eval`, through lmms-eval's
    chat interface.

    pretrained: hub id, folder or "zipr1/tiny". method: full, zipvl, topk, random, recent, fastv, or
    your own rule as package.module:Rule or file.py:Rule, with `p` or `ratio`. p, scope: of `zipr1.sparse`; None for what the model was trained for.
    min_pixels, max_pixels: of an image; video_min_pixels, video_max_pixels: of a frame as the
    family's video processor counts them; None for the checkpoint's own. max_frames, fps: of a
    video. dtype: of the weights; "auto" for the checkpoint's. attn_implementation: of the vision
    tower and of dense attention; for videos on a GPU "flash_attention_2", because without it
    Qwen2.5-VL's tower computes its windows one by one.

    engine: transformers, or vllm, which answers greedily in one process with the pixel bounds of the
    checkpoint (docs/guides/serving.md).

    answers: a file to which answers are written as they come; a run that was stopped continues in
    it.

    A media file that cannot be read stops the run with its name: no question is skipped. One task a
    run keeps the results of the others.
    """

    is_simple = False

    def __init__(
        self,
        pretrained: str = "zipr1/tiny",
        method: str = "zipvl",
        p: float | None = None,
        ratio: float = 0.25,
        scope: str | None = None,
        min_pixels: int | None = None,
        max_pixels: int | None = None,
        video_min_pixels: int | None = None,
        video_max_pixels: int | None = None,
        max_frames: int = 32,
        fps: float | None = None,
        dtype: str | None = None,
        attn_implementation: str | None = None,
        answers: str | None = None,
        engine: str = "transformers",
        batch_size: int | str = 1,
        device: str | None = None,
    ):
        settings = {name: value for name, value in locals().items() if name in IDENTIFYING}
        super().__init__()
        if int(max_frames) < 1:
            raise InputError(f"max_frames={max_frames}: must be above 0")
        selection = selection_of(pretrained, p if p is None else float(p), scope)
        self.rule = rule_of(method, selection.p, float(ratio), choice=selection.choice)
        self.scope = selection.scope
        self.batch_size = int(batch_size)
        self.device = self.start_processes(device)
        options = {"dtype": dtype, "attn_implementation": attn_implementation}
        options = {name: value for name, value in options.items() if value}
        bounds = (min_pixels, max_pixels, video_min_pixels, video_max_pixels)
        self.vllm = None
        if engine == "vllm":
            check_vllm(self._world_size, attn_implementation, bounds)
            self.vllm, self.processor = start_vllm(pretrained, self.scope, dtype)
        elif engine == "transformers":
            self.model, self.processor = load_vision(
                pretrained, device_map={"": self.device}, **options
            )
        else:
            raise InputError(f"engine={engine}: expected transformers or vllm")
        set_pixels(self.processor, "image_processor", min_pixels, max_pixels)
        set_pixels(self.processor, "video_processor", video_min_pixels, video_max_pixels)
        # Several questions about one video follow each other.
        cached = lru_cache(maxsize=2)(partial(read_video, frame_size=frame_size(self.processor)))
        self.media = MediaReader(cached, int(max_frames), fps and float(fps))
        self.saved = self.open_answers(answers, settings) if answers else None
        self.seed: int | None = None

    def open_answers(self, answers: str, settings: dict) -> AnswerFile:
        """The file of answers; of several processes each has its own."""
        path = Path(answers)
        if self._world_size > 1:
            path = path.with_stem(f"{path.stem}-{self.rank}")
        identity = {"code": code(), "weights": weights(settings["pretrained"])}
        if isinstance(self.rule, CheckedRule):
            identity["rule"] = code_of(self.rule.name)
        return AnswerFile(path, settings | identity | {"processes": self._world_size})

    def start_processes(self, device: str | None) -> torch.device:
        """The device of this process: one process uses lmms-eval's, several each their own.

        Raises InputError where the launcher has started more processes than accelerate sees:
        lmms-eval would divide the questions all the same, and each would report its own alone.
        """
        self.accelerator = Accelerator()
        self._rank = self.accelerator.process_index
        self._world_size = self.accelerator.num_processes
        started = int(os.environ.get("WORLD_SIZE", 1))
        if self._world_size != started:
            raise InputError(
                f"WORLD_SIZE={started}, but accelerate sees {self._world_size}: on CPUs, set "
                "ACCELERATE_USE_CPU=true"
            )
        is_single = self._world_size == 1
        return torch.device(device) if device and is_single else self.accelerator.device

    def generate_until(self, requests: list[Instance]) -> list[GenerationResult]:
        """The answers, in the order of the requests; logs token ratios as lmms-eval's metrics."""
        # lmms-eval's --seed, which it sets before the first call; sampling sets others.
        self.seed = torch.initial_seed() if self.seed is None else self.seed
        # A batch has one set of generation settings and, as far as they go, questions of one task.
        order = Collator(
            questions_of(requests),
            lambda question: question.key,
            group_fn=lambda question: question.settings,
            grouping=True,
        )
        results: list[GenerationResult] = []
        ratios: dict[tuple, float] = {}
        seconds, is_done = 0.0, False
        bar = progress(total=len(requests), desc="zipr1", unit="answer", disable=self.rank != 0)
        try:
            with bar:
                for batch in order.get_batched(n=self.batch_size):
                    began = time.perf_counter()
                    answers = self.saved_or_new(batch)
                    seconds += time.perf_counter() - began
                    for question, answer in zip(batch, answers, strict=True):
                        ratios[question.task, question.doc] = answer.token_counts.token_ratio
                    results += answers
                    bar.update(len(batch))
            is_done = True
        finally:
            # Also after an error of any kind: the other processes wait for this one's results.
            why = None if is_done else f"process {self.rank}: {sys.exception()!r}"
            tokens = sum(answer.token_counts.output_tokens for answer in results)
            gathered = gather_object([(why, list(ratios.items()), tokens)])
        if failures := [why for why, _, _ in gathered if why]:
            raise RuntimeError("; ".join(failures))
        # By question, because lmms-eval fills up the last round of several processes with repeats.
        ratios = dict(item for _, items, _ in gathered for item in items)
        log_ratios(ratios, sum(count for _, _, count in gathered), seconds)
        return order.get_original(results)

    def saved_or_new(self, batch: list[Question]) -> list[GenerationResult]:
        """The answers to a batch, from the file of an earlier run if it has them all: a batch of
        other questions is padded to another length, and last digits may differ."""
        if self.saved is None:
            return self.answers(batch)
        found = self.saved.get([question.key for question in batch])
        if found:
            changed = [
                answer
                for answer, question in zip(found, batch, strict=True)
                if answer.request
                != request_of(self.messages_of(question), question.settings, self.seed)
            ]
            if not changed:
                return [answer.result() for answer in found]
            self.saved.tell_changed(changed[0])
        results = self.answers(batch)
        pairs = zip(batch, results, strict=True)
        self.saved.add([saved(question.key, result) for question, result in pairs])
        return results

    def messages_of(self, question: Question) -> list[ChatMessage]:
        docs = self.task_dict[question.task][question.split]
        return read_messages(question.messages_of, docs, question.task, question.doc)

    @torch.no_grad()
    def answers(self, batch: list[Question]) -> list[GenerationResult]:
        """One call of generate()."""
        chats, shown, about = [], [], []
        for question in batch:
            messages = self.messages_of(question)
            images, videos = [], []
            chats.append([self.media.turn(message, images, videos) for message in messages])
            shown.append((images, videos))
            # Both may close the file of an animation.
            request = request_of(messages, question.settings, self.seed)
            about.append((media_of(messages), request))
        images, videos = (
            [one for part in parts for one in part] for parts in zip(*shown, strict=True)
        )
        inputs = tensors(self.processor, chats, images, videos)
        settings = batch[0].settings
        if settings["do_sample"]:
            # A run that continues would otherwise draw again what the first answers were drawn by.
            torch.manual_seed(crc32(repr((self.seed, batch[0].key)).encode()))
        if self.vllm is None:
            tokens, ratios = self.generate(inputs.to(self.device), settings)
        else:
            texts = texts_of(self.processor, chats, True)
            names = [f"{question.task}, question {question.doc}" for question in batch]
            prompts = [prompt_of(text, *one) for text, one in zip(texts, shown, strict=True)]
            questions = names, prompts, inputs
            tokens, ratios = generate_in_vllm(self.vllm, questions, self.rule, self.scope, settings)
        texts = self.processor.batch_decode(tokens, skip_special_tokens=True)
        lengths = inputs["attention_mask"].sum(-1).tolist()
        columns = zip(texts, lengths, map(len, tokens), ratios, about, strict=True)
        return [
            GenerationResult(text, Counts(length, count, None, ratio, medium, request))
            for text, length, count, ratio, (medium, request) in columns
        ]

    def generate(self, inputs, settings: dict) -> tuple[list[list[int]], list[float]]:
        """The tokens of each answer, without padding, and the token ratios."""
        check_length(self.model, inputs, settings["max_new_tokens"])
        if self.rule is None:
            out = self.model.generate(**inputs, **settings)
            ratios = [1.0] * len(inputs["input_ids"])
        else:
            with sparse(self.model, self.rule, scope=self.scope) as trace:
                out = self.model.generate(**inputs, **settings)
            # All beams of a question have its prompt: the first is enough.
            ratios = trace.token_ratio.view(len(inputs["input_ids"]), -1)[:, 0].tolist()
        pad = self.processor.tokenizer.pad_token_id
        return [row[row != pad].tolist() for row in out[:, inputs["input_ids"].shape[1] :]], ratios

    def loglikelihood(self, requests):
        raise NotImplementedError(
            "zipr1 answers by generate_until; choose a task of that output type"
        )

    def generate_until_multi_round(self, requests):
        raise NotImplementedError(
            "zipr1 answers one turn; choose a task of output type generate_until"
        )


def log_ratios(ratios: dict[tuple, float], tokens: int, seconds: float) -> None:
    """Token ratios in lmms-eval's results, under "throughput": of each task, and as "token_ratio"
    the paper's, a mean over tasks. ratios: (task, doc id) -> ratio; tokens: generated ones."""
    by_task: defaultdict[str, list[float]] = defaultdict(list)
    for (task, _), ratio in ratios.items():
        by_task[task].append(ratio)
    metrics = {"token_ratio": mean(map(mean, by_task.values()))}
    metrics |= {f"token_ratio/{task}": mean(values) for task, values in by_task.items()}
    log_metrics(seconds, tokens, tokens / seconds if seconds else 0.0, metrics)
