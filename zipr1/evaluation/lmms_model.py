"""The model inside lmms-eval: `python -m lmms_eval --model zipr1 --model_args pretrained=...,method=zipvl,p=0.975 ...`."""

import os
import sys
import time
from collections import defaultdict
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from statistics import mean
from zlib import crc32

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from lmms_eval.api.instance import GenerationResult, Instance, TokenCounts
from lmms_eval.api.model import lmms
from lmms_eval.models.model_utils.gen_metrics import log_metrics
from lmms_eval.protocol import ChatMessage, ChatMessages
from lmms_eval.utils import Collator
from PIL import Image

from zipr1.common.progress import progress
from zipr1.data.media import read_clip, read_media
from zipr1.data.processor import tensors
from zipr1.evaluation.methods import rule_of
from zipr1.models.encode import check_length
from zipr1.models.loading import load_vision
from zipr1.models.settings import trained_settings
from zipr1.sparsity.context import sparse

SAMPLING = ("temperature", "top_p", "top_k", "num_beams", "do_sample")


@dataclass
class Counts(TokenCounts):
    """lmms-eval's counts of a sample, with the share of the prompt that was kept, and what it was about: `medium_of`."""

    token_ratio: float | None = None
    medium: str = ""

    def to_dict(self) -> dict:
        return super().to_dict() | {"token_ratio": self.token_ratio, "medium": self.medium}


class ZipR1(lmms):
    """A Qwen-VL model of any supported family under a method of `zipr1 eval`, through lmms-eval's chat interface.

    pretrained: hub id, folder or "zipr1/tiny". method: full, zipvl, topk, random, recent or fastv, with `p` or `ratio`. p, scope:
    None for what the model was trained for. min_pixels, max_pixels: of a picture; video_min_pixels, video_max_pixels: of a
    frame as the family's video processor counts them; None leaves the checkpoint's own. max_frames, fps: of a clip. dtype: of
    the weights; "auto" is the checkpoint's. attn_implementation: of the vision tower and of dense attention; for clips on a
    GPU "flash_attention_2", as without it Qwen2.5-VL's tower takes its windows one by one.

    A picture or clip that cannot be read stops the run, which names it: nothing is skipped. One task a run keeps the others.
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
        batch_size: int | str = 1,
        device: str | None = None,
    ):
        super().__init__()
        if int(max_frames) < 1:
            raise ValueError(f"max_frames={max_frames}: must be above 0")
        trained = trained_settings(pretrained)
        p = trained.p if p is None else float(p)
        self.rule = rule_of(method, p, float(ratio), choice=trained.choice)
        self.scope = scope or trained.scope
        self.max_frames, self.fps, self.batch_size = (
            int(max_frames),
            fps and float(fps),
            int(batch_size),
        )
        self.clip = lru_cache(maxsize=2)(
            read_clip
        )  # several questions follow each other about one clip
        self.accelerator = Accelerator()
        self._rank, self._world_size = (
            self.accelerator.process_index,
            self.accelerator.num_processes,
        )
        if self._world_size != (started := int(os.environ.get("WORLD_SIZE", 1))):
            # lmms-eval would share the questions all the same, and each process report on its own alone.
            raise ValueError(
                f"WORLD_SIZE={started}, but accelerate sees {self._world_size}: on CPUs, set ACCELERATE_USE_CPU=true"
            )
        # One process goes where lmms-eval says, several each to their own device.
        self.device = (
            torch.device(device) if device and self._world_size == 1 else self.accelerator.device
        )
        kwargs = {"dtype": dtype, "attn_implementation": attn_implementation}
        kwargs = {name: value for name, value in kwargs.items() if value}
        self.model, self.processor = load_vision(pretrained, device_map={"": self.device}, **kwargs)
        for processor, least, most in (
            (self.processor.image_processor, min_pixels, max_pixels),
            (self.processor.video_processor, video_min_pixels, video_max_pixels),
        ):
            bounds = {"shortest_edge": least, "longest_edge": most}
            given = {name: int(value) for name, value in bounds.items() if value is not None}
            if given:
                processor.size = dict(processor.size) | given

    def generate_until(self, requests: list[Instance]) -> list[GenerationResult]:
        # One batch has one set of generation settings and, as far as they go, questions of one task.
        order = Collator(
            [request.args for request in requests],
            lambda args: (args[4], args[3]),
            group_fn=lambda args: args[2],
            grouping=True,
        )
        results, ratios, seconds, produced, done = [], {}, 0.0, 0, False
        try:
            with progress(
                total=len(requests), desc="zipr1", unit="answer", disable=self.rank != 0
            ) as bar:
                for batch in order.get_batched(n=self.batch_size):
                    began = time.perf_counter()
                    answers = self.answers(batch)
                    seconds += time.perf_counter() - began
                    for (*_, doc, task, _), answer in zip(batch, answers, strict=True):
                        ratios[task, doc] = answer.token_counts.token_ratio
                        produced += answer.token_counts.output_tokens
                    results += answers
                    bar.update(len(batch))
            done = True
        finally:
            # Also on the way out of an error, whatever it is: who waited for this process's results would wait for hours.
            why = None if done else f"process {self.rank}: {sys.exception()!r}"
            told = gather_object([(why, list(ratios.items()), produced)])
        if failures := [why for why, _, _ in told if why]:
            raise RuntimeError("; ".join(failures))
        # By question, because lmms-eval fills up the last round of several processes with repeats.
        by_task = defaultdict(list)
        for (task, _), ratio in dict(item for _, items, _ in told for item in items).items():
            by_task[task].append(ratio)
        more = {
            "token_ratio": mean(map(mean, by_task.values()))
        }  # the paper's: a mean over benchmarks
        more |= {f"token_ratio/{task}": mean(values) for task, values in by_task.items()}
        everything = sum(count for _, _, count in told)
        log_metrics(seconds, everything, everything / seconds if seconds else 0.0, more)
        return order.get_original(results)

    @torch.no_grad()
    def answers(self, batch: list[tuple]) -> list[GenerationResult]:
        """One call of generate() for (context, doc_to_messages, settings, doc id, task, split) of each question."""
        chats, images, clips, media = [], [], [], []
        for _, messages_of, _, doc, task, split in batch:
            messages = ChatMessages(messages=messages_of(self.task_dict[task][split][doc])).messages
            media.append(medium_of(messages))
            chats.append([self.turn(message, images, clips) for message in messages])
        inputs = tensors(self.processor, chats, images, clips).to(self.device)
        settings = generation_settings(batch[0][2])
        check_length(self.model, inputs, settings["max_new_tokens"])
        if self.rule is None:
            out, ratios = self.model.generate(**inputs, **settings), [1.0] * len(batch)
        else:
            with sparse(self.model, self.rule, scope=self.scope) as trace:
                out = self.model.generate(**inputs, **settings)
                ratios = trace.token_ratio.view(len(batch), -1)[
                    :, 0
                ].tolist()  # of the first beam, which has the prompt as all
        new = out[:, inputs["input_ids"].shape[1] :]
        texts = self.processor.batch_decode(new, skip_special_tokens=True)
        lengths = inputs["attention_mask"].sum(-1).tolist()
        end = self.processor.tokenizer.pad_token_id
        return [
            GenerationResult(
                text, Counts(length, int((row != end).sum()), token_ratio=ratio, medium=medium)
            )
            for text, length, row, ratio, medium in zip(
                texts, lengths, new, ratios, media, strict=True
            )
        ]

    def turn(self, message, images: list, clips: list) -> dict:
        """A message as the chat template wants it; its pictures and clips are read and appended to `images` and `clips`."""
        parts = []
        for content in message.content:
            if content.type == "text":
                parts.append({"type": "text", "text": content.text})
            elif content.type == "image":
                picture = content.url
                images.append(
                    picture.convert("RGB")
                    if isinstance(picture, Image.Image)
                    else read_media(picture, 1)["image"]
                )
                parts.append({"type": "image"})
            elif (
                content.type == "video" and content.start_time is None and content.end_time is None
            ):
                clips.append(self.clip(content.url, self.max_frames, self.fps))
                parts.append({"type": "video"})
            else:
                raise NotImplementedError(
                    f"{content!r}: only text, pictures and whole clips are read"
                )
        return {"role": message.role, "content": parts}

    def loglikelihood(self, requests):
        raise NotImplementedError(
            "zipr1 answers by generate_until; choose a task of that output type"
        )

    def generate_until_multi_round(self, requests):
        raise NotImplementedError(
            "zipr1 answers one turn; choose a task of output type generate_until"
        )


def medium_of(messages: list[ChatMessage]) -> str:
    """What a question is about: the names of its clips, checksums of its pictures. Questions that share it are no independent
    samples. "" of text alone."""
    shown = [
        content.url for message in messages for content in message.content if content.type != "text"
    ]
    return " ".join(
        f"{crc32(url.tobytes()):08x}" if isinstance(url, Image.Image) else Path(url).name
        for url in shown
    )


def generation_settings(given: dict) -> dict:
    """A task's generation settings as generate() takes them: greedy unless a temperature is set. `until` is left out, as by
    lmms-eval's own Qwen-VL chat models: their chat ends with a token, and "\\n\\n" would cut free-form answers."""
    settings = {name: given[name] for name in SAMPLING if given.get(name) is not None}
    settings["do_sample"] = settings.get("temperature", 0) > 0
    if not settings["do_sample"]:
        settings = {
            name: value
            for name, value in settings.items()
            if name not in ("temperature", "top_p", "top_k")
        }
    return {"max_new_tokens": given.get("max_new_tokens", 128)} | settings
