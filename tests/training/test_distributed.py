"""What JAX is told about a launch, and what it finds itself; one process sets nothing up."""

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from dexhil.training.distributed import LaunchError, initialise, launch_options

ROOT = Path(__file__).resolve().parents[2]

SLURM = {
    "SLURM_JOB_ID": "4100",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_STEP_NODELIST": "gpu[07-08],fat1",
    "SLURM_STEP_TASKS_PER_NODE": "4(x2)",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
    "SLURM_NTASKS": "8",
}
OURS = {"JAX_COORDINATOR_ADDRESS": "10.0.0.1:1234", "JAX_NUM_PROCESSES": "4", "JAX_PROCESS_ID": "3"}
GIVEN = {"coordinator_address": "10.0.0.1:1234", "num_processes": 4, "process_id": 3}
KUBERNETES = {"KUBERNETES_SERVICE_HOST": "10.1.0.1"}
KUBEFLOW = KUBERNETES | {
    "COORDINATOR_ADDRESS": "train-0",
    "COORDINATOR_PORT": "6666",
    "NUM_PROCESSES": "2",
    "PROCESS_ID": "1",
}
MPI = {"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_LOCAL_SIZE": "2", "OMPI_COMM_WORLD_LOCAL_RANK": "1"}


def without(environ, *names):
    return {name: value for name, value in environ.items() if name not in names}


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, None),
        (OURS, GIVEN),
        (OURS | {"JAX_NUM_PROCESSES": "1", "JAX_PROCESS_ID": "0"}, None),
        (without(OURS, "JAX_PROCESS_ID") | KUBERNETES | {"JOB_COMPLETION_INDEX": "2"}, GIVEN | {"process_id": 2}),
        (KUBERNETES | {"JOB_COMPLETION_INDEX": "2"}, None),  # the pods of a sweep are runs of their own
        (KUBEFLOW, {"coordinator_address": "train-0:6666", "num_processes": 2, "process_id": 1}),
        (without(KUBEFLOW, "KUBERNETES_SERVICE_HOST"), None),
        (SLURM, {}),  # JAX finds everything
        (SLURM | OURS, GIVEN),
        (without(SLURM, "SLURM_STEP_NUM_TASKS"), None),  # a batch script without srun
        (SLURM | {"SLURM_STEP_NUM_TASKS": "1"}, None),
        (MPI, {}),
        (MPI | {"OMPI_COMM_WORLD_SIZE": "1"}, None),
    ],
)
def test_jax_is_told_what_it_does_not_find(environ, expected):
    assert launch_options(environ) == expected


@pytest.mark.parametrize(
    ("environ", "gpus"),
    [
        ({"CUDA_VISIBLE_DEVICES": "0,1,2,3"}, [1]),
        ({"CUDA_VISIBLE_DEVICES": "0,1,2,3,4,5,6,7"}, [2, 3]),
        ({"CUDA_VISIBLE_DEVICES": "3"}, []),  # bound by Slurm: the only one that it sees
        ({"CUDA_VISIBLE_DEVICES": "0,1", "SLURM_STEP_TASKS_PER_NODE": "3,1,4"}, []),  # alone on its node
        ({"SLURM_STEP_TASKS_PER_NODE": "7,1"}, []),
    ],
)
def test_the_processes_of_a_node_share_its_gpus(environ, gpus):
    assert launch_options(SLURM | environ) == {"local_device_ids": gpus}
    assert launch_options(SLURM | environ | {"JAX_LOCAL_DEVICE_IDS": "0"}) == {}


def test_open_mpis_processes_share_them_too():
    assert launch_options(MPI | {"CUDA_VISIBLE_DEVICES": "0,1,2,3"}) == {"local_device_ids": [2, 3]}


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        (OURS | {"JAX_NUM_PROCESSES": "four"}, "JAX_NUM_PROCESSES='four': expected a whole number.*srun or mpirun"),
        (OURS | {"JAX_PROCESS_ID": "-1"}, "JAX_PROCESS_ID='-1': expected a whole number"),
        (SLURM | {"CUDA_VISIBLE_DEVICES": "0,1,2"}, "4 processes on this node cannot share the 3 GPUs of .*=0,1,2;"),
        (without(SLURM, "SLURM_LOCALID"), "SLURM_LOCALID=None: expected a whole number"),
    ],
)
def test_wrong_variables_are_named(environ, message):
    with pytest.raises(LaunchError, match=message):
        launch_options(environ)


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        (
            without(OURS, "JAX_COORDINATOR_ADDRESS"),
            "coordinator_address should be defined.* set JAX_COORDINATOR_ADDRESS",
        ),
        (without(OURS, "JAX_PROCESS_ID"), "process id of the current process must be defined.* JAX_PROCESS_ID on each"),
        (without(OURS, "JAX_NUM_PROCESSES"), "Number of processes must be defined"),
        (OURS | {"JAX_PROCESS_ID": "4"}, "process_id=4, num_processes=4"),
    ],
)
def test_what_jax_misses_is_one_clear_line(environ, message):
    """In a process of its own: here JAX may have computed already, and then it looks no further."""
    code = "import json, sys; from dexhil.training.distributed import initialise; initialise(json.loads(sys.argv[1]))"
    done = subprocess.run([sys.executable, "-c", code, json.dumps(environ)], capture_output=True, text=True, cwd=ROOT)
    assert "LaunchError" in done.stderr
    assert re.search(message, done.stderr)


@pytest.mark.parametrize("environ", [{}, {"JAX_NUM_PROCESSES": "1"}])
def test_a_single_process_sets_nothing_up(environ):
    assert not initialise(environ)


JOIN = """
import os, jax
from dexhil.training.distributed import any_process, initialise, leave
assert initialise(os.environ)
assert any_process(jax.process_index() == 1)
leave()
"""


def test_two_tasks_of_a_slurm_step_find_each_other():
    """JAX reads host and rank from Slurm's variables; only the port is chosen here, else it follows from the job."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    step = SLURM | {"SLURM_STEP_NODELIST": "127.0.0.1", "SLURM_STEP_TASKS_PER_NODE": "2", "SLURM_NODEID": "0"}
    step |= {"SLURM_STEP_NUM_TASKS": "2", "SLURM_NTASKS": "2", "JAX_COORDINATOR_PORT": port}
    ranks = [os.environ | step | {"SLURM_PROCID": rank, "SLURM_LOCALID": rank} for rank in "01"]
    line = [sys.executable, "-c", JOIN]
    tasks = [subprocess.Popen(line, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True) for env in ranks]
    said = [task.communicate(timeout=300)[0] for task in tasks]
    assert [text.splitlines()[0] for text in said] == ["process 0 of 2", "process 1 of 2"]
