"""The policy: a vision-language prefix, an action expert that attends to its layers, and flow matching.

Two passes everywhere: `encode_prefix` runs once per observation and leaves keys and values, `denoise` runs against
them. The parameters of `VLA` live outside, in the nested dict of `init_params`, whose paths and shapes are those of
openpi and big_vision (layers stacked on a leading axis, the expert's keys with `_1`), so that public weights load
almost as they are. `bind` puts such a tree back into the module, inside a pure function for `jax.jit` and `jax.grad`.

Flow convention (DexHiL eq. 11): x_t = (1 - t) x_0 + t a, so t = 1 is data, and the velocity is a - x_0.

Axes: B batch, M flow samples of one observation, V cameras, P tokens of an image, S prefix tokens, T suffix tokens,
L layers, N query heads, K key-value heads, h head size, D width, E expert width, H chunk, A action, Q state.
`inputs`: {"images": {camera: [B Y X 3] in [-1, 1]}, "tokens": [B T], "token_mask": [B T], "state": [B Q]} and, to
train, {"actions": [B H A]}, and "delay" [B] where the first actions are given; state and actions normalised.
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from dexhil.models.config import VLAConfig
from dexhil.models.gemma import Gemma
from dexhil.models.layers import rotation, scan_blocks, time_embedding
from dexhil.models.trees import Params, flatten
from dexhil.models.vision import VisionTower

KV = tuple[Float[Array, "L B S K h"], Float[Array, "L B S K h"]]
Inputs = Mapping[str, Any]


class VLA(nnx.Module):
    """The whole policy as a module that computes."""

    def __init__(self, config: VLAConfig, rngs: nnx.Rngs) -> None:
        linear = functools.partial(nnx.Linear, dtype=config.dtype, rngs=rngs)
        width = config.expert.width
        self.config = config
        self.PaliGemma: Any = nnx.Dict(img=VisionTower(config, rngs), llm=Gemma(config, rngs))
        self.action_in_proj = linear(config.padded_action_dim, width)
        self.action_out_proj = linear(width, config.padded_action_dim, preferred_element_type=jnp.float32)
        if config.state_input == "token":
            self.state_proj = linear(config.padded_state_dim, width)
        if config.variant == "pi05":
            self.time_mlp_in, self.time_mlp_out = (linear(width, width) for _ in range(2))
        else:
            self.action_time_mlp_in, self.action_time_mlp_out = linear(2 * width, width), linear(width, width)

    def __call__(
        self, inputs: Inputs, x_t: Float[Array, "B M H A"], t: Float[Array, "B M #H"]
    ) -> Float[Array, "B M H A"]:
        """Velocities of M flow samples, padded width; insulated (arXiv 2505.23705), without gradient in the prefix."""
        kv, prefix_mask, _ = self.encode_prefix(inputs["images"], inputs["tokens"], inputs["token_mask"])
        kv = jax.lax.stop_gradient(kv) if self.config.insulate else kv
        return self.denoise(kv, prefix_mask, x_t, t, inputs["state"])

    # The prefix: images and instruction, which see each other in both directions.

    def encode_prefix(
        self, images: Mapping[str, Float[Array, "B Y X 3"]], tokens: Int[Array, "B T"], token_mask: Bool[Array, "B T"]
    ) -> tuple[KV, Bool[Array, "B S"], Float[Array, "B S D"]]:
        """Keys and values of every layer of the language model, which prefix tokens are real, and its last output."""
        config = self.config
        views = self.PaliGemma.img.views(jnp.stack([images[camera] for camera in config.cameras], axis=1))
        mask = jnp.concatenate([jnp.ones(views.shape[:2], bool), token_mask], axis=1)
        x = jnp.concatenate([views, self.PaliGemma.llm.embed(tokens).astype(config.dtype)], axis=1)
        angles = rotation(jnp.cumsum(mask, axis=1) - 1, config.attention.head_dim)

        def step(block: Any, x: Array, _: None) -> tuple[Array, tuple[Array, Array]]:
            return block(x, angles, mask[:, None, None])

        x, kv = scan_blocks(self.PaliGemma.llm.blocks(), step, x, None, remat=config.remat)
        return kv, mask, x

    # The suffix: state token and noisy actions, seen by nobody in the prefix.

    def denoise(
        self,
        kv: KV,
        prefix_mask: Bool[Array, "B S"],
        x_t: Float[Array, "B M H A"],
        t: Float[Array, "B M #H"],
        state: Float[Array, "B Q"],
    ) -> Float[Array, "B M H A"]:
        """Velocity a - x_0 at x_t, in the padded width of actions, for M flow samples. t in [0, 1], also per action."""
        config = self.config
        x, cond = self._embed_suffix(x_t, t, state)
        own_mask = suffix_mask(config)[None, None]
        positions = prefix_mask.sum(axis=1)[:, None, None] + jnp.arange(x.shape[2])
        angles = rotation(positions, config.attention.head_dim)

        def step(block: Any, x: Array, kv: tuple[Array, Array]) -> tuple[Array, None]:
            return block(x, angles, own_mask, ((*kv, prefix_mask[:, None, None]),), cond)[0], None

        x, _ = scan_blocks(self.PaliGemma.llm.blocks("_1"), step, x, kv, remat=config.remat)
        x, _ = self.PaliGemma.llm.final_norm_1(x, cond)
        return self.action_out_proj(x[:, :, -config.chunk :])

    def _embed_suffix(
        self, x_t: Array, t: Array, state: Array
    ) -> tuple[Float[Array, "B M T E"], Float[Array, "B M U E"] | None]:
        """Tokens of the expert and, for pi0.5, the time as a condition; the state token is data, hence at time 1."""
        config, (batch, samples, chunk) = self.config, x_t.shape[:3]
        x = self.action_in_proj(x_t)
        if config.variant == "pi05" and config.state_input == "token":
            t = jnp.concatenate([jnp.ones_like(t[..., :1]), t], axis=-1)
        # Not folded into the first time layer, though sin and cos of w (1 - t) are a rotation of those of w t: at width
        # 1024 both err by 6e-6 rms in float32, but in bfloat16 rotated weights by 1.5e-3 against 0.9e-3.
        time = time_embedding(1 - t if config.reversed_time else t, config.expert.width).astype(config.dtype)
        cond = None
        if config.variant == "pi05":
            cond = jax.nn.swish(self.time_mlp_out(jax.nn.swish(self.time_mlp_in(time))))
        else:
            time = jnp.broadcast_to(time, (batch, samples, chunk, time.shape[-1]))
            x = jax.nn.swish(self.action_time_mlp_in(jnp.concatenate([x, time], axis=-1)))
            x = self.action_time_mlp_out(x)
        if config.state_input == "token":
            token = self.state_proj(_pad(state, config.padded_state_dim))
            token = jnp.broadcast_to(token[:, None, None], (batch, samples, 1, token.shape[-1]))
            x = jnp.concatenate([token, x], axis=2)
        return x, cond

    # Flow matching: DexHiL eq. 11.

    def flow_loss(self, inputs: Inputs, key: jax.Array, *, flow_samples: int = 1) -> Float[Array, "B H"]:
        """Squared velocity error per sample and step, averaged over real action dims and `flow_samples` draws.

        The prefix is encoded once; only the expert runs for every draw. The first `delay` actions are clean, at time 1
        (their error says nothing: mask it, as `step.draw_delays` does). Source: DexHiL eq. 11; arXiv 2512.05964.
        """
        noise_key, time_key = jax.random.split(key)
        batch, chunk = inputs["actions"].shape[:2]
        noise = jax.random.normal(noise_key, (batch, flow_samples, chunk, self.config.padded_action_dim))
        t = draw_times(self.config, time_key, (batch, flow_samples))
        if "delay" in inputs:
            t = jnp.where(jnp.arange(chunk) < inputs["delay"][:, None, None], 1.0, t[..., None])
        return self.flow_errors(inputs, noise, t).mean(axis=1)

    def flow_errors(
        self, inputs: Inputs, noise: Float[Array, "B M H A"], t: Float[Array, "B M"] | Float[Array, "B M H"]
    ) -> Float[Array, "B M H"]:
        """Squared velocity error at given noise (padded width) and times, averaged over real action dims."""
        actions = _pad(inputs["actions"], self.config.padded_action_dim)[:, None]
        t = t[..., None] if t.ndim == 2 else t
        x_t = (1 - t[..., None]) * noise + t[..., None] * actions
        v = self(inputs, x_t, t)
        return jnp.square(v - (actions - noise))[..., : self.config.action_dim].mean(axis=-1)


def suffix_mask(config: VLAConfig) -> Bool[Array, "T T"]:
    """Block-causal: a token sees its own block and earlier ones; the state is one block, the actions another."""
    starts = ([1] if config.state_input == "token" else []) + [1] + [0] * (config.chunk - 1)
    block = jnp.cumsum(jnp.array(starts))
    return block[None, :] <= block[:, None]


def draw_times(config: VLAConfig, key: jax.Array, shape: tuple[int, ...]) -> Float[Array, " *shape"]:
    """Times in [0, 0.999], most of them near the noise: openpi's distribution with t = 1 as data."""
    return 0.999 * (1 - jax.random.beta(key, *config.time_beta, shape))


def _pad(x: Float[Array, "*B A"], width: int) -> Float[Array, "*B W"]:
    return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, width - x.shape[-1])])


# The pure tree, split from the module once, and pure functions of it.


@functools.partial(jax.jit, static_argnames=("config",))
def init_params(config: VLAConfig, key: jax.Array) -> Params:
    """Fresh parameters in `config.param_dtype` as a nested dict of arrays, keys as in openpi's checkpoints."""
    params = nnx.to_pure_dict(nnx.state(VLA(config, nnx.Rngs(key)), nnx.Param))
    return jax.tree.map(lambda leaf: leaf.astype(config.param_dtype), params)


@functools.cache
def _split(config: VLAConfig) -> tuple[nnx.GraphDef[VLA], Params]:
    graph, state = nnx.split(nnx.eval_shape(lambda: VLA(config, nnx.Rngs(0))))
    return graph, nnx.to_pure_dict(state)


def abstract_params(config: VLAConfig) -> Params:
    """The tree of `init_params` with shapes in place of arrays; nothing is computed or allocated."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, config.param_dtype), _split(config)[1])


def count_params(config: VLAConfig) -> int:
    """Number of parameters, without allocating them."""
    return sum(leaf.size for leaf in jax.tree.leaves(abstract_params(config)))


def bind(params: Params, config: VLAConfig) -> VLA:
    """The module with the arrays of `params`, not copied. Raises ValueError where the tree is not of this model."""
    graph, shapes = _split(config)
    _check_fit(params, shapes)
    return nnx.merge(graph, params)


def _check_fit(params: Params, shapes: Params) -> None:
    given, expected = ({path: leaf.shape for path, leaf in flatten(tree).items()} for tree in (params, shapes))
    for path in sorted(given.keys() | expected.keys()):
        if given.get(path) != expected.get(path):
            found, wanted = (list(part[path]) if path in part else "no such parameter" for part in (given, expected))
            raise ValueError(f"parameters of another model: {path}: expected {wanted}, got {found}; choose its config")


def flow_loss(
    params: Params, config: VLAConfig, inputs: Inputs, key: jax.Array, *, flow_samples: int = 1
) -> Float[Array, "B H"]:
    """`VLA.flow_loss` as a pure function of the parameters."""
    return bind(params, config).flow_loss(inputs, key, flow_samples=flow_samples)
