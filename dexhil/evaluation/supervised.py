"""One supervised rollout: a policy acts, a person watches and takes over arm and hand, everything is recorded."""

import dataclasses
from collections.abc import Callable
from typing import Protocol

import numpy as np

from dexhil.control.executor import DEFAULT, ExecutorConfig
from dexhil.control.jumps import STILL_S, HandBack, take_over_jump
from dexhil.control.takeover import HumanCommand, Inputs, Jump, Mode, advance, executed, jump, start
from dexhil.evaluation.rollout import Planner, Policy, ScoredRig
from dexhil.schema import Step


class Person(Protocol):
    """Who supervises: its `reasons`, one per takeover, and `C` of DexHiL eq. 3; the rest: see `takeover.Inputs`."""

    reasons: list[str]
    cube_to_ee: np.ndarray
    authority: str
    blend: float

    def tick(self, rest: np.ndarray) -> HumanCommand | None:
        """What the person shows at this control step, None while it only watches. rest: [A] rad, `resting_point`."""
        ...


@dataclasses.dataclass(frozen=True)
class Supervised:
    """Outcome of a supervised rollout.

    Attributes:
        seconds: rig time.
        human_seconds: of it under a person's control.
        watch_seconds: the rest, in which a person has to watch.
        control: (start s, end s, "policy" | "person") in order.
        engaged: of every takeover, see `dexhil.control.jumps`.
        released: of every hand-back, the same.
    """

    success: bool
    seconds: float
    human_seconds: float
    watch_seconds: float
    control: tuple[tuple[float, float, str], ...]
    engaged: tuple[Jump, ...]
    released: tuple[HandBack, ...]
    failure: str


def run_supervised(
    rig: ScoredRig,
    policy: Policy,
    person: Person,
    *,
    seed: int,
    max_seconds: float,
    record: Callable[[Step], None],
    watch: Callable[[str], None] = lambda who: None,
    executor: ExecutorConfig = DEFAULT,
    latency_steps: int = 0,
) -> Supervised:
    """Runs `policy` on `rig`, which was just reset, until success or `max_seconds`; `seed` is the policy's.

    record: called with every step; watch: called before every step with "policy" or "person", whoever is in control.
    The rest is as of `run_trial`: the policy acts as it does where it is scored. It is asked during takeovers too, so
    that every step has its `policy_action`.
    """
    state = start(rig.command)
    planner = Planner(policy, rig.control_hz, seed, executor, latency_steps)
    planner.rest(rig.resting_point)
    who: list[str] = []
    engaged: list[Jump] = []
    released: list[HandBack] = []
    still_ticks = max(1, round(STILL_S * rig.control_hz))
    for step in range(round(max_seconds * rig.control_hz)):
        if rig.success():
            break
        observation, before, rest = rig.observe(), rig.command, rig.resting_point
        human = person.tick(rest)
        if human is not None:
            planner.watch()
        elif state.mode is not Mode.AUTONOMOUS:
            planner.rest(rest)
        if state.mode is not Mode.HUMAN and (human is not None or state.mode is not Mode.AUTONOMOUS):
            # whoever takes over starts from where the robot comes to rest, not from the middle of a motion
            state = executed(state, rest)
        due = planner.due(step, lambda seen=observation: seen)
        wanted = None if due is None else due.action
        inputs = Inputs(
            human is not None, human, wanted, state.epoch + 1, authority=person.authority, blend=person.blend
        )
        state, decision = advance(state, inputs, rig.spec, person.cube_to_ee)
        if decision.mode is Mode.RELEASING:  # the policy has planned anew already
            state, decision = advance(state, inputs, rig.spec, person.cube_to_ee)
        who.append("person" if decision.is_intervention else "policy")
        watch(who[-1])
        command = rig.apply(decision.command)
        # a person's inverse kinematics go on from their own last solution, so that limits do not make it drift
        state = executed(state, decision.command if decision.is_intervention else command)
        asked = np.full_like(command, np.nan) if due is None else due.planned.astype(np.float32)
        acts = decision.mode is Mode.AUTONOMOUS and due is not None and not due.starved
        flags = {"is_intervention": decision.is_intervention, "is_commanded": acts or decision.is_intervention}
        record(Step(observation, command, policy_action=asked, **flags))
        if decision.mode is Mode.ENGAGING and human is not None:
            still = [human] * still_ticks
            engaged.append(take_over_jump(state, still, rest, rig.spec, person.cube_to_ee))
        elif decision.mode is Mode.AUTONOMOUS and len(released) < len(engaged):
            released.append(HandBack(jump(rest, asked), jump(before, command)))
    rig.stop()
    success = rig.success()
    return Supervised(
        success=success,
        seconds=len(who) / rig.control_hz,
        human_seconds=who.count("person") / rig.control_hz,
        watch_seconds=who.count("policy") / rig.control_hz,
        control=_stretches(who, rig.control_hz),
        engaged=tuple(engaged),
        released=tuple(released),
        failure="" if success else rig.failure() or "out of time",
    )


def _stretches(who: list[str], control_hz: float) -> tuple[tuple[float, float, str], ...]:
    starts = [i for i, name in enumerate(who) if i == 0 or who[i - 1] != name]
    ends = [*starts[1:], len(who)]
    return tuple((a / control_hz, b / control_hz, who[a]) for a, b in zip(starts, ends, strict=True))
