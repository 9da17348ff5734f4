"""report.html of an evaluation and of a training run, made from report.json, the trials and the metrics."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dexhil.commands import read_metrics
from dexhil.evaluation.rollout import Trial
from dexhil.evaluation.trials import picture_path, video_path
from dexhil.reports.comparison import comparison_facts, comparison_sections
from dexhil.reports.page import Block, Clip, Clips, Fact, Image, Section, Table, percent, write_run_page
from dexhil.reports.plots import curves_plot, rates_plot, series, small_curves_plot
from dexhil.reports.video import contact_sheet, read_picture, write_picture

NOT_CURVES = {"step", "seconds"}


def write_report(
    workdir: Path, report: Mapping[str, Any], trials: Sequence[Trial] = (), media: Path | None = None
) -> Path:
    """Writes workdir/report.html of a `Run.report`, with metrics.jsonl and trials, whose pictures are in `media`."""
    results, metrics = report["results"], read_metrics(workdir)
    score, against = results if "mean_rate" in results else results.get("score"), results.get("against")
    sections = [
        *score_sections(score, trials),
        *comparison_sections(against),
        *(media_sections(workdir, trials, media) if media else []),
        *training_sections(results, metrics),
        *trial_sections(trials),
    ]
    facts = [*score_facts(score), *comparison_facts(against), *training_facts(results)]
    return write_run_page(workdir, report, facts, sections)


def score_facts(score: Mapping[str, Any] | None) -> list[Fact]:
    """Success rates as headline figures."""
    if score is None:
        return []
    facts = [_task_fact(task, entry) for task, entry in score["tasks"].items()]
    return [Fact("mean success", percent(score["mean_rate"]), "over the tasks"), *facts] if len(facts) > 1 else facts


def score_sections(score: Mapping[str, Any] | None, trials: Sequence[Trial]) -> list[Section]:
    """Success rates with intervals, and why trials failed."""
    if score is None:
        return []
    blocks: list[Block] = [
        Image(rates_plot(score), "Bars: success rate. Lines: 95 % Wilson interval. Every policy meets the same starts.")
    ]
    failures = [Section("Why trials failed", [failure_table(trials)])] if any(not t.success for t in trials) else []
    return [Section("Success rate", blocks), *failures]


def failure_table(trials: Sequence[Trial]) -> Table:
    """How often each category of failure came, per task, most frequent first."""
    totals = Counter(trial.task for trial in trials)
    counts = Counter((trial.task, trial.failure) for trial in trials if not trial.success)
    order = sorted(counts, key=lambda key: (list(totals).index(key[0]), -counts[key]))
    rows = [(task, failure, f"{counts[task, failure]} of {totals[task]}") for task, failure in order]
    return Table(("task", "failure", "trials"), rows, fractions=[counts[key] / totals[key[0]] for key in order])


def media_sections(workdir: Path, trials: Sequence[Trial], media: Path) -> list[Section]:
    """Per task the videos and a contact sheet of every trial's last moment, which is also written beside the report."""
    sections = []
    for task in dict.fromkeys(trial.task for trial in trials):
        shown = [trial for trial in trials if trial.task == task and picture_path(media, trial).is_file()]
        if not shown:
            continue
        sheet = contact_sheet(
            [read_picture(picture_path(media, trial)) for trial in shown],
            [trial.success for trial in shown],
            [str(number) for number in range(1, len(shown) + 1)],
            columns=5 if len(shown) <= 25 else 10,
        )
        path = write_picture(workdir / f"contact_sheet_{task}.jpg", sheet)
        caption = "The last moment of each trial, in the order of the seeds; green: success, red: failure."
        clips = [_clip(trial, media) for trial in shown if video_path(media, trial).is_file()]
        films: list[Block] = [Clips(clips)] if clips else []
        sections.append(Section(f"Trials: {task}", [*films, Image(path.read_bytes(), caption, "image/jpeg")]))
    return sections


def trial_sections(trials: Sequence[Trial]) -> list[Section]:
    """The table of all trials."""
    if not trials:
        return []
    rows = [(t.task, str(t.seed), t.success, f"{t.seconds:.1f}", t.failure) for t in trials]
    table = Table(("task", "seed", "outcome", "seconds", "failure"), rows, tall=True)
    return [Section(f"All {len(trials)} trials", [table])]


def training_facts(results: Mapping[str, Any]) -> list[Fact]:
    """Headline figures of a training run; empty for other commands."""
    facts = []
    before, after = results.get("heldout_loss_untrained"), results.get("heldout_loss")
    if before is not None and after is not None:
        facts.append(Fact("held-out loss", f"{after:.3g}", f"untrained {before:.3g}"))
    if (loss := results.get("final_loss")) is not None:
        facts.append(Fact("training loss", f"{loss:.3g}", f"after {results.get('steps', 0):,} steps"))
    if (speed := results.get("samples_per_second")) is not None:
        facts.append(Fact("speed", f"{speed:.3g}", "samples per second"))
    return facts


def training_sections(results: Mapping[str, Any], metrics: Sequence[Mapping[str, Any]]) -> list[Section]:
    """Loss curves on a logarithmic axis, every other logged number in a small panel."""
    names = [name for name in dict.fromkeys(key for line in metrics for key in line) if name not in NOT_CURVES]
    names = [name for name in names if len(series(metrics, name)[0]) > 1]
    losses = [name for name in names if "loss" in name]
    others = [name for name in names if name not in losses]
    if not names:
        return []
    blocks: list[Block] = []
    if losses:
        positive = all((series(metrics, name)[1] > 0).all() for name in losses)
        untrained = results.get("heldout_loss_untrained")
        before = "" if untrained is None else f" Held-out loss before training: {untrained:.3g}."
        caption = f"Losses over the training steps.{before}"
        blocks.append(Image(curves_plot(metrics, losses, log=positive), caption))
    if others:
        blocks.append(Image(small_curves_plot(metrics, others)))
    return [Section("Training", blocks)]


def _task_fact(task: str, entry: Mapping[str, Any]) -> Fact:
    low, high = entry["interval"]
    detail = f"{entry['successes']} of {entry['trials']} (95 %: {100 * low:.0f} to {100 * high:.0f})"
    return Fact(task, percent(entry["rate"]), detail)


def _clip(trial: Trial, media: Path) -> Clip:
    caption = f"seed {trial.seed}, {trial.seconds:.1f} s" + (f": {trial.failure}" if trial.failure else "")
    poster = picture_path(media, trial).read_bytes()
    return Clip(video_path(media, trial).read_bytes(), caption, trial.success, poster)
