"""What worker and helper processes have in common. Cheap to import: no JAX before the environment is set."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

# Workers share the cores: one thread each, and no worker takes a whole accelerator.
ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "LP_NUM_THREADS": "1",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
}


def use_one_thread() -> None:
    """For a process that computes beside others, before it imports JAX; what the user has set stays."""
    for name, value in ONE_THREAD.items():
        os.environ.setdefault(name, value)


def leave_ctrl_c_to_parent() -> None:
    """For a worker: Ctrl-C on a terminal reaches the whole group, and the parent decides what comes of it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def leave_signals_to_parent() -> None:
    """As `leave_ctrl_c_to_parent`, for SIGTERM too: the parent must end such a process by `kill`."""
    leave_ctrl_c_to_parent()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def worker_pool(count: int, initializer: Callable[..., None] | None = None, *arguments: Any) -> ProcessPoolExecutor:
    """Spawned processes, since OpenGL contexts and JAX's threads do not survive a fork. They end with this process."""
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(count, context, _start_worker, (initializer, arguments))


def _start_worker(initializer: Callable[..., None] | None, arguments: tuple[Any, ...]) -> None:
    leave_ctrl_c_to_parent()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if initializer is not None:
        initializer(*arguments)


def _end_with_parent() -> None:
    """Without it, a worker whose parent was killed waits for work for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "a worker was started by a process"
    parent.join()
    os._exit(1)


def worker_died(count: int) -> OSError:
    """What to say where a pool of `count` workers is broken."""
    remedy = f"try fewer workers than {count}" if count > 1 else "free some"
    return OSError(
        f"a worker process died; its message, if any, is above. Often memory ran out: {remedy}. What is finished is "
        f"kept, and the same command continues"
    )
