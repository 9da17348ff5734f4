"""Settings of a training: config section `train`."""

import dataclasses
from typing import Literal

from dexhil.settings import Count, Fraction, Natural, NotNegative, Positive, Settings


@dataclasses.dataclass(frozen=True)
class OptimizerConfig(Settings):
    """Optimiser and its schedule."""

    steps: Count = 2500  # gradient steps, the length of the schedule
    optimizer: Literal["muon", "adamw"] = "muon"  # "adamw" for pretrained weights, which AdamW made
    learning_rate: Positive = 4e-3  # at its peak
    warmup_steps: Natural = 200  # in which the rate rises from 0; fewer than steps
    weight_decay: NotNegative = 1e-4
    clip_norm: Positive = 1.0  # largest global norm of the gradient

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.warmup_steps >= self.steps:
            raise ValueError(f"warmup_steps {self.warmup_steps}: expected fewer than steps = {self.steps}")


@dataclasses.dataclass(frozen=True)
class StepConfig(Settings):
    """What one training step does beside the optimiser."""

    accumulation: Count = 1  # micro-batches per step; batch_size is a multiple of it
    ema: Literal["device", "host", "off"] = "device"  # where averaged parameters live; "host" spares device memory
    ema_decay: Fraction = 0.999  # 0 keeps the last parameters
    rtc_max_delay: Natural = 0  # max. actions given as a prefix, for real-time chunking without guidance; 0: none
    augment: bool = False  # pictures; the simulated scenes vary enough, on real cameras turn it on


@dataclasses.dataclass(frozen=True)
class LoraConfig(Settings):
    """Adapters on attention and MLP; the weights beside them are frozen."""

    lm_rank: Natural = 0  # of the language model; 16 for Gemma 2B
    expert_rank: Natural = 0  # of the action expert; 32 for the 300M one
    scale: Positive = 1.0  # alpha / rank


@dataclasses.dataclass(frozen=True)
class MeshConfig(Settings):
    """Devices."""

    fsdp: Count = 1  # devices that share one copy of parameters and optimiser state


@dataclasses.dataclass(frozen=True)
class TrainConfig(StepConfig, OptimizerConfig):
    """A whole training."""

    init_from: str = ""  # workdir of the run to go on from: its averaged parameters, tokenizer, norm statistics
    batch_size: Count = 32
    flow_samples: Count = 4  # noises and times per sample
    bfloat16: bool = False  # activations
    # Paths that are not trained: a leaf or a folder, * for anything, such as "PaliGemma/img". Adapters always are.
    freeze: tuple[str, ...] = ()
    lora: LoraConfig = LoraConfig()
    mesh: MeshConfig = MeshConfig()
    log_every: Count = 100  # steps
    save_every: Count = 500  # steps
    heldout_every: Count = 250  # steps, at those that are logged
