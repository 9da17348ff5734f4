"""Whose array is which of ours: openpi's and big_vision's paths, and transformers' names with their layouts.

Layouts name the file's axes and ours by letters, such as d width, f MLP width, n heads, k key-value heads, h head size;
how long an axis is follows from our leaf.
"""

import dataclasses
import math
import re
from collections.abc import Mapping

import numpy as np

from dexhil.models.config import VLAConfig

Shapes = Mapping[str, tuple[int, ...]]  # of all our leaves, by path

Table = dict[str, tuple[str, tuple[int, ...], str]]  # name in the file: our path, index in the leaf, layout

_GEMMA_LAYER: Table = {
    "self_attn.q_proj.weight": ("attn/q_einsum{s}/w", (), "nh d -> n d h"),
    "self_attn.k_proj.weight": ("attn/kv_einsum{s}/w", (0,), "kh d -> k d h"),
    "self_attn.v_proj.weight": ("attn/kv_einsum{s}/w", (1,), "kh d -> k d h"),
    "self_attn.o_proj.weight": ("attn/attn_vec_einsum{s}/w", (), "d nh -> n h d"),
    "mlp.gate_proj.weight": ("mlp{s}/gating_einsum", (0,), "f d -> d f"),
    "mlp.up_proj.weight": ("mlp{s}/gating_einsum", (1,), "f d -> d f"),
    "mlp.down_proj.weight": ("mlp{s}/linear", (), "d f -> f d"),
    "input_layernorm.weight": ("pre_attention_norm{s}/scale", (), "d -> d"),
    "input_layernorm.dense.weight": ("pre_attention_norm{s}/Dense_0/kernel", (), "m d -> d m"),
    "input_layernorm.dense.bias": ("pre_attention_norm{s}/Dense_0/bias", (), "m -> m"),
    "post_attention_layernorm.weight": ("pre_ffw_norm{s}/scale", (), "d -> d"),
    "post_attention_layernorm.dense.weight": ("pre_ffw_norm{s}/Dense_0/kernel", (), "m d -> d m"),
    "post_attention_layernorm.dense.bias": ("pre_ffw_norm{s}/Dense_0/bias", (), "m -> m"),
}
_GEMMA_END: Table = {
    "norm.weight": ("final_norm{s}/scale", (), "d -> d"),
    "norm.dense.weight": ("final_norm{s}/Dense_0/kernel", (), "m d -> d m"),
    "norm.dense.bias": ("final_norm{s}/Dense_0/bias", (), "m -> m"),
}
_TABLE = ("PaliGemma/llm/embedder/input_embedding", (), "v d -> v d")
_EMBEDDING: Table = {"language.embed_tokens.weight": _TABLE, "language.lm_head.weight": _TABLE}  # tied: either or both
_HEADS = "MultiHeadDotProductAttention_0"
_VISION_LAYER: Table = {
    "layer_norm1.weight": ("LayerNorm_0/scale", (), "d -> d"),
    "layer_norm1.bias": ("LayerNorm_0/bias", (), "d -> d"),
    "layer_norm2.weight": ("LayerNorm_1/scale", (), "d -> d"),
    "layer_norm2.bias": ("LayerNorm_1/bias", (), "d -> d"),
    **{
        f"self_attn.{theirs}_proj.{part}": (f"{_HEADS}/{ours}/{kind}", (), layout)
        for theirs, ours in (("q", "query"), ("k", "key"), ("v", "value"))
        for part, kind, layout in (("weight", "kernel", "nh d -> d n h"), ("bias", "bias", "nh -> n h"))
    },
    "self_attn.out_proj.weight": (f"{_HEADS}/out/kernel", (), "d nh -> n h d"),
    "self_attn.out_proj.bias": (f"{_HEADS}/out/bias", (), "d -> d"),
    "mlp.fc1.weight": ("MlpBlock_0/Dense_0/kernel", (), "f d -> d f"),
    "mlp.fc1.bias": ("MlpBlock_0/Dense_0/bias", (), "f -> f"),
    "mlp.fc2.weight": ("MlpBlock_0/Dense_1/kernel", (), "d f -> f d"),
    "mlp.fc2.bias": ("MlpBlock_0/Dense_1/bias", (), "d -> d"),
}
_VISION_END: Table = {
    "vision.embeddings.patch_embedding.weight": ("embedding/kernel", (), "d c y x -> y x c d"),
    "vision.embeddings.patch_embedding.bias": ("embedding/bias", (), "d -> d"),
    "vision.embeddings.position_embedding.weight": ("pos_embedding", (0,), "p d -> p d"),
    "vision.post_layernorm.weight": ("Transformer/encoder_norm/scale", (), "d -> d"),
    "vision.post_layernorm.bias": ("Transformer/encoder_norm/bias", (), "d -> d"),
    "projector.weight": ("head/kernel", (), "e d -> d e"),
    "projector.bias": ("head/bias", (), "e -> e"),
}
_PROJECTIONS: Table = {
    f"{name}.{part}": (f"{name}/{kind}", (), layout)
    for name in (
        *("action_in_proj", "action_out_proj", "state_proj"),
        *("action_time_mlp_in", "action_time_mlp_out", "time_mlp_in", "time_mlp_out"),
    )
    for part, kind, layout in (("weight", "kernel", "o i -> i o"), ("bias", "bias", "o -> o"))
}

# What transformers 4 and 5, openpi's PyTorch model and LeRobot's policies put before the same names; all that match
# are replaced, in this order.
_SPELLINGS = tuple(
    (re.compile(pattern), short)
    for pattern, short in {
        r"^model\.(?=paligemma_with_expert\.|action_|state_proj|time_mlp)": "",
        r"^embed_action_time\.": "",
        r"^(paligemma_with_expert\.gemma_expert\.(model\.)?|model\.dit\.)": "expert.",
        r"^(paligemma_with_expert\.paligemma\.|model\.vlm\.)": "",
        r"^(model\.)?language_model\.(model\.)?": "language.",
        r"^(model\.)?vision_tower\.(vision_model\.)?": "vision.",
        r"^(model\.)?multi_modal_projector\.linear\.": "projector.",
        r"^lm_head\.": "language.lm_head.",
    }.items()
)
# In files, but read by nobody: the expert takes no text, and buffers are computed.
_UNREAD = re.compile(r"^expert\.(lm_head|embed_tokens)\.weight$|\.(position_ids|inv_freq)$")


@dataclasses.dataclass(frozen=True)
class Piece:
    """One array of a file as the part `index` of the leaf at `path`; `view` pulls its axes apart, `axes` reorders."""

    path: str
    index: tuple[int, ...]
    shape: tuple[int, ...]
    view: tuple[int, ...]
    axes: tuple[int, ...]

    def arrange(self, array: np.ndarray) -> np.ndarray:
        return array.reshape(self.view).transpose(self.axes)

    @property
    def plain(self) -> bool:
        """Whether the file's values stand in the leaf's order, and make up all of it."""
        return not self.index and self.axes == tuple(range(len(self.axes)))


def openpi_path(name: str) -> str:
    """Our path of an openpi or big_vision array: `params/` and a trailing `/value` are theirs."""
    path = name.removeprefix("params/").removesuffix("/value")
    return path if not path.startswith(("img/", "llm/")) else f"PaliGemma/{path}"


def short_name(name: str) -> str | None:
    """A transformers name in the one spelling of `huggingface_pieces`; None where nobody reads that array."""
    for pattern, short in _SPELLINGS:
        name = pattern.sub(short, name)
    return None if _UNREAD.search(name) else name


def huggingface_pieces(config: VLAConfig, shapes: Shapes) -> dict[str, Piece]:
    """{short name: piece} of every array that either variant may have; of no size where this model has no such leaf."""
    tables: list[tuple[str, str, tuple[int, ...], Table]] = []
    for stream, suffix in (("language", ""), ("expert", "_1")):
        tables.append((f"{stream}.", "PaliGemma/llm/", (), _with_suffix(_GEMMA_END, suffix)))
        for layer in range(config.attention.depth):
            table = _with_suffix(_GEMMA_LAYER, suffix)
            tables.append((f"{stream}.layers.{layer}.", "PaliGemma/llm/layers/", (layer,), table))
    for layer in range(config.vision.depth):
        folder = "PaliGemma/img/Transformer/encoderblock/"
        tables.append((f"vision.encoder.layers.{layer}.", folder, (layer,), _VISION_LAYER))
    tables += [("", "PaliGemma/img/", (), _VISION_END), ("", "", (), _PROJECTIONS), ("", "", (), _EMBEDDING)]
    return {
        prefix + name: make_piece(folder + path, (*outer, *index), layout, shapes)
        for prefix, folder, outer, table in tables
        for name, (path, index, layout) in table.items()
    }


def _with_suffix(table: Table, suffix: str) -> Table:
    return {name: (path.format(s=suffix), index, layout) for name, (path, index, layout) in table.items()}


def make_piece(path: str, index: tuple[int, ...], layout: str, shapes: Shapes) -> Piece:
    """The part `index` of our leaf at `path`; layout "nh d -> n d h": the file's axes, merged ones joined, and ours."""
    theirs, ours = (side.split() for side in layout.split("->"))
    letters = "".join(theirs)
    sizes = dict(zip(ours, shapes.get(path, ())[len(index) :], strict=False))
    return Piece(
        path,
        index,
        shape=tuple(math.prod(sizes.get(letter, 0) for letter in word) for word in theirs),
        view=tuple(sizes.get(letter, 0) for letter in letters),
        axes=tuple(letters.index(letter) for letter in ours),
    )
