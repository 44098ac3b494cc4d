"""Engines of vLLM in this process, and the transformers path that their answers must equal."""

import os
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from PIL import Image

import zipr1
from zipr1.models.location import EMBEDDED

SHAPES = Path(__file__).parents[2] / "docs" / "shapes.png"
LIST = " ".join(f"item {i} is {['red', 'blue', 'green'][i % 3]}," for i in range(60))
THRESHOLDS = (0.975, 0.9, 0.8, 0.6)


@dataclass
class Question:
    """A prompt; `tokens` are generated, the end token is never chosen before."""

    text: str
    tokens: int
    images: int = 0
    video: "Video | None" = None
    inputs: dict = field(default_factory=dict)
    ids: list[int] = field(default_factory=list)
    prompt: str = ""

    @property
    def media(self) -> dict:
        """For vLLM. Images differ in size; the video has more frame pairs than rows of tokens."""
        image = Image.open(SHAPES).convert("RGB")
        images = [image.resize((image.width - 16 * n, image.height)) for n in range(self.images)]
        return ({"image": images} if images else {}) | (
            {"video": [(self.video.frames, self.video.metadata)]} if self.video else {}
        )


class Video:
    """`count` frames of noise that are `seconds` long together."""

    def __init__(self, count: int, seconds: float):
        self.frames = np.random.default_rng(0).integers(0, 255, (count, 64, 48, 3), dtype=np.uint8)
        self.metadata = {
            "fps": count / seconds,
            "total_num_frames": count,
            "duration": seconds,
            "frames_indices": list(range(count)),
            "do_sample_frames": False,
            "video_backend": "opencv",
        }


VIDEO = Video(24, 12.0)
TEN_MINUTES = Video(64, 600.0)
QUESTIONS = (
    Question("What colour is the circle?", 8, images=1),
    Question("How many shapes are there?", 8, images=1),
    Question("What colour is the square?", 40, images=1),
    Question(f"Read this list. {LIST} What colour is the circle?", 200, images=1),
    Question("What is the colour of " + "the very " * 120 + "large square?", 24),
    Question("Hi", 150),
)


def prepare(processor, question: Question) -> Question:
    """Fills in the rendered prompt, its inputs and its token ids."""
    if not hasattr(processor, "image_processor"):  # a text model's tokenizer
        question.prompt = question.text
        question.inputs = processor(question.text, return_tensors="pt")
        question.ids = question.inputs["input_ids"][0].tolist()
        return question
    content = [{"type": "video"}] * bool(question.video) + [{"type": "image"}] * question.images
    chat = [{"role": "user", "content": [*content, {"type": "text", "text": question.text}]}]
    question.prompt = processor.apply_chat_template(
        chat, tokenize=False, add_generation_prompt=True
    )
    media = {"images": question.media["image"]} if question.images else {}
    if question.video:
        metadata = dict(question.video.metadata)
        del metadata["do_sample_frames"]
        media |= {
            "videos": [torch.from_numpy(question.video.frames).permute(0, 3, 1, 2)],
            "video_metadata": [metadata],
            "do_sample_frames": False,
        }
    question.inputs = processor(text=[question.prompt], return_tensors="pt", **media)
    question.ids = question.inputs["input_ids"][0].tolist()
    return question


@dataclass
class Expected:
    """What the transformers path answers: tokens, and the kept tokens of each layer."""

    tokens: list[int]
    kept: list[list[int]] | None = None
    ratio: float = 1.0


def transformers_answer(model, question: Question, rule=None, scope="attention") -> Expected:
    settings = {"max_new_tokens": question.tokens, "min_new_tokens": question.tokens}
    settings |= {"do_sample": False}
    length = len(question.ids)
    with torch.no_grad():
        if rule is None:
            out = model.generate(**question.inputs, **settings)
            return Expected(out[0, length:].tolist())
        with zipr1.sparse(model, rule, scope=scope) as trace:
            out = model.generate(**question.inputs, **settings)
    kept = [layer[0].nonzero()[:, 0].tolist() for layer in trace.kept]
    return Expected(out[0, length:].tolist(), kept, trace.token_ratio.item())


def connector(**defaults) -> dict:
    from zipr1.vllm.serve import kv_transfer_config

    return kv_transfer_config(defaults)


@contextmanager
def engine(model=EMBEDDED["zipr1/tiny"], transfer=None, **settings):
    """A vLLM engine in this process; ended on leaving."""
    from vllm import LLM
    from vllm.distributed import cleanup_dist_env_and_memory
    from vllm.distributed.kv_transfer import ensure_kv_transfer_shutdown

    defaults = {
        "dtype": "float32",
        "enforce_eager": True,
        "max_model_len": 1024,
        "max_num_batched_tokens": 4096,
        "block_size": 32,
        "max_num_seqs": 16,
        "kv_cache_memory_bytes": 64 << 20,
        "enable_chunked_prefill": False,
        "enable_prefix_caching": False,
        "limit_mm_per_prompt": {"image": 3, "video": 1},
        "disable_log_stats": True,
        "seed": 0,
    }
    transfer = connector() if transfer is None else transfer
    llm = None
    try:
        llm = LLM(str(model), kv_transfer_config=transfer or None, **defaults | settings)
        yield llm
    finally:
        if llm is not None:
            llm.llm_engine.engine_core.shutdown()
        ensure_kv_transfer_shutdown()
        cleanup_dist_env_and_memory()


def sampling(question: Question, suppressed=(), **extra_args):
    """Greedy sampling. vLLM does not read suppress_tokens of generation_config.json."""
    from vllm import SamplingParams

    return SamplingParams(
        temperature=0,
        max_tokens=question.tokens,
        min_tokens=question.tokens,
        logit_bias={int(token): -100 for token in suppressed} or None,
        extra_args={f"zipr1_{name}": value for name, value in extra_args.items()} or None,
    )


def ask(llm, jobs, suppressed=()) -> list:
    """The outputs of jobs (question, request settings), all in one call."""
    prompts = [
        {"prompt": question.prompt, "multi_modal_data": question.media}
        if question.media
        else {"prompt": question.prompt}
        for question, _ in jobs
    ]
    params = [sampling(question, suppressed, **extra) for question, extra in jobs]
    return llm.generate(prompts, params, use_tqdm=False)


def answer_of(output) -> dict:
    """What zipr1 says in an output; {} where it says nothing."""
    return (output.kv_transfer_params or {}).get("zipr1", {})


def core_of(llm):
    """The scheduler's side of an engine in this process."""
    return llm.llm_engine.engine_core.engine_core


@contextmanager
def stock_backend():
    """Inside the block vLLM's own CPU backend is not overridden."""
    from vllm.v1.attention.backends.registry import AttentionBackendEnum
    from vllm.v1.attention.selector import _cached_get_attn_backend

    from zipr1.vllm.plugin import register

    register()
    AttentionBackendEnum.CPU_ATTN.clear_override()
    _cached_get_attn_backend.cache_clear()
    try:
        yield
    finally:
        register()
        _cached_get_attn_backend.cache_clear()


def differences(keys, outputs, answers) -> list[str]:
    """What differs from the transformers path, one line each."""
    found = []
    for key, output in zip(keys, outputs, strict=True):
        want, said = answers[key], answer_of(output)
        got = list(output.outputs[0].token_ids)
        if got != want.tokens:
            at = next(i for i, (a, b) in enumerate(zip(got, want.tokens, strict=True)) if a != b)
            found.append(f"{key}: token {at} is {got[at]}, not {want.tokens[at]}")
        if want.kept is None:
            continue
        if said.get("kept_tokens") != want.kept:
            found.append(f"{key}: kept {said.get('kept')}, not {[len(k) for k in want.kept]}")
        elif abs(said["token_ratio"] - want.ratio) > 1e-6:
            found.append(f"{key}: ratio {said['token_ratio']}, not {want.ratio}")
    return found


def copied(question: Question) -> Question:
    """The same question, to be prepared for another processor."""
    return replace(question, inputs={}, ids=[], prompt="")
