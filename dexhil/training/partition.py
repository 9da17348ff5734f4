"""Which parameters are trained: the tree in two, so that only the trained part has gradients and optimiser state.

A pattern names a leaf or a folder by its path, with `*` for anything: "PaliGemma/img", "PaliGemma/llm/layers/mlp",
"*/pos_embedding". Adapters (LoRA) are always trained, and the weights that they adapt never are.
"""

import fnmatch
from collections.abc import Collection, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from dexhil.models.lora import adapter_path, is_adapter
from dexhil.models.trees import Params, flatten, unflatten
from dexhil.names import did_you_mean


def path_name(path: tuple[Any, ...]) -> str:
    """A leaf's key path as "PaliGemma/img/head/kernel"."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def parameter_group(path: tuple[Any, ...]) -> str:
    """Which part of the VLA a leaf belongs to, by its path: "vision", "language" or "expert"."""
    names = [key.key for key in path]
    if names[:2] == ["PaliGemma", "img"]:
        return "vision"
    in_language = names[0] == "PaliGemma" and not any(name.endswith("_1") for name in names)
    return "language" if in_language else "expert"


def frozen_paths(params: Params, patterns: Sequence[str], *, insulated: bool = False) -> frozenset[str]:
    """Paths of the leaves that are not trained. params: arrays or their shapes.

    insulated: the loss has no gradient in the vision tower and the language model, and none of them is trained either.
    Raises ValueError, naming the nearest path, on a pattern that matches nothing, and where nothing is left.
    """
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    names = [path_name(path) for path in paths]
    adapters = set(filter(is_adapter, names))
    frozen = {name for name in names if adapter_path(name) in adapters}
    if insulated:
        frozen |= {path_name(path) for path in paths if parameter_group(path) != "expert"}
    for pattern in patterns:
        frozen |= _matches(pattern, names) - adapters
    if frozen.issuperset(names):
        raise ValueError(f"freeze {list(patterns)}: nothing is left to train; leave out a pattern, or add adapters")
    if insulated and adapters & frozen:
        raise ValueError(
            f"insulate: the adapters of the language model, such as {min(adapters & frozen)}, would never be trained; "
            "set their rank to 0, or insulate to False"
        )
    return frozenset(frozen)


def _matches(pattern: str, names: Sequence[str]) -> set[str]:
    pattern = pattern.rstrip("/")
    found = {name for name in names if fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(name, f"{pattern}/*")}
    if not found:
        parts = [name.split("/") for name in names]
        known = {"/".join(part[:depth]) for part in parts for depth in range(1, len(part) + 1)}
        raise ValueError(f"freeze: no parameter's path matches {pattern!r}{did_you_mean(pattern, sorted(known))}")
    return found


def split_tree(params: Params, frozen: Collection[str]) -> tuple[Params, Params]:
    """(trained, frozen): two trees without empty folders. `merge_trees` puts them together again."""
    parts: tuple[dict[str, Any], dict[str, Any]] = {}, {}
    for path, leaf in flatten(params).items():
        parts[path in frozen][path] = leaf
    return unflatten(parts[0]), unflatten(parts[1])


def cast_frozen(params: Params, dtype: str) -> Params:
    """Weights in `dtype`, as activations read them; norm scales and biases, always read in float32, stay."""

    def cast(path: tuple[Any, ...], leaf: jax.Array) -> jax.Array:
        return leaf if path[-1].key in ("scale", "bias") else leaf.astype(jnp.dtype(dtype))

    return jax.tree_util.tree_map_with_path(cast, params)
