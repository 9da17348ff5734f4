"""Sizes of the VLA as data. NumPy-free and JAX-free: a config is read before anything heavy is imported."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal

from dexhil.names import check_known
from dexhil.settings import Count, Natural, Settings, from_values

Dtype = Literal["float32", "bfloat16"]


@dataclasses.dataclass(frozen=True)
class ModelConfig(Settings):
    """What a run chooses of its model: config section `model`."""

    name: str = "embedded"  # of get_model_config
    max_tokens: Count = 12  # of the prompt
    param_dtype: Dtype = "float32"  # bfloat16 halves what is loaded and frozen
    weights: str = ""  # public weights to start from, third_party/README.md; "": none
    init: tuple[str, ...] = ()  # of these, parameters to draw instead: regular expressions searched in their paths
    tokenizer: str = ""  # SentencePiece .model file; "": trained on the data's instructions
    insulate: bool = False  # the flow loss trains the expert alone, no vision tower and language model


@dataclasses.dataclass(frozen=True)
class VisionConfig(Settings):
    """A SigLIP-style tower. A token covers `patch * product(stem factors)` pixels.

    Attributes:
        patch: side of the square that the last linear embedding folds into one token.
        stem: stages before it, each (factor, width): fold factor x factor neighbours, linear, GELU. () for SigLIP.
    """

    width: int
    depth: int
    num_heads: int
    mlp_dim: int
    patch: int
    stem: tuple[tuple[int, int], ...] = ()

    @property
    def token_pixels(self) -> int:
        """Pixels along the side of the square that one token covers."""
        return self.patch * math.prod(factor for factor, _ in self.stem)


@dataclasses.dataclass(frozen=True)
class GemmaConfig(Settings):
    """One stream of the mixture of transformers.

    Attributes:
        lora_rank: 0 for no adapters.
        lora_scale: alpha / rank.
    """

    width: int
    mlp_dim: int
    lora_rank: Natural = 0
    lora_scale: float = 1.0


@dataclasses.dataclass(frozen=True)
class AttentionConfig(Settings):
    """What the language model and the expert share: they attend to each other layer by layer."""

    depth: int
    num_heads: int
    num_kv_heads: int
    head_dim: int


@dataclasses.dataclass(frozen=True)
class VLAConfig(Settings):
    """A whole policy. Every size is the same code.

    Attributes:
        image_size: px of the square input.
        cameras: in the order of their tokens.
        chunk: H actions per inference.
        variant: "pi0" mixes the time into the action tokens, "pi05" modulates every norm of the expert with it.
        state_input: the state as a "token" of the expert, as "text" in the prompt (tokenizer.prompt), or "none".
        camera_embedding: adds a learned vector per camera to its tokens (public weights have none).
        action_width: what the weights take of `action_dim`, 0: the same.
        state_width: what they take of `state_dim`, 0: the same.
        time_beta: (a, b); the noise fraction 1 - t is drawn from Beta(a, b).
        reversed_time: the expert reads 1 - t, as openpi's weights do, for which t = 1 is noise.
        dtype: of activations; norms, rotations and softmax are computed in float32 regardless.
        param_dtype: of parameters.
        remat: recompute layers in the backward pass.
        rtc_max_delay: max. given actions of trained real-time chunking.
        insulate: knowledge insulation, the flow loss has no gradient in the vision tower and the language model.
    """

    image_size: int
    cameras: tuple[str, ...]
    vision: VisionConfig
    attention: AttentionConfig
    lm: GemmaConfig
    expert: GemmaConfig
    vocab_size: int
    max_tokens: int
    action_dim: int
    state_dim: int
    chunk: int
    variant: Literal["pi0", "pi05"] = "pi05"
    state_input: Literal["token", "text", "none"] = "token"
    camera_embedding: bool = True
    action_width: int = 0
    state_width: int = 0
    time_beta: tuple[float, float] = (1.5, 1.0)
    reversed_time: bool = False
    dtype: Dtype = "float32"
    param_dtype: Dtype = "float32"
    remat: bool = False
    rtc_max_delay: int = 0
    insulate: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_divides("image_size", self.image_size, "the pixels of a vision token", self.vision.token_pixels)
        _check_divides("vision.width", self.vision.width, "vision.num_heads", self.vision.num_heads)
        _check_divides("num_heads", self.attention.num_heads, "num_kv_heads", self.attention.num_kv_heads)
        _check_divides("expert.width", self.expert.width, "2 (sine and cosine of the time)", 2)
        _check_divides("head_dim", self.attention.head_dim, "2 (rotary position pairs)", 2)
        if not 0 <= 2 * self.rtc_max_delay <= self.chunk:
            raise ValueError(f"rtc_max_delay: expected 0 to half the chunk of {self.chunk}, got {self.rtc_max_delay}")
        if self.rtc_max_delay and self.variant != "pi05":
            raise ValueError(
                f"rtc_max_delay: {self.rtc_max_delay} needs a time per action, which variant 'pi05' has and "
                f"{self.variant!r} has not; use 'pi05', or 0 and guided real-time chunking"
            )
        for name in ("action", "state"):
            real, width = getattr(self, f"{name}_dim"), getattr(self, f"{name}_width")
            if width and width < real:
                raise ValueError(f"{name}_width: expected 0 or at least {name}_dim {real}, got {width}")

    @property
    def padded_action_dim(self) -> int:
        return self.action_width or self.action_dim

    @property
    def padded_state_dim(self) -> int:
        return self.state_width or self.state_dim

    @property
    def image_tokens(self) -> int:
        """Vision tokens of one camera."""
        return (self.image_size // self.vision.token_pixels) ** 2

    def base(self) -> VLAConfig:
        """The model without what only training chooses: adapters, insulation, recomputing, delays."""
        lm, expert = (dataclasses.replace(part, lora_rank=0, lora_scale=1.0) for part in (self.lm, self.expert))
        return dataclasses.replace(self, lm=lm, expert=expert, insulate=False, remat=False, rtc_max_delay=0)

    def to_dict(self) -> dict[str, Any]:
        """Nested plain dict; `from_dict` inverts it, through JSON as well."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> VLAConfig:
        """The config of `to_dict`.

        Raises:
            ConfigError: a field is unknown or missing.
        """
        return from_values(cls, values, "model")


def _check_divides(name: str, value: int, divisor_name: str, divisor: int) -> None:
    if value <= 0 or value % divisor:
        raise ValueError(f"{name}: expected a positive multiple of {divisor_name} = {divisor}, got {value}")


EMBEDDED = VLAConfig(
    image_size=64,
    cameras=("scene", "wrist"),
    vision=VisionConfig(width=64, depth=2, num_heads=4, mlp_dim=128, patch=2, stem=((4, 32), (2, 64))),
    attention=AttentionConfig(depth=2, num_heads=4, num_kv_heads=1, head_dim=32),
    lm=GemmaConfig(width=64, mlp_dim=128),
    expert=GemmaConfig(width=64, mlp_dim=128),
    vocab_size=512,
    max_tokens=16,
    action_dim=19,
    state_dim=19,
    chunk=16,
)

TINY = dataclasses.replace(
    EMBEDDED,
    image_size=16,
    vision=VisionConfig(width=16, depth=1, num_heads=2, mlp_dim=32, patch=2, stem=((4, 16),)),
    attention=AttentionConfig(depth=2, num_heads=2, num_kv_heads=1, head_dim=8),
    lm=GemmaConfig(width=16, mlp_dim=32),
    expert=GemmaConfig(width=16, mlp_dim=32),
)

# SigLIP So400m/14-224 and Gemma 2B as in PaliGemma; the 300M expert, widths and prompt lengths of openpi.
PI05 = VLAConfig(
    image_size=224,
    cameras=("scene", "wrist"),
    vision=VisionConfig(width=1152, depth=27, num_heads=16, mlp_dim=4304, patch=14),
    attention=AttentionConfig(depth=18, num_heads=8, num_kv_heads=1, head_dim=256),
    lm=GemmaConfig(width=2048, mlp_dim=16384),
    expert=GemmaConfig(width=1024, mlp_dim=4096),
    vocab_size=257152,
    max_tokens=200,
    action_dim=19,
    state_dim=19,
    chunk=16,
    state_input="text",
    camera_embedding=False,
    action_width=32,
    state_width=32,
    reversed_time=True,
    dtype="bfloat16",
    remat=True,
)
PI0 = dataclasses.replace(PI05, variant="pi0", state_input="token", max_tokens=48)

# The same architecture for tests and dry runs of a configuration: nobody publishes weights of this size.
PI05_TINY = dataclasses.replace(
    PI05,
    image_size=16,
    vision=VisionConfig(width=16, depth=2, num_heads=2, mlp_dim=24, patch=8),
    attention=AttentionConfig(depth=2, num_heads=2, num_kv_heads=1, head_dim=8),
    lm=GemmaConfig(width=16, mlp_dim=32),
    expert=GemmaConfig(width=16, mlp_dim=24),
    vocab_size=512,
    dtype="float32",
)

CONFIGS: dict[str, VLAConfig] = {"tiny": TINY, "embedded": EMBEDDED, "pi0": PI0, "pi05": PI05, "pi05_tiny": PI05_TINY}


def get_model_config(name: str) -> VLAConfig:
    """The config called `name`.

    Raises:
        ValueError: there is none; names the nearest.
    """
    check_known("model", name, CONFIGS)
    return CONFIGS[name]
