"""The jump of a takeover comes out wrong where a takeover is wrong."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from dexhil.control import takeover
from dexhil.control.jumps import HandBack, largest, take_over_jump
from dexhil.control.takeover import HumanCommand, Inputs, Jump, advance, executed, start
from dexhil.robots.poses import IDENTITY, make_pose, rotation
from dexhil.robots.spec import FR3_DEXHAND021 as SPEC
from dexhil.schema import ARM_DOF

HUMAN = HumanCommand(IDENTITY.copy(), np.full(SPEC.hand_dof, 0.2))


def engaged(human: HumanCommand = HUMAN):
    state, decision = advance(start(SPEC.home), Inputs(True, human, None), SPEC)
    return executed(state, decision.command)


def test_a_sound_takeover_goes_nowhere_while_the_person_holds_still():
    found = take_over_jump(engaged(), [HUMAN] * 45, SPEC.home, SPEC)
    assert found.max < 1e-4
    assert found.l2 < 1e-4


def test_an_anchor_at_another_pose_shows_although_the_first_command_does_not(monkeypatch):
    """As where the anchor is the measured pose and the arm lags behind its command."""
    anchored = takeover._anchor

    def wrong(command, human):
        anchors = anchored(command, human)
        pose = make_pose(anchors.pose_base_ee[:3] + 0.02, rotation(anchors.pose_base_ee))
        return dataclasses.replace(anchors, pose_base_ee=pose)

    monkeypatch.setattr(takeover, "_anchor", wrong)
    state = executed(engaged(), SPEC.home)  # what a safety layer sends at first: the resting point
    jumps = [take_over_jump(state, [HUMAN] * count, SPEC.home, SPEC).max for count in range(10)]
    assert jumps[0] == 0.0
    assert jumps[-1] > 0.02
    assert jumps == sorted(jumps)


@pytest.mark.parametrize("authority", ["arm", "hand", "both"])
def test_a_wrong_anchor_shows_whatever_the_person_takes(monkeypatch, authority):
    anchored = takeover._anchor

    def wrong(command, human):
        anchors = anchored(command, human)
        pose = make_pose(anchors.pose_base_ee[:3] + 0.02, rotation(anchors.pose_base_ee))
        return dataclasses.replace(anchors, pose_base_ee=pose, hand=anchors.hand + 0.05)

    with monkeypatch.context() as patched:
        patched.setattr(takeover, "_anchor", wrong)
        state, _ = advance(start(SPEC.home), Inputs(True, HUMAN, None, authority=authority), SPEC)
    state = executed(state, SPEC.home)
    assert take_over_jump(state, [HUMAN] * 9, SPEC.home, SPEC).max > 0.02


def test_the_farthest_of_a_takeover_counts_from_its_first_command_to_its_last():
    out = [
        HumanCommand(make_pose(np.array([x, 0, 0]), rotation(IDENTITY)), HUMAN.q_hand) for x in np.linspace(0, 0.2, 20)
    ]
    there, back = (take_over_jump(engaged(), shown, SPEC.home, SPEC) for shown in (out, [*out, *out[::-1]]))
    assert there.max > 0.1
    assert back.max >= there.max
    state = engaged()
    for human in out:
        state, decision = advance(state, Inputs(True, human, None), SPEC)
        state = executed(state, decision.command)
    assert there == takeover.jump(SPEC.home, state.command)  # as the robot itself would go
    assert take_over_jump(executed(engaged(), SPEC.home + np.float32(0.1)), [], SPEC.home, SPEC).max > 0.09


def test_the_distance_counts_from_where_the_robot_would_have_come_to_rest():
    rest = SPEC.home.copy()
    rest[ARM_DOF] += 0.1
    assert take_over_jump(engaged(), [HUMAN] * 3, rest, SPEC).max == pytest.approx(0.1, abs=1e-3)


def test_the_largest_of_both_measures_and_of_none():
    assert largest([Jump(0.1, 0.2), Jump(0.05, 0.3)]) == Jump(0.1, 0.3)
    assert largest([]) == Jump(0.0, 0.0)
    assert HandBack(Jump(0.3, 0.4), Jump(0.1, 0.1)).asked.max == 0.3
