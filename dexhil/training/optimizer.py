"""AdamW with clipping, decay on matrices alone and a warm-up cosine schedule."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import optax


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """steps: length of the schedule; the rate falls to `final_fraction` of its peak there and stays."""

    steps: int
    learning_rate: float = 1e-3
    warmup_steps: int = 100
    final_fraction: float = 0.1
    weight_decay: float = 1e-4
    clip_norm: float = 1.0
    b1: float = 0.9
    b2: float = 0.95

    def __post_init__(self) -> None:
        if not 0 <= self.warmup_steps < self.steps:
            raise ValueError(
                f"warmup_steps: expected 0 <= warmup_steps < steps = {self.steps}, got {self.warmup_steps}"
            )
        if self.learning_rate <= 0 or self.clip_norm <= 0:
            raise ValueError(
                f"learning_rate and clip_norm must be positive, got {self.learning_rate}, {self.clip_norm}"
            )


def schedule(config: OptimizerConfig) -> optax.Schedule:
    """Learning rate by optimiser step: linear from 0, cosine to the final fraction."""
    return optax.warmup_cosine_decay_schedule(
        init_value=0.0 if config.warmup_steps else config.learning_rate,
        peak_value=config.learning_rate,
        warmup_steps=config.warmup_steps,
        decay_steps=config.steps,
        end_value=config.learning_rate * config.final_fraction,
    )


def decay_mask(params: Any) -> Any:
    """True for the leaves that weight decay pulls: no bias, norm scale or embedding, by name (layers are stacked)."""

    def decays(path: tuple[Any, ...], _: jax.Array) -> bool:
        name = path[-1].key
        return name not in ("bias", "scale") and not name.endswith("embedding")

    return jax.tree_util.tree_map_with_path(decays, params)


def make_optimizer(config: OptimizerConfig) -> optax.GradientTransformation:
    """Clip by the global norm, then AdamW."""
    adamw = optax.adamw(schedule(config), b1=config.b1, b2=config.b2, weight_decay=config.weight_decay, mask=decay_mask)
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), adamw)
