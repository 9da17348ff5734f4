"""Settings of a retargeter and its training: sections `hand`, `data` and `train` of experiments/configs/retarget.py."""

import dataclasses

from dexhil.settings import BelowOne, Count, Natural, NotNegative, Positive, Settings


@dataclasses.dataclass(frozen=True)
class HandConfig(Settings):
    """Whose joints are learnt."""

    urdf: str = ""  # a URDF file; "": the simulated DexHand021
    card: str = "allegro"  # what the file does not say: a name of `dexhil/retargeting/hands.toml`


@dataclasses.dataclass(frozen=True)
class ClipsConfig(Settings):
    """What is learnt from."""

    clips: tuple[str, ...] = ()  # recordings, .npy files [T, 21, 3] m of right hands; none: synthetic people only
    heldout_fraction: BelowOne = 0.2  # the ends of five stretches of every recording


@dataclasses.dataclass(frozen=True)
class TrainingConfig(Settings):
    """How the network is trained; what has no unit weighs a loss."""

    width: Count = 64  # of the network
    meet: bool = True  # the second stage trains the fingers' part in a pinch too, not the thumb's alone
    steps: tuple[Count, Count] = (1000, 1500)  # of each stage
    batch_size: Count = 512
    learning_rate: Positive = 3e-3
    seed: Natural = 0
    people: Natural = 8  # synthetic persons that are added to the recordings
    people_seconds: Positive = 60.0  # of each of them
    stray: NotNegative = 1.0  # how far their proportions stray towards those that gloves report
    off_path_m: NotNegative = 0.012  # how far off the recordings finger tips are drawn too: the map goes on beside them
    together_m: NotNegative = 0.03  # how far all tips together, so that pinches are learnt where others have theirs
    step_m: Positive = 0.008  # of tips in losses of steps
    gamma: NotNegative = 1e-5  # DexHiL eq. 1
    bend: NotNegative = 1.5  # grows with how far the person's finger is bent: an open hand may bend to move sideways
    direction: NotNegative = 0.026
    cover: NotNegative = 0.0
    flat: NotNegative = 3.0
    pinch: NotNegative = 150.0
    kin: NotNegative = 0.1
    speed: NotNegative = 1500.0
    let_go: NotNegative = 0.1  # of the distance to the person's tips, where a pinch decides
    decisive: NotNegative = 3.0  # power of closeness by which it does
