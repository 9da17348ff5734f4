"""Our tree written as every public file spells it: the loader's inverse, for small models."""

import jax
import numpy as np
import orbax.checkpoint as ocp
from safetensors.numpy import save_file

from dexhil.models.vla import init_params
from dexhil.models.weights.names import huggingface_pieces

# Before the short names: language model, vision tower, projector, expert, projections; and where the embedding stands.
SPELLINGS = {
    "PaliGemma, transformers 4": {
        "language.": "language_model.model.",
        "vision.": "vision_tower.vision_model.",
        "projector.": "multi_modal_projector.linear.",
    },
    "PaliGemma, transformers 4.52": {
        "language.embed_tokens.": "lm_head.",
        "language.": "model.language_model.",
        "vision.": "model.vision_tower.vision_model.",
        "projector.": "model.multi_modal_projector.linear.",
    },
    "PaliGemma, transformers 5": {
        "language.": "language_model.model.",
        "vision.": "vision_tower.",
        "projector.": "multi_modal_projector.linear.",
    },
    "pi0, transformers 5": {
        "language.": "paligemma_with_expert.paligemma.model.language_model.model.",
        "vision.": "paligemma_with_expert.paligemma.model.vision_tower.",
        "projector.": "paligemma_with_expert.paligemma.model.multi_modal_projector.linear.",
        "expert.": "paligemma_with_expert.gemma_expert.model.",
    },
    "pi0, transformers 5, in memory": {
        "language.": "model.vlm.language_model.",
        "vision.": "model.vlm.vision_tower.",
        "projector.": "model.vlm.multi_modal_projector.linear.",
        "expert.": "model.dit.",
        "action_": "embed_action_time.action_",
        "state_": "embed_action_time.state_",
    },
    "pi0, LeRobot": {
        "language.embed_tokens.": "model.paligemma_with_expert.paligemma.lm_head.",
        "language.": "model.paligemma_with_expert.paligemma.model.language_model.",
        "vision.": "model.paligemma_with_expert.paligemma.model.vision_tower.vision_model.",
        "projector.": "model.paligemma_with_expert.paligemma.model.multi_modal_projector.linear.",
        "expert.": "model.paligemma_with_expert.gemma_expert.model.",
        "action_": "model.action_",
        "state_": "model.state_",
        "time_": "model.time_",
    },
    "pi0, LeRobot of 2025": {
        "language.": "model.paligemma_with_expert.paligemma.language_model.model.",
        "vision.": "model.paligemma_with_expert.paligemma.vision_tower.vision_model.",
        "projector.": "model.paligemma_with_expert.paligemma.multi_modal_projector.linear.",
        "expert.": "model.paligemma_with_expert.gemma_expert.model.",
        "action_": "model.action_",
        "state_": "model.state_",
        "time_": "model.time_",
    },
}


def flat(tree):
    """{path: array}"""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf) for path, leaf in leaves}


def random_leaves(config, seed=0):
    """{path: float32 array} of a whole model."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(lambda key: init_params(config, key), jax.random.key(0))
    return flat(jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes))


def of_their_convention(leaves):
    """{path: array} with the action head's sign turned: theirs points from the data to the noise."""
    return {path: -leaf if path.startswith("action_out_proj/") else leaf for path, leaf in leaves.items()}


def huggingface_arrays(leaves, config, spelling):
    """{name: array} of the leaves ({path: array}) that are there, under the names of `spelling`."""
    arrays = {}
    for short, piece in huggingface_pieces(config, {path: leaf.shape for path, leaf in leaves.items()}).items():
        if piece.path in leaves and "lm_head" not in short:
            part = leaves[piece.path][piece.index].transpose(np.argsort(piece.axes))
            arrays[_spell(short, spelling)] = np.ascontiguousarray(part.reshape(piece.shape))
    return arrays


def _spell(short, spelling):
    for start, theirs in SPELLINGS[spelling].items():
        if short.startswith(start):
            return theirs + short.removeprefix(start)
    return short


def write_safetensors(arrays, folder, name="model.safetensors"):
    folder.mkdir(exist_ok=True)
    save_file(arrays, folder / name)
    return folder


def write_npz(leaves, path):
    """As big_vision's. NumPy writes bfloat16 as two unnamed bytes."""
    np.savez(path, **{name.replace("PaliGemma/", "params/"): leaf for name, leaf in leaves.items()})
    return path


def write_orbax(leaves, folder, *, value):
    """openpi's `params` folder, with or without the trailing "value"."""
    tree = {}
    for path, leaf in leaves.items():
        node = tree
        *folders, name = [*path.split("/"), "value"] if value else path.split("/")
        for part in folders:
            node = node.setdefault(part, {})
        node[name] = leaf
    with ocp.PyTreeCheckpointer() as checkpointer:
        checkpointer.save(folder.resolve(), {"params": tree})
    return folder
