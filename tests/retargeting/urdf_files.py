"""A hand of five fingers as a URDF file with the names of the card `inspire`, and the same file damaged."""

from __future__ import annotations

import re
from pathlib import Path


def hand_urdf(folder: Path, changes: tuple[tuple[str, str], ...] = (), *, side: float = 1.0, links: str = "") -> Path:
    """Fingers along z, the palm looks along x. side -1: its mirror image, a left hand. changes: (pattern, what stands
    there instead), each of which must be found."""
    joints: list[str] = []

    def joint(name, kind, parent, child, xyz, axis=None, limit=(0, 0), mimic=None):
        x, y, z = xyz
        text = f'<joint name="{name}" type="{kind}"><parent link="{parent}"/><child link="{child}"/>'
        text += f'<origin xyz="{x} {side * y} {z}"/>'
        if axis:
            text += f'<axis xyz="{side * axis[0]} {axis[1]} {side * axis[2]}"/>'
            text += f'<limit lower="{limit[0]}" upper="{limit[1]}"/>'
        text += f'<mimic joint="{mimic[0]}" multiplier="{mimic[1]}"/>' if mimic else ""
        joints.append(text + "</joint>")

    bends = (0, 1, 0)
    joint("thumb_proximal_yaw_joint", "revolute", "base_link", "t0", (0.012, 0.03, 0.095), (0, 0, -1), (-0.1, 1.3))
    joint("thumb_proximal_pitch_joint", "revolute", "t0", "t1", (0.004, 0.012, 0.01), bends, (-0.1, 0.6))
    follows = ("thumb_proximal_pitch_joint", 1.6)
    joint("thumb_intermediate_joint", "revolute", "t1", "t2", (0.01, 0.012, 0.04), bends, (0, 0.8), follows)
    joint("thumb_tip_joint", "fixed", "t2", "thumb_tip", (0.004, 0.002, 0.04))
    for finger, y in (("index", 0.032), ("middle", 0.01), ("ring", -0.012), ("pinky", -0.034)):
        first, tip = f"{finger}_proximal_joint", f"{finger}_tip"
        joint(first, "revolute", "base_link", f"{finger}_1", (0, y, 0.14), bends, (0, 1.7))
        joint(f"{finger}_intermediate_joint", "revolute", f"{finger}_1", f"{finger}_2", (0, 0, 0.036), bends, (0, 1.7),
              (first, 1.0))  # fmt: skip
        joint(f"{finger}_tip_joint", "fixed", f"{finger}_2", tip, (0, 0, 0.046))
    text = f'<robot name="mine">{links}{"".join(joints)}</robot>'
    for pattern, instead in changes:
        assert re.search(pattern, text), pattern
        text = re.sub(pattern, instead, text, count=1)
    path = folder / "hand.urdf"
    path.write_text(text)
    return path


def at(joint: str, part: str, instead: str) -> tuple[str, str]:
    """A change of `hand_urdf`: inside of a joint's element, `instead` stands for the pattern `part`."""
    return rf'(<joint name="{joint}"(?:(?!</joint>).)*?){part}', rf"\1{instead}"
