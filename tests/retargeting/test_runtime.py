"""A retargeter on disk and in use: round trip, bad frames, any frame of the glove, people of any size."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from dexhil.retargeting import metrics, network, runtime, synthetic, training
from dexhil.retargeting.hand import simulated_dexhand021
from dexhil.retargeting.kinematics import CanonicalHand
from dexhil.retargeting.runtime import FROZEN, Model, Retargeter
from dexhil.robots.spec import FR3_DEXHAND021

TINY = training.TrainingConfig(width=16, steps=(60, 40), batch_size=32, people=1, people_seconds=10.0)


@pytest.fixture(scope="module")
def model() -> Model:
    hand = simulated_dexhand021()
    return Model(hand, training.train(hand, [], TINY), {"width": 16})


@pytest.fixture(scope="module")
def points() -> np.ndarray:
    return synthetic.keypoints_of(synthetic.pinch("index"))


def test_training_brings_the_tips_to_the_persons() -> None:
    hand = simulated_dexhand021()
    robot = CanonicalHand(hand)
    config = dataclasses.replace(TINY, steps=(300, 1), batch_size=64)
    clip = synthetic.free_motion(np.random.default_rng(5), synthetic.Person(), 10.0, 20.0)
    scale = training.scale_of(clip, robot)

    def error(params: network.Params) -> float:
        tips = robot.tips(Model(hand, params, {}).motors(clip, scale))
        return float(np.linalg.norm(tips - scale * metrics.human_tips(clip, robot), axis=-1).mean())

    assert error(training.train(hand, [], config)) < 0.6 * error(network.init(np.random.default_rng(0), hand, 16))


def test_training_without_anybody_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one recording, or people > 0"):
        training.train(simulated_dexhand021(), [], training.TrainingConfig(people=0))


def test_a_file_gives_the_same_joints_back(model: Model, points: np.ndarray, tmp_path: Path) -> None:
    runtime.save(model, tmp_path / "r.npz")
    again = runtime.load(tmp_path / "r.npz")
    np.testing.assert_array_equal(again.motors(points, 1.5), model.motors(points, 1.5))
    assert again.config == model.config
    assert again.hand.joint_names == model.hand.joint_names


def test_what_is_no_retargeter_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such file; train a retargeter"):
        runtime.load(tmp_path / "none.npz")
    (tmp_path / "text.npz").write_text("hello")
    with pytest.raises(ValueError, match=r"expected a retargeter's \.npz file"):
        runtime.load(tmp_path / "text.npz")
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    with pytest.raises(ValueError, match=r"expected a retargeter's \.npz file"):
        runtime.load(tmp_path / "other.npz")


def test_a_damaged_file_is_refused(model: Model, tmp_path: Path) -> None:
    path, facts = tmp_path / "r.npz", tmp_path / "facts.npz"
    runtime.save(model, path)
    whole = path.read_bytes()
    with np.load(path) as file:
        arrays = dict(file)
    damaged = [whole[: len(whole) // 2], whole[:100], b"", whole[:500] + bytes(500) + whole[1000:]]
    for data in damaged:
        path.write_bytes(data)
        with pytest.raises(ValueError, match=r"r\.npz: expected a retargeter's \.npz file, this is none or damaged"):
            runtime.load(path)
    for name, value in (
        ("facts", "no JSON"),
        ("facts", '{"format": 1}'),
        ("params/groups/0/0/w", np.zeros((2, 2), np.float32)),
        ("params/thumb/0/b", np.full_like(arrays["params/thumb/0/b"], np.nan)),
    ):
        np.savez(facts, **(arrays | {name: value}))  # pyright: ignore[reportArgumentType]
        with pytest.raises(ValueError, match=r"facts\.npz: expected a retargeter's .* or damaged"):
            runtime.load(facts)


@pytest.mark.parametrize(
    "names", [FR3_DEXHAND021.joint_names[:6:-1], tuple(f"joint_{i}" for i in range(12)), FR3_DEXHAND021.joint_names[8:]]
)
def test_a_retargeter_of_another_hand_is_refused_by_its_motors_names(model: Model, names: tuple[str, ...]) -> None:
    model.check_fits(FR3_DEXHAND021)
    other = dataclasses.replace(model, hand=dataclasses.replace(model.hand, motor_names=names))
    message = f"motors are {names[0]}, .*; fr3_dexhand021 has 12: thumb_rotation, .*; train one for it with"
    with pytest.raises(ValueError, match=message):
        other.check_fits(FR3_DEXHAND021)


def test_joints_do_not_depend_on_the_gloves_frame_or_the_size_of_the_hand(model: Model) -> None:
    angles = synthetic.pinch("middle")
    small, large = (synthetic.keypoints_of(angles, synthetic.Person(length=length)) for length in (0.16, 0.21))
    turn = Rotation.random(rng=np.random.default_rng(0)).as_matrix()
    expected = Retargeter(model)(small)
    np.testing.assert_allclose(Retargeter(model)(large), expected, atol=1e-9)
    np.testing.assert_allclose(Retargeter(model)(small @ turn.T + [0.3, -0.1, 0.5]), expected, atol=1e-9)


def test_a_frame_that_is_not_finite_holds_the_last_joints_and_says_so(model: Model, points: np.ndarray) -> None:
    retargeter = Retargeter(model)
    broken = points.copy()
    broken[[3, 7], 0] = np.nan
    middle = retargeter(broken)
    assert not retargeter.valid
    np.testing.assert_array_equal(middle, (model.hand.lower + model.hand.upper) / 2)
    last = retargeter(points)
    assert retargeter.valid
    np.testing.assert_array_equal(retargeter(broken), last)
    assert retargeter.reason == "2 key points not finite"


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (lambda p: 0.0 * p, "0 m from wrist to middle knuckle; expected 0.05 to 0.14"),
        (lambda p: 1000.0 * p, "from wrist to middle knuckle; expected 0.05 to 0.14"),
        (lambda p: synthetic.keypoints_of(synthetic.FIST) * [1.0, -1.0, 1.0], "a left hand"),
        (lambda p: np.outer(np.linspace(0, 0.2, 21), [0, 0, 1.0]), "in one point or line with the wrist"),
    ],
)
def test_a_frame_that_is_no_right_hand_holds_the_last_joints(model: Model, points: np.ndarray, wrong, reason) -> None:
    retargeter = Retargeter(model)
    last = retargeter(points)
    np.testing.assert_array_equal(retargeter(wrong(points)), last)
    assert not retargeter.valid
    assert reason in retargeter.reason
    np.testing.assert_array_equal(retargeter(points), last)
    assert retargeter.valid


def test_a_frozen_glove_is_said(model: Model, points: np.ndarray) -> None:
    retargeter = Retargeter(model)
    first = retargeter(points)
    for _ in range(FROZEN):
        assert retargeter.valid
        np.testing.assert_array_equal(retargeter(points), first)
    assert not retargeter.valid
    assert retargeter.reason == "frozen: the same frame 45 times"
    retargeter(points + 1e-6)
    assert retargeter.valid


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda p: p[:20], r"expected \[21, 3\], got \[20, 3\]"),
        (lambda p: 1000 * p, "divide by 1000: they look like mm"),
    ],
)
def test_wrong_key_points_are_refused(model: Model, points: np.ndarray, wrong, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Retargeter(model)(wrong(points))


def test_limits_hold_for_any_key_points(model: Model) -> None:
    rng = np.random.default_rng(0)
    motors = model.motors(rng.normal(0.0, 0.3, (500, 21, 3)), 2.0)
    assert (motors >= model.hand.lower).all()
    assert (motors <= model.hand.upper).all()


def test_runtime_needs_no_jax() -> None:
    import subprocess
    import sys

    code = "import sys, dexhil.retargeting.runtime; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_network_is_small(model: Model) -> None:
    count = sum(value.size for _, value in runtime._flat(network.init(np.random.default_rng(0), model.hand, 64)))
    assert count < 100_000
