"""How far a change of control makes the robot go. Pure, so that simulation and hardware report the same figures.

At a takeover the command of its first tick says little: a wrong anchor shows only as the robot goes on. What counts is
how far the robot would go, from where it would have come to rest, if the person held still for `STILL_S`. That is
played by the takeover machine itself, beside the real run, since a real person does not hold still.
At a hand-back two figures count: what the policy asked for, before limits, and what was executed.
"""

import dataclasses
from collections.abc import Iterable, Iterator

import numpy as np

from dexhil.control.takeover import HumanCommand, Inputs, Jump, TakeoverState, advance, executed, jump
from dexhil.robots.poses import IDENTITY
from dexhil.robots.spec import RobotSpec

STILL_S = 0.5  # a person who takes over is taken to hold still for so long


@dataclasses.dataclass(frozen=True)
class HandBack:
    """asked: the policy's first action, before limits, from where the robot would have come to rest. executed: the
    command after limits from the one before it.
    """

    asked: Jump
    executed: Jump


def largest(jumps: Iterable[Jump]) -> Jump:
    """The largest of both measures, 0 without any."""
    both = [(one.max, one.l2) for one in jumps] or [(0.0, 0.0)]
    return Jump(*map(max, zip(*both, strict=True)))


def jumps_while_still(
    state: TakeoverState,
    still: Iterable[HumanCommand],
    rest: np.ndarray,
    spec: RobotSpec,
    cube_to_ee: np.ndarray = IDENTITY,
) -> Iterator[Jump]:
    """How far from `rest` the robot was sent so far, tick by tick, by a person who shows `still` one after the other.

    A control loop may take one per tick (the inverse kinematics cost as much as its own); `take_over_jump` takes all.

    Args:
        state: after the takeover's first tick (ENGAGING).
        still: what the person shows while holding still: the same again and again, or that with sensor noise.
        rest: [A] rad, where the robot would have come to rest without a takeover.
        spec: the robot.
        cube_to_ee: [7], the constant `C` of DexHiL eq. 3.
    """
    so_far = jump(rest, state.command)
    for human in still:
        state, decision = advance(state, Inputs(True, human, None), spec, cube_to_ee)
        state = executed(state, decision.command)
        so_far = largest([so_far, jump(rest, decision.command)])
        yield so_far


def take_over_jump(
    state: TakeoverState,
    still: Iterable[HumanCommand],
    rest: np.ndarray,
    spec: RobotSpec,
    cube_to_ee: np.ndarray = IDENTITY,
) -> Jump:
    """The last of `jumps_while_still`: give it `STILL_S` of ticks."""
    return list(jumps_while_still(state, still, rest, spec, cube_to_ee))[-1]
