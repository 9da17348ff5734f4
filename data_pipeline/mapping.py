"""How the fields of an RLDS data set map to ours: declared as data, one constant per data set, no code in the loader.

A field is named by its path inside a step (`observation/image_0`) or an episode (`episode_metadata/success`).
"""

import dataclasses
from collections.abc import Iterable
from collections.abc import Mapping as Dict

from dexhil.names import check_known

UNUSED = ("filtered", "uncommanded")
CATEGORIES = ("offline", "autonomous", "intervention", "pre_intervention", *UNUSED)
"""Who produced a step's action: an offline demonstration, the policy, a person who took over, and, where a data set
says so, the policy shortly before a takeover (ours does not). UNUSED ones are in the index and never drawn: steps that
the filter leaves out, and steps in which nobody commanded."""

WILDCARD = "*"


class DatasetError(ValueError):
    """A data set that cannot be used as asked; the message names it, the expectation and the remedy."""


@dataclasses.dataclass(frozen=True)
class InterventionLabels:
    """Who acted, as a data set has it.

    Attributes:
        field: step field.
        categories: its value -> a name of `CATEGORIES`.
    """

    field: str
    categories: Dict[float, str]


@dataclasses.dataclass(frozen=True)
class Mapping:
    """Fields of one kind of RLDS data set.

    Attributes:
        cameras: camera name -> step field; {"*": "observation/image_*"} takes every field of that form.
        state: step fields, concatenated in this order.
        action: the same.
        action_meaning: what an action vector is, with units.
        instruction: step or episode field, a string or its code points.
        labels: who acted, None: nobody says.
        timestamp: step field, s; a chunk ends where steps are missing. None: there is none.
        commanded: step field that is false where nobody acted. None: there is none.
        control_hz: 1/s, of the steps, where no card says it.
        metadata: our episode metadata name -> episode field; names left out take "not known" values.
        robot: its name, where no metadata field holds it.
        end_flag: step field that must be true at the last step and only there; None where a data set does not set it.
        last_action_valid: False drops each episode's last action, which RLDS allows to be meaningless.
        splits: the TFDS splits to read.
    """

    name: str
    cameras: Dict[str, str]
    state: tuple[str, ...]
    action: tuple[str, ...]
    action_meaning: str
    instruction: str = "language_instruction"
    labels: InterventionLabels | None = None
    timestamp: str | None = None
    commanded: str | None = None
    control_hz: float | None = None
    metadata: Dict[str, str] = dataclasses.field(default_factory=dict)
    robot: str = ""
    end_flag: str | None = "is_last"
    last_action_valid: bool = True
    splits: tuple[str, ...] = ("train",)


def resolve_cameras(mapping: Mapping, fields: Iterable[str]) -> dict[str, str]:
    """Camera name -> field, with a wildcard expanded over `fields` (sorted)."""
    cameras = {}
    for camera, field in mapping.cameras.items():
        if camera != WILDCARD:
            cameras[camera] = field
            continue
        prefix, suffix = field.split(WILDCARD)
        found = sorted(f for f in fields if f.startswith(prefix) and f.endswith(suffix))
        cameras.update({f[len(prefix) : len(f) - len(suffix)]: f for f in found})
    return cameras


DEXHIL = Mapping(
    name="dexhil",
    cameras={"*": "observation/image_*"},
    state=("observation/q_arm", "observation/q_hand"),
    action=("action",),
    action_meaning="absolute joint targets after safety limits, rad: arm (7), then actuated hand joints",
    labels=InterventionLabels("is_intervention", {0: "autonomous", 1: "intervention"}),
    timestamp="observation/timestamp",
    commanded="is_commanded",
    metadata={
        name: f"episode_metadata/{name}"
        for name in ("episode_id", "task", "success", "source", "round", "policy", "operator", "robot", "seed")
    },
)

# BridgeData V2 (Walke et al. 2023) as converted for the octo debug set: the last step carries a real action, and the
# end flags are never set. Its `val` split repeats `train`: hold out episodes instead.
BRIDGE = Mapping(
    name="bridge",
    cameras={f"image_{i}": f"observation/image_{i}" for i in range(3)},  # image_3 is blank
    state=("observation/state",),
    action=("action",),
    action_meaning="end-effector delta: translation (3, m), rotation (3, rad), gripper (1 = open)",
    control_hz=5.0,
    robot="widowx",
    end_flag=None,
)

# austin_sirius_dataset_converted_externally_to_rlds (Liu et al. 2023). `action_mode` marks interventions; `intv_label`
# is the same with the 15 steps before a takeover marked -10.
SIRIUS = Mapping(
    name="sirius",
    cameras={"scene": "observation/image", "wrist": "observation/wrist_image"},
    state=("observation/state",),
    action=("action",),
    action_meaning="end-effector delta: translation (3), rotation (3), gripper (1); operational-space control",
    labels=InterventionLabels(
        "intv_label", {-1: "offline", 0: "autonomous", 1: "intervention", -10: "pre_intervention"}
    ),
    control_hz=20.0,
    robot="panda",
)

MAPPINGS: dict[str, Mapping] = {mapping.name: mapping for mapping in (DEXHIL, BRIDGE, SIRIUS)}


def get_mapping(name: str) -> Mapping:
    """The mapping called `name`.

    Raises:
        ValueError: there is none; names the nearest.
    """
    check_known("mapping", name, MAPPINGS)
    return MAPPINGS[name]
