"""Fine-tunes a pretrained vision-language model on a GPU: PaliGemma with a fresh action expert, or pi0.5 as a whole.

    --config.model.weights=weights/pi05_base/params --config.model.init=      # pi0.5, nothing drawn

third_party/README.md says where weights and tokenizer come from. On a user's own data change `data` as in
bridge_sample.py. Full fine-tuning holds parameters, gradients, two moments and an average in float32: about 70 GB.
"""

from dexhil.config import Config
from experiments.configs import sim

PRESETS = ("default", "quick", "debug")


def get_config(preset: str = "default") -> Config:
    """default: hours on one large GPU. quick: an hour. debug: seconds, a tiny model from a file of its own size."""
    config = sim.get_config(preset)
    config.rig.image_size = 224
    config.data.paths = ("data/paligemma/rlds",)
    config.data.image_size = 224

    config.model.name = "pi05"
    config.model.max_tokens = 200  # the state is in the prompt
    config.model.weights = "weights/paligemma-3b-pt-224"
    config.model.init = ("llm/.*_1/", "^(action|state|time)_")  # the expert, which PaliGemma lacks
    config.model.tokenizer = "weights/paligemma_tokenizer.model"

    config.train.optimizer = "adamw"  # which made the weights
    config.train.learning_rate = 2.5e-5
    config.train.weight_decay = 0.0
    config.train.ema_decay = 0.99
    config.train.bfloat16 = True
    config.train.augment = True

    if preset == "debug":
        config.model.name = "pi05_tiny"
        config.data.image_size = 16
        config.rig.image_size = 64
        config.train.bfloat16 = False
        return config
    config.train.steps = 20_000 if preset == "default" else 2_000
    config.train.warmup_steps = config.train.steps // 20
    config.train.save_every = 1_000
    config.train.heldout_every = 500
    return config
