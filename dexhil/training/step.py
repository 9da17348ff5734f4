"""One optimiser step over pure trees: weighted masked loss, accumulation, EMA, metrics, and the non-finite stop.

Letters: B batch, H chunk. The model comes in as `loss_fn(params, inputs, key) -> loss [B, H]`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float

from dexhil.augment import AugmentConfig, augment
from dexhil.transforms import images_to_float

Params = Any  # a nested dict of arrays
LossFn = Callable[[Params, dict[str, Any], jax.Array], jax.Array]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Everything that a step changes. step: int32 scalar, the number of steps done, also the loader's position."""

    params: Params
    opt_state: Any
    ema_params: Params
    step: Any


@dataclasses.dataclass(frozen=True)
class StepConfig:
    """seed: of noise and augmentation, folded with the step. accumulate: micro-batches per step (B a multiple of it).
    ema_decay: 0 turns the average off. augment: None for none. rtc_max_delay: see `draw_delays`.
    """

    seed: int = 0
    accumulate: int = 1
    ema_decay: float = 0.999
    augment: AugmentConfig | None = None
    rtc_max_delay: int = 0


class NonFiniteError(ValueError):
    """The loss or a gradient is NaN or infinite; training must not go on."""


def init_state(params: Params, optimizer: optax.GradientTransformation) -> TrainState:
    """State at step 0; takes the parameters over (copies make the EMA, since a step donates the state)."""
    ema = jax.tree.map(jnp.copy, params)
    return TrainState(params, optimizer.init(params), ema, jnp.zeros((), jnp.int32))


def start_from(params: Params, state: TrainState) -> TrainState:
    """`state`, a fresh one, with `params` as its parameters and as their average: theta_{i-1} of DexHiL's round i."""
    return dataclasses.replace(state, params=params, ema_params=jax.tree.map(jnp.copy, params))


def weighted_loss(
    loss: Float[Array, "B H"], mask: Bool[Array, "B H"], weight: Float[Array, " B"]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Numerator sum(mask w l) and denominator sum(mask) of loss [B, H], mask [B, H], weight [B] (DexHiL eq. 10).

    Divided by the mask, not by the batch's weights: that would bias P* (w has mean 1 over the data set).
    """
    return (mask * weight[:, None] * loss.astype(jnp.float32)).sum(), mask.sum(dtype=jnp.float32)


def ema_decay_at(decay: float, step: jax.Array) -> jax.Array:
    """Decay of step n (from 0): min(decay, (1 + n) / (10 + n)), so that a short run does not average in its start."""
    step = step.astype(jnp.float32)
    return jnp.minimum(decay, (1.0 + step) / (10.0 + step))


def _prepare(inputs: Mapping[str, Any], key: jax.Array, config: AugmentConfig | None) -> dict[str, Any]:
    """Images to float, augmented where there is a configuration."""
    images = images_to_float(inputs["images"])
    if config is not None:
        images = augment(images, key, config)
    return {**inputs, "images": images}


def draw_delays(inputs: Mapping[str, Any], key: jax.Array, max_delay: int) -> dict[str, Any]:
    """Inputs of training-time real-time chunking: of each sample the first d actions are given, d uniform in 0..max.

    Adds "delay" [B], which the loss reads, and takes these actions out of the mask, hence out of the loss and of what
    it is divided by. max_delay 0 changes nothing. Source: arXiv 2512.05964.
    """
    if not max_delay:
        return dict(inputs)
    mask = inputs["action_mask"]
    # A key of its own: noise and augmentation stay those of a run without delays.
    delay = jax.random.randint(jax.random.fold_in(key, max_delay), mask.shape[:1], 0, max_delay + 1)
    rest = jnp.arange(mask.shape[1]) >= delay[:, None]
    return {**inputs, "delay": delay, "action_mask": mask & rest}


def _gradients(
    loss_fn: LossFn, params: Params, inputs: dict[str, Any], key: jax.Array, config: StepConfig
) -> tuple[jax.Array, Params]:
    """Loss and gradient of the whole batch, over `accumulate` micro-batches: the same as in one piece."""

    def numerator(params: Params, part: dict[str, Any], key: jax.Array) -> tuple[jax.Array, jax.Array]:
        augment_key, noise_key = jax.random.split(key)
        part = draw_delays(_prepare(part, augment_key, config.augment), key, config.rtc_max_delay)
        loss = loss_fn(params, part, noise_key)
        return weighted_loss(loss, part["action_mask"], part["weight"])

    value_and_grad = jax.value_and_grad(numerator, has_aux=True)
    if config.accumulate == 1:
        (total, count), gradient = value_and_grad(params, inputs, key)
    else:
        (total, count), gradient = _accumulate(value_and_grad, params, inputs, key, config.accumulate)
    count = jnp.maximum(count, 1.0)
    return total / count, jax.tree.map(lambda g: g / count, gradient)


def _accumulate(value_and_grad: Callable, params: Params, inputs: dict[str, Any], key: jax.Array, pieces: int) -> Any:
    """Sums of ((numerator, count), gradient) over the micro-batches, one at a time in memory."""
    batch = len(inputs["action_mask"])
    if batch % pieces:
        raise ValueError(f"accumulate: {pieces} micro-batches do not divide batch_size {batch}; choose a divisor")
    parts = jax.tree.map(lambda x: x.reshape(pieces, x.shape[0] // pieces, *x.shape[1:]), inputs)

    def add(carry: Any, part_and_key: Any) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, carry, value_and_grad(params, *part_and_key)), None

    zero = ((jnp.zeros(()), jnp.zeros(())), jax.tree.map(jnp.zeros_like, params))
    return jax.lax.scan(add, zero, (parts, jax.random.split(key, pieces)))[0]


def parameter_group(path: tuple[Any, ...]) -> str:
    """Which part of the VLA a leaf belongs to, by its path: "vision", "language" or "expert"."""
    names = [key.key for key in path]
    if names[:2] == ["PaliGemma", "img"]:
        return "vision"
    in_language = names[0] == "PaliGemma" and not any(name.endswith("_1") for name in names)
    return "language" if in_language else "expert"


def _group_norms(gradient: Params) -> dict[str, jax.Array]:
    groups: dict[str, list[jax.Array]] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        groups.setdefault(parameter_group(path), []).append(leaf)
    return {f"grad_norm/{name}": optax.tree.norm(leaves) for name, leaves in groups.items()}


def make_train_step(
    loss_fn: LossFn, optimizer: optax.GradientTransformation, learning_rate: optax.Schedule, config: StepConfig
) -> Callable[[TrainState, dict[str, Any]], tuple[TrainState, dict[str, jax.Array]]]:
    """The jitted step: (state, inputs on the device) -> (state, metrics). The given state is donated: do not reuse it.

    inputs: as from `model_inputs`, with actions. metrics: scalars loss, grad_norm, lr, param_norm and
    grad_norm/<group>, see `parameter_group`.
    """

    def train_step(state: TrainState, inputs: dict[str, Any]) -> tuple[TrainState, dict[str, jax.Array]]:
        key = jax.random.fold_in(jax.random.key(config.seed), state.step)
        loss, gradient = _gradients(loss_fn, state.params, inputs, key, config)
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        decay = ema_decay_at(config.ema_decay, state.step)
        ema = jax.tree.map(lambda e, p: decay * e + (1 - decay) * p, state.ema_params, params)
        metrics = {
            "loss": loss,
            "grad_norm": optax.tree.norm(gradient),
            "lr": learning_rate(state.step),
            "param_norm": optax.tree.norm(params),
            **_group_norms(gradient),
        }
        return TrainState(params, opt_state, ema, state.step + 1), metrics

    return jax.jit(train_step, donate_argnums=0)


def make_eval_loss(loss_fn: LossFn) -> Callable[[Params, dict[str, Any], jax.Array], Any]:
    """Jitted (params, inputs, key) -> (sum(mask l), sum(mask)): add them over batches, then divide. No augmentation."""

    def eval_loss(params: Params, inputs: dict[str, Any], key: jax.Array) -> tuple[jax.Array, jax.Array]:
        part = _prepare(inputs, key, None)
        loss = loss_fn(params, part, key)
        return weighted_loss(loss, part["action_mask"], jnp.ones_like(part["weight"]))

    return jax.jit(eval_loss)


def check_finite(metrics: Mapping[str, Any], step: int, indices: Any = None) -> None:
    """Raises NonFiniteError where the loss or the gradient norm of `step` is not finite. Waits for that step.

    Call it before the state is saved. indices: the samples of the batch, for the message.
    """
    values = {name: float(np.asarray(metrics[name])) for name in ("loss", "grad_norm")}
    if all(np.isfinite(value) for value in values.values()):
        return
    samples = "" if indices is None else f" on samples {np.asarray(indices).tolist()}"
    raise NonFiniteError(
        f"step {step}{samples}: loss = {values['loss']}, grad_norm = {values['grad_norm']}, expected finite numbers. "
        "The last checkpoint is from before this step; check these samples, or lower the learning rate"
    )
