"""The simulated rig: one compiled scene per task, stepped synchronously. Implements `dexhil.rig.Rig`."""

import dataclasses
from collections.abc import Sequence

import mujoco
import numpy as np

from dexhil.control.limits import check_command
from dexhil.control.safety import SafetyLayer, SafetySettings
from dexhil.names import check_known
from dexhil.rig import RigConfig
from dexhil.robots.spec import RobotSpec
from dexhil.schema import ARM_DOF, Observation
from dexhil.sim.rendering import CameraRenderer
from dexhil.sim.robot_model import EE_SITE, SPEC, TIMESTEP_S, build_scene, drive_joint
from dexhil.sim.surroundings import Surroundings, add_clutter
from dexhil.sim.tasks import PlushState, Task, TissueState, check_difficulty, make_task, task_names

HOME_NOISE_RAD = 0.12  # how far an arm joint starts from home at difficulty 1
_TASK_STREAM, _ROBOT_STREAM, _SURROUNDINGS_STREAM = 0, 1, 2


@dataclasses.dataclass(frozen=True)
class _Scene:
    """A compiled task. arm, hand: rows of qpos of the actuated joints, in the order of the robot spec."""

    task: Task
    model: mujoco.MjModel
    data: mujoco.MjData
    renderer: CameraRenderer
    surroundings: Surroundings
    arm: np.ndarray
    full_hand: np.ndarray
    hand: np.ndarray


class SimRig:
    """Arm, hand, table and one task's objects in MuJoCo; `reset` chooses the task and the seed.

    Stepping is synchronous: `apply` advances time by 1 / control_hz. Commands pass the same safety layer as on a robot.
    No object state is in an observation.
    """

    spec: RobotSpec = SPEC

    def __init__(
        self,
        tasks: Sequence[str] = RigConfig.tasks,
        *,
        difficulty: float = RigConfig.difficulty,
        surroundings: float | None = None,
        image_size: int = RigConfig.image_size,
        cameras: Sequence[str] = RigConfig.cameras,
        control_hz: float = RigConfig.control_hz,
        limited: bool = True,
    ) -> None:
        """difficulty: 0 to 1, how much a task varies; surroundings: the same of what it is not about, None: as much.

        limited: commands pass the safety layer; False: somebody before it has limited them. Raises ValueError for an
        unknown task and for a difficulty, rate or size out of range.
        """
        check_difficulty(difficulty)
        check_difficulty(difficulty if surroundings is None else surroundings, "surroundings")
        unknown = [task for task in tasks if task not in task_names()]
        if unknown:
            make_task(unknown[0])
        if not 0.0 < control_hz <= 1.0 / TIMESTEP_S:
            raise ValueError(f"control_hz {control_hz!r}: expected more than 0 and at most {1.0 / TIMESTEP_S:g}")
        if image_size < 1:
            raise ValueError(f"image_size {image_size!r}: expected at least 1 pixel")
        self.tasks, self.cameras = tuple(tasks), tuple(cameras)
        self.difficulty, self.surroundings = difficulty, surroundings
        self.image_size, self.control_hz = image_size, control_hz
        self._scenes: dict[str, _Scene] = {}
        self._scene: _Scene | None = None
        self._safety = SafetyLayer(SPEC, SafetySettings(), arm_hz=control_hz, hand_hz=control_hz)
        self._command, self._limited, self._steps = SPEC.home.copy(), limited, 0

    def reset(self, *, task: str, seed: int) -> Observation:
        """See `Rig`. Raises ValueError with the nearest name for a task this rig was not made for."""
        self._scene = scene = self._prepare(task)
        mujoco.mj_resetData(scene.model, scene.data)
        self._steps = 0
        self._place_robot(scene, np.random.default_rng([seed, _ROBOT_STREAM]))
        scene.task.randomise(scene.model, scene.data, np.random.default_rng([seed, _TASK_STREAM]), self.difficulty)
        mujoco.mj_forward(scene.model, scene.data)
        scene.surroundings.randomise(
            np.random.default_rng([seed, _SURROUNDINGS_STREAM]),
            self.difficulty if self.surroundings is None else self.surroundings,
            keep_clear=scene.task.privileged(scene.model, scene.data).grasp_point[:2],
            colours=scene.task.colours,
        )
        mujoco.mj_forward(scene.model, scene.data)
        return self.observe()

    def observe(self) -> Observation:
        """See `Rig`."""
        return Observation(
            images={camera: self.render(camera, self.image_size, self.image_size) for camera in self.cameras},
            q_arm=self.joints[:ARM_DOF],
            q_hand=self.joints[ARM_DOF:],
            pose_base_ee=self.pose_base_ee.astype(np.float32),
            timestamp=self.time,
            language_instruction=self.instruction,
        )

    def apply(self, action: np.ndarray) -> np.ndarray:
        """See `Rig`. Raises UnsafeCommandError, and does not step, for a wrong shape or a non-finite value."""
        scene = self._current()
        check_command(action, SPEC)
        if self._limited:
            executed = self._safety.limit(action, self.time, True)
        else:
            executed = np.clip(action, SPEC.lower, SPEC.upper).astype(np.float32)
        scene.task.before_step(scene.model, scene.data, self.time)
        self._step_physics(scene, executed)
        self._command = executed
        self._steps += 1
        scene.task.update(scene.model, scene.data, self.time)
        return executed

    def stop(self) -> None:
        """See `Rig`: commands the measured joints."""
        if self._scene is not None:
            rows = np.concatenate([self._scene.arm, self._scene.hand])
            self._begin_at(np.clip(self._scene.data.qpos[rows].astype(np.float32), SPEC.lower, SPEC.upper))
            self._scene.data.ctrl[:] = self._command

    def close(self) -> None:
        """Frees the renderers. May be called again."""
        for scene in self._scenes.values():
            scene.renderer.close()

    def render(self, camera: str, width: int, height: int) -> np.ndarray:
        """uint8 [height, width, 3] of the current state. Raises ValueError for an unknown camera."""
        scene = self._current()
        return scene.renderer.render(scene.data, camera, width, height)

    def success(self) -> bool:
        """True once the task was achieved in this episode."""
        return self._current().task.success()

    def failure(self) -> str:
        """What went wrong so far, a category for reports; "" on success."""
        return self._current().task.failure()

    def privileged(self) -> PlushState | TissueState:
        """The object's state, for the scripted operator only; never part of an observation."""
        scene = self._current()
        return scene.task.privileged(scene.model, scene.data)

    @property
    def time(self) -> float:
        """s since reset."""
        return self._steps / self.control_hz

    @property
    def task(self) -> str:
        return self._current().task.name

    @property
    def instruction(self) -> str:
        return self._current().task.instruction

    @property
    def horizon_s(self) -> float:
        return self._current().task.horizon_s

    @property
    def model(self) -> mujoco.MjModel:
        return self._current().model

    @property
    def data(self) -> mujoco.MjData:
        return self._current().data

    @property
    def command(self) -> np.ndarray:
        """[A] rad, the last executed command."""
        return self._command.copy()

    @property
    def resting_point(self) -> np.ndarray:
        """float32 [A] rad, where the command would come to rest by the fastest stop."""
        return self._safety.resting_point() if self._limited else self.command

    @property
    def joints(self) -> np.ndarray:
        """float32 [A] rad, measured, in the order of the spec."""
        scene = self._current()
        return scene.data.qpos[np.concatenate([scene.arm, scene.hand])].astype(np.float32)

    @property
    def pose_base_ee(self) -> np.ndarray:
        """float64 [7], the end effector in the base frame."""
        site = self._current().data.site(EE_SITE)
        quaternion = np.zeros(4)
        mujoco.mju_mat2Quat(quaternion, site.xmat)
        return np.concatenate([site.xpos, quaternion])

    def _current(self) -> _Scene:
        if self._scene is None:
            raise RuntimeError("the rig has no episode yet; call reset(task=..., seed=...) first")
        return self._scene

    def _prepare(self, name: str) -> _Scene:
        check_known("this rig's task", name, self.tasks)
        if name not in self._scenes:
            self._scenes[name] = _compile(name)
        return self._scenes[name]

    def _place_robot(self, scene: _Scene, rng: np.random.Generator) -> None:
        noise = HOME_NOISE_RAD * self.difficulty * rng.uniform(-1.0, 1.0, ARM_DOF)
        start = SPEC.home.copy()
        start[:ARM_DOF] += noise.astype(np.float32)
        self._begin_at(np.clip(start, SPEC.lower, SPEC.upper))
        scene.data.qpos[scene.arm] = self._command[:ARM_DOF]
        scene.data.qpos[scene.full_hand] = SPEC.coupling @ self._command[ARM_DOF:]
        scene.data.ctrl[:] = self._command

    def _begin_at(self, command: np.ndarray) -> None:
        self._command = command
        self._safety.reset(command, -np.inf)

    def _step_physics(self, scene: _Scene, executed: np.ndarray) -> None:
        """One control period. The arm's command moves linearly over it, as a robot's own interpolator would."""
        steps = round(1.0 / (self.control_hz * scene.model.opt.timestep))
        scene.data.ctrl[ARM_DOF:] = executed[ARM_DOF:]
        path = np.linspace(self._command[:ARM_DOF], executed[:ARM_DOF], steps + 1, dtype=np.float64)[1:]
        for command in path:
            scene.data.ctrl[:ARM_DOF] = command
            mujoco.mj_step(scene.model, scene.data)


def _compile(name: str) -> _Scene:
    task, scene_spec = make_task(name), build_scene()
    task.build(scene_spec)
    add_clutter(scene_spec)
    model = scene_spec.compile()
    joints = (
        SPEC.joint_names[:ARM_DOF],
        SPEC.full_hand_joint_names,
        [drive_joint(SPEC, i) for i in range(SPEC.hand_dof)],
    )
    arm, full_hand, hand = (np.array([model.joint(joint).qposadr[0] for joint in names]) for names in joints)
    return _Scene(task, model, mujoco.MjData(model), CameraRenderer(model), Surroundings(model), arm, full_hand, hand)
