"""The arms of a human-in-the-loop study: what each learns from in a round. All else is the same for every arm."""

import dataclasses

from dexhil.names import check_known


@dataclasses.dataclass(frozen=True)
class Arm:
    """online: learns from its own corrected rollouts, else from as many demonstrations more.

    tasks: those that are corrected, () for all; the score of one left out shows what the others' corrections cost it.
    filter, mode, p_star: of `data_pipeline.filter` and `data_pipeline.mixture`; p_star None takes the config's.
    """

    online: bool = True
    filter: str = "corrections"  # what the policy did alone is no correction: in the paper a round adds ten of these
    mode: str = "weight"
    p_star: float | None = None
    tasks: tuple[str, ...] = ()


ARMS = {
    "dexhil": Arm(),
    "dagger": Arm(mode="uniform"),  # the paper's DAgger*: the same kind of data, unweighted
    "offline": Arm(online=False, mode="uniform"),
    "no_filter": Arm(filter="none"),
    "sample": Arm(mode="sample"),
    "p_star_0.25": Arm(p_star=0.25),
    "p_star_0.75": Arm(p_star=0.75),
    "iwr": Arm(mode="iwr"),
    "plush_only": Arm(tasks=("plush",)),
    "tissue_only": Arm(tasks=("tissue",)),
    "sirius": Arm(filter="none", mode="sirius"),
}


def get_arm(name: str) -> Arm:
    """The arm called `name`. Raises ValueError with the nearest name where there is none."""
    check_known("hil.arms:", name, ARMS)
    return ARMS[name]
