"""One optimiser step, on a linear model: weights, accumulation, EMA, keys, the non-finite stop, exact resume."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dexhil.models.config import TINY
from dexhil.models.vla import init_params
from dexhil.training.checkpoints import Checkpoints, load_train_state
from dexhil.training.optimizer import UPDATE_RMS, OptimizerConfig, decay_mask, make_optimizer, matrix_axes, schedule
from dexhil.training.step import (
    NonFiniteError,
    StepConfig,
    TrainState,
    check_finite,
    draw_delays,
    ema_decay_at,
    init_state,
    make_eval_loss,
    make_train_step,
    parameter_group,
    weighted_loss,
)
from tests.tolerances import FEW, TINY_STEP, assert_close, relative

BATCH, CHUNK, WIDTH = 8, 4, 3
OPTIMIZER = OptimizerConfig(steps=50, name="adamw", warmup_steps=2, learning_rate=0.05)


def linear_loss(params, inputs, key):
    """[B, H]; no noise."""
    predicted = inputs["state"] @ params["head"]["kernel"] + params["head"]["bias"]
    return jnp.square(predicted[:, None] - inputs["actions"]).mean(axis=-1)


def noisy_loss(params, inputs, key):
    """As flow matching: the key draws the noise of the step."""
    return linear_loss(params, inputs, key) + jax.random.normal(key, inputs["actions"].shape[:2]) ** 2


def make_params():
    kernel = 0.1 * jax.random.normal(jax.random.key(7), (WIDTH, WIDTH))
    return {"head": {"kernel": kernel, "bias": jnp.zeros(WIDTH)}}


def make_inputs(seed=0):
    rng = np.random.default_rng(seed)
    state = rng.normal(size=(BATCH, WIDTH)).astype(np.float32)
    return {
        "images": {"scene": rng.integers(0, 256, (BATCH, 4, 4, 3), np.uint8)},
        "state": state,
        "actions": np.repeat(2 * state[:, None], CHUNK, axis=1) + 0.5,
        "action_mask": rng.random((BATCH, CHUNK)) < 0.7,
        "weight": rng.uniform(0.2, 3, BATCH).astype(np.float32),
    }


def make_step(loss=linear_loss, **settings):
    return make_train_step(loss, make_optimizer(OPTIMIZER), schedule(OPTIMIZER), StepConfig(**settings))


@pytest.fixture(scope="module")
def step():
    return make_step()


@pytest.fixture(scope="module")
def noisy_step():
    return make_step(noisy_loss)


def start():
    return init_state(make_params(), make_optimizer(OPTIMIZER))


def run(step, state, first, last) -> TrainState:
    for index in range(first, last):
        state, _ = step(state, jax.device_put(make_inputs(index)))
    return state


def same_bits(left, right) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True))


def test_the_loss_is_the_weighted_mean_over_real_steps(step):
    inputs, state = make_inputs(), start()
    loss = np.asarray(linear_loss(state.params, inputs, None))
    mask, weight = inputs["action_mask"], inputs["weight"]
    expected = sum(
        weight[i] * loss[i, h] for i in range(BATCH) for h in range(CHUNK) if mask[i, h]
    ) / mask.sum()  # fmt: skip
    _, metrics = step(state, inputs)
    assert float(metrics["loss"]) == pytest.approx(expected, rel=relative(TINY_STEP))


def test_a_doubled_weight_counts_as_a_sample_seen_twice():
    inputs = make_inputs()
    loss = linear_loss(make_params(), inputs, None)
    mask, weight = jnp.array(inputs["action_mask"]), jnp.ones(BATCH)
    once, _ = weighted_loss(loss, mask, weight.at[0].set(2.0))
    twice, _ = weighted_loss(*(jnp.concatenate([x, x[:1]]) for x in (loss, mask, weight)))
    assert float(once) == pytest.approx(float(twice), rel=relative(TINY_STEP))


def test_masked_steps_have_no_gradient():
    inputs = make_inputs()
    wild = {**inputs, "actions": np.where(inputs["action_mask"][..., None], inputs["actions"], 1e6)}
    step = make_step()
    first, second = step(start(), inputs)[0], step(start(), wild)[0]
    assert same_bits(first.params, second.params)


def test_accumulation_equals_the_batch_in_one_piece(step):
    inputs = make_inputs()  # masks and weights differ between the micro-batches
    whole, whole_metrics = step(start(), inputs)
    pieces, pieces_metrics = make_step(accumulate=4)(start(), inputs)
    for name in ("loss", "grad_norm"):
        assert float(whole_metrics[name]) == pytest.approx(float(pieces_metrics[name]), rel=relative(TINY_STEP))
    assert_close(whole.params["head"]["kernel"], pieces.params["head"]["kernel"], TINY_STEP)


def test_accumulation_must_divide_the_batch():
    with pytest.raises(ValueError, match="3 micro-batches do not divide batch_size 8"):
        make_step(accumulate=3)(start(), make_inputs())


def test_ema_follows_its_formula(step):
    state, kernel = start(), np.asarray(make_params()["head"]["kernel"])
    for index in range(3):
        state, _ = step(state, make_inputs(index))
        decay = min(0.999, (1 + index) / (10 + index))
        kernel = decay * kernel + (1 - decay) * np.asarray(state.params["head"]["kernel"])
    assert state.ema_params is not None
    np.testing.assert_allclose(state.ema_params["head"]["kernel"], kernel, rtol=1e-5)


def test_ema_reaches_its_decay_and_zero_turns_it_off():
    assert float(ema_decay_at(0.999, jnp.int32(10**6))) == pytest.approx(0.999)
    state = run(make_step(ema_decay=0.0), start(), 0, 2)
    assert same_bits(state.params, state.ema_params)


def test_each_step_draws_its_own_noise_and_a_seed_repeats_it(noisy_step):
    inputs = make_inputs()
    frozen = make_train_step(noisy_loss, optax.set_to_zero(), schedule(OPTIMIZER), StepConfig())
    state = init_state(make_params(), optax.set_to_zero())
    losses = []
    for _ in range(3):
        state, metrics = frozen(state, inputs)
        losses.append(float(metrics["loss"]))
    assert len(set(losses)) == 3
    _, again = noisy_step(start(), inputs)
    assert float(again["loss"]) == losses[0]


def test_two_steps_then_resume_equals_no_interruption_bit_for_bit(noisy_step, tmp_path, meta):
    uninterrupted = run(noisy_step, start(), 0, 5)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(run(noisy_step, start(), 0, 2), meta)
    restored = load_train_state(tmp_path, like=start())
    assert int(restored.step) == 2
    assert same_bits(uninterrupted, run(noisy_step, restored, 2, 5))


def test_training_reduces_the_loss(step):
    state = run(step, start(), 0, 50)
    before, after = (float(linear_loss(p, make_inputs(99), None).mean()) for p in (make_params(), state.params))
    assert after < 0.2 * before


def test_metrics_name_every_group(step):
    _, metrics = step(start(), make_inputs())
    assert set(metrics) == {"loss", "grad_norm", "lr", "param_norm", "grad_norm/expert"}
    assert float(metrics["grad_norm"]) == pytest.approx(float(metrics["grad_norm/expert"]))


def test_every_parameter_of_the_policy_is_in_the_group_it_belongs_to():
    shapes = jax.eval_shape(lambda key: init_params(TINY, key), jax.random.key(0))
    groups = {}
    for path, _ in jax.tree_util.tree_leaves_with_path(shapes):
        groups.setdefault(parameter_group(path), set()).add(jax.tree_util.keystr(path, simple=True, separator="/"))
    assert set(groups) == {"vision", "language", "expert"}
    assert all(name.startswith("PaliGemma/img/") for name in groups["vision"])
    assert "PaliGemma/llm/layers/attn/q_einsum/w" in groups["language"]
    assert {"PaliGemma/llm/layers/attn/q_einsum_1/w", "action_out_proj/kernel"} <= groups["expert"]


def test_a_step_transfers_nothing_by_itself(step):
    state, inputs = jax.device_put((start(), make_inputs()))
    with jax.transfer_guard("disallow"):
        step(state, inputs)


def test_delays_take_the_given_actions_out_of_the_mask():
    inputs = make_inputs() | {"action_mask": np.ones((4000, CHUNK), bool)}
    drawn = draw_delays(inputs, jax.random.key(0), 2)
    delay, mask = np.asarray(drawn["delay"]), np.asarray(drawn["action_mask"])
    np.testing.assert_array_equal(mask, np.arange(CHUNK) >= delay[:, None])
    np.testing.assert_allclose(np.bincount(delay) / 4000, [1 / 3] * 3, atol=0.03)
    padded = inputs | {"action_mask": np.zeros((4000, CHUNK), bool)}
    assert not np.any(draw_delays(padded, jax.random.key(0), 2)["action_mask"])


def delayed_loss(params, inputs, key):
    """As `noisy_loss`; the given actions' own error is wild."""
    given = jnp.arange(CHUNK) < inputs["delay"][:, None]
    return noisy_loss(params, inputs, key) + 1e6 * given


def test_the_loss_with_delays_is_the_weighted_mean_over_the_rest(noisy_step):
    """Seen from outside: the same as the plain step on a mask without the given actions."""
    inputs, max_delay = make_inputs(), 2
    key = jax.random.fold_in(jax.random.key(0), 0)
    rest = {**inputs, "action_mask": np.asarray(draw_delays(inputs, key, max_delay)["action_mask"])}
    assert rest["action_mask"].sum() < inputs["action_mask"].sum()
    with_delays, metrics = make_step(delayed_loss, rtc_max_delay=max_delay)(start(), inputs)
    by_hand, expected = noisy_step(start(), rest)
    assert float(metrics["loss"]) == pytest.approx(float(expected["loss"]), rel=relative(TINY_STEP))
    assert_close(with_delays.params["head"]["kernel"], by_hand.params["head"]["kernel"], TINY_STEP)


def test_without_delays_the_step_is_the_plain_step_bit_for_bit(noisy_step):
    inputs = make_inputs()
    plain, expected = noisy_step(start(), inputs)
    state, metrics = make_step(noisy_loss, rtc_max_delay=0)(start(), inputs)
    assert same_bits((plain.params, expected), (state.params, metrics))
    assert draw_delays(inputs, jax.random.key(0), 0).keys() == inputs.keys()


def test_evaluation_ignores_weights():
    inputs = make_inputs()
    total, count = make_eval_loss(linear_loss)(make_params(), inputs, jax.random.key(0))
    loss = np.asarray(linear_loss(make_params(), inputs, None))
    assert float(total / count) == pytest.approx(loss[inputs["action_mask"]].mean(), rel=relative(TINY_STEP))


def test_a_batch_without_real_steps_gives_no_nan(step):
    inputs = make_inputs() | {"action_mask": np.zeros((BATCH, CHUNK), bool)}
    _, metrics = step(start(), inputs)
    assert float(metrics["loss"]) == 0.0


def test_non_finite_loss_stops_with_step_and_samples(step):
    inputs = make_inputs()
    inputs["actions"][0] = np.inf
    inputs["action_mask"][0] = True
    _, metrics = step(start(), inputs)
    with pytest.raises(NonFiniteError, match=r"step 12 on samples \[4, 7\]: loss = .*expected finite.*learning rate"):
        check_finite(metrics, 12, np.array([4, 7]))


def test_non_finite_gradient_alone_stops_too():
    with pytest.raises(NonFiniteError, match=r"step 3: loss = 0\.5, grad_norm = nan"):
        check_finite({"loss": 0.5, "grad_norm": np.nan}, 3)
    check_finite({"loss": 0.5, "grad_norm": 1.0}, 3)


def test_schedule_warms_up_and_ends_at_its_fraction():
    rates = [np.asarray(schedule(OPTIMIZER)(step)) for step in (0, 2, 50, 500)]
    assert_close(rates, [0.0, 0.05, 0.005, 0.005], FEW)


def test_no_warm_up_starts_at_the_peak():
    rate = schedule(OptimizerConfig(steps=10, warmup_steps=0, learning_rate=0.2))
    assert_close(rate(0), 0.2, FEW)


def test_decay_spares_biases_scales_and_embeddings():
    leaf = jnp.ones((2, 2))
    names = ("kernel", "w", "linear", "bias", "scale", "input_embedding", "pos_embedding")
    mask = decay_mask({"layer": dict.fromkeys(names, leaf)})["layer"]
    assert [name for name in names if mask[name]] == ["kernel", "w", "linear"]


def as_multiplied(name, leaf):
    """A layer's matrices [*, in, out] as the model multiplies them, written once more."""
    if name.endswith("q_einsum/w"):
        return leaf.transpose(1, 0, 2).reshape(leaf.shape[1], -1)
    if name.endswith(("query/kernel", "key/kernel", "value/kernel")):
        return leaf.reshape(leaf.shape[0], -1)
    if "attn_vec_einsum" in name or name.endswith("out/kernel") or "img/embedding" in name:
        return leaf.reshape(-1, leaf.shape[-1])
    return leaf


def test_muon_steps_are_orthogonal_matrices_and_the_rest_is_left_to_adamw():
    """Of a matrix's step all singular values are about one size, whatever the gradient's were."""
    params = init_params(TINY, jax.random.key(0))
    gradient = jax.tree.map(lambda leaf: jax.random.normal(jax.random.key(leaf.size), leaf.shape), params)
    optimizer = make_optimizer(OptimizerConfig(steps=10, warmup_steps=0, learning_rate=1.0, weight_decay=0.0))
    updates, _ = optimizer.update(gradient, optimizer.init(params), params)
    axes = jax.tree.leaves(matrix_axes(params), is_leaf=lambda leaf: leaf is None or isinstance(leaf, tuple))
    others = []
    for (path, update), is_matrix in zip(jax.tree_util.tree_leaves_with_path(updates), axes, strict=True):
        name = "/".join(part.key for part in path)
        if not is_matrix:
            others.append(name)
            continue
        layers = update if "layers/" in name or "encoderblock/" in name else update[None]
        matrices = np.stack([as_multiplied(name.replace("_1/w", "/w"), layer) for layer in layers])
        size = UPDATE_RMS * np.sqrt(max(matrices.shape[-2:]))
        singular = np.linalg.svd(matrices, compute_uv=False) / size
        assert singular.min() > 0.2, name
        assert singular.max() < 1.3, name
    assert [name for name in others if not name.endswith(("bias", "scale", "embedding"))] == [
        "PaliGemma/img/stem_0/kernel",
        "action_in_proj/kernel",
        "action_out_proj/kernel",
        "state_proj/kernel",
    ]


def test_muon_lowers_the_loss():
    options = OptimizerConfig(steps=50, warmup_steps=2, learning_rate=0.5)
    step = make_train_step(linear_loss, make_optimizer(options), schedule(options), StepConfig())
    state = init_state(make_params(), make_optimizer(options))
    losses = []
    for _ in range(50):
        state, metrics = step(state, jax.device_put(make_inputs()))
        losses.append(float(metrics["loss"]))
    assert losses[-1] < 0.1 * losses[0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "adam"}, r"optimizer 'adam' is not known; did you mean 'adamw'"),
        ({"warmup_steps": 10}, "expected 0 <= warmup_steps < steps = 10, got 10"),
        ({"learning_rate": 0.0, "warmup_steps": 1}, "learning_rate and clip_norm must be positive, got 0.0"),
    ],
)
def test_bad_schedules_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        OptimizerConfig(steps=10, **settings)
