"""The GPU benchmark on a CPU: tiny sizes, parts that do not run say why, nothing of the lock is imported."""

import json
import subprocess
import sys
from typing import Any

import pytest

from dexhil.commands import REPOSITORY
from experiments.benchmarks import gpu, measure
from experiments.benchmarks.measure import TrainingCase, random_inputs, state_gib

ABSENT = (  # of the lock; absl, etils and Orbax come with Flax
    *("ml_collections", "sentencepiece", "jaxtyping", "tensorflow", "tensorflow_datasets", "mujoco", "simplejpeg"),
    *("websockets", "imageio", "matplotlib", "jinja2", "viser", "beartype", "cv2"),
)
BARE = f"""
import sys
import flax.nnx, optax
sys.modules.update(dict.fromkeys({ABSENT!r}))  # None there: the import fails
from experiments.benchmarks import gpu
gpu.main(["--out", sys.argv[1], "--only", "inference_2_cameras", "--tiny"])
"""


def test_a_part_runs_on_jax_and_flax_alone(tmp_path):
    out = tmp_path / "part.json"
    subprocess.run([sys.executable, "-c", BARE, str(out)], check=True)
    part = json.loads(out.read_text())
    assert 0 < part["median_ms"] <= part["p99_ms"], part
    assert part["tflop"] > 0


def test_parts_without_time_say_so(tmp_path, monkeypatch):
    out = tmp_path / "all.json"
    gpu.main(["--out", str(out), "--tiny", "--seconds", "1", "--parts", "lora_step", "guided"])
    result = json.loads(out.read_text())
    assert [part["skipped"] for part in result["parts"].values()] == [
        "no time was left; give more --seconds, or fewer --parts"
    ] * 2
    assert result["compared"] == {}
    monkeypatch.setattr(gpu, "SHORTEST_S", 0.0)
    assert gpu.run_part("guided", True, 0.5)["skipped"].startswith("stopped after 0 s, when the time was used up")


def test_what_a_part_lacks_is_its_result(monkeypatch):
    def lacking(tiny):
        raise ImportError("transformers 4.9 has no pi0; it came with 5.0")

    def broken(tiny):
        raise RuntimeError("first line\nsecond line")

    monkeypatch.setitem(gpu.PARTS, "guided", lacking)
    assert gpu.run_here("guided", True) == {"skipped": "transformers 4.9 has no pi0; it came with 5.0"}
    monkeypatch.setitem(gpu.PARTS, "guided", broken)
    assert gpu.run_here("guided", True) == {"failed": "RuntimeError: first line"}


@pytest.mark.parametrize("name", ["full_step", "inference_3_cameras"])
def test_too_little_memory_is_found_before_it_is_used(name, monkeypatch):
    monkeypatch.setattr(measure.os, "sysconf", lambda name: 1 << 14)  # 0.25 GiB
    monkeypatch.setattr(measure, "random_params", lambda *_: pytest.fail("allocated"))
    assert "GiB, cpu has 0.2 GiB" in gpu.run_here(name, False)["skipped"]


def test_a_step_s_state_is_counted():
    model = gpu.model_of(tiny=True)
    shapes = measure.abstract_params(model)
    count = sum(leaf.size for leaf in measure.jax.tree.leaves(shapes))
    gib = {ema: state_gib(shapes, [], TrainingCase(optimizer="adamw", ema=ema)) for ema in ("off", "device")}
    assert gib["off"] * 2**30 == 16 * count  # weight, gradient and two averages, 4 bytes each
    assert gib["device"] * 2**30 == 20 * count


def test_random_inputs_train_a_step():
    model = gpu.model_of(tiny=True)
    case = TrainingCase("full", 2, optimizer="adamw", ema="off")
    found: Any = measure.measure_training(model, case, lambda: random_inputs(model, 2), 1, peak=1.0)
    assert found["samples_per_second"] > 0
    assert found["mfu"] == pytest.approx(found["samples_per_second"] * found["tflops_per_sample"])


def test_figures_are_compared_where_both_are_there():
    parts = {
        "inference_2_cameras": {"median_ms": 50.0},
        "guided": {"median_ms": 75.0},
        "trained": {"skipped": "no time"},
        "torch_inference_2_cameras": {"median_ms": 100.0},
        "full_step": {"samples_per_second": 30.0},
        "torch_step": {"samples_per_second": 20.0},
    }
    assert gpu.compare(parts) == {"guided_overhead": 0.5, "inference_2_cameras_speedup": 2.0, "step_speedup": 1.5}


@pytest.mark.parametrize("folder", ["experiments", "experiments/benchmarks", "hardware"])
def test_no_command_hides_a_module_of_python(folder):
    """The folder of a script comes first on its path: `operator.py` there stops every other one."""
    assert not {path.stem for path in (REPOSITORY / folder).glob("*.py")} & sys.stdlib_module_names
