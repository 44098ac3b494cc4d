"""Opening and closing a block of `zipr1.sparse`, and the forward passes inside it."""

import threading
import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import nn
from transformers import DynamicCache

from zipr1.common.errors import InputError, RunError
from zipr1.models.families import (
    decoder,
    inner_model,
    set_attention,
    sparse_layers,
    visual_columns,
)
from zipr1.models.positions import affected, correct_positions
from zipr1.models.versions import CACHE, take_cache
from zipr1.sparsity import attention  # noqa: F401 - registers the attention function
from zipr1.sparsity.cache import hide_padding, make_sparse
from zipr1.sparsity.calls import Calls
from zipr1.sparsity.gathered import run_layer
from zipr1.sparsity.methods import Hook, Method, SparseName
from zipr1.sparsity.rules import check_layers
from zipr1.sparsity.settings import NAME, ForwardPass, Settings
from zipr1.sparsity.threads import Threads
from zipr1.sparsity.trace import Trace
from zipr1.sparsity.unsupported import (
    check_adapters,
    check_packed,
    is_classifier,
)

OPEN: "weakref.WeakKeyDictionary[nn.Module, Block]" = weakref.WeakKeyDictionary()  # by decoder


class Block:
    """A block of `zipr1.sparse`: replaces four methods of the model while it is open.

    forward() and generate() of the model tell what is the prompt; forward() of the decoder starts a
    pass. Hooks read the same as forward(), which PEFT calls without hooks and TRL replaces. A PEFT
    model, a compiled one, or one wrapped for several processes stands for the transformers model
    inside it.
    """

    def __init__(self, model, settings: Settings):
        self.given, self.model = model, inner_model(model)
        self.text = decoder(self.model)
        layers = sparse_layers(self.model.config, type(self.model).__name__)
        for rule in filter(None, (settings.rule, settings.rows)):
            check_layers(rule, len(layers))
        self.settings, self.trace = settings, Trace(layers)
        self.rope_modules = [part for part in self.model.modules() if hasattr(part, "rope_deltas")]
        training, layer = settings.training, settings.scope == "layer"
        self.hooks = training.hooks() if layer and training.hooks is not None else None
        self.gathers = layer and self.hooks is None and training.implementation == NAME
        self.calls, self.threads = Calls(is_classifier(self.model)), Threads()
        self.closed = False
        self.undo: list[Callable[[], object]] = []  # run from the end; each may run again

    def open(self) -> None:
        """Makes the model sparse. Raises RunError inside another block of this model."""
        if (other := OPEN.get(self.text)) is not None and other.closed:
            other.close()  # what Ctrl-C has left
        self.undo += [self.threads.leave_task, self.release]
        if (other := OPEN.setdefault(self.text, self)) is not self:
            other.refuse_another()
        self.run_decoder = self.install(self.text, "forward", self.decoder_forward)
        if self.model is not self.text:
            self.run_model = self.install(self.model, "forward", self.model_forward)
        if hasattr(self.model, "generate"):
            self.run_generate = self.install(self.model, "generate", self.generate)
        if hasattr(self.model, "init_continuous_batching"):
            self.run_batching = self.install(
                self.model, "init_continuous_batching", self.continuous_batching
            )
        for module in {self.given, self.model}:
            before, after = Hook(self.calls.before), Hook(self.calls.after)
            self.undo.append(module.register_forward_pre_hook(before, with_kwargs=True).remove)
            self.undo.append(module.register_forward_hook(after, always_call=True).remove)
        if self.hooks is not None:
            self.undo.append(self.hooks.detach)
        for number in self.trace.layers if self.gathers else ():
            self.gather(self.text.layers[number])
        parts = [part for part in affected(self.model) if "get_rope_index" not in vars(part)]
        self.undo.append(lambda: [vars(part).pop("get_rope_index", None) for part in parts])
        correct_positions(self.model)
        dense = str(self.text.config._attn_implementation)
        self.undo.append(lambda: set_attention(self.model, dense))
        set_attention(self.model, SparseName.of(self.settings.training.implementation, dense))

    def install(self, module: nn.Module, name: str, around: Callable) -> Callable:
        """Replaces a method until the block is closed, and returns it."""
        method = Method(module, name, around)
        self.undo.append(method.restore)
        method.install()
        return method.original

    def gather(self, layer: nn.Module) -> None:
        """Makes a decoder layer run on its kept rows alone."""

        def around(*args, **kwargs):
            if self.closed or NAME not in kwargs:
                return original(*args, **kwargs)
            return run_layer(layer, original, args, kwargs)

        original = self.install(layer, "forward", around)

    def release(self) -> None:
        """Lets another block of this model open."""
        if OPEN.get(self.text) is self:
            del OPEN[self.text]

    def refuse_another(self) -> None:
        """Raises RunError for a second block of this model."""
        opener = self.threads.opener
        if self.threads.other_task:
            raise RunError(
                "the model is inside a block of zipr1.sparse already, which asyncio task "
                f"{self.threads.task.get_name()!r} has opened: hold an asyncio.Lock around the block"
            )
        if opener is threading.current_thread():
            raise RunError("the model is inside a block of zipr1.sparse already: leave that first")
        raise RunError(
            "the model is inside a block of zipr1.sparse already, which thread "
            f"{opener.name!r} has opened: zipr1.sparse is not thread-safe, a model has one block at a time. Put a lock "
            "around the block, or serve requests with vLLM"
        )

    def close(self) -> None:
        """Makes the model what it was before, whole also where Ctrl-C comes meanwhile."""
        self.closed, interrupt = True, None
        while self.undo:
            try:
                self.threads.wait_for_others()
                self.undo[-1]()
                self.undo.pop()
                if not self.undo:
                    self.threads.refuse_late(self.text)
            except KeyboardInterrupt as error:
                interrupt = error
        if interrupt is not None:
            raise interrupt

    def model_forward(self, *args, **kwargs):
        """In place of the model's forward()."""
        if self.closed:
            return self.run_model(*args, **kwargs)
        self.restore_positions(kwargs)
        with self.calls.forward(self.run_model, args, kwargs):
            return self.run_model(*args, **kwargs)

    def generate(self, *args, **kwargs):
        """In place of the model's generate()."""
        if self.closed:
            return self.run_generate(*args, **kwargs)
        assistant = kwargs.get("assistant_model")
        if assistant is not None and decoder(inner_model(assistant)) in OPEN:
            raise InputError(
                "assistant_model: it is inside a block of zipr1.sparse itself, whose KV cache "
                "cannot give back drafts; leave that block"
            )
        self.restore_positions(kwargs)
        with self.calls.generate(self.run_generate, args, kwargs):
            return self.run_generate(*args, **kwargs)

    def continuous_batching(self, *args, **kwargs):
        """In place of the model's init_continuous_batching(), which generate_batch() calls."""
        if not self.closed:
            raise InputError(
                "generate_batch: continuous batching puts several prompts into one row with a "
                "paged KV cache, which sparse attention does not support; use generate() with a "
                "padded batch, or serve requests with vLLM"
            )
        return self.run_batching(*args, **kwargs)

    def restore_positions(self, kwargs: dict) -> None:
        """Qwen-VL models keep what generated tokens' positions start from, of their last prefill:
        sets that of the KV cache which is continued."""
        deltas = getattr(kwargs.get(CACHE), "rope_deltas", ())
        for part, delta in zip(self.rope_modules, deltas, strict=False):
            part.rope_deltas = delta

    def decoder_forward(self, *args, **kwargs):
        """In place of the decoder's forward(): one sparse pass."""
        if self.closed:  # Ctrl-C came before anything was restored, or someone keeps this method
            self.close()
            return self.run_decoder(*args, **kwargs)
        with self.threads.forward():
            kwargs = self.start_pass(args, kwargs)
            current: ForwardPass = kwargs[NAME]()
            output = self.run_decoder(*args, **kwargs)
            self.finish_pass(current)
        self.guard_backward(output[0])
        return output

    def finish_pass(self, current: ForwardPass) -> None:
        """Raises RunError for a pass that was dense."""
        if current.past:
            return
        if not current.trace.kept:
            name = self.text.config._attn_implementation
            raise RunError(
                f"the model's attention was set to {str(name)!r} inside the block of zipr1.sparse, "
                "which made it dense: set it before the block"
            )
        self.trace.lengths = current.trace.lengths

    def start_pass(self, args: tuple, kwargs: dict) -> dict:
        """The decoder's keyword arguments with a cache that drops tokens, and with the pass."""
        text, trace, kwargs = self.text, self.trace, dict(kwargs)
        attentions = kwargs.get("output_attentions")
        if attentions or (attentions is None and text.config.output_attentions):
            raise InputError(
                "output_attentions: sparse attention makes no full score matrix; leave the block, "
                "and load the model with attn_implementation='eager'"
            )
        cache = take_cache(kwargs)
        use_cache = kwargs.get("use_cache")
        if cache is None and (text.config.use_cache if use_cache is None else use_cache):
            cache = DynamicCache(config=text.config)
        past = 0
        if cache is not None:
            kwargs[CACHE] = cache
            make_sparse(cache, trace.layers)
            past = cache.get_seq_length()
        inputs = [*args[:1], kwargs.get("input_ids"), kwargs.get("inputs_embeds")]
        length = next(part for part in inputs if part is not None).shape[1]
        prompt = self.settings.prompt_length if past == 0 else None
        if prompt is None:
            training = text.training and torch.is_grad_enabled()
            prompt = self.calls.prompt_length(length, past, cache is not None, training)
        if past == 0:
            check_packed(kwargs)
            if self.gathers:
                check_adapters(self.model, [text.layers[number] for number in trace.layers])
            self.check_keep_kv(prompt, length)
            trace.clear(cache)
            if cache is not None:
                cache.media = self.calls.media
                cache.rope_deltas = [part.rope_deltas for part in self.rope_modules]
        elif not self.calls.generating:
            hide_padding(cache, trace.layers, self.calls.padding(kwargs), past)
        self.check_checkpointing()
        if self.hooks is not None:
            self.hooks.attach([text.layers[number] for number in trace.layers])
        visual = visual_columns(self.model.config, self.calls.arguments.get("input_ids"))
        # A layer that gradient checkpointing recomputes writes to the record of its own pass.
        own = trace if past else replace(trace)
        current = ForwardPass(
            self.settings, own, cache, past, hooks=self.hooks, prompt_length=prompt, visual=visual
        )
        # A function, since FSDP2 copies every dataclass among a layer's arguments.
        kwargs[NAME] = lambda: current
        return kwargs

    def check_keep_kv(self, prompt: int | Sequence[int] | None, length: int) -> None:
        """Raises InputError for completion tokens that would see less than in decoding."""
        ends = [prompt] if isinstance(prompt, int) else prompt or [length]
        if self.settings.keep_kv and min(ends) < length:
            raise InputError(
                "keep_kv=True: completion tokens in the pass of their prompt (labels, "
                "logits_to_keep, drafts of assisted decoding) attend to the kept tokens only, "
                "in decoding to all; leave out keep_kv, or the assistant"
            )

    def check_checkpointing(self) -> None:
        """Raises InputError where what a layer adds to the loss would get no gradient."""
        if self.settings.training.relax is None and self.hooks is None:
            return
        for part in self.text.modules() if torch.is_grad_enabled() else ():
            function = getattr(part, "_gradient_checkpointing_func", None)
            reentrant = getattr(function, "keywords", {}).get("use_reentrant")
            if reentrant and getattr(part, "gradient_checkpointing", False):
                raise InputError(
                    "gradient checkpointing with use_reentrant=True gives the token ratio no "
                    "gradient: gradient_checkpointing_kwargs={'use_reentrant': False}"
                )

    def guard_backward(self, hidden: torch.Tensor) -> None:
        """A checkpointed layer recomputed outside the block would run dense: a wrong gradient."""

        def check(gradient):
            if self.closed:
                raise RunError(
                    "gradient checkpointing: call backward() inside the `with zipr1.sparse(...)` "
                    "block"
                )

        if hidden.requires_grad and any(
            getattr(part, "gradient_checkpointing", False) for part in self.text.modules()
        ):
            hidden.register_hook(check)
