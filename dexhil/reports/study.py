"""report.html of a human-in-the-loop study. Shows what is finished so far; a part without data is left out."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dexhil.evaluation.study import PAPER_SECONDS, Study, scored_cells, visible
from dexhil.reports.page import NOTHING, Block, Fact, Image, Section, Table, Text, key_values, percent, write_run_page
from dexhil.reports.study_plots import differences_plot, labour_plot, losses_plot, success_plot
from dexhil.reports.takeovers import takeover_sections

# Successes of 20 after the warm-up and rounds 1 to 3. Source: DexHiL, arXiv 2603.09121, main results.
PAPER_SUCCESSES = {
    ("tissue", "dexhil"): (2, 10, 15, 19),
    ("tissue", "dagger"): (2, 7, 9, 16),
    ("tissue", "offline"): (2, 8, 11, 15),
    ("plush", "dexhil"): (0, 4, 6, 13),
    ("plush", "dagger"): (0, 2, 3, 4),
    ("plush", "offline"): (0, 0, 3, 7),
}
PAPER_TRIALS = 20
DRIFT_ALARM = 0.10  # fraction of new values outside the frozen range; 2 % lie there by construction


def write_study_report(workdir: Path, report: Mapping[str, Any], study: Study) -> Path:
    """Writes workdir/report.html of a `Run.report` and, once a policy is scored, its first plot as success.png."""
    results = report["results"]
    curves = success_plot(study) if any(scored_cells(study, arm) for arm in study.arms) else None
    if curves:
        (workdir / "success.png").write_bytes(curves)
    sections = [
        *success_sections(study, curves),
        *difference_sections(study, results),
        *labour_sections(study, results),
        *loss_sections(study),
        *takeover_sections(study),
        *forgetting_sections(results),
        *drift_sections(study),
        *mixture_sections(study),
    ]
    # Data sets, parent checkpoints and code versions of every policy; drift has a section of its own.
    of_cells = {f"{cell.arm} {cell.round}": {**cell.lineage} for cell in study.cells if cell.lineage}
    for lineage in of_cells.values():
        lineage.pop("drift", None)
    return write_run_page(
        workdir, {**report, "lineage": report["lineage"] | of_cells}, study_facts(study, results), sections
    )


def study_facts(study: Study, results: Mapping[str, Any]) -> list[Fact]:
    """Headline figures: success of the first arm, its lead over the others, human time, takeovers."""
    first, facts = study.arms[0], []
    if scores := results["arms"][first]:
        last = len(scores) - 1
        label = f"{first}, round {last}" if last else "warm-up"
        detail = f"mean success; warm-up {percent(scores[0]['mean_rate'])}" if last else "mean success"
        facts.append(Fact(label, percent(scores[-1]["mean_rate"]), detail))
    facts += [
        Fact(name.replace("-", " - ", 1), f"{_signed(pair['mean'])} points", f"95 %: {_points(pair['interval'])}")
        for name, pair in results["differences"].items()
    ]
    if any(results["human_seconds"].values()):
        minutes = {arm: _minutes(sum(seconds)) for arm, seconds in results["human_seconds"].items()}
        others = [f"{arm} {minutes[arm]}" for arm in study.arms[1:]]
        facts.append(Fact(f"human time, {first}", minutes[first], "; ".join(["in its rounds", *others])))
    if study.online:
        norm = f"{results['max_takeover_jump_l2']:.3g} in norm"
        detail = f"rad at most ({norm}), over {results['labour']['corrections']} takeovers"
        facts.append(Fact("takeover jump", f"{results['max_takeover_jump']:.3g}", detail))
    return facts


def success_sections(study: Study, curves: bytes | None) -> list[Section]:
    """Success over the rounds, and the paper's table beside ours. curves: their plot, None before any is scored."""
    if curves is None:
        return [Section("Success over the rounds", [Text("No policy is evaluated yet.")])]
    picture = Image(
        curves,
        "Points: success rate. Bars: 95 % Wilson interval, of the mean from all trials together. Every policy meets "
        "the same starts: paired differences are surer than the overlap of these bars suggests.",
    )
    note = Text("The paper's figures come from a real robot: compare order and trend, not heights.")
    return [
        Section("Success over the rounds", [picture]),
        Section("The paper's table and ours", [note, _paper_table(study)]),
    ]


def difference_sections(study: Study, results: Mapping[str, Any]) -> list[Section]:
    """Paired differences, and how many trials a difference needs."""
    differences, sections = results["differences"], []
    if differences:
        caption = (
            "Paired differences in the last round that both arms have finished, with 95 % bootstrap intervals over "
            "pairs of trials of the same start. Diamonds: mean over the tasks. Where no pair disagrees an "
            "interval has no width, which is no proof of equality."
        )
        blocks = [Image(differences_plot(differences), caption), _p_value_table(study, differences)]
        sections.append(Section("Paired differences", blocks))
    return [*sections, Section("How many trials show a difference?", _power_blocks(study, results["trials_needed"]))]


def labour_sections(study: Study, results: Mapping[str, Any]) -> list[Section]:
    """Success against human time; seconds per demonstration and correction beside the paper's."""
    work = results["labour"]
    if not work["demonstrations"] and not work["corrections"]:
        return []
    rows = []
    for name, paper in PAPER_SECONDS.items():
        mean = work[f"{name}_s"]
        rows.append((name, str(work[f"{name}s"]), NOTHING if mean is None else f"{mean:.1f}", f"{paper:.1f}"))
    blocks: list[Block] = [
        Table(("kind", "count", "seconds each, here (simulated time)", "seconds each, paper"), rows),
        _human_time_table(study, work, results["human_seconds_with_watching"]),
    ]
    if any(len(scored_cells(study, arm)) > 1 for arm in study.arms):
        caption = (
            "The number at a point is its round, 0 the warm-up. Watching until the policy needs help is not counted."
        )
        blocks.insert(0, Image(labour_plot(study, work["cumulative_seconds"]), caption))
    return [Section("Human time", blocks)]


def loss_sections(study: Study) -> list[Section]:
    """Training loss over all rounds."""
    plot = losses_plot(study)
    caption = (
        "Dashed lines: a round starts. A jump there is expected: the new data is unlike what the last policy learnt "
        "from, and a weighted loss counts it more. Arms with different data and weights do not compare in height."
    )
    return [] if plot is None else [Section("Training loss", [Image(plot, caption)])]


def forgetting_sections(results: Mapping[str, Any]) -> list[Section]:
    """Success of each task before and after each round, and what was lost against the best earlier round."""
    rows = results["forgetting"]
    if not rows:
        return []
    flagged = sum(row["flagged"] for row in rows)
    verdict = f"In {flagged} of {len(rows)} cases a task is surely (95 %) worse than in its best earlier round."
    header = ("arm", "round", "task", "before", "after", "best earlier")
    header = (*header, "change against it", "95 % interval", "forgotten?")
    cells = [
        (
            *(row["arm"], str(row["round"]), row["task"], percent(row["before"]), percent(row["after"])),
            *(_round_name(row["best_round"]), f"{_signed(-row['drop'])} points"),
            *(_points([-bound for bound in reversed(row["interval"])]), "yes" if row["flagged"] else "no"),
        )
        for row in rows
    ]
    return [Section("Forgetting", [Text(verdict), Table(header, cells, tall=len(cells) > 12)])]


def drift_sections(study: Study) -> list[Section]:
    """How far each round's data has left the ranges that were frozen in the warm-up."""
    if not study.drift:
        return []
    rows = sorted(study.drift, key=lambda row: -row["outside"])
    far = [row for row in rows if row["outside"] > DRIFT_ALARM]
    verdict = (
        f"The normalisation keeps the ranges of the warm-up. In {len(far)} of {len(rows)} cases more than "
        f"{percent(DRIFT_ALARM)} of a joint's new values lie outside (2 % is normal). An action at a "
        "reach of 3 starts with about nine times the loss of one at 1: where they reach far, give a new study a larger "
        "data.min_range."
    )
    cells = [
        (
            *(row["arm"], str(row["round"]), row["kind"], row["name"]),
            *(f"{100 * row['outside']:.1f} %", f"{row['reach']:.1f}", f"{100 * row['shift']:+.1f} %"),
        )
        for row in rows
    ]
    header = ("arm", "round", "kind", "joint", "outside", "reach (99 %)", "shift of the median, % of the range")
    table = Table(header, cells, tall=len(rows) > 12)
    return [Section("Drift of the data against the frozen normalisation", [Text(verdict), table])]


def mixture_sections(study: Study) -> list[Section]:
    """The mixture cards of each arm, a column per round."""
    tables: list[Block] = []
    for arm in study.arms:
        cells = [cell for cell in study.cells if (cell.round == 0 or cell.arm == arm) and cell.mixture]
        cells.sort(key=lambda cell: cell.round)
        if any(cell.round for cell in cells):
            tables += [Text(f"{arm}:"), _cards_table([(_round_name(cell.round), cell.mixture) for cell in cells])]
    return [Section("Training data", tables, folded=True)] if tables else []


def _paper_table(study: Study) -> Table:
    rounds = max(4, *(len(scored_cells(study, arm)) for arm in study.arms))
    rows = []
    for task in study.tasks:
        for arm in study.arms:
            ours = [(sum(cell.outcomes[task]), len(cell.outcomes[task])) for cell in scored_cells(study, arm)]
            paper = [(successes, PAPER_TRIALS) for successes in PAPER_SUCCESSES.get((task, arm), ())]
            rows += [(task, arm, "paper", *_successes(paper, rounds))] if paper else []
            rows.append((task, arm, "here", *_successes(ours, rounds)))
    return Table(("task", "arm", "source", *map(_round_name, range(rounds))), rows)


def _successes(counts: Sequence[tuple[int, int]], columns: int) -> list[str]:
    texts = [f"{successes}/{trials} ({percent(successes / trials)})" for successes, trials in counts]
    return texts + [NOTHING] * (columns - len(texts))


def _p_value_table(study: Study, differences: Mapping[str, Any]) -> Table:
    header = ("pair", "round", "mean difference", "95 % interval", *(f"p, {task}" for task in study.tasks))
    rows = [
        (
            *(name, str(pair["round"]), f"{_signed(pair['mean'])} points", _points(pair["interval"])),
            *(f"{p:.3f}" if p >= 0.001 else "< 0.001" for p in (pair["p_value"][task] for task in study.tasks)),
        )
        for name, pair in differences.items()
    ]
    return Table(header, rows)


def _power_blocks(study: Study, power: Mapping[str, Any]) -> list[Block]:
    observed, tasks = power["discordant_rate"], len(study.tasks)
    rule = (
        "Pairs of trials that show a true difference with 80 % probability (exact McNemar test, p ≤ 0.05, over all "
        "tasks together)."
    )
    if observed is None:
        here = "How often paired trials disagree is not known before two arms have finished a round."
    else:
        here = f"Here {percent(observed)} of the pairs disagreed. {visible(power)}."
    rows = [
        (f"{100 * row['difference']:.0f} points", *_pairs(row["observed"], tasks), *_pairs(row["worst"], tasks))
        for row in power["table"]
    ]
    header = ("difference", "pairs, as here", "per task", "pairs, all disagree (worst case)", "per task")
    return [Text(f"{rule} {here}"), Table(header, rows)]


def _pairs(count: int | None, tasks: int) -> tuple[str, str]:
    return (NOTHING, NOTHING) if count is None else (f"{count:,}", f"{-(-count // tasks):,}")


def _human_time_table(study: Study, work: Mapping[str, Any], watching: Mapping[str, Sequence[float]]) -> Table:
    cumulative = work["cumulative_seconds"]
    rounds = max(len(seconds) for seconds in cumulative.values())
    rows = [
        (
            *(arm, *(_minutes(value) for value in cumulative[arm])),
            *([NOTHING] * (rounds - len(cumulative[arm]))),
            _minutes(sum(work["watched_seconds"][arm])),
            _minutes(sum(watching[arm])),
        )
        for arm in study.arms
    ]
    names = map(_round_name, range(rounds))
    return Table(("human time so far", *names, "rollouts under supervision", "in the rounds, with watching"), rows)


def _cards_table(cards: Sequence[tuple[str, Mapping[str, Any]]]) -> Table:
    columns = [{str(key): str(value) for key, value in key_values(card).rows} for _, card in cards]
    keys = list(dict.fromkeys(key for column in columns for key in column))
    rows = [(key.replace(".", " "), *(column.get(key, NOTHING) for column in columns)) for key in keys]
    return Table(("", *(name for name, _ in cards)), rows, tall=len(rows) > 16)


def _round_name(number: int) -> str:
    return f"round {number}" if number else "warm-up"


def _points(interval: Sequence[float]) -> str:
    return f"{_signed(interval[0])} to {_signed(interval[1])}"


def _signed(rate: float) -> str:
    return f"{round(100 * rate):+d}"


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.1f} min"
