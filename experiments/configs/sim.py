"""The embedded default: both simulated tasks in one policy, small enough to train on two CPU cores."""

from ml_collections import ConfigDict

from dexhil.config import Config

PRESETS = ("default", "quick", "debug")


def get_config(preset: str = "default") -> Config:
    """default: the demo's and the learning curve's setting. quick: minutes, easier scenes. debug: seconds."""
    config = ConfigDict()
    config.preset = preset
    config.seed = 0

    config.rig = ConfigDict()
    config.rig.robot = "fr3_dexhand021"
    config.rig.tasks = ("plush", "tissue")
    config.rig.difficulty = 0.5  # 0..1, scales every randomisation of the tasks
    config.rig.surroundings = 0.5  # 0..1, the same of colours, light, cameras and clutter
    config.rig.image_size = 64
    config.rig.cameras = ("scene", "wrist")
    config.rig.control_hz = 20.0

    config.collect = ConfigDict()
    config.collect.first_seed = 0
    config.collect.workers = 2
    config.collect.coverage = 1.0  # of the rig's difficulty; less: demonstrations keep to the easy starts
    config.collect.approach_speed = 0.0  # m/s of the operator's hand far from the object; 0: as fast as near it

    config.data = ConfigDict()
    config.data.paths = ("data/sim/rlds",)
    config.data.mapping = "dexhil"
    config.data.robot = "fr3_dexhand021"
    config.data.action_dim = 19
    config.data.control_hz = 20.0
    config.data.cameras = ("scene", "wrist")
    config.data.image_size = 64
    config.data.success = (1,)  # episodes to learn from: 1 success, 0 failure, -1 not known
    config.data.episodes_per_task = 0  # 0: all; else the first so many successful ones, to draw learning curves
    config.data.heldout_fraction = 0.05
    config.data.cache_dir = "data/.cache"
    config.data.chunk = 16
    # The arm as the end effector's pose, relative to now ("ee_delta") or in the base frame ("ee_pose"), or "recorded":
    # joints, those of delta_dims relative to now.
    config.data.action_space = "ee_delta"
    config.data.delta_dims = ()
    config.data.min_range = 0.02  # rad that are mapped to [-1, 1] at least, however little a joint moves in the data
    config.data.min_range_m = 0.02  # m, the same of the end effector's positions

    config.data.filter = "last_takeover"  # of an online episode: from its last takeover on; also "corrections", "none"
    config.data.mixture = ConfigDict()
    config.data.mixture.mode = "uniform"  # or "weight" (DexHiL eq. 7), "sample", "sirius", "iwr"
    config.data.mixture.p_star = 0.5  # share of the training distribution that corrections get

    config.model = ConfigDict()
    config.model.name = "embedded"
    config.model.max_tokens = 12
    config.model.param_dtype = "float32"  # "bfloat16" halves what is loaded and frozen; training is in float32 anyway
    config.model.weights = ""  # public weights to start from, third_party/README.md; "": none
    config.model.init = ()  # of these, parameters to draw instead: regular expressions searched in their paths
    config.model.tokenizer = ""  # SentencePiece .model file; "": trained on the data's instructions
    config.model.insulate = False  # True: the flow loss trains the expert alone, no vision tower and language model

    config.train = ConfigDict()
    config.train.init_from = ""  # workdir of the run to go on from: its averaged parameters, tokenizer, norm statistics
    config.train.steps = 2500
    config.train.batch_size = 32
    config.train.flow_samples = 4
    config.train.optimizer = "muon"  # "adamw" for pretrained weights, which AdamW made
    config.train.learning_rate = 4e-3
    config.train.warmup_steps = 200
    config.train.weight_decay = 1e-4
    config.train.clip_norm = 1.0
    config.train.ema = "device"  # where the averaged parameters live; "host" spares device memory, "off": none
    config.train.ema_decay = 0.999
    config.train.accumulation = 1
    config.train.bfloat16 = False
    config.train.rtc_max_delay = 0  # most actions given as a prefix, for real-time chunking without guidance; 0: none
    # Paths that are not trained: a leaf or a folder, * for anything, such as "PaliGemma/img". Adapters always are.
    config.train.freeze = ()
    config.train.lora = ConfigDict()  # adapters on attention and MLP; the weights beside them are frozen
    config.train.lora.lm_rank = 0  # of the language model; 16 for Gemma 2B
    config.train.lora.expert_rank = 0  # of the action expert; 32 for the 300M one
    config.train.lora.scale = 1.0  # alpha / rank
    config.train.mesh = ConfigDict()
    config.train.mesh.fsdp = 1  # devices that share one copy of parameters and optimiser state
    config.train.augment = False  # the scenes vary enough; on real cameras turn it on
    config.train.log_every = 100
    config.train.save_every = 500
    config.train.heldout_every = 250

    config.eval = ConfigDict()
    config.eval.trials = 20
    config.eval.first_seed = 1_000_000  # never a seed of a demonstration
    config.eval.execute_steps = 8
    config.eval.max_seconds = 0.0  # then a trial has failed; 0: the task's own limit
    config.eval.latency_steps = 0  # emulated inference latency, control steps
    config.eval.handover = "replace"  # what a chunk does that comes late: "replace", "rtc" or "sync" (the robot waits)
    config.eval.rtc = "auto"  # for handover "rtc": "guided", "trained", or by the checkpoint
    config.eval.workers = 2
    config.eval.videos_per_task = 4

    config.online = ConfigDict()  # supervised rollouts: the policy acts, the simulated person takes over
    config.online.first_seed = 2_000_000
    config.online.tasks = ()  # those that are supervised; (): all of the rig's
    config.online.max_seconds = 20.0
    config.online.most_attempts = 5  # rollouts per corrected episode that is wanted, at most
    config.online.videos_per_task = 3
    config.online.person = ConfigDict()
    config.online.person.reaction_s = (0.2, 0.5)
    config.online.person.foresight = 1.0  # chance of seeing a miss before the fingers have closed
    config.online.person.no_progress_s = 1.5
    config.online.person.late_s = 8.0
    config.online.person.false_alarms_per_s = 0.0
    # What the person's hand goes through: "simulated" is the retargeter of the simulator; or a file; "": nothing
    config.online.person.retargeter = "simulated"
    config.online.person.blend = 0.0  # fraction of the policy in what the person commands
    config.online.person.authority = "both"  # what the person takes: "both", "arm", "hand"; the policy keeps the rest
    config.online.person.approach_speed = 0.0  # as in collect
    config.online.person.skill = 1.0  # errors of eye and hand are divided by it; 1: as in demonstrations
    config.online.person.hand_back = 1.0  # the policy goes on with what the person put into its hand

    if preset == "quick":
        config.rig.difficulty = config.rig.surroundings = 0.2
        config.train.steps = 1000
        config.eval.trials = 10
    elif preset == "debug":
        config.train.steps = 4
        config.train.batch_size = 4
        config.train.warmup_steps = 2
        config.train.log_every = 1
        config.train.save_every = 2
        config.train.heldout_every = 4
        config.eval.trials = 1
        config.eval.workers = 1
        config.eval.videos_per_task = 1
    return config
