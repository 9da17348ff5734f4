"""How far a change of control makes the robot go. Pure, so that simulation and hardware report the same figures.

At a takeover the first tick's command says little. What counts is how far the robot would go, from where it would have
come to rest, if the person held still for `STILL_S`: the takeover machine itself plays that, beside the real run.
At a hand-back two figures count: what the policy asked for, before limits, and what was executed.
"""

import dataclasses
from collections.abc import Iterable

import numpy as np

from dexhil.control.takeover import HumanCommand, Inputs, Jump, TakeoverState, advance, executed, jump
from dexhil.robots.poses import IDENTITY
from dexhil.robots.spec import RobotSpec

STILL_S = 0.5  # a person who takes over is taken to hold still for so long


@dataclasses.dataclass(frozen=True)
class HandBack:
    """The jump of a hand-back, from where the robot would have come to rest.

    Attributes:
        asked: to the policy's first action, before limits.
        executed: of the command after limits, from the one before it.
    """

    asked: Jump
    executed: Jump


def largest(jumps: Iterable[Jump]) -> Jump:
    """The largest of both measures, 0 without any."""
    both = [(one.max, one.l2) for one in jumps] or [(0.0, 0.0)]
    return Jump(*map(max, zip(*both, strict=True)))


def take_over_jump(
    state: TakeoverState,
    still: Iterable[HumanCommand],
    rest: np.ndarray,
    spec: RobotSpec,
    cube_to_ee: np.ndarray = IDENTITY,
) -> Jump:
    """How far from `rest` the robot is sent at most by a person who shows `still` one after the other.

    Args:
        state: after the takeover's first tick (ENGAGING).
        still: what the person shows in `STILL_S`: the same again and again, or that with sensor noise.
        rest: [A] rad, where the robot would have come to rest without a takeover.
        spec: the robot.
        cube_to_ee: [7], the constant `C` of DexHiL eq. 3.
    """
    jumps, authority = [jump(rest, state.command)], state.anchors.authority if state.anchors else "both"
    for human in still:
        state, decision = advance(state, Inputs(True, human, None, authority=authority), spec, cube_to_ee)
        state = executed(state, decision.command)
        jumps.append(jump(rest, decision.command))
    return largest(jumps)
