"""Several processes, one run. JAX itself finds who a process is under Slurm, Open MPI and on TPUs. What it leaves out:

- A single process sets nothing up, also where a launcher started it: the programs that it starts inherit its variables.
- JAX_NUM_PROCESSES and JAX_PROCESS_ID beside JAX_COORDINATOR_ADDRESS (host:port of process 0), or what a JAXJob of
  Kubeflow sets in their place. In Kubernetes nothing is looked for without them: a sweep's pods are runs of their own.
- All GPUs for the only process of a node, and equal parts for several. JAX_LOCAL_DEVICE_IDS says otherwise.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

_COUNTS = ("JAX_NUM_PROCESSES", "OMPI_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS")  # the first that is set is believed
_REMEDY = (
    "start every process by srun or mpirun, or set JAX_COORDINATOR_ADDRESS (host:port of process 0), JAX_NUM_PROCESSES "
    "and JAX_PROCESS_ID on each"
)


class LaunchError(ValueError):
    """Variables of a launch that are missing or wrong; the message names them and the remedy."""


def launch_options(environ: Mapping[str, str]) -> dict[str, Any] | None:
    """What `jax.distributed.initialize` is given, which finds the rest itself; None for a single process.

    Raises LaunchError on a number that is none, and where the processes of a node cannot share its GPUs equally.
    """
    environ = _of_kubernetes(environ)
    numbers = {"num_processes": "JAX_NUM_PROCESSES", "process_id": "JAX_PROCESS_ID"}
    options: dict[str, Any] = {key: _integer(environ, name) for key, name in numbers.items() if name in environ}
    if "JAX_COORDINATOR_ADDRESS" in environ:
        options["coordinator_address"] = environ["JAX_COORDINATOR_ADDRESS"]
    count = next((_integer(environ, name) for name in _COUNTS if name in environ), None)
    if count == 1 or (count is None and not options):
        return None
    return options | _local_gpus(environ)


def _of_kubernetes(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables, in JAX's names where Kubeflow or an Indexed Job spells them otherwise."""
    found = dict(environ)
    if "KUBERNETES_SERVICE_HOST" not in found:
        return found
    if "JAX_NUM_PROCESSES" in found and "JOB_COMPLETION_INDEX" in found:
        found.setdefault("JAX_PROCESS_ID", found["JOB_COMPLETION_INDEX"])
    if "COORDINATOR_ADDRESS" in found:
        address = f"{found['COORDINATOR_ADDRESS']}:{found.get('COORDINATOR_PORT', '')}"
        kubeflow = {name: found[name] for name in ("NUM_PROCESSES", "PROCESS_ID") if name in found}
        found = {"JAX_COORDINATOR_ADDRESS": address, **{f"JAX_{name}": kubeflow[name] for name in kubeflow}} | found
    return found


def _local_gpus(environ: Mapping[str, str]) -> dict[str, list[int]]:
    """{"local_device_ids": this process's GPUs among those that it sees, [] for all}, {} where JAX is to choose."""
    if "JAX_LOCAL_DEVICE_IDS" in environ:
        return {}
    visible = [part for part in environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if part]
    if "OMPI_COMM_WORLD_LOCAL_SIZE" in environ:
        processes, rank = (_integer(environ, f"OMPI_COMM_WORLD_LOCAL_{name}") for name in ("SIZE", "RANK"))
    elif "SLURM_STEP_TASKS_PER_NODE" in environ:
        tasks = re.findall(r"(\d+)(?:\(x(\d+)\))?", environ["SLURM_STEP_TASKS_PER_NODE"])  # "4(x2),3": 4, 4, 3
        nodes = [int(number) for number, repeats in tasks for _ in range(int(repeats or 1))]
        processes, rank = nodes[_integer(environ, "SLURM_NODEID")], _integer(environ, "SLURM_LOCALID")
    else:
        return {}
    if processes == 1 or len(visible) == 1:
        return {"local_device_ids": []}
    if len(visible) % processes:
        raise LaunchError(
            f"{processes} processes on this node cannot share the {len(visible)} GPUs of CUDA_VISIBLE_DEVICES="
            f"{environ['CUDA_VISIBLE_DEVICES']}; start as many per node as GPUs, or one, or set JAX_LOCAL_DEVICE_IDS"
        )
    part = len(visible) // processes
    return {"local_device_ids": list(range(rank * part, (rank + 1) * part))} if part else {}


def _integer(environ: Mapping[str, str], name: str) -> int:
    if not environ.get(name, "").isdigit():
        raise LaunchError(f"{name}={environ.get(name)!r}: expected a whole number, 0 or more; {_REMEDY}")
    return int(environ[name])


def initialise(environ: Mapping[str, str]) -> bool:
    """Joins the processes of a launch before JAX is used; False for a single one. Raises LaunchError."""
    options = launch_options(environ)
    if options is None:
        return False
    try:
        jax.distributed.initialize(**options)
    except ValueError as error:
        raise LaunchError(f"a run of several processes: {error} {_REMEDY}") from error
    print(f"process {jax.process_index()} of {jax.process_count()}")
    return True


def process_dir(workdir: Path) -> Path:
    """Where this process writes its metrics: `workdir` for the first, a folder of its own there for every other."""
    index = jax.process_index()
    return workdir / f"process_{index}" if index else workdir


def any_process(flag: bool) -> bool:
    """Whether `flag` holds on any process: what all of them must do together, such as stopping to save."""
    return flag if jax.process_count() == 1 else bool(multihost_utils.process_allgather(np.array(flag)).any())


def leave() -> None:
    """Parts the processes: the first may go on alone, for as long as it takes, and the others may end."""
    if jax.process_count() > 1:
        jax.distributed.shutdown()
