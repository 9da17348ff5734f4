"""Public weights as our parameter tree: strict, leaf by leaf, in about one copy of the model's memory."""

import functools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dexhil.models.config import VLAConfig
from dexhil.models.trees import Params, flatten, unflatten
from dexhil.models.vla import abstract_params, init_params
from dexhil.models.weights.names import Piece, Shapes, huggingface_pieces, openpi_path, short_name
from dexhil.models.weights.sources import Source, WeightsError, open_source

# Rows that transformers adds to the embedding: an image token, then up to a multiple of 64. No text reaches them.
_EXTRA_ROWS = 64
_EMBEDDING = "PaliGemma/llm/embedder/input_embedding"
_REMEDY = (
    "choose the model that these weights were made for (config.model.name, sizes), or name what is to be initialised "
    "afresh (config.model.init, patterns of our paths)"
)

Place = Callable[[str, Any], Any]


def load_params(
    weights: str | Path,
    config: VLAConfig,
    *,
    init: Sequence[str] = (),
    key: jax.Array | None = None,
    place: Place = lambda path, leaf: jax.device_put(leaf),
    say: Callable[[str], None] = print,
) -> Params:
    """The parameters of `config`, in its `param_dtype`, from local files of PaliGemma, pi0 or pi0.5.

    weights: see `sources.open_source`. init: regular expressions searched in our paths ("llm/.*_1/" is the expert); the
    leaves that one names are drawn from `key` instead of read. place: puts the leaf of a path where it is to live.
    Every leaf is read whole, cast, placed and forgotten, the largest first: the peak is one copy of the model.
    Raises WeightsError with the list of all arrays that are missing, unexpected or of another shape.
    """
    source = open_source(weights)
    shapes = {path: leaf.shape for path, leaf in flatten(abstract_params(config)).items()}
    fresh = _matching(init, shapes)
    parts = _assign(source, config, shapes, init, fresh, str(weights))
    if "action_out_proj/kernel" in parts and not config.reversed_time:
        raise WeightsError(
            f"weights {str(weights)!r}: their action head was trained with t = 1 as noise, the model has reversed_time "
            "= False; use a model with reversed_time = True (pi0, pi05)"
        )
    if fresh and key is None:
        raise ValueError(f"key: needed to draw what `init` names, {sorted(fresh)}; got None")
    leaves: dict[str, jax.Array] = {}
    for path in sorted(parts, key=lambda path: -math.prod(shapes[path])):
        leaves[path] = place(path, _read_leaf(source, path, parts[path], np.empty(shapes[path], config.param_dtype)))
        jax.block_until_ready(leaves[path])  # the host's copy is let go before the next one is made
    if fresh:
        leaves |= {path: place(path, leaf) for path, leaf in _fresh_leaves(key, config, fresh).items()}
    _say_what_differs(source, parts, fresh, shapes, say)
    return unflatten(leaves)


def _matching(patterns: Sequence[str], shapes: Shapes) -> frozenset[str]:
    found: set[str] = set()
    for pattern in patterns:
        named = {path for path in shapes if re.search(pattern, path)}
        if not named:
            raise WeightsError(f"init: {pattern!r} names no parameter of this model; its paths are {sorted(shapes)}")
        found |= named
    return frozenset(found)


Parts = dict[tuple[int, ...], list[tuple[str, Piece]]]  # of one leaf: index -> the arrays that hold that part


def _assign(
    source: Source, config: VLAConfig, shapes: Shapes, init: Sequence[str], fresh: frozenset[str], weights: str
) -> dict[str, Parts]:
    """{our path: its parts} of all that is to be read. Raises WeightsError with everything that does not fit."""
    pieces, indices = _pieces(source, config, shapes)
    parts: dict[str, Parts] = {path: {index: [] for index in indices[path]} for path in shapes if path not in fresh}
    problems: dict[str, list[str]] = {"missing": [], "unexpected": [], "another shape": [], "given twice": []}
    for name, piece in pieces.items():
        if piece is not None and piece.path in parts:
            parts[piece.path][piece.index].append((name, piece))
            if not _fits(source.shapes[name], piece):
                wrong = f"{name}: {list(source.shapes[name])} in the file, the model needs {list(piece.shape)}"
                problems["another shape"].append(wrong)
        elif piece is None or not any(re.search(pattern, piece.path) for pattern in init):
            problems["unexpected"].append(name)
    for path, found in parts.items():
        absent = [index for index, holders in found.items() if not holders]
        whole = len(absent) == len(found)
        problems["missing"] += [path] if whole else [f"{path} {list(index)}" for index in absent]
        if path != _EMBEDDING:
            problems["given twice"] += [str([n for n, _ in held]) for held in found.values() if len(held) > 1]
    lines = [f"  {kind}: {line}" for kind, found in problems.items() for line in sorted(found)]
    if lines:
        raise WeightsError("\n".join([f"weights {weights!r} do not fit the model:", *lines, _REMEDY]))
    return parts


def _pieces(
    source: Source, config: VLAConfig, shapes: Shapes
) -> tuple[dict[str, Piece | None], dict[str, set[tuple[int, ...]]]]:
    if source.family == "openpi":
        paths = {name: openpi_path(name) for name in source.shapes}
        whole = {path: shapes.get(path, ()) for path in paths.values()}
        pieces = {path: Piece(path, (), shape, shape, tuple(range(len(shape)))) for path, shape in whole.items()}
        return {name: pieces[path] for name, path in paths.items()}, {path: {()} for path in shapes}
    known = huggingface_pieces(config, shapes)
    indices: dict[str, set[tuple[int, ...]]] = {path: set() for path in shapes}
    for piece in known.values():
        indices.setdefault(piece.path, set()).add(piece.index)
    shorts = {name: short_name(name) for name in source.shapes}
    indices = {path: found or {()} for path, found in indices.items()}  # a leaf of ours alone, such as a vision stem
    return {name: known.get(short) for name, short in shorts.items() if short is not None}, indices


def _fits(shape: tuple[int, ...], piece: Piece) -> bool:
    if piece.path != _EMBEDDING or len(shape) != len(piece.shape):
        return shape == piece.shape
    extra = shape[0] - piece.shape[0]
    return shape[1:] == piece.shape[1:] and 0 <= extra <= _EXTRA_ROWS


def _read_leaf(source: Source, path: str, parts: Parts, leaf: np.ndarray) -> np.ndarray:
    for index, ((name, piece), *copies) in parts.items():
        if piece.plain:
            source.fill(name, leaf)
        else:
            leaf[index] = piece.arrange(_read(source, name, piece.shape, leaf.dtype))
        for copy, _ in copies:
            if not np.array_equal(_read(source, copy, leaf.shape, leaf.dtype), leaf):
                raise WeightsError(f"{name} and {copy} differ; PaliGemma's embedding and head are one array")
    if path.startswith("action_out_proj/"):
        np.negative(leaf, out=leaf)  # their velocity points from the data to the noise, ours from the noise to the data
    return leaf


def _read(source: Source, name: str, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    array = np.empty(shape, dtype)
    source.fill(name, array)
    return array


@functools.partial(jax.jit, static_argnames=("config", "paths"))
def _fresh_leaves(key: jax.Array, config: VLAConfig, paths: frozenset[str]) -> dict[str, jax.Array]:
    """Only what `paths` names is computed: XLA drops the rest of the model before anything is allocated."""
    return {path: leaf for path, leaf in flatten(init_params(config, key)).items() if path in paths}


def _say_what_differs(
    source: Source, parts: Mapping[str, Parts], fresh: frozenset[str], shapes: Shapes, say: Callable[[str], None]
) -> None:
    for held in parts.get(_EMBEDDING, {}).values():
        rows, wanted = source.shapes[held[0][0]][0], held[0][1].shape[0]
        if rows != wanted:
            say(f"weights: the vocabulary has {rows} rows, the model {wanted}; the last {rows - wanted} are left out")
    if fresh:
        count = sum(math.prod(shapes[path]) for path in fresh)
        say(f"weights: initialised afresh: {count:,} parameters in {', '.join(sorted(fresh))}")
