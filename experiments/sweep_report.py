"""The trials of a sweep and what came of them: their results, the table of them, the page, why some failed."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dexhil.config import Config
from dexhil.reports.page import Cell, Fact, Section, Table, percent, write_run_page
from experiments.launchers import LOG, Part

LOG_LINES = 15
UNKNOWN = "-"


@dataclasses.dataclass(frozen=True)
class Trial(Part):
    """One point of the sweep. config: what its arguments make."""

    overrides: dict[str, Any]
    config: Config


def trial_results(trial: Trial) -> dict[str, Any]:
    """A trial's entry in the report; the figures of a failed one are None."""
    report = json.loads((trial.folder / "report.json").read_text()) if trial.finished else {"results": {}}
    figures = {key: report["results"].get(key) for key in ("final_loss", "heldout_loss", "score")}
    return {
        "name": trial.title,
        "overrides": trial.overrides,
        "status": "finished" if trial.finished else "failed",
        **figures,
        "seconds": report.get("seconds"),
        "workdir": trial.folder,
        "log": [] if trial.finished else log_tail(trial),
    }


def log_tail(trial: Trial) -> list[str]:
    """The last lines of a trial's log, empty where it never began."""
    log = trial.folder / LOG
    return log.read_text(errors="replace").splitlines()[-LOG_LINES:] if log.is_file() else []


def describe_failure(trial: Trial) -> str:
    lines = log_tail(trial) or [f"(the trial never began; Slurm's own logs are in {trial.folder.parent / 'slurm'})"]
    return "\n  | ".join([f"{trial.title}: the end of {trial.folder / LOG}:", *lines])


def trials_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """A column for every key that a trial overrides, then the results."""
    keys = list(dict.fromkeys(key for row in rows for key in row["overrides"]))
    tasks = list(dict.fromkeys(task for row in rows if row["score"] for task in row["score"]["tasks"]))
    header = (*keys, "status", "final loss", "held-out loss", *(f"{task} (95 %)" for task in tasks), "seconds")
    cells = [
        (
            *(str(row["overrides"].get(key, UNKNOWN)) for key in keys),
            Cell(row["status"], href=f"{row['name']}/report.html" if row["status"] == "finished" else ""),
            number(row["final_loss"], ".4g"),
            number(row["heldout_loss"], ".4g"),
            *(success_rate(row["score"], task) for task in tasks),
            number(row["seconds"], ".0f"),
        )
        for row in rows
    ]
    return Table(header, cells)


def number(value: float | None, form: str) -> str:
    return UNKNOWN if value is None else format(value, form)


def success_rate(score: Mapping[str, Any] | None, task: str) -> str:
    """`45 % (26 to 66)`."""
    if score is None or task not in score["tasks"]:
        return UNKNOWN
    entry = score["tasks"][task]
    low, high = entry["interval"]
    return f"{percent(entry['rate'])} ({100 * low:.0f} to {100 * high:.0f})"


def text_table(table: Table) -> str:
    """Aligned columns for a terminal."""
    rows = [table.header, *table.rows]
    widths = [max(len(str(cell)) for cell in column) for column in zip(*rows, strict=True)]
    lines = ["  ".join(str(cell).ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join(line.rstrip() for line in lines)


def write_report(workdir: Path, report: Mapping[str, Any]) -> Path:
    """Writes report.html: the table, the best trials, why trials failed."""
    rows = report["results"]["trials"]
    failures = [
        Section(f"Failed: {row['name']}", [Table(("last lines of the log",), [(line,) for line in row["log"]])])
        for row in rows
        if row["status"] == "failed"
    ]
    return write_run_page(workdir, report, best_facts(rows), [Section("Trials", [trials_table(rows)]), *failures])


def best_facts(rows: Sequence[Mapping[str, Any]]) -> list[Fact]:
    """How many trials finished, the lowest held-out loss and the highest success rate."""
    facts = [Fact("finished", f"{sum(row['status'] == 'finished' for row in rows)} of {len(rows)}", "trials")]
    held_out = [row for row in rows if row["heldout_loss"] is not None]
    if held_out:
        best = min(held_out, key=lambda row: row["heldout_loss"])
        facts.append(Fact("lowest held-out loss", f"{best['heldout_loss']:.3g}", best["name"]))
    scored = [row for row in rows if row["score"]]
    if scored:
        best = max(scored, key=lambda row: row["score"]["mean_rate"])
        facts.append(Fact("highest mean success", percent(best["score"]["mean_rate"]), best["name"]))
    return facts
