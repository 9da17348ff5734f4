"""Normalisation, delta actions and resizing: round trips, floors, bad input."""

import json
import warnings

import numpy as np
import pytest

from dexhil.transforms.normalization import (
    MIN_RANGE,
    QUANTILES,
    Normalization,
    NormStats,
    fit_normalization,
    images_to_float,
    normalization_drift,
    resize_image,
    to_absolute,
    to_delta,
)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def normalization(rng) -> Normalization:
    states = rng.normal(size=(200, 5)).astype(np.float32)
    chunks = states[:, None] + 0.1 * rng.normal(size=(200, 4, 5)).astype(np.float32)
    return fit_normalization(states, chunks, np.ones((200, 4), bool), delta_dims=(0, 1))


def test_quantiles_map_to_one_and_back(rng):
    values = rng.uniform(-3, 5, (1000, 2))
    stats = NormStats.from_arrays(values)
    ends = np.quantile(values, [0.01, 0.99], axis=0).astype(np.float32)
    np.testing.assert_allclose(stats.normalize(ends), [[-1, -1], [1, 1]], atol=1e-5)
    np.testing.assert_allclose(stats.unnormalize(stats.normalize(values)), values, atol=1e-5)


def test_near_static_joint_is_not_blown_up(rng):
    values = np.stack([rng.normal(size=500), 0.3 + 1e-6 * rng.normal(size=500)], axis=1)
    stats = NormStats.from_arrays(values)
    assert stats.high[1] - stats.low[1] == pytest.approx(MIN_RANGE, rel=1e-4)
    assert np.abs(stats.normalize(values.astype(np.float32))[:, 1]).max() < 1e-3
    step = np.array([0.0, 0.31], np.float32)  # 10 mrad away from where it always was
    assert abs(stats.normalize(step)[1]) == pytest.approx(1.0, abs=1e-3)


def test_floor_per_dimension_and_exactly_constant():
    stats = NormStats.from_arrays(np.zeros((3, 2)), np.array([0.5, 2.0]))
    np.testing.assert_allclose(stats.high, [0.25, 1.0])


def test_clip_limits_what_is_far_outside():
    stats = NormStats(np.zeros(1, np.float32), np.ones(1, np.float32))
    assert stats.normalize(np.array([9.0], np.float32), clip=3.0) == 3.0


@pytest.mark.parametrize(
    ("values", "min_range", "message"),
    [
        (np.zeros((0, 3)), 0.1, r"expected values \[N, D\]"),
        (np.array([[0.0], [np.nan]]), 0.1, "row 1, dimension 0"),
        (np.zeros((2, 1)), 0.0, "min_range must be positive, got 0.0"),
    ],
)
def test_bad_statistics_are_refused(values, min_range, message):
    with pytest.raises(ValueError, match=message):
        NormStats.from_arrays(values, min_range)


def test_another_width_is_refused():
    stats = NormStats(np.zeros(19, np.float32), np.ones(19, np.float32))
    with pytest.raises(ValueError, match="made for width 19, got values of width 7"):
        stats.normalize(np.zeros((2, 7), np.float32))


def test_delta_moves_only_its_dims_and_round_trips(rng):
    actions, state = rng.normal(size=(6, 4, 5)), rng.normal(size=(6, 5))
    before = actions.copy()
    delta = to_delta(actions, state, (0, 3))
    np.testing.assert_array_equal(actions, before)
    np.testing.assert_array_equal(delta[..., [1, 2, 4]], actions[..., [1, 2, 4]])
    np.testing.assert_allclose(delta[:, 2, 3], actions[:, 2, 3] - state[:, 3])
    np.testing.assert_allclose(to_absolute(delta, state, (0, 3)), actions)


def test_holding_still_is_a_delta_of_zero(rng):
    state = rng.normal(size=(3, 5))
    assert not to_delta(np.repeat(state[:, None], 4, axis=1), state, range(5)).any()


def test_delta_dims_outside_the_state_are_refused():
    with pytest.raises(ValueError, match=r"delta_dims: \[0, 6\] must lie in 0..4"):
        to_delta(np.zeros((2, 7)), np.zeros(5), (0, 6))


def test_action_statistics_are_those_of_the_deltas(rng):
    states = rng.uniform(-2, 2, (500, 2)).astype(np.float32)
    offsets = rng.uniform(-0.1, 0.1, (500, 4, 2)).astype(np.float32)
    found = fit_normalization(states, states[:, None] + offsets, np.ones((500, 4), bool), delta_dims=(0,))
    assert found.actions.high[0] == pytest.approx(0.1, abs=0.01)  # relative: small
    assert found.actions.high[1] == pytest.approx(2.0, abs=0.1)  # absolute: the range of the joint


def test_masked_entries_do_not_count():
    chunks = np.stack([np.ones((2, 1)), np.full((2, 1), 99.0)], axis=1)
    mask = np.array([[True, False], [True, False]])
    assert fit_normalization(np.zeros((2, 1)), chunks, mask).actions.high[0] == pytest.approx(1 + MIN_RANGE / 2)


def test_large_data_is_thinned_evenly(monkeypatch):
    states = np.linspace(0, 1, 10_000)[:, None]
    chunks, mask = states[:, None].repeat(2, axis=1), np.ones((10_000, 2), bool)
    whole = fit_normalization(states, chunks, mask)
    monkeypatch.setattr("dexhil.transforms.normalization.MAX_ENTRIES", 500)
    np.testing.assert_allclose(fit_normalization(states, chunks, mask).actions.high, whole.actions.high, atol=0.01)


def test_actions_round_trip_through_model_space(normalization, rng):
    actions, state = rng.normal(size=(6, 4, 5)).astype(np.float32), rng.normal(size=(6, 5)).astype(np.float32)
    inside = normalization.normalize_actions(actions, state)
    assert inside.dtype == np.float32
    np.testing.assert_allclose(normalization.unnormalize_actions(inside, state), actions, atol=1e-5)


def test_json_keeps_every_bit_and_the_hash(normalization):
    again = Normalization.from_json(json.loads(json.dumps(normalization.to_json())))
    np.testing.assert_array_equal(again.actions.low, normalization.actions.low)
    assert again.hash() == normalization.hash()
    assert again.delta_dims == (0, 1)


def test_hash_sees_the_smallest_change(normalization):
    low = normalization.state.low.copy()
    low[0] = np.nextafter(low[0], np.float32(9))
    changed = Normalization(NormStats(low, normalization.state.high), normalization.actions, (0, 1))
    assert changed.hash() != normalization.hash()


def test_resize_returns_what_fits_as_it_is(rng):
    image = rng.integers(0, 256, (8, 8, 3), np.uint8)
    assert resize_image(image, 8) is image


@pytest.mark.parametrize("shape", [(32, 32), (31, 31), (5, 5)])
def test_resize_keeps_a_constant_image(shape):
    assert (resize_image(np.full((*shape, 3), 77, np.uint8), 16) == 77).all()


def test_resize_does_not_alias():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255  # finer than the target resolves: must become grey
    inner = resize_image(stripes, 16)[:, 1:-1].astype(int)
    assert np.abs(inner - 127.5).max() < 3


def test_resize_keeps_a_ramp():
    ramp = np.repeat(np.arange(0, 256, 4, dtype=np.uint8)[None, :, None], 64, axis=0).repeat(3, axis=2)
    row = resize_image(ramp, 16)[8, 1:-1, 0].astype(float)
    np.testing.assert_allclose(np.diff(row), 16, atol=1)


def test_resize_keeps_the_aspect():
    wide = np.full((48, 64, 3), 200, np.uint8)
    small = resize_image(wide, 16)
    assert (small[2:14] == 200).all()
    assert not small[:2].any()
    assert not small[14:].any()


def test_resize_of_a_batch_is_that_of_each_image(rng):
    images = rng.integers(0, 256, (3, 20, 24, 3), np.uint8)
    np.testing.assert_array_equal(resize_image(images, 16)[1], resize_image(images[1], 16))


@pytest.mark.parametrize("image", [np.zeros((4, 4, 3), np.float32), np.zeros((4, 4), np.uint8)])
def test_resize_refuses_other_images(image):
    with pytest.raises(ValueError, match=r"expected uint8 \[..., H, W, 3\]"):
        resize_image(image, 2)


def test_float_images_span_minus_one_to_one():
    values = images_to_float({"scene": np.array([0, 255], np.uint8)})["scene"]
    np.testing.assert_array_equal(values, np.array([-1, 1], np.float32))


def samples(rng: np.random.Generator, count: int = 2000) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    states = rng.uniform(-1, 1, (count, 5)).astype(np.float32)
    return states, states[:, None] + np.zeros((1, 4, 1), np.float32), np.ones((count, 4), bool)


def test_drift_names_the_joint_that_moved(rng):
    frozen, names = samples(rng), ["shoulder", "elbow", "wrist", "thumb", "index"]
    states, chunks, mask = (np.copy(part) for part in frozen)
    states[:, 3] += 0.5
    rows = normalization_drift(fit_normalization(*frozen), frozen, (states, chunks, mask), names)
    assert len(rows) == 2 * len(names)
    worst = rows[0]
    assert (worst["kind"], worst["name"]) == ("state", "thumb")
    assert worst["shift"] == pytest.approx(0.5 / (0.98 * 2), rel=0.02)  # the range is the middle 98 % of [-1, 1]
    assert worst["outside"] == pytest.approx(0.25 + 0.01, abs=0.03)
    assert worst["reach"] == pytest.approx(1.5 / 0.98, rel=0.02)
    assert all(row["outside"] <= 0.0201 and row["shift"] == 0 for row in rows[1:])


def test_a_floor_keeps_a_wider_motion_near_the_range(rng):
    states = np.tile(np.array([0, 0, 0, -1.5, 0, 1.5, 0, 0.3, 0.3], np.float32), (60, 1))
    states[:, 0] += rng.uniform(-0.01, 0.01, 60)
    chunks, mask = np.repeat(states[:, None], 2, axis=1), np.ones((60, 2), bool)
    stats = fit_normalization(states, chunks, mask, action_space="ee_delta", min_range=0.5, min_range_m=0.1)
    width = stats.actions.high - stats.actions.low
    np.testing.assert_allclose(width, [0.1] * 3 + [0.5] * 5, rtol=1e-5)
    np.testing.assert_allclose((stats.state.high - stats.state.low)[:3], [0.1] * 3, rtol=1e-5)
    chunks[:, 1, 7] += 0.4
    rows = normalization_drift(stats, (states, states[:, None], mask[:, :1]), (states, chunks, mask), list("abcdefghi"))
    assert (rows[0]["name"], rows[0]["reach"]) == ("h", pytest.approx(1.6, rel=1e-3))


def test_data_that_was_fitted_to_has_drifted_nowhere(rng):
    frozen = samples(rng)
    rows = normalization_drift(fit_normalization(*frozen, delta_dims=(0, 1)), frozen, frozen, list("abcde"))
    assert all(row["shift"] == 0 for row in rows)
    assert all(row["outside"] <= 0.0201 for row in rows)


def test_drift_ignores_masked_actions(rng):
    frozen = samples(rng)
    states, chunks, mask = (np.copy(part) for part in frozen)
    chunks[:, 2:], mask[:, 2:] = 99.0, False
    rows = normalization_drift(fit_normalization(*frozen), frozen, (states, chunks, mask), list("abcde"))
    assert max(row["outside"] for row in rows) <= 0.0201


@pytest.mark.parametrize("space", ["ee_delta", "ee_pose"])
def test_drift_of_end_effector_motion_has_its_own_names(rng, space):
    states = rng.uniform(-0.5, 0.5, (50, 9)).astype(np.float32) + np.array([0, 0, 0, -1.5, 0, 1.5, 0, 0, 0], np.float32)
    chunks, mask = np.repeat(states[:, None], 2, axis=1), np.ones((50, 2), bool)
    frozen = (states, chunks, mask)
    names = [f"arm{i}" for i in range(7)] + ["thumb", "index"]
    rows = normalization_drift(fit_normalization(*frozen, action_space=space), frozen, frozen, names)
    shown = {kind: [row["name"] for row in rows if row["kind"] == kind] for kind in ("state", "actions")}
    assert len(shown["state"]) == 9 + 2
    assert set(shown["actions"]) == {f"{part}_{a}" for part in (space, "ee_turn") for a in "xyz"} | {"thumb", "index"}


def test_drift_wants_the_names_of_the_recorded_joints_and_something_to_compare(rng):
    frozen = samples(rng)
    normalization = fit_normalization(*frozen)
    with pytest.raises(ValueError, match=r"one per recorded joint, .*5.* got \['a'\]; wrong robot"):
        normalization_drift(normalization, frozen, frozen, ["a"])
    nothing = (frozen[0], frozen[1], np.zeros_like(frozen[2]))
    with pytest.raises(ValueError, match=r"at least one valid action, got a mask of \[2000, 4\]"):
        normalization_drift(normalization, frozen, nothing, list("abcde"))


def rare(count: int = 10, value: float = 1.0) -> np.ndarray:
    """[3000, 2]: a wave, and a flag that is set `count` times."""
    values = np.stack([np.sin(np.arange(3000) / 50), np.zeros(3000)], axis=1)
    values[np.arange(count) * 100, 1] = value
    return values


@pytest.mark.parametrize(
    ("count", "value", "fraction"), [(10, 1.0, 99), (1, 1.0, 87), (10, -300.0, 100), (29, 5.0, 100), (29, 0.15, 81)]
)
def test_a_rare_value_is_named_and_does_not_drown_the_loss(count: int, value: float, fraction: int):
    values = rare(count, value)
    said = rf"gripper is nearly always near 0 and rarely reaches {value:g}: .* would be {fraction}% of the mean square"
    with pytest.warns(UserWarning, match=said):
        stats = NormStats.from_arrays(values, names=("wave", "gripper"))
    squares = (stats.normalize(values) ** 2).mean(axis=0)
    assert squares[1] == pytest.approx(1, rel=1e-4)
    assert stats.high[0] == pytest.approx(1, abs=0.01)  # the others keep their range
    np.testing.assert_allclose(stats.unnormalize(stats.normalize(values)), values, atol=1e-4 * max(1, abs(value)))


@pytest.mark.parametrize(
    "flag", [np.arange(3000) % 2, np.arange(3000) > 200, np.zeros(3000), np.arange(3000) % 40 == 0]
)
def test_values_that_are_not_rare_keep_their_quantiles(flag: np.ndarray):
    """A gripper that is as often open as closed, or closed for 7 % or 2.5 % of the time, and one that never moves."""
    values = np.stack([np.sin(np.arange(3000) / 50), flag], axis=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stats = NormStats.from_arrays(values)
    low, high = np.quantile(values, QUANTILES, axis=0)
    half = np.maximum(high - low, MIN_RANGE) / 2
    np.testing.assert_array_equal(stats.low, ((low + high) / 2 - half).astype(np.float32))
    np.testing.assert_array_equal(stats.high, ((low + high) / 2 + half).astype(np.float32))


@pytest.mark.parametrize(
    ("names", "said"), [(("a", "b"), "dimension b of the actions"), (None, "dimension 1 of the a")]
)
def test_the_warning_names_the_joint_and_the_kind(names: tuple[str, ...] | None, said: str):
    with pytest.warns(UserWarning, match=said):
        fit_normalization(np.zeros((3000, 2)), rare()[:, None], np.ones((3000, 1), bool), joint_names=names)
