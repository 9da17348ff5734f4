"""Whose array is which of ours: openpi's and big_vision's paths, and transformers' names with their layouts.

Axes of the layouts, one letter each: a action width, b twice the expert's width, c pixel channels, d width of the
stream, e width of the language model or of the expert beside d, f MLP width, h head size, k key-value heads, m three
times the width (scale, shift, gate), n heads, p image tokens, q state width, v vocabulary, w the expert's width again,
x and y pixels of a patch.
"""

from __future__ import annotations

import dataclasses
import re

import numpy as np

from dexhil.models.config import VLAConfig

_GEMMA_LAYER = {
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
_GEMMA_END = {
    "norm.weight": ("final_norm{s}/scale", (), "d -> d"),
    "norm.dense.weight": ("final_norm{s}/Dense_0/kernel", (), "m d -> d m"),
    "norm.dense.bias": ("final_norm{s}/Dense_0/bias", (), "m -> m"),
}
_EMBEDDING = "PaliGemma/llm/embedder/input_embedding"
_EMBEDDING_NAMES = ("language.embed_tokens.weight", "language.lm_head.weight")  # tied: files keep either or both
_HEADS = "MultiHeadDotProductAttention_0"
_VISION_LAYER = {
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
_VISION_END = {
    "vision.embeddings.patch_embedding.weight": ("embedding/kernel", (), "d c y x -> y x c d"),
    "vision.embeddings.patch_embedding.bias": ("embedding/bias", (), "d -> d"),
    "vision.embeddings.position_embedding.weight": ("pos_embedding", (0,), "p d -> p d"),
    "vision.post_layernorm.weight": ("Transformer/encoder_norm/scale", (), "d -> d"),
    "vision.post_layernorm.bias": ("Transformer/encoder_norm/bias", (), "d -> d"),
    "projector.weight": ("head/kernel", (), "e d -> d e"),
    "projector.bias": ("head/bias", (), "e -> e"),
}
_PROJECTIONS = {
    "action_in_proj.weight": ("action_in_proj/kernel", (), "e a -> a e"),
    "action_in_proj.bias": ("action_in_proj/bias", (), "e -> e"),
    "action_out_proj.weight": ("action_out_proj/kernel", (), "a e -> e a"),
    "action_out_proj.bias": ("action_out_proj/bias", (), "a -> a"),
    "state_proj.weight": ("state_proj/kernel", (), "e q -> q e"),
    "state_proj.bias": ("state_proj/bias", (), "e -> e"),
    "action_time_mlp_in.weight": ("action_time_mlp_in/kernel", (), "e b -> b e"),
    **{
        f"{name}.{part}": (f"{name}/{kind}", (), layout)
        for name in ("action_time_mlp_in", "action_time_mlp_out", "time_mlp_in", "time_mlp_out")
        for part, kind, layout in (("weight", "kernel", "w e -> e w"), ("bias", "bias", "w -> w"))
        if (name, part) != ("action_time_mlp_in", "weight")
    },
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
    """One array of a file as a part of one of our leaves.

    path: of the leaf; index: of the part in it; shape: of the file's array; view: its axes pulled apart; axes: their
    order in the leaf.
    """

    path: str
    index: tuple[int, ...]
    shape: tuple[int, ...]
    view: tuple[int, ...]
    axes: tuple[int, ...]

    @classmethod
    def whole(cls, path: str, shape: tuple[int, ...]) -> Piece:
        """The leaf as it is."""
        return cls(path, (), shape, shape, tuple(range(len(shape))))

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


def huggingface_pieces(config: VLAConfig) -> dict[str, Piece]:
    """{short name: piece} of every array that either variant may have."""
    shared, llm = config.attention, "PaliGemma/llm"
    pieces: dict[str, Piece] = {}
    for stream, suffix, size in (("language", "", config.lm), ("expert", "_1", config.expert)):
        sizes = {
            "d": size.width,
            "f": size.mlp_dim,
            "h": shared.head_dim,
            "k": shared.num_kv_heads,
            "m": 3 * size.width,
            "n": shared.num_heads,
        }
        for layer in range(shared.depth):
            for name, (path, index, layout) in _GEMMA_LAYER.items():
                path = f"{llm}/layers/{path.format(s=suffix)}"
                pieces[f"{stream}.layers.{layer}.{name}"] = _piece(path, (layer, *index), layout, sizes)
        for name, (path, index, layout) in _GEMMA_END.items():
            pieces[f"{stream}.{name}"] = _piece(f"{llm}/{path.format(s=suffix)}", index, layout, sizes)
    for name in _EMBEDDING_NAMES:
        pieces[name] = _piece(_EMBEDDING, (), "v d -> v d", {"v": config.vocab_size, "d": config.lm.width})
    return pieces | _vision_pieces(config) | _projection_pieces(config)


def _vision_pieces(config: VLAConfig) -> dict[str, Piece]:
    vision = config.vision
    sizes = {
        "c": 3,
        "d": vision.width,
        "e": config.lm.width,
        "f": vision.mlp_dim,
        "h": vision.width // vision.num_heads,
        "n": vision.num_heads,
        "p": config.image_tokens,
        "x": vision.patch,
        "y": vision.patch,
    }
    tower, block = "PaliGemma/img", "PaliGemma/img/Transformer/encoderblock"
    ends = {
        name: _piece(f"{tower}/{path}", index, layout, sizes) for name, (path, index, layout) in _VISION_END.items()
    }
    layers = {
        f"vision.encoder.layers.{layer}.{name}": _piece(f"{block}/{path}", (layer, *index), layout, sizes)
        for layer in range(vision.depth)
        for name, (path, index, layout) in _VISION_LAYER.items()
    }
    return ends | layers


def _projection_pieces(config: VLAConfig) -> dict[str, Piece]:
    width = config.expert.width
    sizes = {"a": config.padded_action_dim, "b": 2 * width, "e": width, "q": config.padded_state_dim, "w": width}
    return {name: _piece(path, index, layout, sizes) for name, (path, index, layout) in _PROJECTIONS.items()}


def _piece(path: str, index: tuple[int, ...], layout: str, sizes: dict[str, int]) -> Piece:
    """layout: "nh d -> n d h": the file's axes, merged where letters stand together, and ours."""
    theirs, ours = (side.split() for side in layout.split("->"))
    letters = "".join(theirs)
    return Piece(
        path,
        index,
        shape=tuple(int(np.prod([sizes[letter] for letter in word])) for word in theirs),
        view=tuple(sizes[letter] for letter in letters),
        axes=tuple(letters.index(letter) for letter in ours),
    )
