"""Which threads and asyncio tasks may call a model while a block of `zipr1.sparse` is open.

The block belongs to the thread that opened it and to the threads that were started since, such as
the one that runs generate() for a TextIteratorStreamer. Python does not tell who has started a
thread; a thread that ran before the block was opened is not part of it, and is refused.

The same holds for asyncio tasks: a block that a task has opened belongs to it and to the tasks that
were started inside, which inherit its context variables.
"""

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from weakref import WeakSet

from torch import nn

from zipr1.common.errors import RunError
from zipr1.sparsity.methods import Method

INSIDE: ContextVar[frozenset] = ContextVar("blocks of zipr1.sparse", default=frozenset())
POLL = 0.01  # seconds between looks at the threads that are within a pass


def current_task() -> asyncio.Task | None:
    """The running asyncio task of this thread, if any."""
    try:
        return asyncio.current_task()
    except RuntimeError:  # no loop is running
        return None


class Threads:
    """The threads of one block, and its asyncio tasks."""

    def __init__(self):
        self.opener, self.task = threading.current_thread(), current_task()
        INSIDE.set(INSIDE.get() | {self})
        self.earlier = WeakSet(set(threading.enumerate()) - {self.opener})
        self.called = WeakSet()
        self.running: set[threading.Thread] = set()
        self.one = threading.RLock()  # a layer that gathers its rows has hooks meanwhile

    @contextmanager
    def forward(self) -> Iterator[None]:
        """Around a forward pass, one at a time; raises RunError in a thread that is no part of the
        block."""
        thread = threading.current_thread()
        if thread in self.earlier:
            raise RunError(
                f"thread {thread.name!r} calls a model that thread {self.opener.name!r} has made "
                "sparse: a model is sparse or dense for all threads at once (zipr1.sparse is not "
                "thread-safe). Open the block in the thread that calls the model, with a lock "
                "around it, or start the thread inside the block"
            )
        if self.other_task:
            raise RunError(
                f"an asyncio task calls a model that task {self.task.get_name()!r} has made sparse "
                "and that it still uses: a model is sparse or dense for all tasks at once. Hold an "
                "asyncio.Lock around the block and around every other use of the model, or start "
                "the task inside the block"
            )
        self.called.add(thread)
        self.running.add(thread)
        try:
            with self.one:
                yield
        finally:
            self.running.discard(thread)

    @property
    def other_task(self) -> bool:
        """Whether this is a task of the opener's thread that was not started inside the block."""
        same = threading.current_thread() is self.opener
        return self.task is not None and same and self not in INSIDE.get()

    def leave_task(self) -> None:
        """The context of this task keeps the block no longer."""
        INSIDE.set(INSIDE.get() - {self})

    def wait_for_others(self) -> None:
        """Returns once no other thread is within a forward pass, half of which would be dense."""
        own = threading.current_thread()
        while any(thread.is_alive() for thread in self.running - {own}):
            time.sleep(POLL)

    def refuse_late(self, module: nn.Module) -> None:
        """After the block: a thread that was started inside, but has not called the model yet,
        must not run dense. The refusal goes once these threads have ended."""
        known = {self.opener, *self.earlier, *self.called}
        started = set(threading.enumerate()) - known
        # tqdm's monitor never ends and calls no model.
        late = WeakSet(one for one in started if type(one).__module__ != "tqdm._monitor")
        if not late:
            return

        def refuse(*args, **kwargs):
            if threading.current_thread() in late:
                raise RunError(
                    "the block of zipr1.sparse in which this thread was started was left before "
                    "the thread called the model: join the thread inside the block"
                )
            if not any(thread.is_alive() for thread in late):
                method.restore()
            return method.original(*args, **kwargs)

        method = Method(module, "forward", refuse)
        method.install()
