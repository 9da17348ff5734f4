"""A policy from a checkpoint: the same numbers as by hand, absolute joints out, bad observations refused."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dexhil.config import ConfigError
from dexhil.models.config import TINY, VLAConfig
from dexhil.models.inputs import fake_batch, model_inputs
from dexhil.models.sampling import Prefix, sample_actions
from dexhil.models.tokenizer import Tokenizer, train_tokenizer
from dexhil.models.vla import init_params
from dexhil.policy import Policy
from dexhil.robots.geometry import ee_pose
from dexhil.robots.spec import FR3_DEXHAND021 as SPEC
from dexhil.schema import Observation, SchemaError
from dexhil.training.checkpoints import CheckpointError, CheckpointMeta, Checkpoints, load_ema_params
from dexhil.training.config import OptimizerConfig
from dexhil.training.optimizer import make_optimizer
from dexhil.training.step import init_state
from dexhil.transforms.normalization import Normalization, NormStats, fit_normalization, images_to_float

INSTRUCTIONS = ["Grab that yellow plushie", "Pull out a napkin"]


def random_params(seed: int, model: VLAConfig = TINY) -> Any:
    """Of the right shapes, without the zeros of a fresh model that would hide inputs."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(lambda key: init_params(model, key), jax.random.key(0))
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(0, 0.2, x.shape), jnp.float32), shapes)


@pytest.fixture(scope="module")
def meta() -> CheckpointMeta:
    batch = fake_batch(TINY, 64, seed=1)
    normalization = fit_normalization(batch["state"], batch["actions"], batch["action_mask"], delta_dims=range(7))
    return CheckpointMeta("fr3_dexhand021", 20.0, TINY, normalization, train_tokenizer(INSTRUCTIONS), {}, {})


@pytest.fixture(scope="module")
def run(tmp_path_factory, meta) -> Path:
    """A run whose averaged parameters differ from the last ones."""
    directory = tmp_path_factory.mktemp("runs") / "warm_up"
    state = init_state(random_params(0), make_optimizer(OptimizerConfig(steps=10, warmup_steps=1)))
    state = dataclasses.replace(state, ema_params=random_params(1), step=jnp.int32(40))
    with Checkpoints(directory) as checkpoints:
        checkpoints.save(state, meta)
    return directory


@pytest.fixture(scope="module")
def policy(run) -> Policy:
    return Policy.load(run)


@pytest.fixture
def observation() -> Observation:
    rng = np.random.default_rng(3)
    return Observation(
        images={camera: rng.integers(0, 256, (24, 32, 3), np.uint8) for camera in TINY.cameras},
        q_arm=rng.uniform(-1, 1, 7).astype(np.float32),
        q_hand=rng.uniform(0, 1, 12).astype(np.float32),
        pose_base_ee=np.array([0.4, 0, 0.3, 1, 0, 0, 0], np.float32),
        timestamp=1.25,
        language_instruction=INSTRUCTIONS[0],
    )


def by_hand(observation, meta):
    """The model's inputs of an observation."""
    state = np.concatenate([observation.q_arm, observation.q_hand])[None]
    batch = {
        "images": {camera: image[None] for camera, image in observation.images.items()},
        "state": state,
        "instruction": [observation.language_instruction],
    }
    inputs = model_inputs(batch, meta.normalization, Tokenizer(meta.tokenizer), TINY)
    inputs["images"] = images_to_float(inputs["images"])
    return inputs


def test_it_equals_the_averaged_parameters_by_hand(run, policy, meta, observation):
    inputs = by_hand(observation, meta)
    normalised = np.asarray(sample_actions(load_ema_params(run), TINY, inputs, jax.random.key(5)))
    expected = meta.normalization.actions.unnormalize(normalised)[0]
    expected[:, :7] += observation.q_arm
    chunk = policy.infer(observation, seed=5)
    np.testing.assert_allclose(chunk.actions, expected, atol=1e-5)
    assert chunk.actions.shape == (TINY.chunk, 19)
    assert chunk.actions.dtype == np.float32
    assert chunk.timestamp == 1.25


def test_seed_and_observation_decide_the_chunk(policy, observation):
    first = policy.infer(observation, seed=1).actions
    np.testing.assert_array_equal(first, policy.infer(observation, seed=1).actions)
    assert not np.allclose(first, policy.infer(observation, seed=2).actions)


@pytest.mark.parametrize(
    "change",
    [{"language_instruction": INSTRUCTIONS[1]}, {"q_hand": np.full(12, 0.9, np.float32)}],
    ids=["instruction", "state"],
)
def test_instruction_and_state_reach_the_actions(policy, observation, change):
    changed = dataclasses.replace(observation, **change)
    assert not np.array_equal(policy.infer(observation).actions, policy.infer(changed).actions)


def test_it_knows_where_it_comes_from(policy, meta):
    assert policy.checkpoint_id == "warm_up/40"
    assert policy.meta.normalization.hash() == meta.normalization.hash()


def _without_wrist(observation):
    return {"images": {"scene": observation.images["scene"]}}


def _float_image(observation):
    return {"images": {camera: image / 255 for camera, image in observation.images.items()}}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda o: {"q_arm": np.full(7, np.nan, np.float32)}, SchemaError, "q_arm: non-finite value nan"),
        (lambda o: {"q_arm": o.q_arm.astype(np.float64)}, SchemaError, "q_arm: expected dtype float32, got float64"),
        (lambda o: {"q_hand": np.zeros(16, np.float32)}, SchemaError, "'fr3_dexhand021' with 12 hand joints, got 16"),
        (lambda o: {"language_instruction": None}, SchemaError, "language_instruction: expected a str, got NoneType"),
        (_without_wrist, ValueError, r"the model needs \['scene', 'wrist'\], got \['scene'\]"),
        (_float_image, SchemaError, r"image_scene: expected uint8 .*got float64 .*\(255 \* image\)\.round\(\)"),
    ],
)
def test_bad_observations_are_refused(policy, observation, change, error, message):
    with pytest.raises(error, match=message):
        policy.infer(dataclasses.replace(observation, **change(observation)))


def test_non_finite_actions_never_leave(meta):
    broken = jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), random_params(0))
    with pytest.raises(RuntimeError, match="policy 'bad/1': non-finite action, do not execute it"):
        Policy(broken, meta, checkpoint_id="bad/1")


def test_a_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="expected the workdir of a training run"):
        Policy.load(tmp_path / "nothing")


@pytest.fixture(scope="module")
def guided(run) -> Policy:
    return Policy.load(run, rtc="guided")


@pytest.fixture(scope="module")
def trained(meta) -> Policy:
    """Takes up to 4 committed actions, in end-effector deltas."""
    batch = fake_batch(TINY, 64, seed=1)
    state = SPEC.home + 0.2 * batch["state"]
    chunks = state[:, None] + 0.1 * batch["actions"]
    normalization = fit_normalization(state, chunks, batch["action_mask"], action_space="ee_delta")
    model = dataclasses.replace(TINY, rtc_max_delay=4, action_dim=18, state_dim=21)
    meta = dataclasses.replace(meta, model=model, normalization=normalization)
    return Policy(random_params(1, model), meta, rtc="auto")


@pytest.fixture
def earlier(observation) -> np.ndarray:
    """What is left of an earlier chunk: 8 smooth joint targets near the present state."""
    steps = np.cumsum(np.random.default_rng(4).uniform(-0.02, 0.02, (8, 19)), axis=0)
    return (np.concatenate([observation.q_arm, observation.q_hand]) + steps).astype(np.float32)


def test_a_guided_chunk_begins_with_what_is_committed_and_stays_near_the_rest(guided, observation, earlier):
    free, chunk = guided.infer(observation), guided.infer(observation, prefix=earlier, delay=3)
    np.testing.assert_array_equal(chunk.actions[:3], earlier[:3])
    assert chunk.actions.shape == free.actions.shape
    distance = [np.abs(c.actions - earlier[3])[3].mean() for c in (chunk, free)]
    assert distance[0] < 0.5 * distance[1]


def test_the_prefix_reaches_the_model_relative_to_the_new_state(guided, observation, earlier, meta):
    """By hand: the earlier joint targets, as deltas from where the robot is now, guide the sampler."""
    inputs = by_hand(observation, meta)
    relative = earlier.copy()
    relative[:, :7] -= observation.q_arm
    target = np.zeros((1, TINY.chunk, 19), np.float32)
    target[0, :8] = meta.normalization.actions.normalize(relative)
    prefix = Prefix(jnp.asarray(target), jnp.int32(8), jnp.int32(3))
    normalised = sample_actions(random_params(1), TINY, inputs, jax.random.key(5), prefix=prefix)
    expected = meta.normalization.actions.unnormalize(np.asarray(normalised))[0]
    expected[:, :7] += observation.q_arm
    chunk = guided.infer(observation, seed=5, prefix=earlier, delay=3)
    np.testing.assert_allclose(chunk.actions[3:], expected[3:], atol=1e-4)


def test_what_is_left_of_a_chunk_survives_the_change_of_state(trained, observation, earlier):
    """Absolute -> deltas from the new state -> absolute: the same poses and hands, and the elbow goes on."""
    rng, normalization = np.random.default_rng(6), trained.meta.normalization
    earlier = np.concatenate([SPEC.home[:7] + (earlier - earlier[0])[:, :7], earlier[:, 7:]], axis=1)
    moved = (earlier[:1] + rng.uniform(-0.05, 0.05, (1, 19))).astype(np.float32)
    back = normalization.unnormalize_actions(normalization.normalize_actions(earlier[None], moved), moved, earlier[:1])
    for found, wanted in zip(ee_pose(back[0, :, :7]), ee_pose(earlier[:, :7]), strict=True):
        np.testing.assert_allclose(found, wanted, atol=2e-3)
    np.testing.assert_allclose(back[0, :, 7:], earlier[:, 7:], atol=1e-5)
    fresh = normalization.unnormalize_actions(normalization.normalize_actions(earlier[None], moved), moved)
    first_step = [np.abs(chunk[0, 0, :7] - earlier[0, :7]).max() for chunk in (back, fresh)]
    assert first_step[0] < 0.5 * first_step[1]


def test_a_trained_policy_plans_from_the_committed_actions(trained, observation, earlier):
    observation = dataclasses.replace(observation, q_arm=SPEC.home[:7])
    earlier[:, :7] += SPEC.home[:7] - earlier[0, :7]
    assert trained.max_delay == 4
    free, chunk = trained.infer(observation), trained.infer(observation, prefix=earlier, delay=4)
    np.testing.assert_array_equal(chunk.actions[:4], earlier[:4])
    assert np.abs(chunk.actions - free.actions)[4:].max() > 1e-3
    unused = np.concatenate([earlier[:4], earlier[4:] + 0.1])
    np.testing.assert_array_equal(trained.infer(observation, prefix=unused, delay=4).actions, chunk.actions)


def test_nothing_is_compiled_in_control(guided, trained, observation, earlier, caplog):
    """Other instructions, seeds, camera sizes, prefixes and delays are the same programs."""
    other = dataclasses.replace(
        observation,
        language_instruction=INSTRUCTIONS[1],
        images={camera: np.zeros((48, 64, 3), np.uint8) for camera in TINY.cameras},
    )
    with jax.log_compiles():
        for policy in (guided, trained):
            policy.infer(other, seed=7)
            policy.infer(other, seed=8, prefix=earlier, delay=2)
            policy.infer(other, seed=9, prefix=earlier[:5], delay=4)
        assert not [record for record in caplog.records if "Compiling" in record.message]
        jax.jit(lambda x: x + 1)(0)
        assert [record for record in caplog.records if "Compiling" in record.message]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"delay": 2}, "delay: 2 without a prefix; pass the actions that are executed meanwhile"),
        ({"prefix": np.zeros((8, 5), np.float32)}, r"prefix: expected finite joint targets \[R, 19\], got \[8, 5\]"),
        ({"prefix": np.full((8, 19), np.nan)}, r"prefix: expected finite joint targets \[R, 19\], got \[8, 19\]"),
        (
            {"prefix": np.zeros((4, 19), np.float32), "delay": 5},
            r"got delay 5 and 12 executed \(4 of 16 actions remain",
        ),
        ({"prefix": np.zeros((8, 19), np.float32), "delay": 6}, "delay: 6 actions, .* trained with at most 4 given"),
    ],
)
def test_bad_prefixes_are_refused(trained, observation, change, message):
    with pytest.raises(ValueError, match=message):
        trained.infer(observation, **change)


def test_real_time_chunking_must_be_asked_for_and_possible(policy, meta, observation, earlier):
    with pytest.raises(ValueError, match=r"loaded without real-time chunking; load it with rtc='auto'"):
        policy.infer(observation, prefix=earlier)
    pi0 = dataclasses.replace(meta, model=dataclasses.replace(TINY, variant="pi0"))
    with pytest.raises(
        ValueError, match=r"rtc='trained': this checkpoint \(variant 'pi0'\) was not trained with a pre"
    ):
        Policy({}, pi0, rtc="trained")
    with pytest.raises(ValueError, match=r"rtc 'on' is not known; .*\['auto', 'guided', 'none', 'trained'\]"):
        Policy({}, meta, rtc="on")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    "text", ["", "日本語のテキスト", "🤖" * 20, "\ud800", "a\0b", "Grab_that", "quetzalcoatlus " * 4]
)
def test_any_short_instruction_is_read(policy, observation, text):
    """Words that no training text held, in any script: what takes too many pieces becomes an unknown one."""
    assert policy.infer(dataclasses.replace(observation, language_instruction=text)).actions.shape == (16, 19)


def test_an_instruction_that_is_too_long_is_refused_with_a_remedy(policy, observation):
    with pytest.raises(ValueError, match=r"trained to read 16; shorten it, or train on with --config.model.max_tokens"):
        policy.infer(dataclasses.replace(observation, language_instruction="yellow " * 40))


@pytest.mark.parametrize(("state", "actions"), [(8, 7), (7, 8), (9, 2)])
def test_state_and_action_may_differ_in_width(meta, state, actions):
    rng, model = np.random.default_rng(0), dataclasses.replace(TINY, state_dim=state, action_dim=actions)
    stats = fit_normalization(
        rng.normal(size=(50, state)).astype(np.float32),
        rng.normal(size=(50, TINY.chunk, actions)).astype(np.float32),
        np.ones((50, TINY.chunk), bool),
    )
    mine = dataclasses.replace(meta, robot="mine", model=model, normalization=stats)
    policy = Policy(random_params(0, model), mine, rtc="guided")
    images = {camera: np.zeros((8, 8, 3), np.uint8) for camera in TINY.cameras}
    zeros = np.zeros(state, np.float32)
    seen = Observation(images, zeros[:7], zeros[7:], np.zeros(7, np.float32), 0.0, "go")
    assert policy.infer(seen).actions.shape == (TINY.chunk, actions)
    prefix = np.zeros((8, actions), np.float32)
    np.testing.assert_array_equal(policy.infer(seen, prefix=prefix, delay=2).actions[:2], prefix[:2])
    assert (policy.info.state_dim, policy.info.action_dim, policy.info.max_delay) == (state, actions, 8)


def test_it_warms_up_whatever_it_was_trained_to_read(meta):
    """On a text of its own: another project's may take more pieces than it reads."""
    tokenizer = train_tokenizer(["go"])
    model = dataclasses.replace(TINY, vocab_size=Tokenizer(tokenizer).vocab_size, max_tokens=4)
    Policy(random_params(0, model), dataclasses.replace(meta, model=model, tokenizer=tokenizer))


def test_it_says_what_a_rig_must_have(policy, meta):
    info = policy.info
    assert (info.robot, info.control_hz, info.cameras) == ("fr3_dexhand021", 20.0, TINY.cameras)
    assert (info.checkpoint, info.chunk, info.max_delay) == ("warm_up/40", TINY.chunk, 0)
    assert info.normalization == meta.normalization.hash()
    assert info.saved


def test_end_effector_actions_of_an_unknown_arm_are_refused(meta):
    motion = NormStats(np.zeros(18, np.float32), np.ones(18, np.float32))
    shown = NormStats(np.zeros(21, np.float32), np.ones(21, np.float32))
    stats = Normalization(shown, motion, (), "ee_delta")
    with pytest.raises(ConfigError, match=r"'ee_delta': needs the arm's kinematics, .* none of robot 'xarm7_allegro'"):
        Policy({}, dataclasses.replace(meta, robot="xarm7_allegro", normalization=stats))
