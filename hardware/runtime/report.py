"""report.json's results and report.html of episodes on a rig: success, loops, safety, takeovers, memory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dexhil.evaluation.intervals import score
from dexhil.evaluation.rollout import Trial
from dexhil.progress import format_seconds
from dexhil.reports.evaluation import score_facts, score_sections, trial_sections
from dexhil.reports.page import Block, Clip, Clips, Fact, Page, Section, Table, Text, key_values, write_page
from hardware.runtime.trials import Done, Trials

LOOPS = ("policy", "arm", "hand")


def results_of(trials: Trials) -> dict[str, Any]:
    """The results of report.json. score: what the policy did alone; score_assisted: with a person's help too.

    safety_events: interventions of the safety layer, `safety` says of which cause. takeovers: how often a person took
    over; `jumps`: rad, over all joints, see `hardware.runtime.control.Change`.
    """
    counted = [found for found in trials.done if found.episode.success >= 0]
    changes = [change for found in trials.done for change in found.episode.changes]
    return {
        "score": _score(trials.tasks, counted, assisted=False),
        "score_assisted": _score(trials.tasks, counted, assisted=True),
        "loops": trials.loops,
        "safety_events": sum(trials.causes.values()),
        "safety": trials.causes,
        "takeovers": sum(len(found.episode.takeovers) for found in trials.done),
        "jumps": {
            kind: {
                "count": sum(change.kind == kind for change in changes),
                "asked_max": max((change.asked.max for change in changes if change.kind == kind), default=0.0),
                "felt_max": max((change.felt.max for change in changes if change.kind == kind), default=0.0),
            }
            for kind in ("takeover", "release")
        },
        "human_seconds": sum(found.episode.human_seconds() for found in trials.done),
        "policy_restarts": trials.policy_restarts,
        "memory_mb": {name: _memory(values) for name, values in trials.memory_mb.items()},
        "episodes": [episode_facts(found) for found in trials.done],
    }


def episode_facts(found: Done) -> dict[str, Any]:
    """One row of the table of episodes."""
    episode = found.episode
    return {
        "episode_id": found.episode_id,
        "task": found.task,
        "seed": found.seed,
        "success": found.success,
        "ended": episode.ended,
        "failure": found.failure,
        "seconds": episode.seconds,
        "takeovers": len(episode.takeovers),
        "engage_jump": episode.max_jump("takeover"),
        "release_jump": episode.max_jump("release"),
        "interventions": len(episode.interventions),
        "recorded": str(episode.path) if episode.path else "",
    }


def write_hardware_report(workdir: Path, report: Mapping[str, Any], trials: Trials) -> Path:
    """Writes workdir/report.html."""
    results, rows = report["results"], [_as_trial(found) for found in trials.done]
    score_now = results["score"] if results["score"]["tasks"] else None
    sections = [
        *score_sections(score_now, rows),
        Section("Loops", [_loop_table(results["loops"]), Text(_LOOP_TEXT)]),
        Section("Safety layer", _safety_blocks(results)),
        Section("Takeovers", [_jump_table(results["jumps"]), Text(_JUMP_TEXT)]),
        *([Section("Films", [Clips(_clips(trials))])] if trials.films else []),
        *trial_sections(rows),
        Section("Memory", [_memory_table(results["memory_mb"])]),
        Section("Config", [key_values(report["config"])], folded=True),
    ]
    page = Page(
        title=f"{report['command']}: {workdir.name}",
        subtitle=f"DexHiL {report['code_version']} · {format_seconds(report['seconds'])}",
        facts=[*score_facts(score_now), *_loop_facts(results), Fact("takeovers", str(results["takeovers"]))],
        sections=sections,
    )
    return write_page(workdir / "report.html", page)


_LOOP_TEXT = (
    "Jitter: how long after its deadline a tick began. Missed: deadlines met more than one period late; the loop skips "
    "them and keeps its phase."
)
_JUMP_TEXT = (
    "Asked: the first command after the change of control against the pose in which the robot would have come to rest, "
    "before limits. Felt: the executed command against that stop, one tick on. Largest joint, rad."
)


def _score(tasks: tuple[str, ...], done: list[Done], *, assisted: bool) -> dict[str, Any]:
    outcomes = {
        task: [found.success if assisted else found.autonomous for found in done if found.task == task]
        for task in tasks
    }
    tried = {task: values for task, values in outcomes.items() if values}
    return score(tried) if tried else {"tasks": {}, "mean_rate": None}


def _memory(values: list[tuple[float, float]]) -> dict[str, float]:
    """The first value is taken after a fifth of the time: until then caches fill."""
    settled = values[len(values) // 5 :]
    return {"settled": settled[0][1], "last": settled[-1][1], "max": max(megabytes for _, megabytes in values)}


def _as_trial(found: Done) -> Trial:
    return Trial(found.task, found.seed, found.autonomous, found.episode.seconds, _why(found))


def _why(found: Done) -> str:
    if found.autonomous:
        return ""
    return "taken over" if found.success else found.failure or found.episode.ended


def _loop_facts(results: Mapping[str, Any]) -> list[Fact]:
    loops = results["loops"]
    return [
        Fact(f"{name} loop", f"{loops[name]['mean_hz']:.2f} Hz", f"p99 {loops[name]['jitter_p99_ms']:.1f} ms late")
        for name in LOOPS
        if name in loops
    ]


def _loop_table(loops: Mapping[str, Mapping[str, float]]) -> Table:
    header = ("loop", "target Hz", "mean Hz", "late p50 ms", "late p99 ms", "missed")
    rows = [
        (
            name, f"{stats['target_hz']:g}", f"{stats['mean_hz']:.3f}", f"{stats['jitter_p50_ms']:.2f}",
            f"{stats['jitter_p99_ms']:.2f}", str(stats["missed"]),
        )
        for name, stats in loops.items()
    ]  # fmt: skip
    return Table(header, rows)


def _safety_blocks(results: Mapping[str, Any]) -> list[Block]:
    rows = [(cause, str(count)) for cause, count in sorted(results["safety"].items(), key=lambda item: -item[1])]
    text = "Each is in the safety.jsonl of its episode's folder, with times, joints and sizes. Not safety-rated."
    return (
        [Table(("cause", "interventions"), rows), Text(text)] if rows else [Text("The safety layer had nothing to do.")]
    )


def _jump_table(jumps: Mapping[str, Mapping[str, float]]) -> Table:
    rows = [
        (kind, str(values["count"]), f"{values['asked_max']:.2e}", f"{values['felt_max']:.2e}")
        for kind, values in jumps.items()
    ]
    return Table(("change", "count", "asked, largest", "felt, largest"), rows)


def _memory_table(memory: Mapping[str, Mapping[str, float]]) -> Table:
    rows = [(name, *(f"{value:.0f}" for value in values.values())) for name, values in memory.items()]
    return Table(("process", "MB, settled", "MB, at the end", "MB, most"), rows)


def _clips(trials: Trials) -> list[Clip]:
    by_id = {found.episode_id: found for found in trials.done}
    return [
        Clip(path.read_bytes(), f"{name}: {_why(by_id[name]) or 'success'}", by_id[name].success)
        for name, path in trials.films.items()
        if name in by_id
    ]
