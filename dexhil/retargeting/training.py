"""Trains a retargeting network in the paper's two stages: four fingers (eq. 1), then the thumb's residual (eq. 2)."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dexhil.retargeting import losses, network
from dexhil.retargeting.config import TrainingConfig
from dexhil.retargeting.hand import Hand, hand_length
from dexhil.retargeting.keypoints import PALM_FINGERS, TIPS, bending, hand_size, to_canonical
from dexhil.retargeting.kinematics import CanonicalHand, bending_of, canonical_points
from dexhil.retargeting.synthetic import draw_person, free_motion

_REACHABLE = 20_000  # random postures that stand for what the thumb can reach
_FREE, _SATURATION = 2.0, 0.03  # raw outputs this large are let be, larger ones drawn back: they have no gradient
_COVER_POINTS = 512  # of them and of a batch, per step
_HALF_BENT = 3.0  # rad, a finger's three joints together


def scale_of(points: np.ndarray, robot: CanonicalHand) -> float:
    """How many times larger the robot's hand is than the person's."""
    return hand_length(robot.hand) / hand_size(points)


def samples_of(clips: Sequence[np.ndarray], robot: CanonicalHand) -> dict[str, np.ndarray]:
    """{"tips": [N, F, 3] m, scaled to the robot, "bent": [N, F] rad} of the finite frames of clips [T, 21, 3] m."""
    tips, bent = [], []
    for clip in clips:
        points = to_canonical(clip[np.isfinite(clip).all(axis=(1, 2))])
        tips.append(scale_of(points, robot) * points[:, TIPS[robot.columns]])
        bent.append(np.stack([bending(points, finger) for finger in robot.hand.fingers], axis=-1))
    return {"tips": np.concatenate(tips).astype(np.float32), "bent": np.concatenate(bent).astype(np.float32)}


def synthetic_clips(config: TrainingConfig) -> list[np.ndarray]:
    """Recordings of people who do not exist."""
    rng = np.random.default_rng([config.seed, 1])
    return [free_motion(rng, draw_person(rng, config.stray), config.people_seconds, 20.0) for _ in range(config.people)]


def train(
    hand: Hand,
    clips: Sequence[np.ndarray],
    config: TrainingConfig | None = None,
    *,
    watch: Callable[[int, dict[str, float]], None] = lambda step, metrics: None,
) -> network.Params:
    """Parameters for `hand`, as NumPy arrays, from recordings [T, 21, 3] m of right hands; none: synthetic people only.

    watch: called every 100 steps with the losses. Raises ValueError where neither recordings nor people are given.
    """
    config = config or TrainingConfig()
    robot = CanonicalHand(hand)
    people = synthetic_clips(config)
    if not clips and not people:
        raise ValueError("retargeting: expected at least one recording, or people > 0 synthetic ones")
    samples = samples_of((*clips, *people), robot)
    chances = np.cumsum(_chances(clips, people))
    key = jax.random.key(config.seed)
    params = network.init(np.random.default_rng([config.seed, 3]), hand, config.width, meet=config.meet)
    reachable = jnp.asarray(robot.tips(robot.random_motors(config.seed, _REACHABLE)), jnp.float32)
    done = 0
    for stage, steps in enumerate(config.steps):
        optimizer = optax.chain(
            optax.clip_by_global_norm(1.0), optax.adam(optax.cosine_decay_schedule(config.learning_rate, steps, 0.01))
        )
        trained = {name: params[name] for name in (("groups",), ("thumb", "meet"))[stage]}
        fixed = {name: value for name, value in params.items() if name not in trained}
        opt_state = optimizer.init(trained)
        step = jax.jit(functools.partial(_step, hand, config, stage, optimizer))
        rng = np.random.default_rng([config.seed, 2, stage])
        for index in range(steps):
            rows = np.minimum(np.searchsorted(chances, rng.random(config.batch_size)), len(chances) - 1)
            batch = {name: values[rows] for name, values in samples.items()}
            noise = jax.random.fold_in(key, done)
            trained, opt_state, metrics = step(trained, fixed, opt_state, batch, reachable, noise)
            done += 1
            if index % 100 == 99:
                watch(done, {name: float(value) for name, value in metrics.items()})
        params = {**fixed, **trained}
    return jax.tree.map(np.asarray, params)


def _chances(clips: Sequence[np.ndarray], people: Sequence[np.ndarray]) -> np.ndarray:
    kinds = [kind for kind in (clips, people) if kind]
    lengths = [[int(np.isfinite(clip).all(axis=(1, 2)).sum()) for clip in kind] for kind in kinds]
    parts = [np.full(n, 1.0 / (len(kinds) * len(kind) * n)) for kind in lengths for n in kind if n]
    return np.concatenate(parts)


def _step(
    hand: Hand,
    config: TrainingConfig,
    stage: int,
    optimizer: optax.GradientTransformation,
    trained: network.Params,
    fixed: network.Params,
    opt_state: Any,
    batch: dict[str, jax.Array],
    reachable: jax.Array,
    key: jax.Array,
) -> tuple[Any, Any, dict[str, jax.Array]]:
    def total(trained: network.Params) -> tuple[jax.Array, dict[str, jax.Array]]:
        parts = _parts(hand, config, stage, {**fixed, **trained}, batch, reachable, key)
        return sum(parts.values(), jnp.zeros(())), parts

    gradients, parts = jax.grad(total, has_aux=True)(trained)
    updates, opt_state = optimizer.update(gradients, opt_state)
    return optax.apply_updates(trained, updates), opt_state, parts


def _pad_gaps(hand: Hand, gaps: jax.Array) -> jax.Array:
    """How far apart the robot's pads should be, m, by the person's gaps: on a line through touching and scaled gaps."""
    apart = network.APART_M * hand_length(hand) / network.USUAL_M
    along = (gaps - network.TOGETHER_M) / (network.APART_M - network.TOGETHER_M)
    return jnp.maximum(losses.PAD_GAP_M + along * (apart - losses.PAD_GAP_M), losses.SQUEEZED_M)


def _off_path(config: TrainingConfig, own: jax.Array, shared: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """[B, F, 3] m: nothing in even rows; in odd ones each finger by itself or, in every other of them, all together."""
    row = jnp.arange(shape[0])[:, None, None] % 4
    alone = config.off_path_m * jax.random.normal(own, shape)
    if not config.together_m:
        return alone * (row % 2)
    together = config.together_m * jax.random.normal(shared, (shape[0], 1, 3))
    return jnp.where(row == 1, alone, jnp.where(row == 3, together, 0.0))


def _parts(
    hand: Hand,
    config: TrainingConfig,
    stage: int,
    params: network.Params,
    batch: dict[str, jax.Array],
    reachable: jax.Array,
    key: jax.Array,
) -> dict[str, jax.Array]:
    keys = jax.random.split(key, 4)
    shape = batch["tips"].shape
    here = batch["tips"] + _off_path(config, keys[0], keys[3], shape)
    way = jax.random.normal(keys[1], shape)
    way = config.step_m * way / jnp.linalg.norm(way, axis=-1, keepdims=True)

    raw = network.raw_angles(params, hand, jnp.concatenate([here, here + way, here - way]), jnp)
    wide = network.squash(raw, hand, jnp)
    over = jax.lax.stop_gradient(jnp.clip(wide, hand.lower, hand.upper) - wide)  # at a limit the gradient goes on
    every = canonical_points(hand, wide + over)
    (tips, after, before), (pads, *_) = (jnp.split(part, 3) for part in every)
    motors, raw = (wide + over)[: shape[0]], raw[: shape[0]]
    gaps = network.gaps(here, hand, jnp)
    close = network.closeness(gaps, jnp)
    held_back = jnp.concatenate([close.max(axis=-1, keepdims=True), close], axis=-1) if stage else jnp.zeros(shape[:2])
    weights = 1.0 - config.let_go * held_back
    fingers = np.arange(len(hand.fingers)) if stage == 0 or config.meet else np.array([hand.fingers.index("thumb")])
    parts = {
        "vec": 1e3 * losses.vector_loss(tips[:, fingers], here[:, fingers], weights[:, fingers]),
        "angles": config.gamma * 1e3 * (motors**2).sum(-1).mean(),
        "saturation": _SATURATION * (jnp.maximum(jnp.abs(raw) - _FREE, 0.0) ** 2).sum(-1).mean(),
        "dir": 1e3 * config.direction * losses.direction_loss((after - before)[:, fingers], way[:, fingers]),
        "flat": 1e3 * config.flat * losses.flatness_loss(before[:, fingers], tips[:, fingers], after[:, fingers]),
    }
    steps = jnp.stack([after - tips, before - tips])
    parts["speed"] = 1e3 * config.speed * losses.speed_loss(steps, config.step_m)
    if stage == 0:
        palm = np.array([hand.fingers.index(finger) for finger in PALM_FINGERS])
        on_path = 1.0 - (jnp.arange(shape[0]) % 2)[:, None]
        bends = bending_of(hand, motors)[:, palm] - batch["bent"][:, palm]
        strict = on_path * jnp.sqrt(batch["bent"][:, palm] / _HALF_BENT)
        parts["bend"] = 1e3 * config.bend * 1e-2 * (strict * bends**2).sum(-1).mean()
    else:
        pair = (tips[:, 1:] - tips[:, :1]) - (here[:, 1:] - here[:, :1])
        parts["kin"] = 1e3 * config.kin * 0.5 * ((1.0 - close) * (pair**2).sum(-1)).sum(-1).mean()
        parts["pinch"] = 1e3 * config.pinch * losses.pinch_loss(pads, _pad_gaps(hand, gaps), close**config.decisive)
    if config.cover:
        some = jax.random.randint(keys[2], (_COVER_POINTS,), 0, len(reachable))
        cover = [losses.coverage_loss(tips[:_COVER_POINTS, i], reachable[some, i]) for i in fingers]
        parts["cover"] = 1e3 * config.cover * sum(cover, jnp.zeros(()))
    return parts
