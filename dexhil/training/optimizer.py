"""Muon for matrices with AdamW for the rest, three times as fast from scratch, or AdamW for all: docs/benchmarks.md."""

import re
from typing import Any

import jax
import optax
from optax.contrib import MuonDimensionNumbers, muon

from dexhil.training.config import OptimizerConfig

FINAL_FRACTION = 0.1  # of the peak rate, at the end of the schedule and after it
BETAS = (0.9, 0.95)  # of AdamW
UPDATE_RMS = 0.2  # of a Muon step, relative to the rate: AdamW's usual one, so that their rates compare
VECTOR_RATE = 0.5  # of what is not a matrix, relative to the rate

# Matrices by name, and which axes, counted from the end, they multiply and make. What none names is AdamW's: vectors,
# embeddings, and the projections from and to robot, pixel and action values. Any axis besides counts matrices.
_MATRICES = tuple(
    (re.compile(pattern), axes)
    for pattern, axes in {
        r"(action_in|action_out|state)_proj/|stem_0/|embedding$": None,
        r"(query|key|value)/kernel$": MuonDimensionNumbers(-3, (-2, -1)),
        r"MultiHeadDotProductAttention_0/out/kernel$": MuonDimensionNumbers((-3, -2), -1),
        r"img/embedding/kernel$": MuonDimensionNumbers((-4, -3, -2), -1),
        r"q_einsum(_1)?/w$": MuonDimensionNumbers(-2, (-3, -1)),
        r"attn_vec_einsum(_1)?/w$": MuonDimensionNumbers((-3, -2), -1),
        r"kv_einsum(_1)?/w$|gating_einsum$|linear$|kernel$": MuonDimensionNumbers(-2, -1),
    }.items()
)


def schedule(config: OptimizerConfig) -> optax.Schedule:
    """Learning rate by optimiser step: linear from 0, cosine to the final fraction."""
    return optax.warmup_cosine_decay_schedule(
        init_value=0.0 if config.warmup_steps else config.learning_rate,
        peak_value=config.learning_rate,
        warmup_steps=config.warmup_steps,
        decay_steps=config.steps,
        end_value=config.learning_rate * FINAL_FRACTION,
    )


def decay_mask(params: Any) -> Any:
    """True for the leaves that weight decay pulls: no bias, norm scale or embedding, by name (layers are stacked)."""

    def decays(path: tuple[Any, ...], _: jax.Array) -> bool:
        name = path[-1].key
        return name not in ("bias", "scale") and not name.endswith("embedding")

    return jax.tree_util.tree_map_with_path(decays, params)


def matrix_axes(params: Any) -> Any:
    """MuonDimensionNumbers of every leaf that is a matrix or a stack of them, None of every other."""

    def axes(path: tuple[Any, ...], leaf: jax.Array) -> MuonDimensionNumbers | None:
        name = "/".join(str(part.key) for part in path)
        found = next((axes for pattern, axes in _MATRICES if pattern.search(name)), None)
        return found if leaf.ndim >= 2 else None

    return jax.tree_util.tree_map_with_path(axes, params)


def make_optimizer(config: OptimizerConfig) -> optax.GradientTransformation:
    """Clips by the global norm, then AdamW, or Muon with the scale of arXiv 2502.16982, both from optax."""
    rate = schedule(config)
    if config.optimizer == "adamw":
        step = optax.adamw(rate, b1=BETAS[0], b2=BETAS[1], weight_decay=config.weight_decay, mask=decay_mask)
    else:
        step = muon(
            rate,
            weight_decay=config.weight_decay,
            weight_decay_mask=decay_mask,
            adam_b1=BETAS[0],
            adam_b2=BETAS[1],
            adam_learning_rate=lambda count: VECTOR_RATE * rate(count),
            muon_weight_dimension_numbers=matrix_axes,
            consistent_rms=UPDATE_RMS,
        )
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), step)
