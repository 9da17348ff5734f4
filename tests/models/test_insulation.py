"""Gradients of the two passes: those of the joint pass, and with insulation none at all in the backbone."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dexhil.models.config import TINY
from dexhil.training.partition import parameter_group, path_name
from tests.models import reference
from tests.models.pure import flow_errors
from tests.tolerances import TINY_VLA, relative, roundings

INSULATED = dataclasses.replace(TINY, insulate=True)


def _joint_errors(params, config, inputs, noise, t):
    """[B, H] at one flow sample, as `flow_errors` of shape [B, 1, H]."""
    per_token = jnp.broadcast_to(t[:, None], (len(t), config.chunk))
    x_t = (1 - t[:, None, None]) * noise + t[:, None, None] * inputs["actions"]
    velocity = reference.joint_velocity(params, config, inputs, x_t, per_token)
    return jnp.square(velocity - (inputs["actions"] - noise)).mean(axis=-1)


def _two_pass_errors(params, config, inputs, noise, t):
    return flow_errors(params, config, inputs, noise[:, None], t[:, None])[:, 0]


@pytest.fixture(scope="module")
def gradients(random_params, random_inputs):
    """(errors function, insulated) -> (loss, {path: gradient}), computed once each."""
    rng = np.random.default_rng(3)
    noise, t = rng.normal(size=(2, TINY.chunk, TINY.action_dim)), rng.uniform(size=2)
    # Weights of the size that training has: the last digits of a loss of 1, not of 100, are compared.
    params = jax.tree.map(lambda leaf: 0.3 * leaf, random_params(TINY))
    arguments = (random_inputs(TINY), jnp.float32(noise), jnp.float32(t))

    @functools.cache
    def compute(errors, insulated):
        config = INSULATED if insulated else TINY
        loss = jax.jit(jax.value_and_grad(lambda p: errors(p, config, *arguments).mean()))
        value, gradient = loss(params)
        leaves = jax.tree_util.tree_leaves_with_path(gradient)
        return float(value), {(parameter_group(path), path_name(path)): np.asarray(leaf) for path, leaf in leaves}

    return compute


def test_loss_and_gradient_are_the_joint_pass_s(gradients):
    loss, ours = gradients(_two_pass_errors, False)
    expected, theirs = gradients(_joint_errors, False)
    assert loss == pytest.approx(expected, rel=relative(TINY_VLA))
    allowed = roundings(TINY_VLA, max(np.abs(leaf).max() for leaf in theirs.values()))  # of all: some leaves cancel
    for name, leaf in ours.items():
        np.testing.assert_allclose(leaf, theirs[name], rtol=0, atol=allowed, err_msg=str(name))


def test_insulated_the_backbone_has_no_gradient_and_the_expert_the_same(gradients):
    loss, insulated = gradients(_two_pass_errors, True)
    plain_loss, plain = gradients(_two_pass_errors, False)
    assert loss == pytest.approx(plain_loss, rel=relative(TINY_VLA))
    allowed = roundings(TINY_VLA, max(np.abs(leaf).max() for (group, _), leaf in plain.items() if group == "expert"))
    for (group, name), leaf in insulated.items():
        if group == "expert":
            np.testing.assert_allclose(leaf, plain[group, name], rtol=0, atol=allowed, err_msg=name)
        else:
            assert not leaf.any(), name
    backbone = [np.abs(leaf).max() for (group, _), leaf in plain.items() if group != "expert"]
    assert np.count_nonzero(backbone) >= len(backbone) - 1  # all but the final norm, which serves a text head
