"""Which threads a block of `zipr1.sparse` serves, and what the others are told."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from conftest import random_model, tiny_processor
from transformers import TextIteratorStreamer

import zipr1
from zipr1.common.errors import RunError
from zipr1.common.scope import SCOPES

RULE = zipr1.TopP(0.5)
IDS = torch.arange(5, 65)[None]
SETTINGS = {"max_new_tokens": 6, "do_sample": False}


@pytest.fixture
def model():
    return random_model("llama")


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS, use_cache=False).logits


class Result(threading.Thread):
    """Runs a function after `start`, at the latest after `go`; keeps what it returned or raised."""

    def __init__(self, function, go: threading.Event | None = None):
        super().__init__(daemon=True)
        self.function, self.go, self.value, self.error = function, go, None, None
        self.start()

    def run(self):
        if self.go is not None:
            self.go.wait(60)
        try:
            self.value = self.function()
        except Exception as error:
            self.error = error

    def done(self) -> "Result":
        self.join(60)
        assert not self.is_alive()
        return self


def test_a_streamer_thread_that_is_started_inside_is_sparse(model):
    tokenizer = tiny_processor().tokenizer
    with zipr1.sparse(model, RULE):
        expected = model.generate(IDS, **SETTINGS)
    with zipr1.sparse(model, RULE) as trace:
        streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, timeout=60)
        thread = Result(lambda: model.generate(IDS, **SETTINGS, streamer=streamer))
        text = "".join(streamer)
        assert thread.done().value.tolist() == expected.tolist()
        assert trace.token_ratio < 1
    assert text == tokenizer.decode(expected[0, IDS.shape[1] :])


@pytest.mark.parametrize("scope", SCOPES)
def test_threads_inside_a_block_run_one_after_the_other(model, scope):
    others = [IDS, IDS.flip(-1)]
    with zipr1.sparse(model, RULE, scope=scope), torch.no_grad():
        expected = [model(input_ids=ids).logits for ids in others]

        def several(ids: torch.Tensor) -> list[torch.Tensor]:
            with torch.no_grad():
                return [model(input_ids=ids).logits for _ in range(40)]

        threads = [Result(lambda ids=ids: several(ids)) for ids in others]
        for thread, one in zip(threads, expected, strict=True):
            assert thread.done().error is None
            assert all(torch.equal(found, one) for found in thread.value)


def test_a_thread_that_begins_after_the_block_raises(model):
    dense, go = logits(model), threading.Event()
    with zipr1.sparse(model, RULE):
        late, other = Result(lambda: logits(model), go), Result(lambda: 1)
        other.done()
    assert torch.equal(logits(model), dense)  # of the thread that has left the block
    after = Result(lambda: logits(model)).done()
    assert torch.equal(after.value, dense)  # started later
    with zipr1.sparse(model, RULE):
        pass
    go.set()
    assert "join the thread inside the block" in str(late.done().error)
    assert isinstance(late.error, RunError)
    assert torch.equal(logits(model), dense)
    assert "forward" not in vars(model.get_decoder())  # all late threads have ended


def test_a_thread_that_was_served_inside_may_go_on_densely(model):
    dense = logits(model)
    with ThreadPoolExecutor(1) as pool:
        with zipr1.sparse(model, RULE):
            assert not torch.equal(pool.submit(logits, model).result(), dense)
        assert torch.equal(pool.submit(logits, model).result(), dense)


def test_a_generation_that_outlives_the_block_raises(model):
    """Its KV cache has dropped tokens; a pass that is under way ends before the block does."""
    begun, left = threading.Event(), threading.Event()

    def criteria(ids, scores, **kwargs):
        begun.set()
        left.wait(60)
        return torch.zeros(len(ids), dtype=torch.bool)

    with zipr1.sparse(model, RULE):
        thread = Result(lambda: model.generate(IDS, **SETTINGS, stopping_criteria=[criteria]))
        begun.wait(60)
    left.set()
    assert "continue it inside" in str(thread.done().error)


def test_a_pass_under_way_is_sparse_as_a_whole(model):
    """The block is left in the middle of a pass of another thread."""
    with zipr1.sparse(model, RULE):
        expected = logits(model)
    halfway, leaving = threading.Event(), threading.Event()

    def stop(module, args):
        halfway.set()
        leaving.wait(0.3)

    handle = model.model.layers[2].register_forward_pre_hook(stop)
    with zipr1.sparse(model, RULE):
        thread = Result(lambda: logits(model))
        halfway.wait(60)
    leaving.set()
    assert torch.equal(thread.done().value, expected)
    handle.remove()


@pytest.mark.parametrize("call", ["forward", "generate"])
def test_a_thread_from_before_the_block_is_refused_and_works_afterwards(model, call):
    dense, go = logits(model), threading.Event()
    run = {"forward": lambda: logits(model), "generate": lambda: model.generate(IDS, **SETTINGS)}
    thread = Result(run[call], go)
    with zipr1.sparse(model, RULE) as trace:
        sparse = logits(model)
        go.set()
        message = str(thread.done().error)
        assert "not thread-safe" in message and thread.name in message
        assert torch.equal(logits(model), sparse) and trace.token_ratio < 1
    assert torch.equal(logits(model), dense)


def test_a_second_block_in_another_thread_is_refused_with_the_thread_that_has_the_first(model):
    def second():
        with zipr1.sparse(model, zipr1.TopP(0.9)):
            logits(model)

    with zipr1.sparse(model, RULE) as trace:
        error = Result(second).done().error
        assert isinstance(error, RunError) and "not thread-safe" in str(error)
        assert threading.current_thread().name in str(error)
        assert not torch.equal(logits(model), logits(random_model("llama")))
        assert trace.token_ratio < 1
        with pytest.raises(RunError, match="leave that first"), zipr1.sparse(model, RULE):
            pass
    assert Result(second).done().error is None


def test_threads_with_a_lock_and_threads_with_a_model_each_work(model):
    lock, results = threading.Lock(), {}

    def locked(p: float):
        with lock, zipr1.sparse(model, zipr1.TopP(p)) as trace:
            logits(model)
            return trace.token_ratio.item()

    def own(p: float):
        with zipr1.sparse(random_model("llama"), zipr1.TopP(p)) as trace:
            logits(trace and random_model("llama"))
        return p

    with ThreadPoolExecutor(3) as pool:
        for p in (0.5, 0.7, 0.9):
            results[p] = pool.submit(locked, p).result()
        assert list(pool.map(own, (0.5, 0.7))) == [0.5, 0.7]
    assert results[0.5] < results[0.7] < results[0.9]
