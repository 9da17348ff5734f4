"""One optimiser step over pure trees: weighted masked loss, accumulation, EMA, metrics, and the non-finite stop.

Only `TrainState.params` is differentiated; the model sees it together with `TrainState.frozen`.

Letters: B batch, H chunk. The model comes in as `loss_fn(params, inputs, key) -> loss [B, H]`.
"""

import dataclasses
import functools
from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float

from dexhil.models.trees import Params, merge_trees, select
from dexhil.training.augment import AugmentConfig, augment
from dexhil.training.config import StepConfig
from dexhil.training.partition import cast_frozen, parameter_group, split_tree
from dexhil.training.sharding import MIN_SHARDED, parameter_shardings, place, place_like, to_device, to_host
from dexhil.transforms.normalization import images_to_float

EMA_EVERY = 10  # steps between two updates of an average that lives on the host

LossFn = Callable[[Params, dict[str, Any], jax.Array], jax.Array]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Everything that a step changes, and the frozen parameters beside it.

    Attributes:
        params: what is trained.
        ema_params: its average, in the host's memory where `StepConfig.ema` says so, None without.
        step: int32 scalar, the number of steps done, also the loader's position.
        frozen: all other parameters.
    """

    params: Params
    opt_state: Any
    ema_params: Params | None
    step: Any
    frozen: Params = dataclasses.field(default_factory=dict)


class NonFiniteError(ValueError):
    """The loss or a gradient is NaN or infinite; training must not go on."""


def init_state(params: Params, optimizer: optax.GradientTransformation, average: bool = True) -> TrainState:
    """State at step 0; takes the parameters over (copies make the EMA, since a step donates the state)."""
    ema = jax.tree.map(jnp.copy, params) if average else None
    return TrainState(params, optimizer.init(params), ema, jnp.zeros((), jnp.int32))


def make_state(
    params: Params,
    optimizer: optax.GradientTransformation,
    mesh: jax.sharding.Mesh,
    *,
    frozen: Collection[str] = (),
    frozen_dtype: str = "float32",
    ema: str = "device",
    min_sharded: int = MIN_SHARDED,
) -> TrainState:
    """State at step 0 over the devices of `mesh`; takes the parameters over, fresh or loaded, of any type.

    Leaves at `frozen` paths are kept in `frozen_dtype`, the others are trained in float32; `ema` is `StepConfig`'s.
    """
    trained, rest = split_tree(params, frozen)
    parts = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), trained), cast_frozen(rest, frozen_dtype)
    trained, rest = (place(part, parameter_shardings(mesh, part, min_sharded)) for part in parts)
    init = functools.partial(init_state, optimizer=optimizer, average=ema == "device")
    shardings = parameter_shardings(mesh, jax.eval_shape(init, trained), min_sharded)
    state = jax.jit(init, out_shardings=shardings, donate_argnums=0)(trained)
    average = to_host(state.params) if ema == "host" else state.ema_params
    return dataclasses.replace(state, frozen=rest, ema_params=average)


def start_from(params: Params, state: TrainState) -> TrainState:
    """A fresh `state` with `params`, the whole tree, as parameters and average: theta_{i-1} of DexHiL's round i."""
    trained = select(params, state.params)
    ema = None if state.ema_params is None else place_like(trained, state.ema_params)
    frozen = place_like(select(params, state.frozen), state.frozen)
    return dataclasses.replace(state, params=place_like(trained, state.params), ema_params=ema, frozen=frozen)


def policy_params(state: TrainState) -> Params:
    """All parameters, as a policy uses them: the averages where there are any, and the frozen ones."""
    return merge_trees(state.params if state.ema_params is None else state.ema_params, state.frozen)


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


def draw_delays(inputs: Mapping[str, Any], key: jax.Array, max_delay: int) -> dict[str, Any]:
    """Training-time real-time chunking: adds "delay" [B], uniform in 0..max, the first actions that are given.

    They leave the mask, hence the loss and what it is divided by. 0 changes nothing. Source: arXiv 2512.05964.
    """
    if not max_delay:
        return dict(inputs)
    mask = inputs["action_mask"]
    # A key of its own: noise and augmentation stay those of a run without delays.
    delay = jax.random.randint(jax.random.fold_in(key, max_delay), mask.shape[:1], 0, max_delay + 1)
    rest = jnp.arange(mask.shape[1]) >= delay[:, None]
    return {**inputs, "delay": delay, "action_mask": mask & rest}


def _gradients(
    loss_fn: LossFn, params: Params, frozen: Params, inputs: dict[str, Any], key: jax.Array, config: StepConfig
) -> tuple[jax.Array, Params]:
    def numerator(params: Params, part: dict[str, Any], key: jax.Array) -> tuple[jax.Array, jax.Array]:
        augment_key, noise_key = jax.random.split(key)
        images = images_to_float(part["images"])
        images = augment(images, augment_key, AugmentConfig()) if config.augment else images
        part = draw_delays({**part, "images": images}, key, config.rtc_max_delay)
        loss = loss_fn(merge_trees(params, frozen), part, noise_key)
        return weighted_loss(loss, part["action_mask"], part["weight"])

    value_and_grad = jax.value_and_grad(numerator, has_aux=True)
    if config.accumulation == 1:
        (total, count), gradient = value_and_grad(params, inputs, key)
    else:
        (total, count), gradient = _accumulate(value_and_grad, params, inputs, key, config.accumulation)
    count = jnp.maximum(count, 1.0)
    return total / count, jax.tree.map(lambda g: g / count, gradient)


def _accumulate(value_and_grad: Callable, params: Params, inputs: dict[str, Any], key: jax.Array, pieces: int) -> Any:
    """Sums of ((numerator, count), gradient) over micro-batches, each with rows of every device's part: none moves."""
    batch = len(inputs["action_mask"])
    if batch % pieces:
        raise ValueError(f"accumulation: {pieces} micro-batches do not divide batch_size {batch}; choose a divisor")
    parts = jax.tree.map(lambda x: x.reshape(batch // pieces, pieces, *x.shape[1:]).swapaxes(0, 1), inputs)

    def add(carry: Any, part_and_key: Any) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, carry, value_and_grad(params, *part_and_key)), None

    zero = ((jnp.zeros(()), jnp.zeros(())), jax.tree.map(jnp.zeros_like, params))
    return jax.lax.scan(add, zero, (parts, jax.random.split(key, pieces)))[0]


def _group_norms(gradient: Params) -> dict[str, jax.Array]:
    groups: dict[str, list[jax.Array]] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        groups.setdefault(parameter_group(path), []).append(leaf)
    return {f"grad_norm/{name}": optax.tree.norm(leaves) for name, leaves in groups.items()}


def make_train_step(
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    learning_rate: optax.Schedule,
    config: StepConfig,
    like: TrainState | None = None,
    *,
    seed: int = 0,
) -> Any:
    """The jitted step: (state, inputs on the device) -> (state, metrics). The given state is donated: do not reuse it.

    Inputs are those of `model_inputs`, with actions; metrics scalars loss, grad_norm, lr, param_norm and
    grad_norm/<`parameter_group`>. The new state lives where `like` does; `seed` is of noise and augmentation.
    """

    def train_step(state: TrainState, inputs: dict[str, Any]) -> tuple[TrainState, dict[str, jax.Array]]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        loss, gradient = _gradients(loss_fn, state.params, state.frozen, inputs, key, config)
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        params: Any = optax.apply_updates(state.params, updates)
        ema = state.ema_params
        if ema is not None:
            ema = _average(ema, params, ema_decay_at(config.ema_decay, state.step))
        metrics = {
            "loss": loss,
            "grad_norm": optax.tree.norm(gradient),
            "lr": learning_rate(state.step),
            "param_norm": optax.tree.norm(params),
            **_group_norms(gradient),
        }
        return TrainState(params, opt_state, ema, state.step + 1, state.frozen), metrics

    if like is not None and config.ema == "host":
        like = dataclasses.replace(like, ema_params=None)
    out = None if like is None else (jax.tree.map(lambda leaf: leaf.sharding, like), None)
    jitted = jax.jit(train_step, donate_argnums=0, out_shardings=out)
    return functools.partial(_step_with_host_average, jitted, config) if config.ema == "host" else jitted


def _average(ema: Params, params: Params, decay: jax.Array) -> Params:
    return jax.tree.map(lambda e, p: decay * e + (1 - decay) * p, ema, params)


def _step_with_host_average(step: Any, config: StepConfig, state: TrainState, inputs: dict[str, Any]) -> Any:
    ema, done = state.ema_params, int(state.step) + 1
    state, metrics = step(dataclasses.replace(state, ema_params=None), inputs)
    if done % EMA_EVERY == 0:
        decay = jnp.prod(ema_decay_at(config.ema_decay, jnp.arange(done - EMA_EVERY, done)))
        ema = jax.tree.map(lambda e, p: to_host(_average_leaf(to_device(e), p, decay)), ema, state.params)
    return dataclasses.replace(state, ema_params=ema), metrics


_average_leaf = jax.jit(_average, donate_argnums=0)


def make_eval_loss(loss_fn: LossFn) -> Callable[[Params, dict[str, Any], jax.Array], Any]:
    """Jitted (params, inputs, key) -> (sum(mask l), sum(mask)): add them over batches, then divide. No augmentation."""

    def eval_loss(params: Params, inputs: dict[str, Any], key: jax.Array) -> tuple[jax.Array, jax.Array]:
        loss = loss_fn(params, {**inputs, "images": images_to_float(inputs["images"])}, key)
        return weighted_loss(loss, inputs["action_mask"], jnp.ones_like(inputs["weight"]))

    return jax.jit(eval_loss)


def check_finite(metrics: Mapping[str, Any], step: int, indices: Any = None) -> None:
    """Waits for a step and stops a training that went wrong in it; call it before the state is saved.

    Raises:
        NonFiniteError: the loss or the gradient norm is not finite; names the samples of the batch, `indices`.
    """
    values = {name: float(np.asarray(metrics[name])) for name in ("loss", "grad_norm")}
    if np.isfinite(list(values.values())).all():
        return
    samples = "" if indices is None else f" on samples {np.asarray(indices).tolist()}"
    raise NonFiniteError(
        f"step {step}{samples}: loss = {values['loss']}, grad_norm = {values['grad_norm']}, expected finite numbers. "
        "The last checkpoint is from before this step; check these samples, or lower the learning rate"
    )
