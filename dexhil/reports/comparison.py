"""An evaluation against an earlier one: the same starts, pair by pair."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dexhil.config import ConfigError, changed_keys
from dexhil.reports.page import Fact, Section, Table, Text, percent


def read_outcomes(run: Path, config: Mapping[str, Any]) -> dict[str, list[bool]]:
    """Task -> outcomes by seed of the run in `run`; raises ConfigError where `config` had other starts."""
    path = run / "report.json"
    if not path.is_file():
        raise ConfigError(f"--against {run}: has no report.json; expected the folder of a finished run")
    report = json.loads(path.read_text())
    if not report["results"].get("outcomes"):
        raise ConfigError(f"--against {run}: its report has no trials; score its checkpoint with experiments/eval.py")
    theirs, ours = ({"rig": c["rig"], "first_seed": c["eval"]["first_seed"]} for c in (report["config"], config))
    if changed := changed_keys(theirs, ours):
        raise ConfigError(f"--against {run}: its trials had other starts; {', '.join(changed)} differs")
    return report["results"]["outcomes"]


def comparison_facts(against: Mapping[str, Any] | None) -> list[Fact]:
    """The difference as a headline figure."""
    if against is None:
        return []
    low, high = (100 * end for end in against["interval"])
    detail = f"95 %: {low:+.0f} to {high:+.0f}, {against['pairs']} pairs"
    return [Fact(f"points against {against['name']}", f"{100 * against['mean']:+.0f}", detail)]


def comparison_sections(against: Mapping[str, Any] | None) -> list[Section]:
    """Which of the pairs both runs won."""
    if against is None:
        return []
    names = ("both", "only_this", "only_other", "neither")
    rows = [
        (task, *(f"{found[name]} ({percent(found[name] / found['pairs'])})" for name in names))
        for task, found in against["tasks"].items()
    ]
    text = (
        f"The same starts with {against['name']}. McNemar's p over all pairs: {against['mcnemar_p']:.2g}. The interval "
        "covers the trials; another training seed may move either run by more."
    )
    header = ("task", "both succeed", "only this run", f"only {against['name']}", "neither")
    return [Section(f"Against {against['name']}", [Table(header, rows), Text(text)])]
