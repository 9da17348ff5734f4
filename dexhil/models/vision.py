"""SigLIP-style vision tower: learned position embedding, bidirectional pre-norm transformer, linear head to the LM.

Axes: B batch, P tokens of one image, N heads, h head size, D width.
"""

import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn.initializers import lecun_normal, normal
from jaxtyping import Array, Float

from dexhil.models.config import VisionConfig, VLAConfig
from dexhil.models.layers import attend, fold_patches, scan_blocks, stack


class PatchEmbedding(nnx.Module):
    """The last patches as tokens: a convolution whose stride is its size, as one matrix product."""

    def __init__(self, patch: int, channels: int, width: int, rngs: nnx.Rngs) -> None:
        kernel = lecun_normal(in_axis=(0, 1, 2))(rngs.params(), (patch, patch, channels, width))
        self.kernel, self.bias = nnx.Param(kernel), nnx.Param(jnp.zeros(width))

    def __call__(self, x: Float[Array, "B Y X C"]) -> Float[Array, "B P D"]:
        patches = fold_patches(x, self.kernel.shape[0])
        kernel = self.kernel[...].astype(x.dtype).reshape(patches.shape[-1], -1)
        return patches.reshape(len(x), -1, patches.shape[-1]) @ kernel + self.bias[...].astype(x.dtype)


class VisionAttention(nnx.Module):
    """Every token of an image sees every other."""

    def __init__(self, width: int, heads: int, dtype: str, rngs: nnx.Rngs) -> None:
        linear = functools.partial(nnx.LinearGeneral, dtype=dtype, rngs=rngs)
        self.query, self.key, self.value = (linear(width, (heads, width // heads)) for _ in range(3))
        self.out = linear((heads, width // heads), width, axis=(-2, -1))

    def __call__(self, x: Float[Array, "B P D"]) -> Float[Array, "B P D"]:
        everywhere = jnp.ones((1, 1, 1, 1), bool)
        return self.out(attend(self.query(x), [(self.key(x), self.value(x), everywhere)]))


class VisionMLP(nnx.Module):
    """Two layers with a GELU (tanh) between."""

    def __init__(self, width: int, mlp_dim: int, dtype: str, rngs: nnx.Rngs) -> None:
        self.Dense_0 = nnx.Linear(width, mlp_dim, dtype=dtype, rngs=rngs)
        self.Dense_1 = nnx.Linear(mlp_dim, width, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "B P D"]) -> Float[Array, "B P D"]:
        return self.Dense_1(jax.nn.gelu(self.Dense_0(x), approximate=True))


class VisionBlock(nnx.Module):
    """One layer of the tower."""

    def __init__(self, vision: VisionConfig, dtype: str, rngs: nnx.Rngs) -> None:
        self.LayerNorm_0, self.LayerNorm_1 = (_layer_norm(vision.width, rngs) for _ in range(2))
        self.MultiHeadDotProductAttention_0 = VisionAttention(vision.width, vision.num_heads, dtype, rngs)
        self.MlpBlock_0 = VisionMLP(vision.width, vision.mlp_dim, dtype, rngs)

    def __call__(self, x: Float[Array, "B P D"]) -> Float[Array, "B P D"]:
        x = x + self.MultiHeadDotProductAttention_0(self.LayerNorm_0(x).astype(x.dtype))
        return x + self.MlpBlock_0(self.LayerNorm_1(x).astype(x.dtype))


def _layer_norm(width: int, rngs: nnx.Rngs) -> nnx.LayerNorm:
    return nnx.LayerNorm(width, epsilon=1e-6, use_fast_variance=False, dtype=jnp.float32, rngs=rngs)


class VisionTower(nnx.Module):
    """Images to tokens in the language model's width."""

    def __init__(self, config: VLAConfig, rngs: nnx.Rngs) -> None:
        vision, channels = config.vision, 3
        self.config = config
        for index, (factor, width) in enumerate(vision.stem):
            setattr(self, f"stem_{index}", nnx.Linear(factor**2 * channels, width, dtype=config.dtype, rngs=rngs))
            channels = width
        self.embedding = PatchEmbedding(vision.patch, channels, vision.width, rngs)
        positions = normal(vision.width**-0.5)(rngs.params(), (1, config.image_tokens, vision.width))
        self.pos_embedding = nnx.Param(positions)
        blocks = stack(lambda rngs: VisionBlock(vision, config.dtype, rngs), vision.depth, rngs)
        self.Transformer = nnx.Dict(encoderblock=blocks, encoder_norm=_layer_norm(vision.width, rngs))
        self.head = nnx.Linear(vision.width, config.lm.width, dtype=config.dtype, rngs=rngs)
        if config.camera_embedding:
            cameras = normal(0.5)(rngs.params(), (len(config.cameras), config.lm.width))
            self.camera_embedding = nnx.Param(cameras)

    def __call__(self, images: Float[Array, "B Y X 3"]) -> Float[Array, "B P D"]:
        """Tokens of images in [-1, 1]."""
        x = images.astype(self.config.dtype)
        for index, (factor, _) in enumerate(self.config.vision.stem):
            x = jax.nn.gelu(getattr(self, f"stem_{index}")(fold_patches(x, factor)), approximate=True)
        x = self.embedding(x) + self.pos_embedding[...].astype(x.dtype)
        blocks = self.Transformer["encoderblock"]
        x, _ = scan_blocks(blocks, lambda block, x, _: (block(x), None), x, None, remat=self.config.remat)
        return self.head(self.Transformer["encoder_norm"](x).astype(x.dtype))

    def views(self, images: Float[Array, "B V Y X 3"]) -> Float[Array, "B S D"]:
        """Tokens of V cameras, one camera after the other."""
        batch, cameras = images.shape[:2]
        tokens = self(images.reshape(-1, *images.shape[2:])).reshape(batch, cameras, -1, self.head.out_features)
        if self.config.camera_embedding:
            tokens += self.camera_embedding[...][:, None].astype(tokens.dtype)
        return tokens.reshape(batch, -1, tokens.shape[-1])
