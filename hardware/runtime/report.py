"""report.json's results and report.html of episodes on a rig: success, loops, safety, takeovers."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dexhil.commands import ConfigError, Run
from dexhil.evaluation.intervals import score
from dexhil.evaluation.rollout import Trial
from dexhil.progress import format_seconds
from dexhil.reports.evaluation import failure_table, score_facts, score_sections
from dexhil.reports.page import Block, Clip, Clips, Fact, Section, Table, Text, percent, write_run_page
from hardware.runtime.done import Done
from hardware.runtime.films import film_path
from hardware.runtime.trials import Trials

LOOPS = ("policy", "arm", "hand")
NO_SCORE: dict[str, Any] = {"tasks": {}, "mean_rate": None}


def finish_run(run: Run, trials: Trials, *, server: str | None, **more: Any) -> None:
    """Writes report.json and report.html, and says where. Raises ConfigError where the run could not go on, and
    KeyboardInterrupt where it was interrupted.
    """
    lineage = {"checkpoint": trials.checkpoint, "server": server}
    report = run.report(
        {**results_of(trials), **more}, lineage={name: value for name, value in lineage.items() if value}
    )
    print(f"report: {write_hardware_report(run.workdir, report, trials)}", flush=True)
    if trials.error:
        raise ConfigError(f"{trials.error}. What was recorded is kept; the same command goes on")
    if trials.interrupted:
        raise KeyboardInterrupt


def results_of(trials: Trials) -> dict[str, Any]:
    """The results of report.json. score: what the policy did alone, empty for demonstrations; score_assisted: with a
    person's help too.

    safety_events: interventions of the safety layer, `safety` says of which cause. takeovers: how often a person took
    over; `jumps`: rad, over all joints. human_seconds: in which a person commanded; watched_seconds: of the episodes
    in which a person watched, all of these. loops, scheduling, policy_restarts: of the last call.
    """
    counted = [found for found in trials.done if found.success >= 0]
    causes = sum((Counter(found.causes) for found in trials.done), Counter[str]())
    return {
        "score": NO_SCORE if not trials.checkpoint else _score(trials.tasks, counted, lambda found: found.alone),
        "score_assisted": _score(trials.tasks, counted, lambda found: found.succeeded),
        "loops": trials.loops,
        "scheduling": trials.scheduling,
        "safety_events": causes.total(),
        "safety": dict(causes.most_common()),
        "takeovers": sum(found.takeovers for found in trials.done),
        "jumps": {
            "takeover": _jumps([jump for found in trials.done for jump in found.takeover_jumps]),
            "release": _jumps([jump for found in trials.done for jump in found.release_jumps]),
        },
        "human_seconds": sum(found.human_seconds for found in trials.done),
        "watched_seconds": sum(found.seconds for found in trials.done),
        "policy_restarts": trials.policy_restarts,
        "episodes": [episode_facts(found) for found in trials.done],
        "error": trials.error,
    }


def episode_facts(found: Done) -> dict[str, Any]:
    """What is known of an episode."""
    return dataclasses.asdict(found) | {
        "success": found.succeeded, "human_seconds": found.human_seconds, "interventions": sum(found.causes.values()),
        "takeover_jump": _jumps(found.takeover_jumps)["max"], "release_jump": _jumps(found.release_jumps)["max"],
    }  # fmt: skip


def write_hardware_report(workdir: Path, report: Mapping[str, Any], trials: Trials) -> Path:
    results = report["results"]
    films = _clips(workdir / "videos", trials.done)
    sections = [
        *([Section("Stopped", [Text(trials.error)])] if trials.error else []),
        *_score_sections(results, trials.done),
        *([Section("Films", [Clips(films)])] if films else []),
        Section(f"All {len(trials.done)} episodes", [_episode_table(trials.done)]),
        Section("Takeovers", [_jump_table(results["jumps"]), Text(_JUMP_TEXT)]),
        Section("Loops", [_loop_table(results["loops"]), Text(f"{_LOOP_TEXT} Scheduling: {results['scheduling']}.")]),
        Section("Safety layer", _safety_blocks(results)),
    ]
    return write_run_page(workdir, report, _facts(results), sections)


_LOOP_TEXT = (
    "Jitter: how long after its deadline a tick began. Missed: deadlines met more than one period late; the loop skips "
    "them and keeps its phase. Of the last call."
)
_JUMP_TEXT = (
    "At a takeover: how far the robot goes from where it would have come to rest if the person holds still for 0.5 s. "
    "At a hand-back: the policy's first command against that pose, before limits and fading. Rad over all joints."
)


def _facts(results: Mapping[str, Any]) -> list[Fact]:
    assisted, alone, loops = results["score_assisted"], results["score"], results["loops"]
    facts = []
    if alone["tasks"]:
        facts += [Fact("success alone", percent(alone["mean_rate"]), "the policy, without a person")]
    if assisted["tasks"]:
        label, detail = ("success with help", "takeovers allowed") if alone["tasks"] else ("success", "demonstrations")
        facts += [Fact(label, percent(assisted["mean_rate"]), detail)]
    facts += [
        *(score_facts(alone)[1:] if alone["tasks"] else []),
        Fact("takeovers", str(results["takeovers"])),
        Fact("a person's time", format_seconds(results["human_seconds"]), "in control"),
        Fact("watched", format_seconds(results["watched_seconds"]), "episodes, all of them"),
    ]
    return facts + [
        Fact(f"{name} loop", f"{loops[name]['mean_hz']:.2f} Hz", f"p99 {loops[name]['jitter_p99_ms']:.1f} ms late")
        for name in LOOPS
        if name in loops
    ]


def _score_sections(results: Mapping[str, Any], done: Sequence[Done]) -> list[Section]:
    kinds = {"score": "Success of the policy alone", "score_assisted": "Success, takeovers allowed"}
    shown = {title: results[key] for key, title in kinds.items() if results[key]["tasks"]}
    sections = [Section(title, score_sections(score, [])[0].blocks) for title, score in shown.items()]
    trials = [
        Trial(found.task, found.seed, found.succeeded, found.seconds, found.failure or found.ended) for found in done
    ]
    if not all(trial.success for trial in trials):
        sections.append(Section("Why episodes failed", [failure_table(trials)]))
    return sections


def _episode_table(done: Sequence[Done]) -> Table:
    rows = [
        (
            found.task, str(found.seed), found.succeeded, f"{found.seconds:.1f}", _how(found),
            f"{found.human_seconds:.1f}",
        )
        for found in done
    ]  # fmt: skip
    return Table(("task", "seed", "outcome", "seconds", "how", "a person's seconds"), rows, tall=True)


def _how(found: Done) -> str:
    help_ = f"{found.takeovers} takeover{'s' * (found.takeovers > 1)}" if found.takeovers else ""
    if found.succeeded:
        return help_ or ("demonstrated" if found.human_seconds else "alone")
    why = found.failure or found.ended
    return f"{why}, {help_}" if help_ else why


def _score(tasks: tuple[str, ...], done: list[Done], outcome: Callable[[Done], bool]) -> dict[str, Any]:
    outcomes = {task: [outcome(found) for found in done if found.task == task] for task in tasks}
    tried = {task: values for task, values in outcomes.items() if values}
    return score(tried) if tried else NO_SCORE


def _jumps(jumps: Sequence[tuple[float, float]]) -> dict[str, float]:
    largest, largest_norm = map(max, zip((0.0, 0.0), *jumps, strict=True))
    return {"count": len(jumps), "max": largest, "l2_max": largest_norm}


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
    rows = [(cause, str(count)) for cause, count in results["safety"].items()]
    text = "Each is in the safety.jsonl of its episode's folder, with times, joints and sizes. Not safety-rated."
    return [Table(("cause", "interventions"), rows), Text(text)] if rows else [Text("No interventions.")]


def _jump_table(jumps: Mapping[str, Mapping[str, float]]) -> Table:
    rows = [
        (kind, str(values["count"]), f"{values['max']:.2e}", f"{values['l2_max']:.2e}")
        for kind, values in jumps.items()
    ]
    return Table(("change", "count", "largest joint", "norm"), rows)


def _clips(folder: Path, done: Sequence[Done]) -> list[Clip]:
    films = [(found, film_path(folder, found.episode_id)) for found in done]
    return [
        Clip(film.read_bytes(), f"{found.task}, seed {found.seed}: {_how(found)}", found.succeeded, poster.read_bytes())
        for found, film in films
        if film.is_file() and (poster := film.with_suffix(".jpg")).is_file()
    ]
