"""What worker and helper processes have in common. Cheap to import: no JAX before the environment is set."""

import os
import signal

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
