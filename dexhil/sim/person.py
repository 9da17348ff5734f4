"""The simulated person of a round: watches a policy, foresees failure, takes over with a cube and a hand of its own."""

import dataclasses

import numpy as np

from dexhil.control.takeover import HumanCommand
from dexhil.evaluation.config import PersonConfig
from dexhil.retargeting.runtime import Model
from dexhil.robots import arm_ik
from dexhil.schema import ARM_DOF
from dexhil.sim.operator import Intent, ScriptedOperator, hand_to_grasp
from dexhil.sim.rig import SimRig
from dexhil.sim.strategies.base import Goal, Grasp
from dexhil.sim.strategies.plush import GRASP_HEIGHT_M
from dexhil.sim.strategies.tissue import pinch_point
from dexhil.sim.tasks import PlushState, TissueState
from dexhil.sim.teleoperation import Devices

NEAR_M = {"plush": 0.030, "tissue": 0.020}  # a hand this far beside its goal will miss
LOW_M = {"plush": 0.030, "tissue": 0.035}  # above the height at which fingers close
CLOSED = 0.45  # mean closure of thumb and fingers that counts as closing
SLIPPED_M = 0.02
HOLD_HEIGHT_M = 0.03
LAG_M, LAG_S = 0.025, 0.8  # a hand that stays so far behind what is shown, for so long, does not follow
BACK_OFF = Goal(np.array([0.45, 0.0, 0.27]), tilt=0.85, yaw=0.0, grasp=Grasp())  # where the elbow is free to unfold
BACK_OFF_S = 2.0
_PERSON_STREAM = 1


@dataclasses.dataclass(frozen=True)
class Attention:
    """What a person at the table sees: all that `foresee` needs of one moment. In m: `away` from the object along the
    table, `above` where fingers should close, how far the object `moved` and `dropped` since; `closure` from 0 to 1.
    """

    time_s: float
    away: float
    above: float
    closure: float
    in_hand: bool
    moved: float
    dropped: float


@dataclasses.dataclass
class Watch:
    """Memory of a watching person: best and moved, m, since and began, s, and whether it foresees a miss."""

    best: float = np.inf
    moved: float = 0.0
    since: float = 0.0
    began: float = 0.0
    foresees: bool = True


def foresee(task: str, seen: Attention, watch: Watch, config: PersonConfig) -> str:
    """Why this rollout is about to fail, "" where it looks well; updates `watch`."""
    distance = seen.away + max(seen.above, 0.0)
    if distance < watch.best - 0.01:
        watch.best, watch.since = distance, seen.time_s
    if seen.moved > watch.moved + 0.005:
        watch.moved, watch.since = seen.moved, seen.time_s
    misses = watch.foresees and seen.away >= NEAR_M[task] and not seen.in_hand
    if seen.dropped > SLIPPED_M and not seen.in_hand:
        return "slip"
    if misses and seen.closure > CLOSED and seen.moved < SLIPPED_M:
        return "hand_before_arm"
    if misses and seen.above < LOW_M[task]:
        return "wrong_approach"
    if seen.closure > CLOSED and seen.above > LOW_M[task] + HOLD_HEIGHT_M and seen.moved < SLIPPED_M:
        return "poor_contact"
    if seen.time_s - watch.since > config.no_progress_s:
        return "no_progress"
    return "late" if seen.time_s - watch.began > config.late_s and seen.moved < SLIPPED_M else ""


class SimulatedPerson:
    """One person beside `rig` for one episode: call `tick` once per control step, before the rig is commanded anything.

    model: a retargeter, through which the person's hand passes; None: the hand's joints come from the intent itself.
    reasons: why the person took over, one per takeover. cube_to_ee: [7], the constant `C` of DexHiL eq. 3.
    """

    def __init__(
        self, rig: SimRig, *, seed: int, config: PersonConfig | None = None, model: Model | None = None
    ) -> None:
        self._rig, self._seed = rig, seed
        self._config = config or PersonConfig()
        self._rng = np.random.default_rng([seed, _PERSON_STREAM])
        self._watch, self._most_moved = self._begin_to_watch(0.0), 0.0
        self._operator: ScriptedOperator | None = None
        self._due: tuple[float, str] | None = None
        self._hands_back = False
        self._followed = 0.0
        self._led_back_at: float | None = None
        self.reasons: list[str] = []
        self._devices = Devices(self._rng, model, rig.control_hz)
        self.cube_to_ee = self._devices.cube_to_ee
        self.authority, self.blend = self._config.authority, self._config.blend

    def tick(self, rest: np.ndarray) -> HumanCommand | None:
        """What the person shows, or None while it only watches. rest: [A] rad, where the last command would stop."""
        seen = self._look()
        if self._operator is not None and self._lets_go(seen):
            self._operator, self._watch = None, self._begin_to_watch(seen.time_s)
            return None
        if self._operator is not None:
            return self._devices.show(self._correct(self._operator))
        if not self._decides(seen):
            return None
        self._take_over()
        return self.lead_from(rest)

    def lead_from(self, rest: np.ndarray) -> HumanCommand:
        """The person's own motion starts where the robot comes to rest, with a hand as near as it can shape."""
        self._operator = ScriptedOperator(
            self._rig,
            seed=self._seed + len(self.reasons),
            start=Intent(arm_ik.forward(rest[:ARM_DOF].astype(np.float64)), hand_to_grasp(rest[ARM_DOF:])),
            approach_speed=self._config.approach_speed,
            skill=self._config.skill,
        )
        return self._devices.show(self._operator.intent)

    def _begin_to_watch(self, now: float) -> Watch:
        foresight = self._config.foresight
        return Watch(since=now, began=now, foresees=foresight == 1 or bool(self._rng.uniform() < foresight))

    def _lets_go(self, seen: Attention) -> bool:
        if self._led_back_at is not None:
            return seen.time_s >= self._led_back_at
        return self._hands_back and seen.in_hand and seen.moved > SLIPPED_M

    def _correct(self, operator: ScriptedOperator) -> Intent:
        now, shown = self._rig.time, operator.intent.pose_base_ee[:3]
        if np.linalg.norm(shown - self._rig.pose_base_ee[:3]) < LAG_M:
            self._followed = now
        if self._led_back_at is None and now - self._followed > LAG_S:
            self._led_back_at = now + BACK_OFF_S
        return operator.think() if self._led_back_at is None else operator.lead(BACK_OFF)

    def _decides(self, seen: Attention) -> bool:
        reason = foresee(self._rig.task, seen, self._watch, self._config)
        false_alarm = self._rng.uniform() < self._config.false_alarms_per_s / self._rig.control_hz
        reaction = self._rng.uniform(*self._config.reaction_s)
        if self._due is None and (reason or false_alarm):
            self._due = seen.time_s + reaction, reason or "false_alarm"
        if self._due is not None and self._due[1] != "false_alarm" and seen.in_hand and not reason:
            self._due = None  # it goes well after all
        return self._due is not None and seen.time_s >= self._due[0]

    def _take_over(self) -> None:
        assert self._due is not None
        self.reasons.append(self._due[1])
        self._due, self._followed, self._led_back_at = None, self._rig.time, None
        self._hands_back = bool(self._rng.uniform() < self._config.hand_back)

    def _look(self) -> Attention:
        state: PlushState | TissueState = self._rig.privileged()
        hand = self._rig.pose_base_ee[:3]
        if isinstance(state, PlushState):
            goal, close_at, moved = state.grasp_point, GRASP_HEIGHT_M, state.lifted
        else:
            goal = pinch_point(state, state.normal_yaw)
            close_at, moved = goal[2], state.pulled
        self._most_moved = max(self._most_moved, moved)
        grasp = hand_to_grasp(self._rig.joints[ARM_DOF:])
        return Attention(
            time_s=self._rig.time,
            away=float(np.linalg.norm(hand[:2] - goal[:2])),
            above=float(hand[2] - close_at),
            closure=(grasp.thumb_closure + grasp.finger_closure) / 2,
            in_hand=state.in_hand,
            moved=moved,
            dropped=self._most_moved - moved,
        )
