"""Jobs in several processes of one thread each, which on small tensors are faster than one process
of several threads."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from multiprocessing import get_context

from zipr1.common.progress import progress, quiet_libraries, quiet_transformers


@contextmanager
def process_pool(count: int) -> Iterator[Executor | None]:
    """A pool of processes; None, for this process itself, where `count` is 1."""
    if count == 1:
        yield None
        return
    os.environ["OMP_NUM_THREADS"] = "1"  # read by each process when it starts
    spawn = get_context("spawn")
    with ProcessPoolExecutor(count, mp_context=spawn, initializer=start_worker) as pool:
        try:
            yield pool
        finally:
            pool.shutdown(cancel_futures=True)  # jobs that wait behind one that failed


def start_worker() -> None:
    """Keeps the output of libraries off the terminal that a worker shares with its parent."""
    quiet_libraries()
    quiet_transformers()


def run_jobs(pool: Executor | None, title: str, jobs: list[Callable]) -> list:
    """The results of the jobs, in their order, with a progress bar. A failed job raises here."""
    bar = {"total": len(jobs), "desc": title, "unit": "job"}
    if pool is None:
        return [job() for job in progress(jobs, **bar)]
    futures = [pool.submit(job) for job in jobs]
    for future in progress(as_completed(futures), **bar):
        future.result()
    return [future.result() for future in futures]
