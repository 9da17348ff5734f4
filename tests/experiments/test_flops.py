"""Counted arithmetic against the products of the traced program."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax.extend.core import jaxprs_in_params

from dexhil.models.config import PI05
from dexhil.models.vla import abstract_params, flow_loss
from dexhil.training.partition import frozen_paths
from experiments.benchmarks.flops import forward_flops, inference_work, peaks, training_flops, utilisation
from experiments.benchmarks.measure import adapted

# Two layers of the real widths. Traced only, never allocated.
CONFIG = dataclasses.replace(
    PI05,
    remat=False,
    vision=dataclasses.replace(PI05.vision, depth=2),
    attention=dataclasses.replace(PI05.attention, depth=2),
)


def products(program: Any) -> float:
    """FLOPs of the matrix products and convolutions of a jaxpr, loops counted as often as they run."""
    total = 0.0
    for equation in program.eqns:
        name, parameters = equation.primitive.name, equation.params
        if name == "dot_general":
            (contracted, _), _ = parameters["dimension_numbers"]
            summed = math.prod(equation.invars[0].aval.shape[axis] for axis in contracted)
            total += 2.0 * math.prod(equation.outvars[0].aval.shape) * summed
        elif name == "conv_general_dilated":
            kernel, out_axis = equation.invars[1].aval.shape, parameters["dimension_numbers"].rhs_spec[0]
            total += 2.0 * math.prod(equation.outvars[0].aval.shape) * math.prod(kernel) / kernel[out_axis]
        total += parameters.get("length", 1) * sum(products(inner) for inner in jaxprs_in_params(parameters))
    return total


def test_forward_flops_are_those_of_the_program():
    shape, side = jax.ShapeDtypeStruct, CONFIG.image_size
    inputs = {
        "images": {camera: shape((1, side, side, 3), jnp.float32) for camera in CONFIG.cameras},
        "tokens": shape((1, CONFIG.max_tokens), jnp.int32),
        "token_mask": shape((1, CONFIG.max_tokens), jnp.bool_),
        "state": shape((1, CONFIG.state_dim), jnp.float32),
        "actions": shape((1, CONFIG.chunk, CONFIG.action_dim), jnp.float32),
    }
    program = jax.make_jaxpr(lambda p, x: flow_loss(p, CONFIG, x, jax.random.key(0), flow_samples=3))
    counted = sum(forward_flops(CONFIG, flow_samples=3).values())
    assert counted == pytest.approx(products(program(abstract_params(CONFIG), inputs).jaxpr), rel=1e-3)


@pytest.mark.parametrize(
    ("config", "freeze", "times"),
    [
        (CONFIG, [], {"vision": 3, "language": 3, "expert": 3}),
        (CONFIG, ["PaliGemma/img"], {"vision": 1, "language": 3, "expert": 3}),
        (adapted(CONFIG), ["PaliGemma"], {"vision": 1, "language": 2, "expert": 2}),
        (adapted(CONFIG), [], {"vision": 3, "language": 2, "expert": 2}),
    ],
)
def test_only_what_is_trained_costs_a_backward_pass(config, freeze, times):
    shapes, forward = abstract_params(config), forward_flops(config)
    expected = sum(times[part] * flops for part, flops in forward.items())
    assert training_flops(config, shapes, frozen_paths(shapes, freeze)) == pytest.approx(expected)


def test_devices_are_known_by_their_names():
    assert peaks("NVIDIA H100 80GB HBM3") == (989.0, 3.35)
    assert peaks("NVIDIA H100 PCIe") == (756.0, 2.0)
    assert peaks("cpu") == (None, None)


def test_a_chunk_is_bound_by_arithmetic_or_by_memory():
    """bfloat16 weights of pi0.5 at the real size: 6.7 GB with the embedding, of which a look-up reads nothing."""
    shapes = abstract_params(dataclasses.replace(PI05, param_dtype="bfloat16"))
    once, ten = (inference_work(PI05, shapes, steps) for steps in (1, 10))
    forward = forward_flops(PI05)
    assert once["tflop"] == pytest.approx(sum(forward.values()) / 1e12)
    assert ten["tflop"] - once["tflop"] == pytest.approx(9 * forward["expert"] / 1e12)
    assert 5.5e-3 < once["tbyte"] < 6.0e-3
    guided = inference_work(PI05, shapes, 10, guided=True)
    assert guided["tflop"] - ten["tflop"] == pytest.approx(10 * forward["expert"] / 1e12)
    facts = utilisation(ten, 0.050, "NVIDIA H100 80GB HBM3")
    assert facts["mfu"] == pytest.approx(ten["tflop"] / 0.050 / 989.0)
    assert facts["bound_ms"] == pytest.approx(1e3 * max(ten["tflop"] / 989.0, ten["tbyte"] / 3.35))
    assert utilisation(ten, 0.050, "cpu") == ten
