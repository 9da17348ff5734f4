"""Parameter trees by path, "PaliGemma/img/head/kernel": nested dicts of arrays, or of their shapes."""

from typing import Any

from flax import traverse_util

Params = Any  # a nested dict of arrays, of their shapes or shardings


def flatten(tree: Params) -> dict[str, Any]:
    """{path: leaf}"""
    return traverse_util.flatten_dict(tree, sep="/")


def unflatten(leaves: dict[str, Any]) -> Params:
    """Inverse of `flatten`."""
    return traverse_util.unflatten_dict(leaves, sep="/")


def merge_trees(left: Params, right: Params) -> Params:
    """Union of two nested dicts without a common leaf."""
    return unflatten(flatten(left) | flatten(right))


def select(params: Params, like: Params) -> Params:
    """The leaves of `params` that `like` has."""
    leaves = flatten(params)
    return unflatten({path: leaves[path] for path in flatten(like)})
