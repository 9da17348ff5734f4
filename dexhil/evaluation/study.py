"""A human-in-the-loop study as data, and what it shows: scores, differences, labour, forgetting. NumPy level only."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dexhil.evaluation.intervals import Interval, mcnemar, paired_difference, score, wilson
from dexhil.evaluation.power import detectable_difference, trials_needed

WARMUP = "warmup"
PAPER_SECONDS = {"demonstration": 10.0, "correction": 3.0}  # Source: DexHiL, labour
ASKED_DIFFERENCES = (0.05, 0.10, 0.15, 0.20, 0.25, 0.30)  # of success rates, for which the trials are counted


@dataclasses.dataclass(frozen=True)
class Cell:
    """One policy of the study. round 0: the warm-up, shared by all arms (arm "warmup")."""

    arm: str
    round: int
    outcomes: dict[str, list[bool]]  # task -> success of each trial in the order of the seeds
    metrics: list[dict[str, Any]]  # rows of its metrics.jsonl ("step", "seconds", "loss", ...)
    mixture: dict[str, Any]  # mixture card of its training data ({} for none)
    lineage: dict[str, Any]  # data sets, parent checkpoint, code version


@dataclasses.dataclass(frozen=True)
class OnlineEpisode:
    """One supervised rollout. control: (start s, end s, "policy" | "person") in order."""

    arm: str
    round: int
    task: str
    seed: int
    success: bool
    seconds: float
    control: list[tuple[float, float, str]]
    reasons: list[str]  # why the person took over, one per takeover
    engaged: Sequence[tuple[float, float]]  # rad, jump of each takeover: largest joint's, norm; see `control.jumps`
    released: Sequence[tuple[float, float]]  # the same of each hand-back, as asked for
    video: Path | None
    poster: Path | None
    released_executed: Sequence[tuple[float, float]] = ()  # of each hand-back, as executed after limits

    @property
    def corrected(self) -> bool:
        """Whether it was taken over and ended well: what a round asks for."""
        return self.success and bool(self.reasons)


@dataclasses.dataclass(frozen=True)
class Demonstrations:
    """New demonstrations of a round (round 0: those of the warm-up, arm "warmup")."""

    arm: str
    round: int
    count: int
    seconds: float  # total seconds of human time of the new demonstrations of this round


@dataclasses.dataclass(frozen=True)
class Study:
    """All that is known so far; any part may still be missing. The first arm is compared with every other.

    Raises:
        ValueError: a part names an arm that the study does not have, or a cell comes twice.
    """

    tasks: tuple[str, ...]
    arms: tuple[str, ...]  # e.g. ("dexhil", "dagger", "offline", ...)
    cells: tuple[Cell, ...]
    online: tuple[OnlineEpisode, ...]
    demonstrations: tuple[Demonstrations, ...]
    drift: tuple[dict[str, Any], ...]  # of the drift check: {"arm","round","kind","name","shift","outside","reach"}

    def __post_init__(self) -> None:
        known = {*self.arms, WARMUP}
        named = [part.arm for part in (*self.cells, *self.online, *self.demonstrations)]
        unknown = sorted({*named, *(row["arm"] for row in self.drift)} - known)
        if unknown:
            raise ValueError(f"study: unknown arms {unknown}; expected {sorted(known)}, add them to `arms`")
        places = [(cell.arm, cell.round) for cell in self.cells]
        twice = sorted({place for place in places if places.count(place) > 1})
        if twice:
            raise ValueError(f"study: more than one cell of {twice}; expected one policy per arm and round")


def study_results(study: Study) -> dict[str, Any]:
    """The results of `hil` in report.json, from whatever parts are finished.

    arms: arm -> scores of the warm-up, round 1, … differences: "first-other" -> see `difference_of_arms`, where both
    have a round. human_seconds: arm -> seconds of each round from round 1 on. max_takeover_jump, …_l2: rad, the largest
    of all joints and takeovers and the largest norm, 0 without a takeover; max_release_jump: at hand-backs, as asked
    for; …_executed: after limits. human_seconds_with_watching: as human_seconds, supervised rollouts counted whole.
    labour, forgetting: see these functions. trials_needed: `power_summary`.
    """
    first, *others = study.arms
    pairs = {f"{first}-{arm}": difference_of_arms(study, first, arm) for arm in others}
    differences = {name: pair for name, pair in pairs.items() if pair is not None}
    return {
        "arms": {arm: [score(cell.outcomes) for cell in scored_cells(study, arm)] for arm in study.arms},
        "differences": differences,
        "human_seconds": {arm: human_seconds(study, arm)[1:] for arm in study.arms},
        "max_takeover_jump": largest(jump for episode in study.online for jump, _ in episode.engaged),
        "max_takeover_jump_l2": largest(norm for episode in study.online for _, norm in episode.engaged),
        "max_release_jump": largest(jump for episode in study.online for jump, _ in episode.released),
        "max_release_jump_executed": largest(j for episode in study.online for j, _ in episode.released_executed),
        "human_seconds_with_watching": {arm: _with_watching(study, arm) for arm in study.arms},
        "labour": labour(study),
        "forgetting": forgetting(study),
        "trials_needed": power_summary(list(differences.values())),
    }


def largest(jumps: Iterable[float]) -> float:
    """rad, 0 without any."""
    return max(jumps, default=0.0)


def scored_cells(study: Study, arm: str) -> list[Cell]:
    """The warm-up and the arm's rounds in order, up to the first that is not evaluated on every task."""
    cells = {cell.round: cell for cell in study.cells if cell.arm == (arm if cell.round else WARMUP)}
    found: list[Cell] = []
    while (cell := cells.get(len(found))) and all(cell.outcomes.get(task) for task in study.tasks):
        found.append(cell)
    return found


def mean_interval(cell: Cell) -> Interval:
    """95 % Wilson interval of the mean rate, from all its trials together (as wide or wider than task by task)."""
    trials = [success for outcomes in cell.outcomes.values() for success in outcomes]
    return wilson(sum(trials), len(trials))


def difference_of_arms(study: Study, first: str, second: str) -> dict[str, Any] | None:
    """First minus second in the last round which both have finished; None while that is the shared warm-up.

    {"round", "mean" and "interval" (95 %, bootstrap over pairs) of the rates' difference averaged over the tasks,
    "tasks": task -> {"mean", "interval"}, "p_value": task -> exact McNemar, "discordant_rate": fraction of the pairs in
    which exactly one succeeded, "trials": pairs in all}.
    """
    a, b = scored_cells(study, first), scored_cells(study, second)
    last = min(len(a), len(b)) - 1
    if last < 1:
        return None
    ours, theirs = a[last].outcomes, b[last].outcomes
    difference = paired_difference(ours, theirs)
    disagree = [x != y for task in ours for x, y in zip(ours[task], theirs[task], strict=True)]
    return {
        "round": last,
        **difference._asdict(),
        "tasks": {task: paired_difference({task: ours[task]}, {task: theirs[task]})._asdict() for task in ours},
        "p_value": {task: mcnemar(ours[task], theirs[task]) for task in ours},
        "discordant_rate": float(np.mean(disagree)),
        "trials": len(disagree),
    }


def human_seconds(study: Study, arm: str) -> list[float]:
    """Seconds of human time in the warm-up, round 1, …: demonstrations, and corrections while the person controls."""
    return [_round_seconds(study, arm if number else WARMUP, number) for number in range(_last_round(study, arm) + 1)]


def labour(study: Study) -> dict[str, Any]:
    """What the person's time went into.

    {"demonstrations", "corrections": counts; "demonstration_s", "correction_s": mean seconds of one, None without any;
    "paper": the same of the paper; "cumulative_seconds": arm -> seconds up to and with the warm-up, round 1, …;
    "watched_seconds": arm -> seconds of supervised rollouts in round 1, …, corrections included}.
    """
    corrections = [seconds for episode in distinct(study.online) for seconds in _corrections(episode)]
    demonstrations = sum(part.count for part in study.demonstrations)
    seconds = sum(part.seconds for part in study.demonstrations)
    return {
        "demonstrations": demonstrations,
        "demonstration_s": seconds / demonstrations if demonstrations else None,
        "corrections": len(corrections),
        "correction_s": float(np.mean(corrections)) if corrections else None,
        "paper": {f"{name}_s": value for name, value in PAPER_SECONDS.items()},
        "cumulative_seconds": {arm: np.cumsum(human_seconds(study, arm)).tolist() for arm in study.arms},
        "watched_seconds": {arm: _watched_seconds(study, arm) for arm in study.arms},
    }


def distinct(episodes: Iterable[OnlineEpisode]) -> list[OnlineEpisode]:
    """Each rollout once: in round 1 the arms' policies are the same, and so are their rollouts."""
    return list({(e.round, e.task, e.seed, str(e.control), str(e.reasons)): e for e in episodes}.values())


def forgetting(study: Study) -> list[dict[str, Any]]:
    """How much of each task's best earlier round every round has lost.

    Rows {"arm", "round", "task", "before", "after": rates of the last round and this, "best_round", "drop": best
    earlier rate - rate now, "interval": 95 % of the drop, paired, "flagged": the interval lies above 0}. The best of
    several rounds is partly luck, so that small drops are expected.
    """
    arms = [scored_cells(study, arm) for arm in study.arms]
    return [_drop(cells[: c.round], c, task) for cells in arms for c in cells[1:] for task in study.tasks]


def visible(power: Mapping[str, Any]) -> str:
    """What the pairs of a study can show, in words; power: of `power_summary`."""
    pairs = f"the {power['trials']} pairs of this study"
    if power["detectable"] is None:
        return f"{pairs} are too few to show any difference".capitalize()
    return f"{pairs} show only differences of {100 * power['detectable']:.0f} points or more".capitalize()


def power_summary(differences: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """How many pairs of trials a difference of success rates needs. differences: as from `difference_of_arms`.

    {"discordant_rate": fraction of disagreeing pairs over all differences, None without any; "trials": pairs of the
    smallest comparison; "detectable": difference which these show with 80 % power, None where none would;
    "table": rows {"difference", "observed": pairs needed with the observed fraction, or with the difference itself
    where that is larger, "worst": pairs needed where every pair disagrees}}.
    """
    observed = float(np.mean([pair["discordant_rate"] for pair in differences])) if differences else None
    trials = min((pair["trials"] for pair in differences), default=0)
    return {
        "discordant_rate": observed,
        "trials": trials,
        "detectable": None if observed is None else detectable_difference(trials, observed),
        "table": [
            {
                "difference": difference,
                "observed": None if observed is None else trials_needed(difference, max(observed, difference)),
                "worst": trials_needed(difference, 1.0),
            }
            for difference in ASKED_DIFFERENCES
        ],
    }


def _drop(earlier: Sequence[Cell], now: Cell, task: str) -> dict[str, Any]:
    best = max(earlier, key=lambda cell: np.mean(cell.outcomes[task]))
    shared = min(len(best.outcomes[task]), len(now.outcomes[task]))  # the last round may have more trials
    drop, interval = paired_difference({task: best.outcomes[task][:shared]}, {task: now.outcomes[task][:shared]})
    return {
        "arm": now.arm,
        "round": now.round,
        "task": task,
        "before": float(np.mean(earlier[-1].outcomes[task])),
        "after": float(np.mean(now.outcomes[task])),
        "best_round": best.round,
        "drop": drop,
        "interval": interval,
        "flagged": interval.low > 0,
    }


def _last_round(study: Study, arm: str) -> int:
    parts = (*study.cells, *study.online, *study.demonstrations)
    return max((part.round for part in parts if part.arm == arm), default=0)


def _round_seconds(study: Study, arm: str, number: int) -> float:
    shown = [part.seconds for part in study.demonstrations if (part.arm, part.round) == (arm, number)]
    rollouts = [episode for episode in study.online if (episode.arm, episode.round) == (arm, number)]
    return float(sum(shown) + sum(sum(_corrections(episode)) for episode in rollouts))


def _watched_seconds(study: Study, arm: str) -> list[float]:
    rounds = range(1, _last_round(study, arm) + 1)
    return [float(sum(e.seconds for e in study.online if (e.arm, e.round) == (arm, number))) for number in rounds]


def _with_watching(study: Study, arm: str) -> list[float]:
    shown = [(part.round, part.seconds) for part in study.demonstrations if part.arm == arm]
    watched = _watched_seconds(study, arm)
    return [sum(s for at, s in shown if at == number) + seconds for number, seconds in enumerate(watched, start=1)]


def _corrections(episode: OnlineEpisode) -> list[float]:
    return [end - start for start, end, who in episode.control if who == "person"]
