"""Does a robot that holds the plush keep it when a person takes over with a noisy glove that shows another hand?

    python experiments/benchmarks/holding.py --out FILE.json [--takeovers 100] [--hz 20 30 90] [--moves]

In simulation: the scripted operator lifts the plush; a person whose cube and hand are anywhere takes over and holds
still for 5 s, within the noise of sensors (1 mm and 0.5 degrees of the cube, 0.01 rad of every joint); then the robot
is handed back to a policy that goes on. Writes per rate {"takeovers", "kept", "interval" (95 %, Wilson)}; in
"slipped_alone" the starts that are passed over, since a robot that just stands still loses the plush, too; and in rad
over all joints, each {"median", "max"}: "drift": how far the person's command went in the 5 s; "takeover": the jump as
`dexhil.control.jumps` has it, sensor noise included; "hand_back_asked", "hand_back_executed": before and after limits.
--moves: the person moves the thumb and comes back meanwhile, which must not open the other fingers.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from dexhil.control.jumps import STILL_S, take_over_jump
from dexhil.control.takeover import HumanCommand, Inputs, advance, executed, jump, start
from dexhil.evaluation.intervals import wilson
from dexhil.robots.poses import make_pose
from dexhil.schema import ARM_DOF
from dexhil.sim.operator import ScriptedOperator
from dexhil.sim.rig import SimRig
from dexhil.sim.teleoperation import with_sensor_noise
from experiments.benchmarks.result import machine, parser, write_result

LIFTED_M, HELD_S, MOST_S = 0.06, 5.0, 20.0
THUMB_RAD = 0.6


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Of one takeover: whether the plush is still in the hand; the rest in rad, largest joint."""

    kept: bool
    drift: float
    takeover: float
    hand_back_asked: float
    hand_back_executed: float


def lift(rig: SimRig, seed: int) -> bool:
    """The plush is in the robot's hand, above the table; False where the operator did not manage."""
    rig.reset(task="plush", seed=seed)
    operator = ScriptedOperator(rig, seed=seed)
    while rig.time < MOST_S:
        rig.apply(operator.act())
        state: Any = rig.privileged()
        if state.in_hand and state.lifted > LIFTED_M:
            return True
    return False


def stand_still(rig: SimRig) -> bool:
    """Whether the plush is still in the hand of a robot that stands still for as long as a takeover lasts."""
    rest = rig.resting_point
    for _ in range(round(HELD_S * rig.control_hz)):
        rig.apply(rest)
    return bool(rig.privileged().in_hand)


def take_over(rig: SimRig, rng: np.random.Generator, moves: bool) -> Outcome:
    """From a robot that holds the plush; see the module."""
    spec, ticks, rest = rig.spec, round(HELD_S * rig.control_hz), rig.resting_point
    cube = make_pose(rng.uniform(-0.5, 0.5, 3), Rotation.random(rng=rng))
    human = HumanCommand(cube, rng.uniform(spec.lower[ARM_DOF:], spec.upper[ARM_DOF:]))
    grip = make_pose(rng.uniform(-0.05, 0.05, 3), Rotation.random(rng=rng))
    state, drift, measured = start(rest), 0.0, 0.0
    for k in range(ticks):
        phase = np.eye(spec.hand_dof)[0] * (THUMB_RAD * np.sin(np.pi * k / ticks) if moves else 0.0)
        shown = with_sensor_noise(HumanCommand(cube, human.q_hand + phase), rng)
        state, decision = advance(state, Inputs(True, shown, None), spec, grip)
        drift = max(drift, jump(rest, decision.command).max)
        state = executed(state, decision.command)
        rig.apply(decision.command)
        if k == 0:
            still = [with_sensor_noise(human, rng) for _ in range(max(1, round(STILL_S * rig.control_hz)))]
            measured = take_over_jump(state, still, rest, spec, grip).max
    before, kept = rig.command, bool(rig.privileged().in_hand)
    goes_on = (before + rng.uniform(-0.02, 0.02, spec.action_dim)).astype(np.float32)
    state, _ = advance(state, Inputs(False, None, None), spec, grip)  # released; then the policy plans anew
    _, decision = advance(state, Inputs(False, None, goes_on, policy_epoch=state.epoch), spec, grip)
    return Outcome(kept, drift, measured, jump(before, decision.command).max, jump(before, rig.apply(goes_on)).max)


def measure(hz: float, takeovers: int, seed: int, moves: bool = False) -> dict[str, Any]:
    """`takeovers` of them at `hz`; starts in which the operator lifts nothing are passed over."""
    rig, outcomes, slipped = SimRig(("plush",), cameras=(), control_hz=hz), [], 0
    while len(outcomes) < takeovers:
        seed += 1
        if not lift(rig, seed):
            continue
        if not stand_still(rig):
            slipped += 1
            continue
        lift(rig, seed)  # the same start once more
        outcomes.append(take_over(rig, np.random.default_rng([seed, 7]), moves))
    kept = sum(outcome.kept for outcome in outcomes)
    names = [field.name for field in dataclasses.fields(Outcome) if field.name != "kept"]
    return {
        "takeovers": takeovers,
        "kept": kept,
        "interval": list(wilson(kept, takeovers)),
        "slipped_alone": slipped,
        **{name: _summary([getattr(outcome, name) for outcome in outcomes]) for name in names},
    }


def _summary(values: Sequence[float]) -> dict[str, float]:
    return {"median": float(np.median(values)), "max": float(np.max(values))}


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--takeovers", type=int, default=100)
    arguments.add_argument("--hz", type=float, nargs="+", default=[20.0, 30.0, 90.0])
    arguments.add_argument("--moves", action="store_true", help="the person's thumb moves meanwhile")
    arguments.add_argument("--seed", type=int, default=0)
    options = arguments.parse_args()
    rates = {f"{hz:g}": measure(hz, options.takeovers, options.seed, options.moves) for hz in options.hz}
    write_result(options.out, {"benchmark": "holding", "machine": machine(), "moves": options.moves, "hz": rates})


if __name__ == "__main__":
    main()
