"""What a study shows: the contract of report.json, and numbers worked out by hand."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from dexhil.evaluation.intervals import mcnemar, paired_difference, wilson
from dexhil.evaluation.power import detectable_difference, trials_needed
from dexhil.evaluation.study import (
    Cell,
    Demonstrations,
    OnlineEpisode,
    Study,
    mean_interval,
    scored_cells,
    study_results,
)

ARMS = ("dexhil", "dagger", "offline")


def cell(arm: str, number: int, plush: int, tissue: int, trials: int = 10, **more: Any) -> Cell:
    """The first `plush` and `tissue` trials succeed."""
    wins = {"plush": plush, "tissue": tissue}
    outcomes = {task: [trial < count for trial in range(trials)] for task, count in wins.items()}
    metrics = [{"step": step, "seconds": 1.0, "loss": 1.0 / (step + 1)} for step in range(0, 100, 10)]
    return Cell(arm, number, outcomes, metrics, **{"mixture": {}, "lineage": {}, **more})


def episode(arm: str, number: int, seed: int = 0, **more: Any) -> OnlineEpisode:
    """10 s, of which a person controls 3 to 5 and 6 to 7."""
    control = [(0.0, 3.0, "policy"), (3.0, 5.0, "person"), (5.0, 6.0, "policy"), (6.0, 7.0, "person")]
    made = OnlineEpisode(
        arm, number, "plush", seed, True, 10.0, [*control, (7.0, 10.0, "policy")], ["missed", "slipped"],
        engaged=[(0.001, 0.002)] * 2, released=[(0.02, 0.03)] * 2, video=None, poster=None,
    )  # fmt: skip
    return dataclasses.replace(made, **more)


def full_study() -> Study:
    cells = (
        cell("warmup", 0, 1, 2),
        *(cell("dexhil", 1, 5, 4), cell("dexhil", 2, 8, 9)),
        *(cell("dagger", 1, 4, 4),),
        *(cell("offline", 1, 3, 3), cell("offline", 2, 5, 4)),
    )
    online = (
        episode("dexhil", 1),
        episode("dexhil", 2, engaged=[(0.001, 0.009), (0.004, 0.005)]),
        episode("dagger", 1, released=[(0.05, 0.06)]),
    )
    demonstrations = (Demonstrations("warmup", 0, 60, 600.0), Demonstrations("offline", 1, 10, 120.0))
    return Study(("plush", "tissue"), ARMS, cells, online, demonstrations, ())


def test_the_results_have_the_keys_of_the_contract():
    results = study_results(full_study())
    assert {"arms", "differences", "human_seconds", "max_takeover_jump"} <= set(results)
    assert [len(results["arms"][arm]) for arm in ARMS] == [3, 2, 3]
    assert [score["mean_rate"] for score in results["arms"]["dexhil"]] == pytest.approx([0.15, 0.45, 0.85])
    assert set(results["differences"]) == {"dexhil-dagger", "dexhil-offline"}
    assert all({"mean", "interval"} <= set(pair) for pair in results["differences"].values())
    assert (results["max_takeover_jump"], results["max_takeover_jump_l2"]) == (0.004, 0.009)
    assert results["max_release_jump"] == 0.05


def test_differences_are_of_the_last_common_round():
    differences = study_results(full_study())["differences"]
    assert differences["dexhil-dagger"]["round"] == 1
    pair = differences["dexhil-offline"]
    assert pair["round"] == 2
    assert pair["mean"] == pytest.approx((0.3 + 0.5) / 2)
    assert {task: entry["mean"] for task, entry in pair["tasks"].items()} == pytest.approx(
        {"plush": 0.3, "tissue": 0.5}
    )
    assert pair["discordant_rate"] == pytest.approx(8 / 20)
    # 3 and 5 disagreeing pairs, all won: 2 / 2^3 and 2 / 2^5.
    assert pair["p_value"] == pytest.approx({"plush": 0.25, "tissue": 0.0625})
    ours, theirs = full_study().cells[2].outcomes, full_study().cells[5].outcomes
    assert tuple(pair["interval"]) == paired_difference(ours, theirs).interval
    assert pair["p_value"]["plush"] == mcnemar(ours["plush"], theirs["plush"])


def test_pairs_with_different_numbers_of_trials_are_refused():
    cells = (cell("warmup", 0, 1, 1), cell("dexhil", 1, 2, 2), cell("offline", 1, 1, 1, trials=5))
    study = Study(("plush", "tissue"), ("dexhil", "offline"), cells, (), (), ())
    with pytest.raises(ValueError, match="equally many trials of the same seeds, got 10 and 5"):
        study_results(study)


def test_human_time_counts_corrections_that_failed_too():
    study = full_study()
    failed = dataclasses.replace(study, online=tuple(dataclasses.replace(e, success=False) for e in study.online))
    results = study_results(failed)
    assert results["human_seconds"]["dexhil"] == [3.0, 3.0]
    assert results["human_seconds_with_watching"]["dexhil"] == [10.0, 10.0]


def test_a_hand_back_is_reported_as_asked_for_and_as_executed():
    study = full_study()
    limited = dataclasses.replace(
        study, online=(episode("dexhil", 1, released_executed=[(0.01, 0.02), (0.015, 0.02)]),)
    )
    results = study_results(limited)
    assert (results["max_release_jump"], results["max_release_jump_executed"]) == (0.02, 0.015)


def test_human_time_counts_demonstrations_and_the_persons_control():
    results = study_results(full_study())
    assert results["human_seconds"] == {"dexhil": [3.0, 3.0], "dagger": [3.0], "offline": [120.0, 0.0]}
    work = results["labour"]
    assert work["cumulative_seconds"]["dexhil"] == [600.0, 603.0, 606.0]
    assert work["cumulative_seconds"]["offline"] == [600.0, 720.0, 720.0]
    assert (work["demonstrations"], work["demonstration_s"]) == (70, pytest.approx(720 / 70))
    assert (work["corrections"], work["correction_s"]) == (4, pytest.approx(6 / 4)), (
        "both arms' rollouts of round 1 are the same"
    )
    assert work["watched_seconds"]["dexhil"] == [10.0, 10.0]
    watched = results["human_seconds_with_watching"]
    assert watched == {"dexhil": [10.0, 10.0], "dagger": [10.0], "offline": [120.0, 0.0]}
    assert work["paper"] == {"demonstration_s": 10.0, "correction_s": 3.0}


def test_forgetting_compares_with_the_best_earlier_round():
    cells = (cell("warmup", 0, 1, 2), cell("dexhil", 1, 9, 3), cell("dexhil", 2, 2, 3))
    rows = study_results(Study(("plush", "tissue"), ("dexhil",), cells, (), (), ()))["forgetting"]
    plush = next(row for row in rows if (row["round"], row["task"]) == (2, "plush"))
    assert (plush["before"], plush["after"], plush["best_round"]) == (0.9, 0.2, 1)
    assert plush["drop"] == pytest.approx(0.7)
    assert plush["flagged"]
    assert plush["interval"][0] > 0.3
    assert [row["flagged"] for row in rows if row["task"] == "tissue"] == [False, False]


def test_forgetting_compares_the_shared_starts_where_the_last_round_has_more_trials():
    cells = (cell("warmup", 0, 1, 2), cell("dexhil", 1, 5, 4), cell("dexhil", 2, 4, 40, trials=40))
    rows = study_results(Study(("plush", "tissue"), ("dexhil",), cells, (), (), ()))["forgetting"]
    last = [row for row in rows if row["round"] == 2]
    assert [row["drop"] for row in last] == pytest.approx([0.5 - 0.4, 0.4 - 1.0])
    assert [row["after"] for row in last] == pytest.approx([0.1, 1.0])
    assert [row["flagged"] for row in last] == [False, False], "a drop of one in ten is not sure"


def test_trials_needed_uses_the_share_of_pairs_that_disagreed_here():
    power = study_results(full_study())["trials_needed"]
    assert power["discordant_rate"] == pytest.approx((1 / 20 + 8 / 20) / 2)
    assert power["trials"] == 20
    assert [row["difference"] for row in power["table"]] == [0.05, 0.10, 0.15, 0.20, 0.25, 0.30]
    assert all(row["observed"] < row["worst"] for row in power["table"])
    assert power["detectable"] == detectable_difference(20, power["discordant_rate"])
    for row in power["table"]:
        needed = trials_needed(row["difference"], max(row["difference"], power["discordant_rate"]))
        assert (row["observed"], row["worst"]) == (needed, trials_needed(row["difference"], 1.0))


def test_the_smallest_comparison_says_what_the_study_can_show():
    cells = (
        *(cell("warmup", 0, 1, 1), cell("dexhil", 1, 3, 3), cell("dexhil", 2, 30, 30, trials=40)),
        *(cell("dagger", 1, 2, 2), cell("offline", 1, 2, 2), cell("offline", 2, 20, 20, trials=40)),
    )
    results = study_results(Study(("plush", "tissue"), ARMS, cells, (), (), ()))
    assert [pair["trials"] for pair in results["differences"].values()] == [20, 80]
    assert results["trials_needed"]["trials"] == 20


def test_pairs_that_the_second_arm_wins_disagree_too():
    lost = dataclasses.replace(cell("offline", 1, 0, 0), outcomes={"plush": [False, True] * 5, "tissue": [False] * 10})
    study = Study(
        ("plush", "tissue"), ("dexhil", "offline"), (cell("warmup", 0, 1, 1), cell("dexhil", 1, 4, 0), lost), (), (), ()
    )
    pair = study_results(study)["differences"]["dexhil-offline"]
    assert pair["mean"] == pytest.approx((4 - 5) / 20)
    assert pair["discordant_rate"] == pytest.approx((2 + 3) / 20)


def test_a_correction_lasts_as_long_as_the_mean_of_them():
    long = episode("dexhil", 1, control=[(0.0, 1.0, "person"), (2.0, 3.0, "person"), (4.0, 11.0, "person")])
    work = study_results(dataclasses.replace(full_study(), online=(long,)))["labour"]
    assert work["correction_s"] == pytest.approx(3.0)


def test_whatever_is_missing_is_left_out():
    study = Study(("plush", "tissue"), ARMS, (), (), (), ())
    results = study_results(study)
    assert results["arms"] == {arm: [] for arm in ARMS}
    assert results["differences"] == {}
    assert results["human_seconds"] == {arm: [] for arm in ARMS}
    assert results["max_takeover_jump"] == 0.0
    assert results["labour"]["correction_s"] is None
    assert results["trials_needed"]["table"][0]["observed"] is None
    alone = study_results(dataclasses.replace(study, cells=(cell("warmup", 0, 1, 1),)))
    assert [len(scores) for scores in alone["arms"].values()] == [1, 1, 1]
    assert alone["differences"] == {}  # all arms are still the same policy


def test_a_round_that_is_not_evaluated_on_every_task_does_not_count_yet():
    half = dataclasses.replace(cell("dexhil", 1, 5, 5), outcomes={"plush": [True] * 10})
    study = Study(
        ("plush", "tissue"), ("dexhil",), (cell("warmup", 0, 1, 1), half, cell("dexhil", 2, 1, 1)), (), (), ()
    )
    assert [found.round for found in scored_cells(study, "dexhil")] == [0]


def test_the_mean_has_the_interval_of_all_trials():
    assert mean_interval(cell("dexhil", 1, 5, 4)) == wilson(9, 20)


def test_a_study_refuses_unknown_arms_and_doubled_cells():
    with pytest.raises(ValueError, match=r"unknown arms \['dager'\]; expected .*'dagger'"):
        Study(("plush",), ARMS, (), (episode("dager", 1),), (), ())
    with pytest.raises(ValueError, match=r"more than one cell of \[\('dexhil', 1\)\]"):
        Study(("plush",), ARMS, (cell("dexhil", 1, 1, 1), cell("dexhil", 1, 2, 2)), (), (), ())
