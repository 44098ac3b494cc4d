"""Jobs in several processes of one thread each, which on small tensors are quicker than one process of several threads."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, Executor, ProcessPoolExecutor, wait
from contextlib import contextmanager
from multiprocessing import get_context

from tqdm.auto import tqdm


@contextmanager
def workers(count: int) -> Iterator[Executor | None]:
    """A pool of processes; None, for this process itself, where one is enough."""
    if count == 1:
        yield None
        return
    os.environ["OMP_NUM_THREADS"] = "1"
    with ProcessPoolExecutor(count, mp_context=get_context("spawn")) as pool:
        try:
            yield pool
        finally:
            pool.shutdown(cancel_futures=True)  # what waits behind a job that failed


def together(pool: Executor | None, title: str, jobs: list[Callable]) -> list:
    """Runs the jobs, as many at a time as there are processes; what they return, in their order. A failed job raises here."""
    with tqdm(total=len(jobs), desc=title, unit="job") as bar:
        found = []
        if pool is None:
            for job in jobs:
                found.append(job())
                bar.update()
            return found
        futures = [pool.submit(job) for job in jobs]
        for future in futures:
            future.add_done_callback(lambda _: bar.update())
        done, _ = wait(futures, return_when=FIRST_EXCEPTION)
        return [future.result() for future in sorted(done, key=futures.index)]
