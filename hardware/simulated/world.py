"""The simulator in real time, in a process of its own: physics, cameras and a simulated person, behind slots."""

import contextlib
import dataclasses
import multiprocessing
import os
import time
from collections import Counter
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from dexhil.evaluation.config import PersonConfig
from dexhil.rig import RigConfig
from dexhil.robots.poses import IDENTITY
from dexhil.robots.spec import FR3_DEXHAND021
from dexhil.schema import ARM_DOF
from dexhil.workers import leave_signals_to_parent
from hardware.devices.base import ArmState, DeviceError, Stamped
from hardware.runtime.pace import Pace
from hardware.runtime.scheduling import run_first
from hardware.runtime.slots import SharedSlot

STEP_HZ = 100.0
TRACKER_EVERY = 3  # steps: 33 Hz
MOST_BEHIND = 10  # steps that are made up for; time stands still for the rest
REGRIP_STEPS = 10
SETTLE_STEPS = 30  # the person who takes over holds still until the robot stands, and leads it from there
SMALL = 1 << 14
FILM_SIZE = 320, 240


@dataclasses.dataclass(frozen=True)
class Target:
    """What an actuator was commanded: joint targets, to be reached at t_execute, monotonic s."""

    joints: np.ndarray
    t_execute: float


@dataclasses.dataclass(frozen=True)
class PersonState:
    """engage: the person wants control of what `authority` says. successes: episodes that the rig judged successful."""

    engage: bool
    successes: int
    authority: str = "both"


class World:
    """Starts the process and holds its slots. The devices of `hardware.simulated.devices` read and write them.

    Args:
        rig: its control_hz is the rate of the pictures.
        person: habits of the simulated one.
        retargeter: file through which the person's hand is to pass; "": the glove gives hand joints itself.
    """

    def __init__(self, rig: RigConfig, person: PersonConfig, retargeter: str = "") -> None:
        self.rig, self.habits, self.retargeter = rig, person, retargeter
        context = multiprocessing.get_context("spawn")
        self.arm: SharedSlot[Stamped[ArmState]] = SharedSlot(context, SMALL)
        self.hand: SharedSlot[Stamped[np.ndarray]] = SharedSlot(context, SMALL)
        size = 3 * rig.image_size**2 + SMALL
        self.images = {camera: SharedSlot[Stamped[np.ndarray]](context, size) for camera in rig.cameras}
        self.tracker: SharedSlot[Stamped[np.ndarray]] = SharedSlot(context, SMALL)
        self.glove: SharedSlot[Stamped[np.ndarray]] = SharedSlot(context, SMALL)
        self.person: SharedSlot[Stamped[PersonState]] = SharedSlot(context, SMALL)
        self.arm_target: SharedSlot[Target] = SharedSlot(context, SMALL)
        self.hand_target: SharedSlot[Target] = SharedSlot(context, SMALL)
        self._context, self._process, self._pipe = context, None, None

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("_context", "_process", "_pipe")}

    def start(self) -> None:
        """Starts the process and waits until every task is compiled. Does nothing where it runs."""
        if self.alive:
            return
        self._pipe, theirs = self._context.Pipe()
        process: Any = self._context.Process(
            target=_serve, args=(self, theirs, os.getpid()), name="simulator", daemon=True
        )
        process.start()
        theirs.close()
        self._process = process
        self._ask("ready", timeout_s=120.0)

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.is_alive()

    def reset(self, task: str, seed: int, *, person: bool = True) -> dict[str, Any]:
        """Starts an episode; {"instruction", "horizon_s", "cube_to_ee"}. Targets sent before it are forgotten."""
        return self._ask("reset", task, seed, person)

    def judge(self) -> str:
        """Category of the failure of the episode so far, "" for none."""
        return self._ask("judge")

    def film(self) -> np.ndarray:
        """uint8 [240, 320, 3] of the scene now."""
        return self._ask("film")

    def regrip(self) -> np.ndarray:
        """The person saw the robot hold: lets go, then takes over anew, holding the cube as returned (C of eq. 3)."""
        return self._ask("regrip")

    def inject(self, fault: str) -> None:
        """Silences a device until `inject("")`: "arm", "hand", "tracker", "glove", "operator" or a camera's name."""
        self._ask("inject", fault)

    def stop(self) -> None:
        """Ends the process. May be called again."""
        if self._process is not None:
            self._process.kill()
            self._process.join()

    def _ask(self, *question: Any, timeout_s: float = 30.0) -> Any:
        if self._pipe is None:
            raise DeviceError("simulator: is not running; connect a device of it first")
        try:
            self._pipe.send(question)
            if self._pipe.poll(timeout_s):
                return self._pipe.recv()
        except (OSError, EOFError):
            raise DeviceError("simulator: its process ended; its own message is above") from None
        raise DeviceError(f"simulator: no answer to {question[0]!r} within {timeout_s:.0f} s")


class _Served:
    """The simulator's side."""

    def __init__(self, world: World) -> None:
        from dexhil.sim.rig import SimRig

        self.world, config = world, world.rig
        self.rig = SimRig(
            config.tasks, difficulty=config.difficulty, surroundings=config.surroundings, image_size=config.image_size,
            cameras=config.cameras, control_hz=STEP_HZ, limited=False,  # the control loop has limits
        )  # fmt: skip
        self.person: Any = None
        self.hand_in_glove: Any = None
        self.silent = ""
        self.successes, self.pause = 0, 0
        self.seq: Counter[str] = Counter()
        self.last: dict[str, int] = {}
        self.cube, self.glove, self.engage = IDENTITY.copy(), FR3_DEXHAND021.home[ARM_DOF:].astype(np.float64), False
        self.forgotten: tuple[Target | None, Target | None] = None, None
        for task in reversed(config.tasks):
            self.reset(task, 0, False)
            self.rig.observe()  # opens the renderers
            self.film()
        self.q = self.rig.joints[:ARM_DOF]
        self.running = False

    def reset(self, task: str, seed: int, person: bool) -> dict[str, Any]:
        self.rig.reset(task=task, seed=seed)
        self.forgotten = self.world.arm_target.read(), self.world.hand_target.read()
        self.person = self._new_person(seed) if person else None
        self.succeeded, self.engage, self.running = False, False, True
        self.q = self.rig.joints[:ARM_DOF]
        cube_to_ee = IDENTITY if self.person is None else self.person.cube_to_ee
        return {"instruction": self.rig.instruction, "horizon_s": self.rig.horizon_s, "cube_to_ee": cube_to_ee}

    def _new_person(self, seed: int, **habits: Any) -> Any:
        from dexhil.retargeting.runtime import load
        from dexhil.sim.person import SimulatedPerson
        from dexhil.sim.teleoperation import HandInGlove

        world = self.world
        if world.retargeter and self.hand_in_glove is None:
            self.hand_in_glove = HandInGlove(load(world.retargeter), np.random.default_rng(seed), STEP_HZ)
        return SimulatedPerson(self.rig, seed=seed, config=dataclasses.replace(world.habits, **habits))

    def regrip(self) -> np.ndarray:
        if self.engage:
            self.engage, self.pause = False, REGRIP_STEPS
            self.person = self._new_person(self.seq["arm"], late_s=0.0, reaction_s=(0.0, 0.0))
        return IDENTITY if self.person is None else self.person.cube_to_ee

    def step(self, now: float) -> None:
        if self.running:
            self.rig.apply(step_command(self.rig.command, *self._targets(), now))
        if self.person is not None and not self.succeeded:
            self._let_person_act()
        if self.running and not self.succeeded and self.rig.success():
            self.succeeded, self.engage = True, False
            self.successes += 1

    def _targets(self) -> tuple[Target | None, Target | None]:
        arm, hand = self.world.arm_target.read(), self.world.hand_target.read()
        return None if arm is self.forgotten[0] else arm, None if hand is self.forgotten[1] else hand

    def _let_person_act(self) -> None:
        self.pause -= 1
        if self.pause > 0:
            return
        was_engaged = self.engage
        if self.pause == 0 and was_engaged:
            self.person.lead_from(self.rig.command)
        human = self.person.tick(self.rig.command)
        self.engage = human is not None
        if self.engage and not was_engaged:
            self.pause = SETTLE_STEPS
        if human is not None:
            self.cube = human.pose_camera_cube
            q_hand = human.q_hand
            self.glove = q_hand if self.hand_in_glove is None else self.hand_in_glove.show(q_hand)

    def publish(self, index: int) -> None:
        """What the devices say after step `index` of the grid."""
        q = self.rig.joints
        state = ArmState(q[:ARM_DOF], (q[:ARM_DOF] - self.q) * STEP_HZ, self.rig.pose_base_ee)
        self.q = q[:ARM_DOF]
        self._say("arm", self.world.arm, state)
        self._say("hand", self.world.hand, q[ARM_DOF:])
        self._say("glove", self.world.glove, self.glove)
        authority = "both" if self.person is None else self.person.authority
        self._say("operator", self.world.person, PersonState(self.engage, self.successes, authority))
        if self._due("tracker", index, TRACKER_EVERY):
            self._say("tracker", self.world.tracker, self.cube)
        per_picture = round(STEP_HZ / self.world.rig.control_hz)
        if self._due("cameras", index + 2, per_picture):  # there when the observer looks, on the grid
            for camera, slot in self.world.images.items():
                taken, size = time.monotonic(), self.world.rig.image_size
                self._say(camera, slot, self.rig.render(camera, size, size), taken)

    def _due(self, what: str, index: int, every: int) -> bool:
        before, self.last[what] = self.last.get(what, -1), index // every
        return self.last[what] != before

    def _say(self, name: str, slot: SharedSlot[Any], value: Any, taken: float | None = None) -> None:
        if name == self.silent:
            return
        self.seq[name] += 1
        now = time.monotonic()
        slot.write(Stamped(value, now if taken is None else taken, now, self.seq[name]))

    def film(self) -> np.ndarray:
        return self.rig.render("scene", *FILM_SIZE)

    def inject(self, fault: str) -> None:
        self.silent = fault

    def answer(self, kind: str, *values: Any) -> Any:
        """To what `World` asks."""
        answers = {
            "ready": lambda: None, "reset": self.reset, "judge": self.rig.failure, "film": self.film,
            "regrip": self.regrip, "inject": self.inject,
        }  # fmt: skip
        return answers[kind](*values)


def step_command(command: np.ndarray, arm: Target | None, hand: Target | None, now: float) -> np.ndarray:
    """float32 [A] rad for the step at `now` after `command`: the arm goes straight to its target, to be in time."""
    command = command.copy()
    if arm is not None:
        left = max(arm.t_execute - now, 1.0 / STEP_HZ)
        command[:ARM_DOF] += (arm.joints - command[:ARM_DOF]) * min(1.0, 1.0 / (STEP_HZ * left))
    if hand is not None:
        command[ARM_DOF:] = hand.joints
    return command


def _serve(world: World, pipe: Connection, parent: int) -> None:
    leave_signals_to_parent()
    served = _Served(world)
    run_first({})  # as the devices that it stands for, which have processors of their own
    pace, done = Pace(STEP_HZ), None
    while os.getppid() == parent:
        index = pace.wait()
        with contextlib.suppress(EOFError, OSError):
            while pipe.poll():
                pipe.send(served.answer(*pipe.recv()))
        behind = 1 if done is None else min(index - done, MOST_BEHIND)
        done = index
        for step in range(behind):
            served.step((index - behind + 1 + step) / STEP_HZ)
        served.publish(index)
