"""A few steps of small models on synthetic data, on any mesh and any number of processes, in processes of its own.

python -m tests.training.tiny_run devices OUT         8 devices against one: writes OUT/report.json and a checkpoint
python -m tests.training.tiny_run processes WORKDIR   one process of several (JAX_* variables): 2 steps, a checkpoint
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from data_pipeline.sampler import sample_indices
from dexhil.models.config import TINY, VLAConfig
from dexhil.models.sampling import sample_actions
from dexhil.models.vla import flow_loss, init_params
from dexhil.training.checkpoints import CheckpointMeta, Checkpoints, load_train_state
from dexhil.training.config import OptimizerConfig, StepConfig
from dexhil.training.distributed import any_process, initialise, leave
from dexhil.training.optimizer import make_optimizer, schedule
from dexhil.training.partition import frozen_paths
from dexhil.training.sharding import make_mesh, parameter_shardings, place, place_batch
from dexhil.training.step import TrainState, make_state, make_train_step
from dexhil.transforms.normalization import Normalization, NormStats

SAMPLES, BATCH = 40, 8
SMALL = 64  # elements: nearly every weight is split
# Five layers are scanned, as in the real size, where two would be unrolled: quicker to compile.
MODEL = dataclasses.replace(TINY, cameras=("scene",), chunk=4, attention=dataclasses.replace(TINY.attention, depth=5))
ADAPTED = dataclasses.replace(
    MODEL, **{name: dataclasses.replace(getattr(MODEL, name), lora_rank=4) for name in ("lm", "expert")}
)


def linear_loss(params: Any, inputs: Any, key: jax.Array) -> jax.Array:
    """[B, H], with noise as flow matching has it."""
    predicted = inputs["state"][:, 3:] @ params["head"]["kernel"] + params["head"]["bias"]
    loss = jnp.square(predicted[:, None] - inputs["actions"][..., 3:]).mean(axis=-1)
    return loss * (1 + jax.random.uniform(key, loss.shape))


def policy_loss(config: VLAConfig, params: Any, inputs: Any, key: jax.Array) -> jax.Array:
    return flow_loss(params, config, inputs, key)


def linear_shapes(config: VLAConfig) -> Any:
    width = config.state_dim - 3  # 16: any mesh splits the kernel
    kernel, bias = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((width, width), (width,)))
    return {"head": {"kernel": kernel, "bias": bias}}


def policy_shapes(config: VLAConfig) -> Any:
    return jax.eval_shape(lambda key: init_params(config, key), jax.random.key(0))


@dataclasses.dataclass(frozen=True)
class Case:
    """optimizer: its name; make_shapes: of the parameters; freeze: patterns."""

    optimizer: Literal["muon", "adamw"]
    loss: Callable[..., jax.Array]
    make_shapes: Callable[[VLAConfig], Any]
    config: VLAConfig = MODEL
    freeze: tuple[str, ...] = ()


CASES = {
    "linear": Case("adamw", linear_loss, linear_shapes),
    # Vectors, embeddings and adapters are AdamW's here: one program, which takes long to compile, shows both.
    "muon-lora": Case(
        "muon", functools.partial(policy_loss, ADAPTED), policy_shapes, ADAPTED, ("PaliGemma/llm/embedder",)
    ),
}


class TinyRun:
    """Optimiser, step and data of one case on one mesh."""

    def __init__(self, case: str, mesh: Mesh) -> None:
        self.case, self.mesh, self._step = CASES[case], mesh, None
        options = OptimizerConfig(steps=20, optimizer=self.case.optimizer, warmup_steps=0, learning_rate=1e-3)
        self._optimizer, self._schedule = make_optimizer(options), schedule(options)

    def start(self) -> TrainState:
        params = random_params(self.case)
        frozen = frozen_paths(params, self.case.freeze)
        return make_state(params, self._optimizer, self.mesh, frozen=frozen, min_sharded=SMALL)

    def steps(self, state: TrainState, count: int) -> tuple[TrainState, list[float]]:
        """`count` more steps, on this process's part of every batch."""
        step = make_train_step(self.case.loss, self._optimizer, self._schedule, StepConfig(), state)
        losses, first = [], int(state.step)
        for number in range(first, first + count):
            rows = sample_indices(
                0,
                number,
                batch_size=BATCH,
                num_samples=SAMPLES,
                host=jax.process_index(),
                num_hosts=jax.process_count(),
            )
            part = jax.tree.map(lambda leaf, rows=rows: leaf[rows], samples(self.case.config))
            state, metrics = step(state, place_batch(self.mesh, part))
            losses.append(float(metrics["loss"]))
        return state, losses


@functools.cache
def samples(config: VLAConfig) -> dict[str, Any]:
    """The whole data set: random inputs, with masks and weights that differ."""
    rng, size = np.random.default_rng(5), config.image_size
    return {
        "images": {c: rng.integers(0, 256, (SAMPLES, size, size, 3), np.uint8) for c in config.cameras},
        "tokens": rng.integers(0, config.vocab_size, (SAMPLES, config.max_tokens), np.int32),
        "token_mask": rng.random((SAMPLES, config.max_tokens)) < 0.8,
        "state": rng.normal(size=(SAMPLES, config.state_dim)).astype(np.float32),
        "actions": rng.normal(size=(SAMPLES, config.chunk, config.action_dim)).astype(np.float32),
        "action_mask": rng.random((SAMPLES, config.chunk)) < 0.8,
        "weight": rng.uniform(0.2, 3, SAMPLES).astype(np.float32),
    }


def random_params(case: Case) -> Any:
    """Random everywhere: the zeros of fresh parameters would hide most gradients."""
    rng = np.random.default_rng(1)
    shapes = case.make_shapes(case.config)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0, 0.1, leaf.shape), jnp.float32), shapes)


def make_meta(config: VLAConfig = MODEL) -> CheckpointMeta:
    stats = NormStats(np.zeros(19, np.float32), np.ones(19, np.float32))
    return CheckpointMeta("fr3_dexhand021", 20.0, config, Normalization(stats, stats, (0,)), b"", {}, {})


def difference(left: Any, right: Any) -> float:
    """Largest relative error of a leaf: |a - b| / |b|."""
    pairs = [
        (np.asarray(a, np.float64), np.asarray(b, np.float64))
        for a, b in zip(*map(jax.tree.leaves, (left, right)), strict=True)
    ]
    return max(float(np.linalg.norm(a - b) / np.linalg.norm(b)) for a, b in pairs)


def compare_devices(out: Path) -> None:
    """Both models on (data 2, fsdp 4) and on one device; then a checkpoint of the one on the other."""
    report: dict[str, Any] = {}
    one, many = make_mesh(1, jax.devices()[:1]), make_mesh(4)
    for case in ("linear", "muon-lora"):
        runs = [TinyRun(case, mesh) for mesh in (one, many)]
        begin = runs[0].start()
        params, frozen = (jax.tree.map(np.array, tree) for tree in (begin.params, begin.frozen))
        (alone, losses), (state, sharded_losses) = runs[0].steps(begin, 2), runs[1].steps(runs[1].start(), 2)
        leaves = jax.tree.leaves((state.params, state.opt_state))
        report[case] = {
            "losses": [losses, sharded_losses],
            "params": difference(state.params, alone.params),
            "moved": difference(alone.params, params),
            "frozen": difference(state.frozen, frozen) if frozen else 0.0,
            "elements": sum(leaf.size for leaf in leaves),
            "elements_per_device": sum(leaf.addressable_shards[0].data.size for leaf in leaves),
        }
    with Checkpoints(out) as checkpoints:
        checkpoints.save(state, make_meta(ADAPTED))
    places = {"1": one, "8x1": make_mesh(1), "4x2": make_mesh(2), "1x8": make_mesh(8)}
    likes = {name: place(state, parameter_shardings(mesh, state, SMALL)) for name, mesh in places.items()}
    restored = {name: load_train_state(out, like) for name, like in likes.items()}
    report["restored"] = {name: difference(other.params, state.params) for name, other in restored.items()}
    report["actions"] = compare_actions(one, many)
    (out / "report.json").write_text(json.dumps(report))


def compare_actions(one: Mesh, many: Mesh) -> float:
    """Inference with split parameters and a split batch against one device."""
    data, actions = samples(MODEL), []
    inputs = {name: data[name][:BATCH] for name in ("tokens", "token_mask", "state")}
    inputs["images"] = {"scene": data["images"]["scene"][:BATCH].astype(np.float32) / 255}
    for mesh in (one, many):
        params = random_params(Case("adamw", linear_loss, policy_shapes))
        params = place(params, parameter_shardings(mesh, params, SMALL))
        actions.append(sample_actions(params, MODEL, place_batch(mesh, inputs), jax.random.key(3), num_steps=2))
    return difference(actions[1], actions[0])


def train_in_processes(workdir: Path) -> None:
    assert initialise(os.environ)
    assert any_process(jax.process_index() == 1)
    assert not any_process(False)
    run = TinyRun("linear", make_mesh(2))
    state, losses = run.steps(run.start(), 2)
    kernel = state.params["head"]["kernel"]
    assert kernel.addressable_shards[0].data.size == kernel.size // 2
    with Checkpoints(workdir) as checkpoints:
        checkpoints.save(state, make_meta())
    leave()
    print(json.dumps(losses), flush=True)


if __name__ == "__main__":
    {"devices": compare_devices, "processes": train_in_processes}[sys.argv[1]](Path(sys.argv[2]))
