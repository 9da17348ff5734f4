"""The page of a study: every section, one file, and something sensible while parts are missing."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest

from dexhil.commands import Run
from dexhil.evaluation.study import Study, study_results
from dexhil.reports.study import drift_sections, write_study_report
from dexhil.reports.study_plots import losses_plot
from dexhil.reports.takeovers import in_turns, takeover_sections
from dexhil.reports.video import CONTROL_COLOURS, control_overlay, write_picture, write_video
from tests.evaluation.test_study import cell, episode, full_study

SECTIONS = (
    "Success over the rounds",
    "The paper&#39;s table and ours",
    "Paired differences",
    "How many trials show a difference?",
    "Human time",
    "Training loss",
    "Supervised rollouts: dexhil",
    "Supervised rollouts: dagger",
    "Forgetting",
    "Drift of the data against the frozen normalisation",
    "Training data",
    "Lineage",
    "Config",
)


def page(folder: Path, study: Study) -> str:
    report = Run(folder, "hil", {"seed": 0}).report(study_results(study))
    html = write_study_report(folder, report, study).read_text()
    assert not re.search(r"""(?:src|href|poster)="(?!data:)""", html)
    return html


def titles(html: str) -> list[str]:
    return re.findall(r"<h2>(.*?)</h2>", html)


def test_the_page_holds_every_section_in_one_file(tmp_path: Path):
    frames = [control_overlay(np.full((48, 64, 3), 90, np.uint8), "person")] * 4
    filmed = episode(
        "dexhil", 1, 7, reasons=["closed before the wrist arrived"],
        video=write_video(tmp_path / "a.mp4", frames, 10), poster=write_picture(tmp_path / "a.jpg", frames[0]),
    )  # fmt: skip
    gone = episode("dexhil", 2, 8, video=tmp_path / "deleted.mp4")
    study = full_study()
    drift = {
        "arm": "dexhil",
        "round": 1,
        "kind": "state",
        "name": "thumb_yaw",
        "shift": 0.31,
        "outside": 0.45,
        "reach": 7.3,
    }
    mixed = cell("dexhil", 3, 8, 8, mixture={"samples": 4321}, lineage={"parent": "runs/hil/dexhil-2"})
    study = dataclasses.replace(
        study, online=(*study.online, filmed, gone), drift=(drift,), cells=(*study.cells, mixed)
    )  # fmt: skip
    html = page(tmp_path, study)
    assert titles(html) == list(SECTIONS)
    assert html.count("data:video/mp4;base64,") == 1
    for text in ("thumb_yaw", "45.0 %", "7.3", "+31.0 %", "13/20 (65 %)", "8/10 (80 %)", "4321", "runs/hil/dexhil-2"):
        assert text in html
    assert "closed before the wrist arrived" in html


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ({"cells": (), "online": (), "demonstrations": ()}, {"Success over the rounds", "Config"}),
        ({"cells": (cell("warmup", 0, 0, 0),), "online": ()}, {"Human time", "Training loss"}),
        ({"cells": (cell("warmup", 0, 0, 0),), "demonstrations": ()}, {"Supervised rollouts: dagger"}),
        ({"cells": (cell("dexhil", 1, 10, 10),)}, {"Training loss"}),
        ({"tasks": ("plush",)}, {"Paired differences"}),
    ],
)
def test_missing_parts_are_left_out(tmp_path: Path, parts: dict, expected: set[str]):
    html = page(tmp_path, dataclasses.replace(full_study(), **parts))
    assert expected <= set(titles(html)) <= set(SECTIONS)


def test_one_arm_alone_is_a_study(tmp_path: Path):
    cells = (cell("warmup", 0, 1, 1), cell("only", 1, 2, 2))
    html = page(tmp_path, Study(("plush", "tissue"), ("only",), cells, (episode("only", 1, reasons=[]),), (), ()))
    assert "Paired differences" not in titles(html)
    assert "Supervised rollouts: only" in titles(html)


def test_reasons_to_take_over_are_counted_by_round_the_most_frequent_first():
    online = [episode("dexhil", 1, 0, reasons=["slip", "late", "late"]), episode("dexhil", 2, 1, reasons=["late"])]
    (section,) = takeover_sections(dataclasses.replace(full_study(), online=tuple(online)))
    assert vars(section.blocks[1])["rows"][0] == ("late", "2", "1")
    assert vars(section.blocks[1])["rows"][1] == ("slip", "1", "0")


def test_without_a_logged_loss_there_is_no_loss_plot():
    silent = dataclasses.replace(cell("warmup", 0, 1, 1), metrics=[])
    assert losses_plot(dataclasses.replace(full_study(), cells=(silent,))) is None


def test_every_round_and_task_has_its_turn():
    episodes = [
        episode("dexhil", number, seed, task=task)
        for number in (1, 2)
        for task in ("plush", "tissue")
        for seed in range(3)
    ]
    shown = [(found.round, found.task, found.seed) for found in in_turns(episodes)]
    assert shown[:4] == [(1, "plush", 0), (1, "tissue", 0), (2, "plush", 0), (2, "tissue", 0)]
    assert sorted(shown) == sorted((found.round, found.task, found.seed) for found in episodes)


def test_drift_is_shown_worst_first_with_how_many_are_far():
    rows = [
        {"arm": "dexhil", "round": 1, "kind": "state", "name": name, "shift": 0.0, "outside": outside, "reach": 1.0}
        for name, outside in (("a", 0.02), ("b", 0.5))
    ]
    (section,) = drift_sections(dataclasses.replace(full_study(), drift=tuple(rows)))
    text, table = section.blocks
    assert "In 1 of 2 cases" in vars(text)["text"]
    assert [row[3] for row in vars(table)["rows"]] == ["b", "a"]


def test_the_overlay_frames_the_picture_in_the_colour_of_who_controls():
    frame = np.full((120, 160, 3), 90, np.uint8)
    shown = {who: control_overlay(frame, who) for who in CONTROL_COLOURS}
    for who, colour in CONTROL_COLOURS.items():
        edges = [shown[who][y, x] for y, x in ((0, 80), (119, 80), (60, 0), (60, 159))]
        assert [tuple(edge) for edge in edges] == [colour] * 4
        assert tuple(shown[who][60, 80]) == (90, 90, 90)
    assert (frame == 90).all()
    with pytest.raises(ValueError, match=r"who is 'robot', expected one of \['policy', 'person'\]"):
        control_overlay(frame, "robot")
