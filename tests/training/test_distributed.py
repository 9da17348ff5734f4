"""Who a process is, by the variables of Slurm, Kubernetes and a person; contradictions are named."""

import pytest

from dexhil.training.distributed import Launch, LaunchError, detect

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
KUBERNETES = {"KUBERNETES_SERVICE_HOST": "10.1.0.1"}
KUBEFLOW = KUBERNETES | {
    "COORDINATOR_ADDRESS": "train-0",
    "COORDINATOR_PORT": "6666",
    "NUM_PROCESSES": "2",
    "PROCESS_ID": "1",
}


def without(environ, *names):
    return {name: value for name, value in environ.items() if name not in names}


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, None),
        (OURS, Launch("10.0.0.1:1234", 4, 3)),
        (OURS | {"JAX_NUM_PROCESSES": "1", "JAX_PROCESS_ID": "0"}, None),
        (
            without(OURS, "JAX_PROCESS_ID") | KUBERNETES | {"JOB_COMPLETION_INDEX": "2"},
            Launch("10.0.0.1:1234", 4, 2),
        ),
        (KUBERNETES | {"JOB_COMPLETION_INDEX": "2"}, None),  # the pods of a sweep are runs of their own
        (KUBEFLOW, Launch("train-0:6666", 2, 1)),
        (without(KUBEFLOW, "KUBERNETES_SERVICE_HOST"), None),
        (SLURM, Launch("gpu07:61444", 8, 5, (1,))),
        (SLURM | {"CUDA_VISIBLE_DEVICES": "0,1,2,3"}, Launch("gpu07:61444", 8, 5, (1,))),
        (SLURM | {"CUDA_VISIBLE_DEVICES": "0,1,2,3,4,5,6,7"}, Launch("gpu07:61444", 8, 5, (2, 3))),
        (SLURM | {"CUDA_VISIBLE_DEVICES": "3"}, Launch("gpu07:61444", 8, 5, None)),  # bound by Slurm
        (SLURM | OURS | {"JAX_NUM_PROCESSES": "8", "JAX_PROCESS_ID": "5"}, Launch("10.0.0.1:1234", 8, 5)),
        (
            SLURM | {"SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_TASKS_PER_NODE": "1(x2)", "SLURM_PROCID": "1"},
            Launch("gpu07:61444", 2, 1, None),
        ),
        (without(SLURM, "SLURM_STEP_NUM_TASKS"), None),  # a batch script without srun
        (SLURM | {"SLURM_STEP_NUM_TASKS": "1"}, None),
    ],
)
def test_the_environment_says_who_a_process_is(environ, expected):
    assert detect(environ) == expected


@pytest.mark.parametrize(
    ("nodes", "host"),
    [("node1", "node1"), ("a,b", "a"), ("n[003,007-9]", "n003"), ("gpu-[1-2]-ib,x", "gpu-1-ib"), ("r1[2-3],r4", "r12")],
)
def test_the_coordinator_is_the_first_host_of_the_list(nodes, host):
    launch = detect(SLURM | {"SLURM_STEP_NODELIST": nodes})
    assert launch is not None
    assert launch.coordinator == f"{host}:61444"


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        (without(OURS, "JAX_PROCESS_ID"), r"JAX_PROCESS_ID: not set, though .*JAX_NUM_PROCESSES.* needs all"),
        (without(OURS, "JAX_COORDINATOR_ADDRESS"), "JAX_COORDINATOR_ADDRESS: not set"),
        (OURS | {"JAX_PROCESS_ID": "4"}, "process 4 of 4: expected an id from 0 to 3"),
        (OURS | {"JAX_NUM_PROCESSES": "four"}, "JAX_NUM_PROCESSES='four': expected a whole number"),
        (OURS | {"JAX_COORDINATOR_ADDRESS": "10.0.0.1"}, r"'10.0.0.1': expected host:port of process 0"),
        (SLURM | OURS, "process 3 of 4 by its variables, but 5 of 8 by Slurm; unset"),
        (SLURM | {"SLURM_STEP_TASKS_PER_NODE": "3(x2)"}, r"TASKS_PER_NODE=3\(x2\) does not fit SLURM_STEP_NUM_TASKS=8"),
        (SLURM | {"CUDA_VISIBLE_DEVICES": "0,1,2"}, "4 tasks on this node cannot share the 3 GPUs"),
        (without(SLURM, "SLURM_LOCALID"), "SLURM_LOCALID: not set"),
        (without(KUBEFLOW, "PROCESS_ID"), "PROCESS_ID: not set"),
    ],
)
def test_contradictions_are_named(environ, message):
    with pytest.raises(LaunchError, match=message):
        detect(environ)
