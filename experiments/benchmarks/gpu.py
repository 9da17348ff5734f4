"""What one GPU does with a pi0.5 of the real size, random weights, in at most 8 minutes; beside it PyTorch's pi0.

    python experiments/benchmarks/gpu.py --out FILE.json [--seconds 440] [--parts lora_step torch_inference] [--tiny]

Writes {"parts": {"lora_step", "full_step": samples_per_second, mfu, peak_gib, ...; "inference_2_cameras",
"inference_3_cameras", "guided", "trained": median_ms, p99_ms, mfu, ...; "torch_inference_2_cameras",
"torch_inference_3_cameras", "torch_step"}, "compared": {"guided_overhead", "trained_overhead", "..._speedup"}}.
Steps: batch 32, or the half, quarter or eighth that fits; AdamW, no average. Inference: batch 1, 10 Euler steps,
bytes of the images to the finished chunk; real-time chunking ("guided", "trained") with 2 cameras. PyTorch:
transformers' pi0 at the same image, prompt and chunk lengths (it has a state token more and no adaptive norms).

Every part has a process, and the GPU's memory, of its own; what cannot run says why: "skipped" (time, memory, a missing
package) or "failed". Needs JAX, Flax and Optax, for PyTorch's parts torch and transformers, and no installation of this
project, data or network. --tiny: sizes that a CPU runs in seconds.
"""

import argparse
import dataclasses
import functools
import json
import os
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
try:
    import jaxtyping as jaxtyping
except ImportError:  # it only names shapes, which nothing but our tests checks
    _Anything = type("_Anything", (), {"__class_getitem__": classmethod(lambda cls, item: Any)})
    sys.modules["jaxtyping"] = types.ModuleType("jaxtyping")
    vars(sys.modules["jaxtyping"]).update(dict.fromkeys(("Array", "Bool", "Float", "Int"), _Anything))

import jax
import numpy as np

from dexhil.models.config import PI05, PI05_TINY, VLAConfig
from dexhil.models.sampling import Prefix, sample_actions
from dexhil.models.vla import abstract_params
from dexhil.transforms.normalization import images_to_float
from experiments.benchmarks import measure, torch_pi0
from experiments.benchmarks.flops import inference_work, peaks, utilisation
from experiments.benchmarks.measure import TrainingCase, milliseconds, random_inputs
from experiments.benchmarks.result import parser, write_result

BATCHES = (32, 16, 8, 4)
STEPS = 10  # of training, timed after a first
SECONDS = 440.0  # of 480: starting and ending take some
SHORTEST_S = 5.0  # a part that would have less is not begun


def model_of(tiny: bool, cameras: int = 2) -> VLAConfig:
    return measure.with_cameras(PI05_TINY if tiny else PI05, cameras)


def step_part(mode: str, tiny: bool) -> dict[str, Any]:
    """A training step at the largest batch that fits."""
    model = measure.adapted(model_of(tiny)) if mode == "lora" else model_of(tiny)
    peak, batches = peaks(jax.devices()[0].device_kind)[0], (2,) if tiny else BATCHES
    for batch in batches:
        case = TrainingCase(mode, batch, optimizer="adamw", ema="off")
        make_batch = functools.partial(random_inputs, model, batch)
        try:
            return {"batch_size": batch} | measure.measure_training(model, case, make_batch, STEPS, peak)
        except MemoryError as error:
            if batch == batches[-1]:
                raise MemoryError(f"batch {batch} {error}") from error
    return {}


def inference_part(cameras: int, rtc: str, tiny: bool) -> dict[str, Any]:
    """One chunk after the other, as a policy makes them, without preparing its inputs."""
    model = dataclasses.replace(model_of(tiny, cameras).base(), param_dtype="bfloat16")
    shapes = abstract_params(model)
    measure.check_memory(sum(leaf.size * 2 for leaf in jax.tree.leaves(shapes)) / 2**30)
    params, inputs = measure.random_params(model, "bfloat16"), random_inputs(model, 1)
    remaining = np.zeros((1, model.chunk, model.action_dim), np.float32)
    prefix = None if rtc == "none" else Prefix(remaining, np.int32(model.chunk // 2), np.int32(2))  # pyright: ignore[reportArgumentType]

    @jax.jit
    def sample(params: Any, inputs: Any, prefix: Any) -> jax.Array:
        floats = {**inputs, "images": images_to_float(inputs["images"])}
        way: Any = "guided" if rtc == "none" else rtc
        return sample_actions(params, model, floats, jax.random.key(0), prefix=prefix, rtc=way)

    infer = sample.lower(params, inputs, prefix).compile()
    milliseconds(lambda: np.asarray(infer(params, inputs, prefix)), 3)
    wall, _ = milliseconds(lambda: np.asarray(infer(params, inputs, prefix)), 5 if tiny else 200)
    work = inference_work(model, shapes, 10, guided=rtc == "guided")
    return measure.summary(wall) | utilisation(work, float(np.median(wall)) / 1e3, jax.devices()[0].device_kind)


def torch_part(name: str, tiny: bool, cameras: int = 2) -> dict[str, Any]:
    """PyTorch's pi0, inference or a training step."""
    model = model_of(tiny, cameras)
    if name == "inference":
        return torch_pi0.time_inference(model, random_inputs(model, 1), 5 if tiny else 100)
    batches = (2,) if tiny else BATCHES
    return torch_pi0.time_step(model, [functools.partial(random_inputs, model, batch) for batch in batches], STEPS)


PARTS: dict[str, Callable[[bool], dict[str, Any]]] = {  # in the order of their worth: the last ones may find no time
    "lora_step": functools.partial(step_part, "lora"),
    "inference_2_cameras": functools.partial(inference_part, 2, "none"),
    "torch_inference_2_cameras": functools.partial(torch_part, "inference"),
    "full_step": functools.partial(step_part, "full"),
    "guided": functools.partial(inference_part, 2, "guided"),
    "trained": functools.partial(inference_part, 2, "trained"),
    "inference_3_cameras": functools.partial(inference_part, 3, "none"),
    "torch_step": functools.partial(torch_part, "step"),
    "torch_inference_3_cameras": functools.partial(torch_part, "inference", cameras=3),
}


def run_here(name: str, tiny: bool) -> dict[str, Any]:
    """One part in this process; what it lacks instead of a traceback."""
    try:
        return PARTS[name](tiny)
    except (MemoryError, ImportError) as error:
        return {"skipped": str(error)}
    except Exception as error:
        return {"failed": f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"}


def run_part(name: str, tiny: bool, seconds: float) -> dict[str, Any]:
    """One part in a process of its own, for so many seconds at most."""
    if seconds < SHORTEST_S:
        return {"skipped": "no time was left; give more --seconds, or fewer --parts"}
    environ = os.environ | {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.95"}
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "part.json"
        line = [sys.executable, __file__, "--out", str(out), "--only", name, *(["--tiny"] if tiny else [])]
        try:
            done = subprocess.run(line, env=environ, timeout=seconds, capture_output=True, text=True)
        except subprocess.TimeoutExpired:
            return {"skipped": f"stopped after {seconds:.0f} s, when the time was used up; give more --seconds"}
        if not out.exists():
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            return {"failed": f"exit status {done.returncode}: {last}"}
        return json.loads(out.read_text()) | {"seconds": time.perf_counter() - began}


def compare(parts: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Overheads of real-time chunking, and our speed over PyTorch's, of what was measured."""
    found: dict[str, float] = {}

    def note(name: str, key: str, above: str, below: str, offset: float = 0.0) -> None:
        if key in parts.get(above, {}) and key in parts.get(below, {}):
            found[name] = parts[above][key] / parts[below][key] - offset

    for name in ("guided", "trained"):
        note(f"{name}_overhead", "median_ms", name, "inference_2_cameras", 1.0)
    for name in ("inference_2_cameras", "inference_3_cameras"):
        note(f"{name}_speedup", "median_ms", f"torch_{name}", name)
    note("step_speedup", "samples_per_second", "full_step", "torch_step")
    return found


def main(arguments: list[str] | None = None) -> None:
    command = parser(__doc__)
    command.add_argument("--seconds", type=float, default=SECONDS, help="of all parts together")
    command.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    command.add_argument("--tiny", action="store_true", help="sizes for a CPU, to try the command")
    command.add_argument("--only", choices=PARTS, help=argparse.SUPPRESS)  # a part, in its own process
    options = command.parse_args(arguments)
    if options.only:
        options.out.write_text(json.dumps(run_here(options.only, options.tiny)))
        return
    end, parts = time.monotonic() + options.seconds, {}
    for name in options.parts:
        parts[name] = run_part(name, options.tiny, end - time.monotonic())
        print(f"{name}: {parts[name]}", flush=True)
    result = {"benchmark": "gpu", "tiny": options.tiny, "machine": measure.jax_machine(), "parts": parts}
    write_result(options.out, result | {"compared": compare(parts)})


if __name__ == "__main__":
    main()
