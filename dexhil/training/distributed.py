"""Several processes, one run: who this process is, from Slurm, Kubernetes or variables that a person sets.

In this order:
- JAX_COORDINATOR_ADDRESS (host:port of process 0), JAX_NUM_PROCESSES, JAX_PROCESS_ID; in a pod of a Kubernetes Indexed
  Job the id may be left to JOB_COMPLETION_INDEX.
- COORDINATOR_ADDRESS, COORDINATOR_PORT, NUM_PROCESSES, PROCESS_ID, as Kubeflow's JAXJob sets them in its pods.
- A Slurm step (srun) of more than one task: its SLURM_* variables. A batch script without srun is one process.
Otherwise there is one process, and nothing is set up.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils


class LaunchError(ValueError):
    """Variables of a launch that are missing or disagree; the message names them and the remedy."""


@dataclasses.dataclass(frozen=True)
class Launch:
    """One process of several. coordinator: host:port of process 0. devices: GPUs of this process, None for all."""

    coordinator: str
    num_processes: int
    process_id: int
    devices: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if not re.fullmatch(r"\S+:\d+", self.coordinator):
            raise LaunchError(f"coordinator address {self.coordinator!r}: expected host:port of process 0")
        if not 0 <= self.process_id < self.num_processes:
            raise LaunchError(
                f"process {self.process_id} of {self.num_processes}: expected an id from 0 to "
                f"{self.num_processes - 1}; check the variables that the launcher sets"
            )


def detect(environ: Mapping[str, str]) -> Launch | None:
    """What the environment says, None for a single process. Raises LaunchError where it contradicts itself."""
    launch = _from_variables(environ) or _from_kubeflow(environ)
    slurm = _from_slurm(environ)
    if launch and slurm and (launch.num_processes, launch.process_id) != (slurm.num_processes, slurm.process_id):
        raise LaunchError(
            f"process {launch.process_id} of {launch.num_processes} by its variables, but {slurm.process_id} of "
            f"{slurm.num_processes} by Slurm; unset JAX_NUM_PROCESSES and JAX_PROCESS_ID, or start without srun"
        )
    if launch is None:
        launch = slurm
    return launch if launch is not None and launch.num_processes > 1 else None


def _from_variables(environ: Mapping[str, str]) -> Launch | None:
    names = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
    if not any(name in environ for name in names):
        return None
    values = dict(environ)
    if "JOB_COMPLETION_INDEX" in environ:
        values.setdefault("JAX_PROCESS_ID", environ["JOB_COMPLETION_INDEX"])
    _check_present(values, names)
    return Launch(values[names[0]], _integer(values, names[1]), _integer(values, names[2]))


def _from_kubeflow(environ: Mapping[str, str]) -> Launch | None:
    names = ("COORDINATOR_ADDRESS", "COORDINATOR_PORT", "NUM_PROCESSES", "PROCESS_ID")
    if "KUBERNETES_SERVICE_HOST" not in environ or "COORDINATOR_ADDRESS" not in environ:
        return None
    _check_present(environ, names)
    address = f"{environ['COORDINATOR_ADDRESS']}:{_integer(environ, 'COORDINATOR_PORT')}"
    return Launch(address, _integer(environ, "NUM_PROCESSES"), _integer(environ, "PROCESS_ID"))


def _from_slurm(environ: Mapping[str, str]) -> Launch | None:
    if "SLURM_STEP_NUM_TASKS" not in environ or _integer(environ, "SLURM_STEP_NUM_TASKS") == 1:
        return None
    names = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID")
    _check_present(environ, (*names, "SLURM_STEP_TASKS_PER_NODE"))
    port = 61440 + _integer(environ, "SLURM_JOB_ID") % 4096  # jobs that share a node differ
    tasks = _tasks_per_node(environ["SLURM_STEP_TASKS_PER_NODE"])
    node, count = _integer(environ, "SLURM_NODEID"), _integer(environ, "SLURM_STEP_NUM_TASKS")
    if sum(tasks) != count or node >= len(tasks):
        raise LaunchError(
            f"SLURM_STEP_TASKS_PER_NODE={environ['SLURM_STEP_TASKS_PER_NODE']} does not fit "
            f"SLURM_STEP_NUM_TASKS={count} on node {node}; start every process with one srun"
        )
    devices = _gpus(environ.get("CUDA_VISIBLE_DEVICES"), _integer(environ, "SLURM_LOCALID"), tasks[node])
    address = f"{_first_host(environ['SLURM_STEP_NODELIST'])}:{port}"
    return Launch(address, count, _integer(environ, "SLURM_PROCID"), devices)


def _gpus(visible: str | None, rank: int, tasks: int) -> tuple[int, ...] | None:
    """This task's share of the GPUs that Slurm shows to every task of the node; one of its own needs no choice."""
    count = tasks if visible is None else len(visible.split(","))
    if tasks == 1 or count == 1:
        return None
    if count % tasks:
        raise LaunchError(
            f"{tasks} tasks on this node cannot share the {count} GPUs of CUDA_VISIBLE_DEVICES={visible}; "
            "ask for as many tasks per node as GPUs, or for one"
        )
    share = count // tasks
    return tuple(range(rank * share, (rank + 1) * share))


def _first_host(nodes: str) -> str:
    """Of Slurm's short form: "gpu[07-09,12],login" -> "gpu07"."""
    return re.sub(r"\[(\d+)[^]]*\]", r"\1", re.match(r"[^,[]*(\[[^]]*\])?[^,[]*", nodes)[0])  # pyright: ignore[reportOptionalSubscript]


def _tasks_per_node(text: str) -> list[int]:
    """Of Slurm's short form: "4(x2),3" -> [4, 4, 3]."""
    parts = re.findall(r"(\d+)(?:\(x(\d+)\))?", text)
    return [int(tasks) for tasks, repeats in parts for _ in range(int(repeats or 1))]


def _check_present(environ: Mapping[str, str], names: tuple[str, ...]) -> None:
    missing = [name for name in names if name not in environ]
    if missing:
        found = {name: environ[name] for name in names if name in environ}
        raise LaunchError(f"{', '.join(missing)}: not set, though {found} is; a run of several processes needs all")


def _integer(environ: Mapping[str, str], name: str) -> int:
    if not environ[name].isdigit():
        raise LaunchError(f"{name}={environ[name]!r}: expected a whole number, 0 or more")
    return int(environ[name])


def initialise(environ: Mapping[str, str]) -> Launch | None:
    """Joins the processes of `detect`, before JAX is used; waits until all are there."""
    launch = detect(environ)
    if launch is not None:
        print(f"process {launch.process_id} of {launch.num_processes}, coordinator {launch.coordinator}")
        jax.distributed.initialize(
            launch.coordinator, launch.num_processes, launch.process_id, launch.devices, "deactivate"
        )
    return launch


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
