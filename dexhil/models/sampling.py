"""A chunk from the flow, and real-time chunking (RTC): a chunk that goes on from the one that is being executed.

Letters as in `vla.py`; t = 1 is data. While the next chunk is computed, the robot executes d more actions of the last
one. Of that chunk R actions remain when the new observation is made; s = H - R is the execution horizon.

Guided RTC (arXiv 2506.07339) pulls a flow towards the remaining actions Y. By x_t = (1 - t) x_0 + t a and v = a - x_0
the flow heads for a(x) = x + (1 - t) v. Model what remains as Y ~ N(a(x), r^2), weighted by W; r^2 = (1 - t)^2 / (t^2 +
(1 - t)^2) is the variance of a given x_t where a is standard normal. Its score is g = (da/dx)^T W (Y - a) / r^2. On
this path E[x_0] = -(1 - t) score and E[a] = (x - (1 - t) E[x_0]) / t, so g adds (1 - t) / t g to v = E[a] - E[x_0]:

    v <- v + min(beta, (1 - t) / (t r^2)) (da/dx)^T W (Y - a)

with the whole Jacobian, through the denoiser. Trained RTC (arXiv 2512.05964) needs no gradient: a flow trained with
clean first actions (`step.draw_delays`) is given the d committed actions at time 1 in every step.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from dexhil.models.config import VLAConfig
from dexhil.models.vla import Inputs, Params, bind

BETA = 5.0  # guidance at most, as in the paper
Rtc = Literal["guided", "trained"]
Field = Callable[[Float[Array, "B H W"], Float[Array, " B"]], Float[Array, "B H W"]]  # velocity at x and t


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Prefix:
    """What the new chunk goes on from. actions: Y, normalised, rows from R on are ignored. length: R; delay: d <= R.

    Traced numbers of fixed shape, so that another delay compiles nothing. See `check_horizon` for what they may be.
    """

    actions: Float[Array, "B H A"]
    length: Int[Array, ""]
    delay: Int[Array, ""]


@functools.partial(jax.jit, static_argnames=("config", "num_steps", "rtc"))
def sample_actions(
    params: Params,
    config: VLAConfig,
    inputs: Inputs,
    key: jax.Array,
    num_steps: int = 10,
    prefix: Prefix | None = None,
    rtc: Rtc = "guided",
) -> Float[Array, "B H A"]:
    """Normalised actions by `num_steps` Euler steps from noise (t = 0) to data (t = 1); they go on from a `prefix`."""
    model = bind(params, dataclasses.replace(config, remat=False))  # there is no memory to save at a batch of one
    kv, prefix_mask, _ = model.encode_prefix(inputs["images"], inputs["tokens"], inputs["token_mask"])

    def field(x: Array, t: Array) -> Array:
        return model.denoise(kv, prefix_mask, x[:, None], t.reshape(len(t), 1, -1), inputs["state"])[:, 0]

    noise = jax.random.normal(key, (len(inputs["state"]), config.chunk, config.padded_action_dim))
    if prefix is None:
        x = integrate(field, noise, num_steps)
    elif rtc == "guided":
        x = integrate(guided(field, prefix), noise, num_steps)
    else:
        after, pin = committed(field, prefix, noise.shape[-1])
        x = integrate(after, noise, num_steps, pin)
    return x[..., : config.action_dim]


def integrate(
    field: Field, noise: Float[Array, "B H W"], num_steps: int, pin: Callable[[Array], Array] = lambda x: x
) -> Float[Array, "B H W"]:
    """Euler steps of `field` from t = 0 to 1. pin: applied to x before every step and at the end."""

    def step(index: Array, x: Array) -> Array:
        x = pin(x)
        return x + field(x, jnp.full((len(x),), index / num_steps)) / num_steps

    return pin(jax.lax.fori_loop(0, num_steps, step, noise))


def prefix_weights(chunk: int, length: Int[Array, ""] | int, delay: Int[Array, ""] | int) -> Float[Array, " H"]:
    """W_i: 1 for i < d, c (e^c - 1) / (e - 1) with c = (R - i) / (R - d + 1) for d <= i < R = H - s, then 0."""
    index = jnp.arange(chunk)
    c = (length - index) / (length - delay + 1)
    soft = jnp.where(index < length, c * jnp.expm1(c) / jnp.expm1(1.0), 0.0)
    return jnp.where(index < delay, 1.0, soft)


def guided(field: Field, prefix: Prefix, beta: float = BETA) -> Field:
    """The field, pulled towards the prefix. Where the model's width exceeds the actions', the rest is left alone."""
    width = prefix.actions.shape[-1]
    weights = prefix_weights(prefix.actions.shape[1], prefix.length, prefix.delay)[:, None]

    def velocity(x: Array, t: Array) -> Array:
        def head_for(x: Array) -> tuple[Array, Array]:
            v = field(x, t)
            return x + (1 - t)[:, None, None] * v, v

        data, pull_back, v = jax.vjp(head_for, x, has_aux=True)
        error = weights * (prefix.actions - data[..., :width])
        (pull,) = pull_back(jnp.pad(error, ((0, 0), (0, 0), (0, x.shape[-1] - width))))
        gain = jnp.minimum(beta, (t**2 + (1 - t) ** 2) / (t * (1 - t)))  # infinite at t = 0: beta
        return v + gain[:, None, None] * pull

    return velocity


def committed(
    field: Callable[[Array, Float[Array, "B H"]], Array], prefix: Prefix, width: int
) -> tuple[Field, Callable[[Array], Array]]:
    """The field at time 1 for the first d actions, and the function that puts these into x [B H width]."""
    is_prefix = jnp.arange(prefix.actions.shape[1]) < prefix.delay
    actions = jnp.pad(prefix.actions, ((0, 0), (0, 0), (0, width - prefix.actions.shape[-1])))

    def velocity(x: Array, t: Array) -> Array:
        return field(x, jnp.where(is_prefix, 1.0, t[:, None]))

    return velocity, lambda x: jnp.where(is_prefix[:, None], actions, x)


def check_horizon(chunk: int, length: int, delay: int) -> None:
    """Raises ValueError unless 0 <= d <= s <= H - d, where s = H - R."""
    horizon = chunk - length
    if not 0 <= delay <= horizon <= chunk - delay:
        raise ValueError(
            f"real-time chunking: expected 0 <= delay <= executed <= {chunk} - delay, got delay {delay} and "
            f"{horizon} executed ({length} of {chunk} actions remain); start the next inference when at least `delay` "
            "actions have been executed and at least `delay` remain"
        )
