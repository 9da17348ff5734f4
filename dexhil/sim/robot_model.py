"""The scene without its task, built from primitives: floor, table, lights, cameras, arm and hand.

Kinematics come from `dexhil.robots.geometry`, joint order and coupling from `dexhil.robots.spec`; here are bodies to
look at and to touch with, and motors. No meshes: two 64 px cameras render in a few milliseconds on one core.
"""

from __future__ import annotations

import mujoco
import numpy as np

from dexhil.robots.geometry import (
    DEXHAND_JOINTS,
    FR3_DH,
    FR3_FLANGE_M,
    HAND_MOUNT_YAW,
    PALM_TO_EE_M,
    TIP_IN_DIP_M,
    HandJoint,
)
from dexhil.robots.spec import FR3_DEXHAND021, RobotSpec
from dexhil.schema import ARM_DOF

SPEC = FR3_DEXHAND021
EE_SITE = "ee"
TIMESTEP_S = 0.002

# Collision bits (contype, conaffinity). Objects only receive; inside the hand only the thumb meets the other fingers.
_NO_CONTACT = (0, 0)
_TABLE_CONTACT = (1, 1)
_ARM_CONTACT = (1, 0)
_PALM_CONTACT = (3, 0)
_FINGER_CONTACT = (7, 0)
_THUMB_CONTACT = (3, 4)

_WHITE = (0.93, 0.93, 0.94, 1.0)
_GREY = (0.30, 0.31, 0.34, 1.0)
_DARK = (0.16, 0.17, 0.19, 1.0)
_PAD = (0.16, 0.62, 0.40, 1.0)

SCENE_EYE, SCENE_TARGET = np.array([1.02, -0.22, 0.66]), np.array([0.47, 0.0, 0.095])  # m, base frame

_ARM_FORCE_NM = (87.0, 87.0, 87.0, 87.0, 12.0, 12.0, 12.0)
_ARM_KP = (4000.0, 4000.0, 4000.0, 4000.0, 1500.0, 1500.0, 1500.0)
_HAND_KP, _HAND_FORCE_NM = 2.0, 0.8

# What the arm looks like: per link its mass (kg), whether it may touch things, and parts (kind, from, to, radius in m,
# colour) in the link's own frame.
_Rgba = tuple[float, float, float, float]
_Part = tuple[str, tuple[float, float, float], tuple[float, float, float], float, _Rgba]
_ARM_LINKS: tuple[tuple[float, bool, tuple[_Part, ...]], ...] = (
    (3.5, False, (
        ("capsule", (0, 0, -0.19), (0, 0, -0.02), 0.062, _WHITE),
        ("cylinder", (0, -0.06, 0), (0, 0.06, 0), 0.060, _GREY),
    )),
    (3.5, False, (("capsule", (0, -0.02, 0), (0, -0.16, 0), 0.060, _WHITE),)),
    (3.0, False, (
        ("capsule", (0, 0, -0.14), (0.03, 0, -0.03), 0.058, _WHITE),
        ("cylinder", (0.0825, -0.055, 0), (0.0825, 0.055, 0), 0.056, _GREY),
    )),
    (3.0, False, (("capsule", (-0.01, 0.02, 0), (-0.0825, 0.11, 0), 0.055, _WHITE),)),
    (3.0, True, (
        ("capsule", (0, 0, -0.25), (0, 0.04, -0.08), 0.050, _WHITE),
        ("cylinder", (0, -0.05, 0), (0, 0.05, 0), 0.050, _GREY),
    )),
    (1.5, True, (("capsule", (0.01, 0, 0), (0.088, 0, 0), 0.048, _WHITE),)),
    (1.0, True, (
        ("cylinder", (0, 0, -0.05), (0, 0, 0.07), 0.046, _WHITE),
        ("cylinder", (0, 0, 0.07), (0, 0, FR3_FLANGE_M), 0.040, _GREY),
    )),
)  # fmt: skip


def build_scene() -> mujoco.MjSpec:
    """Floor, table, robot, lights and the cameras `scene` and `wrist`; a task adds its objects before compiling."""
    spec = _new_spec()
    _set_options(spec)
    _add_room(spec)
    _add_arm(spec, spec.worldbody)
    _add_hand(spec, spec.body(SPEC.joint_names[ARM_DOF - 1]))
    _add_coupling(spec, SPEC)
    _add_motors(spec, SPEC)
    return spec


def _new_spec() -> mujoco.MjSpec:
    spec = mujoco.MjSpec()
    spec.modelname = SPEC.name
    spec.compiler.degree = False
    return spec


def _set_options(spec: mujoco.MjSpec) -> None:
    spec.option.timestep = TIMESTEP_S
    spec.option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    spec.option.cone = mujoco.mjtCone.mjCONE_ELLIPTIC
    spec.option.impratio = 10.0
    spec.visual.quality.offsamples = 0
    spec.visual.quality.numslices = 16  # round shapes in fewer triangles: rendering costs a third
    spec.visual.quality.numstacks = 8
    spec.visual.global_.offwidth = 1280
    spec.visual.global_.offheight = 960
    spec.visual.headlight.ambient = (0.42, 0.42, 0.42)
    spec.visual.headlight.diffuse = (0.25, 0.25, 0.25)
    spec.visual.headlight.specular = (0.05, 0.05, 0.05)
    spec.stat.extent = 1.0  # so that the two distances are metres; fingers come close to the wrist camera
    spec.visual.map.znear = 0.008
    spec.visual.map.zfar = 10.0


def _add_room(spec: mujoco.MjSpec) -> None:
    """Everything that does not move."""
    world = spec.worldbody
    box, plane = mujoco.mjtGeom.mjGEOM_BOX, mujoco.mjtGeom.mjGEOM_PLANE
    contype, conaffinity = _TABLE_CONTACT
    world.add_geom(
        name="room_table", type=box, pos=(0.40, 0, -0.02), size=(0.55, 0.55, 0.02), rgba=(0.55, 0.42, 0.32, 1),
        contype=contype, conaffinity=conaffinity, friction=(0.8, 0.005, 0.0001),
    )  # fmt: skip
    _decoration(world, box, name="room_legs", pos=(0.40, 0, -0.22), size=(0.52, 0.52, 0.18), rgba=(0.43, 0.33, 0.26, 1))
    _decoration(world, plane, name="room_floor", pos=(0, 0, -0.75), size=(4, 4, 0.1), rgba=(0.62, 0.65, 0.68, 1))
    _decoration(world, box, name="room_wall", pos=(-1.2, 0, 0.6), size=(0.02, 4.0, 1.4), rgba=(0.80, 0.83, 0.86, 1))
    sky = spec.add_texture(
        name="sky", type=mujoco.mjtTexture.mjTEXTURE_SKYBOX, builtin=mujoco.mjtBuiltin.mjBUILTIN_GRADIENT
    )
    sky.rgb1, sky.rgb2, sky.width, sky.height = (0.80, 0.83, 0.86), (0.55, 0.58, 0.62), 32, 192
    world.add_light(pos=(0.9, -0.6, 1.6), dir=(-0.4, 0.45, -1), diffuse=(0.50, 0.50, 0.48), castshadow=False)
    world.add_light(pos=(0.2, 0.9, 1.6), dir=(0.2, -0.6, -1), diffuse=(0.25, 0.25, 0.28), castshadow=False)
    world.add_camera(name="scene", pos=SCENE_EYE, quat=look_at(SCENE_EYE, SCENE_TARGET), fovy=46)


def _decoration(parent: mujoco.MjsBody, kind: mujoco.mjtGeom, **geom: object) -> None:
    """A geom to look at only: massless and without contact."""
    parent.add_geom(type=kind, contype=0, conaffinity=0, mass=0, **geom)


def _add_arm(spec: mujoco.MjSpec, base: mujoco.MjsBody) -> None:
    cylinder, box = mujoco.mjtGeom.mjGEOM_CYLINDER, mujoco.mjtGeom.mjGEOM_BOX
    _decoration(base, cylinder, pos=(0, 0, 0.07), size=(0.07, 0.07, 0), rgba=_WHITE)
    _decoration(base, box, pos=(-0.06, 0, 0.045), size=(0.08, 0.075, 0.045), rgba=_GREY)
    link = base
    for index, ((a, d, alpha), (mass, touches, parts)) in enumerate(zip(FR3_DH, _ARM_LINKS, strict=True)):
        position = (a, -np.sin(alpha) * d, np.cos(alpha) * d)
        turn = (np.cos(alpha / 2), np.sin(alpha / 2), 0, 0)
        link = link.add_body(name=SPEC.joint_names[index], pos=position, quat=turn, gravcomp=1)
        limits = (float(SPEC.lower[index]), float(SPEC.upper[index]))
        link.add_joint(
            name=SPEC.joint_names[index], axis=(0, 0, 1), range=limits, limited=True, armature=0.1, damping=1.0
        )
        for part in parts:
            _add_part(link, part, mass / len(parts), _ARM_CONTACT if touches else _NO_CONTACT)


def _add_part(body: mujoco.MjsBody, part: _Part, mass: float, contact: tuple[int, int]) -> None:
    kind, start, end, radius, rgba = part
    shape = mujoco.mjtGeom.mjGEOM_CAPSULE if kind == "capsule" else mujoco.mjtGeom.mjGEOM_CYLINDER
    body.add_geom(
        type=shape,
        fromto=(*start, *end),
        size=(radius, 0, 0),
        rgba=rgba,
        mass=mass,
        contype=contact[0],
        conaffinity=contact[1],
    )


def _add_hand(spec: mujoco.MjSpec, link7: mujoco.MjsBody) -> None:
    palm = link7.add_body(name="palm", pos=(0, 0, FR3_FLANGE_M), quat=_yaw(HAND_MOUNT_YAW), gravcomp=1)
    palm.add_site(name=EE_SITE, pos=PALM_TO_EE_M, size=(0.004, 0, 0), group=4)
    contype, conaffinity = _PALM_CONTACT
    box, capsule = mujoco.mjtGeom.mjGEOM_BOX, mujoco.mjtGeom.mjGEOM_CAPSULE
    palm.add_geom(
        type=box,
        pos=(-0.002, 0, 0.105),
        size=(0.016, 0.046, 0.065),
        rgba=_DARK,
        mass=0.5,
        contype=contype,
        conaffinity=conaffinity,
    )
    palm.add_geom(
        type=capsule,
        fromto=(0, 0, 0.01, 0, 0, 0.05),
        size=(0.034, 0, 0),
        rgba=_GREY,
        mass=0.1,
        contype=contype,
        conaffinity=conaffinity,
    )
    palm.add_geom(
        type=capsule,
        fromto=(0.01, 0.012, 0.07, 0.03, 0.022, 0.108),
        size=(0.014, 0, 0),
        rgba=_DARK,
        mass=0.05,
        contype=contype,
        conaffinity=conaffinity,
    )
    bodies = {"palm": palm}
    for joint in DEXHAND_JOINTS:
        bodies[joint.name] = _add_phalanx(bodies[joint.parent], joint)
    eye, target = np.array([0.085, -0.075, 0.03]), np.array([0.078, 0.003, 0.20])
    palm.add_camera(name="wrist", pos=eye, quat=look_at(eye, target, up=(1.0, 0.0, 0.0)), fovy=75)


def _add_phalanx(parent: mujoco.MjsBody, joint: HandJoint) -> mujoco.MjsBody:
    finger, segment = joint.name.split("_")
    body = parent.add_body(name=joint.name, pos=joint.position, quat=joint.quaternion, gravcomp=1)
    upper = {"rotation": 2.2, "spread": 0.6}.get(segment, 1.3)
    body.add_joint(name=joint.name, axis=(0, 0, 1), range=(0, upper), limited=True, armature=5e-4, damping=0.01)
    contype, conaffinity = _THUMB_CONTACT if finger == "thumb" else _FINGER_CONTACT
    touch = {"contype": contype, "conaffinity": conaffinity, "condim": 4, "friction": (1.5, 0.01, 0.0001)}
    capsule = mujoco.mjtGeom.mjGEOM_CAPSULE
    if segment == "dip":
        body.add_geom(
            name=f"{finger}_pad",
            type=capsule,
            fromto=(0, 0, 0, 0.027, -0.002, 0),
            size=(0.0095, 0, 0),
            rgba=_PAD,
            mass=0.012,
            **touch,
        )
        body.add_site(name=f"{finger}_tip", pos=TIP_IN_DIP_M, size=(0.003, 0, 0), group=4)
    elif segment in ("mcp", "pip"):
        length = 0.043 if segment == "mcp" else 0.025
        body.add_geom(
            type=capsule, fromto=(0, 0, 0, length, 0, 0), size=(0.0092, 0, 0), rgba=_GREY, mass=0.015, **touch
        )
    else:
        length = 0.0083 if segment == "rotation" else 0.017
        body.add_geom(
            type=capsule,
            fromto=(0, 0, 0, length, 0, 0),
            size=(0.011, 0, 0),
            rgba=_DARK,
            mass=0.012,
            contype=0,
            conaffinity=0,
        )
    return body


def _add_coupling(spec: mujoco.MjSpec, robot: RobotSpec) -> None:
    """One equality per driven joint: joint = ratio * joint of its actuator, both read from `robot.coupling`."""
    for full_name, row in zip(robot.full_hand_joint_names, robot.coupling, strict=True):
        driver = drive_joint(robot, int(np.argmax(row)))
        if full_name != driver:
            equality = spec.add_equality(
                type=mujoco.mjtEq.mjEQ_JOINT, name1=full_name, name2=driver, objtype=mujoco.mjtObj.mjOBJ_JOINT
            )
            equality.data[:5] = (
                0,
                float(row.max() / robot.coupling[robot.full_hand_joint_names.index(driver)].max()),
                0,
                0,
                0,
            )
            equality.solref = (0.01, 1.0)


def drive_joint(robot: RobotSpec, actuator: int) -> str:
    """The full hand joint that motor `actuator` turns: the first one it is coupled to."""
    return robot.full_hand_joint_names[int(np.argmax(robot.coupling[:, actuator] > 0))]


def _add_motors(spec: mujoco.MjSpec, robot: RobotSpec) -> None:
    """Position servos in the order of `robot.joint_names`."""
    for index, name in enumerate(robot.joint_names):
        is_arm = index < ARM_DOF
        joint = name if is_arm else drive_joint(robot, index - ARM_DOF)
        force = _ARM_FORCE_NM[index] if is_arm else _HAND_FORCE_NM
        motor = spec.add_actuator(
            name=name, target=joint, trntype=mujoco.mjtTrn.mjTRN_JOINT, forcerange=(-force, force), forcelimited=True,
            ctrlrange=(float(robot.lower[index]), float(robot.upper[index])), ctrllimited=True,
        )  # fmt: skip
        motor.set_to_position(kp=_ARM_KP[index] if is_arm else _HAND_KP, dampratio=1.0)


def _yaw(angle: float) -> np.ndarray:
    return np.array([np.cos(angle / 2), 0, 0, np.sin(angle / 2)])


def look_at(eye: np.ndarray, target: np.ndarray, up: tuple[float, float, float] = (0.0, 0.0, 1.0)) -> np.ndarray:
    """Quaternion of a camera at `eye` that looks at `target` (a camera looks along its -z, +y up in the picture)."""
    back = (eye - target) / np.linalg.norm(eye - target)
    right = np.cross(up, back)
    right /= np.linalg.norm(right)
    quaternion = np.zeros(4)
    mujoco.mju_mat2Quat(quaternion, np.stack([right, np.cross(back, right), back], axis=1).ravel())
    return quaternion
