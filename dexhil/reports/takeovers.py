"""Supervised rollouts in a study's report: who was in control when and why, and videos of corrections."""

from collections import Counter
from collections.abc import Sequence

from dexhil.evaluation.study import OnlineEpisode, Study, largest
from dexhil.reports.page import NOTHING, Block, Clip, Clips, Image, Section, Table, percent
from dexhil.reports.study_plots import timeline_plot

EPISODES_PER_ROUND = 8  # in a timeline
VIDEOS_PER_ARM = 6


def takeover_sections(study: Study) -> list[Section]:
    """Per arm who was in control in its supervised rollouts, and videos of corrections."""
    sections = []
    for arm in study.arms:
        episodes = [episode for episode in study.online if episode.arm == arm]
        if not episodes:
            continue
        rounds = [[e for e in episodes if e.round == number] for number in sorted({e.round for e in episodes})]
        shown = [episode for of_round in rounds for episode in in_turns(of_round)[:EPISODES_PER_ROUND]]
        caption = f"{len(shown)} of {len(episodes)} supervised rollouts, the first of each round. ✓ and ✕: the outcome."
        films = _correction_clips(episodes)
        blocks: list[Block] = [_control_table(rounds), *_reasons_table(episodes), Image(timeline_plot(shown), caption)]
        sections.append(Section(f"Supervised rollouts: {arm}", [*blocks, *([Clips(films)] if films else [])]))
    return sections


def _control_table(rounds: Sequence[Sequence[OnlineEpisode]]) -> Table:
    header = ("round", "rollouts", "with a takeover", "corrected", "successes", "time under the person's control")
    header = (*header, "largest jump at a takeover, rad", "at a hand-back, rad")
    return Table(header, [_control_row(episodes) for episodes in rounds])


def _control_row(episodes: Sequence[OnlineEpisode]) -> tuple[str, ...]:
    stretches = [stretch for episode in episodes for stretch in episode.control]
    person = sum(end - start for start, end, who in stretches if who == "person")
    total = sum(end - start for start, end, _ in stretches)
    return (
        *(str(episodes[0].round), str(len(episodes)), str(sum(bool(episode.reasons) for episode in episodes))),
        *(str(sum(episode.corrected for episode in episodes)), str(sum(episode.success for episode in episodes))),
        percent(person / total) if total else NOTHING,
        f"{largest(jump for episode in episodes for jump, _ in episode.engaged):.3g}",
        f"{largest(jump for episode in episodes for jump, _ in episode.released):.3g}",
    )


def _reasons_table(episodes: Sequence[OnlineEpisode]) -> list[Table]:
    rounds = sorted({episode.round for episode in episodes})
    counts = Counter((reason, episode.round) for episode in episodes for reason in episode.reasons)
    totals = Counter(reason for episode in episodes for reason in episode.reasons)
    rows = [(reason, *(str(counts[reason, number]) for number in rounds)) for reason, _ in totals.most_common()]
    return [Table(("why a person took over", *(f"round {number}" for number in rounds)), rows)] if rows else []


def in_turns(episodes: Sequence[OnlineEpisode]) -> list[OnlineEpisode]:
    """The first episode of every round and task, then the second of each, and so on."""
    seen: Counter[tuple[int, str]] = Counter()
    turns = []
    for episode in episodes:
        turns.append(seen[episode.round, episode.task])
        seen[episode.round, episode.task] += 1
    return [episodes[i] for i in sorted(range(len(episodes)), key=lambda i: turns[i])]


def _correction_clips(episodes: Sequence[OnlineEpisode]) -> list[Clip]:
    filmed = [e for e in episodes if e.reasons and e.video is not None and e.video.is_file()]
    return [_clip(episode) for episode in sorted(in_turns(filmed)[:VIDEOS_PER_ARM], key=lambda e: e.round)]


def _clip(episode: OnlineEpisode) -> Clip:
    assert episode.video is not None, "only filmed episodes are chosen"
    poster = episode.poster.read_bytes() if episode.poster and episode.poster.is_file() else b""
    caption = f"round {episode.round}, {episode.task} {episode.seed}: {'; '.join(episode.reasons)}"
    return Clip(episode.video.read_bytes(), caption, episode.success, poster)
