"""Several devices and several processes against one: losses, parameters, actions, checkpoints."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from dexhil.training.checkpoints import Checkpoints, load_train_state
from dexhil.training.sharding import MIN_SHARDED, make_mesh, parameter_spec, place_batch
from tests.training.tiny_run import TinyRun, difference, make_meta

ROOT = Path(__file__).resolve().parents[2]
# The programs run for a moment and are compiled for seconds: let the compiler do less.
QUICK = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
# XLA's threads: a device may wait in two collectives at once, and eight devices on eight threads then wait for ever.
THREADS = {"NPROC": "64"}


def start(command: str, out: Path, flags: str = "", **variables: str) -> subprocess.Popen:
    environ = os.environ | THREADS | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": f"{QUICK} {flags}"} | variables
    line = [sys.executable, "-m", "tests.training.tiny_run", command, str(out)]
    return subprocess.Popen(line, cwd=ROOT, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen) -> str:
    out, errors = process.communicate()
    assert process.returncode == 0, errors[-3000:]
    return out


@pytest.fixture(scope="module")
def devices(tmp_path_factory) -> Path:
    """What 8 fake devices gave, and their checkpoint."""
    out = tmp_path_factory.mktemp("devices")
    finish(start("devices", out, "--xla_force_host_platform_device_count=8"))
    return out


@pytest.mark.parametrize("case", ["linear", "muon-lora"])
def test_eight_devices_train_as_one_does(devices, case):
    report = json.loads((devices / "report.json").read_text())[case]
    alone, sharded = report["losses"]
    np.testing.assert_allclose(sharded, alone, rtol=1e-5)
    assert report["params"] < 1e-5
    assert report["moved"] > 1e-3  # the steps changed the parameters a hundred times more
    assert report["frozen"] == 0.0
    assert report["elements_per_device"] < 0.35 * report["elements"]  # a quarter each, and the small ones whole


def test_a_checkpoint_of_one_mesh_loads_on_others_and_split_parameters_act_the_same(devices):
    report = json.loads((devices / "report.json").read_text())
    assert report["restored"] == {"1": 0.0, "8x1": 0.0, "4x2": 0.0, "1x8": 0.0}
    assert report["actions"] < 1e-5


def test_a_checkpoint_of_eight_devices_loads_in_a_process_that_has_one(devices):
    assert jax.device_count() == 1
    state = load_train_state(devices, TinyRun("muon-lora", make_mesh()).start())
    assert int(state.step) == 2


def test_two_processes_train_save_and_one_resumes_on_the_curve_of_a_single_run(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    variables = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2"}
    processes = [start("processes", tmp_path / "two", JAX_PROCESS_ID=str(i), **variables) for i in range(2)]
    losses = [json.loads(finish(process).splitlines()[-1]) for process in processes]

    run = TinyRun("linear", make_mesh())
    alone, expected = run.steps(run.start(), 2)
    for mine in losses:
        np.testing.assert_allclose(mine, expected, rtol=1e-5)
    with Checkpoints(tmp_path / "one") as checkpoints:
        checkpoints.save(alone, make_meta())
    resumed = load_train_state(tmp_path / "two", like=run.start())
    assert difference(resumed.params, alone.params) < 1e-5
    (resumed, loss), (alone, expected) = (run.steps(state, 2) for state in (resumed, alone))
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    assert difference(resumed.params, alone.params) < 1e-5


@pytest.mark.parametrize(
    ("shape", "fsdp", "expected"),
    [
        ((18, 2, 2048, 16384), 8, (None, None, None, "fsdp")),
        ((18, 8, 2048, 256), 8, (None, None, "fsdp")),
        ((257152, 2048), 8, ("fsdp",)),
        ((2048, 2048), 4, (None, "fsdp")),  # of equal axes the last
        ((2049, 1024), 8, (None, "fsdp")),  # the largest that can be divided
        ((1023, 1025), 8, ()),
        ((1024, 1024), 1, ()),
        ((2048,), 8, ()),
        ((), 8, ()),
    ],
)
def test_the_largest_axis_that_can_be_divided_is(shape, fsdp, expected):
    assert parameter_spec(shape, fsdp) == PartitionSpec(*expected)
    assert parameter_spec((MIN_SHARDED,), 2) == PartitionSpec("fsdp")
    assert parameter_spec((MIN_SHARDED - 2,), 2) == PartitionSpec()


def test_a_mesh_that_the_devices_do_not_fill_is_refused():
    with pytest.raises(ValueError, match=r"train.mesh.fsdp: 3 does not divide the 1 devices \(cpu\).*CUDA_VISIBLE"):
        make_mesh(3)
    with pytest.raises(ValueError, match="fsdp: 0 does not divide"):
        make_mesh(0)


def test_a_batch_on_one_device_stays_as_it_is():
    batch = {"state": np.arange(6.0, dtype=np.float32).reshape(3, 2)}
    placed = place_batch(make_mesh(), batch)
    np.testing.assert_array_equal(placed["state"], batch["state"])
