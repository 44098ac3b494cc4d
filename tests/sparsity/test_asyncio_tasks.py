"""asyncio tasks: a block belongs to the task that opened it and to those that were started inside."""

import asyncio

import pytest
import torch
from conftest import random_model

import zipr1
from zipr1 import TopK
from zipr1.common.errors import RunError
from zipr1.sparsity.block import OPEN

IDS = torch.arange(2, 102).view(2, 50) * 7 % 60 + 2


@pytest.fixture(scope="module")
def llama():
    return random_model("llama")


async def two_tasks(model, child: bool) -> str:
    """What a task gets that calls the model while another is within its block."""
    opened, called = asyncio.Event(), asyncio.Event()

    async def call() -> str:
        await opened.wait()
        try:
            with torch.no_grad():
                model(IDS)
            return "sparse" if OPEN else "dense"
        except RunError as error:
            return str(error)
        finally:
            called.set()

    async def block():
        with zipr1.sparse(model, TopK(0.5)) as trace:
            opened.set()
            started = asyncio.create_task(call()) if child else None
            await called.wait()
            with torch.no_grad():
                model(IDS)
            assert trace.token_ratio.tolist() == [0.5, 0.5]
        return await started if child else ""

    if child:
        return await block()
    tasks = [asyncio.create_task(one) for one in (call(), block())]
    return (await asyncio.gather(*tasks))[0]


@pytest.mark.parametrize("child", [False, True])
def test_asyncio_tasks(llama, child):
    found = asyncio.run(two_tasks(llama, child))
    assert found == "sparse" if child else "an asyncio task calls a model" in found
    with torch.no_grad():
        llama(IDS)


def test_a_second_block_in_another_task(llama):
    async def block(entered: asyncio.Event, wait: asyncio.Event):
        with zipr1.sparse(llama, TopK(0.5)):
            entered.set()
            await wait.wait()

    async def both():
        entered, wait = asyncio.Event(), asyncio.Event()
        first = asyncio.create_task(block(entered, wait), name="first")
        await entered.wait()
        with pytest.raises(RunError, match="asyncio task 'first' has opened"):
            await asyncio.create_task(block(entered, wait))
        wait.set()
        await first

    asyncio.run(both())


def test_tasks_in_turn_and_inside(llama):
    async def alone(length: int) -> float:
        with zipr1.sparse(llama, TopK(0.5)) as trace, torch.no_grad():
            llama(IDS[:, :length])
        await asyncio.sleep(0)
        with torch.no_grad():
            llama(IDS)
        return trace.token_ratio[0].item()

    async def several():
        return await asyncio.gather(*(alone(length) for length in (20, 30, 40)))

    assert asyncio.run(several()) == [0.5, 0.5, 0.5]
    with zipr1.sparse(llama, TopK(0.5)) as trace, torch.no_grad():

        async def inside():
            llama(IDS)

        asyncio.run(inside())
    assert trace.token_ratio.tolist() == [0.5, 0.5]
