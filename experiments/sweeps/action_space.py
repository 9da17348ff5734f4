"""A list: how actions are written down. The keys belong together, so a grid would make trials without a meaning."""

from typing import Any

ARM = tuple(range(7))
ARM_AND_HAND = tuple(range(19))


def get_sweep() -> list[dict[str, Any]]:
    """End-effector deltas and poses, joint angles relative to now (arm, or arm and hand), absolute joint angles."""
    return [
        {"data.action_space": "ee_delta"},
        {"data.action_space": "ee_pose"},
        {"data.action_space": "recorded", "data.delta_dims": ARM},
        {"data.action_space": "recorded", "data.delta_dims": ARM_AND_HAND},
        {"data.action_space": "recorded", "data.delta_dims": ()},
    ]
