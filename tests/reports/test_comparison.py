import json

import pytest

from dexhil.config import ConfigError
from dexhil.evaluation.intervals import compare
from dexhil.reports.comparison import comparison_facts, comparison_sections, read_outcomes
from dexhil.reports.page import Table

CONFIG = {"rig": {"tasks": ["plush"], "difficulty": 0.5}, "eval": {"first_seed": 7, "trials": 4}}


def written(folder, config=CONFIG, outcomes=None):
    results = {"outcomes": outcomes or {"plush": [True, False, False, True, True]}}
    (folder / "report.json").write_text(json.dumps({"config": config, "results": results}))
    return folder


def test_pairs_are_counted_and_a_longer_run_is_cut(tmp_path):
    theirs = read_outcomes(written(tmp_path), CONFIG)
    found = compare({"plush": [True, True, True, False]}, theirs)
    counts = {"pairs": 4, "both": 1, "only_this": 2, "only_other": 1, "neither": 0}
    assert found["tasks"] == {"plush": counts}
    assert found["pairs"] == 4
    assert found["mean"] == pytest.approx(0.25)
    low, high = found["interval"]
    assert low < 0.25 < high
    assert found["mcnemar_p"] == pytest.approx(1.0)  # 2 against 1 of 3 pairs that differ


def test_a_run_against_itself_differs_by_nothing(tmp_path):
    theirs = read_outcomes(written(tmp_path), CONFIG)
    found = compare(theirs, theirs)
    assert found["mean"] == 0.0
    assert found["interval"] == [0.0, 0.0]


def test_the_page_shows_the_difference_with_its_interval():
    found = compare({"plush": [True] * 8}, {"plush": [False] * 4 + [True] * 4}) | {"name": "runs/b"}
    (fact,) = comparison_facts(found)
    assert (fact.label, fact.value) == ("points against runs/b", "+50")
    assert "8 pairs" in fact.detail
    (section,) = comparison_sections(found)
    (table, _) = section.blocks
    assert isinstance(table, Table)
    assert table.rows == [("plush", "4 (50 %)", "4 (50 %)", "0 (0 %)", "0 (0 %)")]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (None, "has no report.json; expected the folder of a finished run"),
        ({**CONFIG, "rig": {"tasks": ["plush"], "difficulty": 1.0}}, "other starts; rig.difficulty differs"),
        ({**CONFIG, "eval": {"first_seed": 8}}, "other starts; first_seed differs"),
    ],
)
def test_runs_that_met_other_starts_are_refused(tmp_path, config, message):
    if config is not None:
        written(tmp_path, config)
    with pytest.raises(ConfigError, match=message):
        read_outcomes(tmp_path, CONFIG)


def test_a_report_without_trials_says_how_to_make_them(tmp_path):
    (tmp_path / "report.json").write_text(json.dumps({"config": CONFIG, "results": {"final_loss": 1.0}}))
    with pytest.raises(ConfigError, match=r"no trials; score its checkpoint with experiments/eval\.py"):
        read_outcomes(tmp_path, CONFIG)
