"""The intervention-aware mixture: how much each kind of step counts in training (DexHiL eq. 7). Pure NumPy.

For a category c, P(c) is its fraction of all training samples (of the whole index, never of a batch), P*(c) the wanted
one, and w(c) = P*(c) / P(c). A category without samples has P* 0. Where interventions are all or none of the samples,
P* is P and every weight is 1. Modes "weight" and "sample" have the same expected sum(mask w l) per sample; sum(mask),
which the loss is divided by, differs where the chunks of one category are padded more: a factor, not a direction.
"""

import dataclasses
from fractions import Fraction
from typing import Any

import numpy as np

from data_pipeline.filter import takeover_starts
from data_pipeline.index import is_unused
from data_pipeline.mapping import CATEGORIES, DatasetError
from data_pipeline.sampler import sample_indices, two_pool_indices
from dexhil.names import check_known

MODES = {
    "uniform": "every sample alike: DexHiL's baseline DAgger*",
    "weight": "samples drawn uniformly, w(c) in the loss: DexHiL eq. 7",
    "sample": "samples drawn by P*, weight 1",
    "iwr": "mode weight with p_star 0.5: Mandlekar et al. 2020, arXiv 2012.06733",
    "sirius": "samples drawn uniformly, weights of Liu et al. 2022, arXiv 2211.08416",
}
PRE_INTERVENTION_STEPS = 15
_SIRIUS_INTERVENTION, _SIRIUS_PRE = 0.5, 0.002
_GRAIN = 10**6  # P*(intervention) is drawn as a fraction of at most this denominator, so that counting is exact
_OFFLINE, _AUTONOMOUS, _INTERVENTION, _PRE, *_ = range(len(CATEGORIES))


@dataclasses.dataclass(frozen=True)
class MixtureConfig:
    """How categories are drawn and weighted.

    Attributes:
        mode: a name of MODES.
        p_star: P*(intervention); the rest is shared in proportion to the other counts.

    Raises:
        ValueError: the mode is unknown, or p_star not in (0, 1), or not what the mode fixes.
    """

    mode: str = "uniform"
    p_star: float = 0.5

    def __post_init__(self) -> None:
        check_known("mixture mode", self.mode, MODES)
        if not 1 / _GRAIN <= self.p_star <= 1 - 1 / _GRAIN:
            raise DatasetError(
                f"mixture p_star: expected 0 < p_star < 1, and no nearer than {1 / _GRAIN:g}, got {self.p_star}; "
                f"the paper's is 0.5, and mode 'uniform' leaves the fractions as they are"
            )
        if self.mode in ("iwr", "sirius") and self.p_star != 0.5:
            raise DatasetError(f"mixture mode {self.mode!r} has p_star 0.5, got {self.p_star}; use mode 'weight'")


UNIFORM = MixtureConfig()


class Mixture:
    """How the rows of an index are drawn and weighted; the arrays are float64 [C], one number per CATEGORIES.

    Args:
        index: INDEX_DTYPE [N], of the whole aggregated data set.
        config: the wanted mixture.

    Attributes:
        counts: int64 [C], samples.
        fractions: P.
        target: P*.
        drawn: fractions of what is drawn.
        weight: loss weight, of mean 1 over what is drawn, 0 for what never is.

    Raises:
        DatasetError: the scheme of "sirius" does not fit the counts.
    """

    def __init__(self, index: np.ndarray, config: MixtureConfig) -> None:
        self.config = config
        self._category = mark_pre_intervention(index) if config.mode == "sirius" else index["category"]
        used = ~is_unused(index)
        self.counts = np.bincount(self._category[used], minlength=len(CATEGORIES))
        self.fractions = self.counts / self.counts.sum()
        self.target = target_fractions(self.fractions, config)
        self.drawn = self.target if config.mode == "sample" else self.fractions
        self.weight = _ratio(self.target, self.drawn)
        is_intervention = self._category == _INTERVENTION
        self._samples = np.flatnonzero(used)
        self._pools = np.flatnonzero(is_intervention), np.flatnonzero(used & ~is_intervention)

    def draw(self, seed: int, step: int, *, batch_size: int, host: int = 0, num_hosts: int = 1) -> np.ndarray:
        """Index rows of this host's part of batch `step`: int64 [batch_size / num_hosts].

        Mode "sample" has two pools, interventions and the rest: sharing the rest in proportion to the counts is drawing
        uniformly from it. Each pool is seen whole before any of its samples comes again.
        """
        part: dict[str, Any] = {"batch_size": batch_size, "host": host, "num_hosts": num_hosts}
        sizes = len(self._pools[0]), len(self._pools[1])
        if self.config.mode != "sample" or 0 in sizes:
            return self._samples[sample_indices(seed, step, num_samples=sum(sizes), **part)]
        p_first = Fraction(self.config.p_star).limit_denominator(_GRAIN)
        from_first, rows = two_pool_indices(seed, step, sizes=sizes, p_first=p_first, **part)
        for pool, here in zip(self._pools, (from_first, ~from_first), strict=True):
            rows[here] = pool[rows[here]]
        return rows

    def weights(self, rows: np.ndarray) -> np.ndarray:
        """Loss weight of each index row [B]: float32 [B]."""
        return self.weight[self._category[rows]].astype(np.float32)

    def card(self) -> dict[str, Any]:
        """The mixture in numbers, JSON-ready.

        Returns:
            "counts", "P", "P_star", "w" and "repeats" (how often a sample is seen per N draws), each by category;
            "effective_share": Kish's effective sample size of the weighted draws, (sum w)^2 / sum w^2, per draw;
            "effective_samples": the same of N draws.
        """
        present = np.flatnonzero(self.counts)
        effective = float(1 / (self.drawn * self.weight**2).sum())  # the mean weight is 1

        def by_category(values: np.ndarray) -> dict[str, Any]:
            return {CATEGORIES[i]: values[i].item() for i in present}

        return {
            "mode": self.config.mode,
            "p_star": self.config.p_star,
            "samples": int(self.counts.sum()),
            "counts": by_category(self.counts),
            "P": by_category(self.fractions),
            "P_star": by_category(self.target),
            "w": by_category(self.weight),
            "repeats": by_category(_ratio(self.drawn, self.fractions)),
            "effective_share": effective,
            "effective_samples": effective * int(self.counts.sum()),
            "note": "" if self.counts[_INTERVENTION] else "no intervention samples: weight 1 everywhere",
        }


def _ratio(over: np.ndarray, under: np.ndarray) -> np.ndarray:
    return np.divide(over, under, out=np.zeros_like(over), where=under > 0)


def target_fractions(fractions: np.ndarray, config: MixtureConfig) -> np.ndarray:
    """P*, float64 [C] of sum 1, from P [C]. Raises DatasetError where "sirius" does not fit. Source: DexHiL eq. 7."""
    if config.mode == "uniform" or fractions[_INTERVENTION] in (0, 1):
        return fractions
    if config.mode == "sirius":
        return _sirius_fractions(fractions)
    target = fractions * (1 - config.p_star) / (1 - fractions[_INTERVENTION])
    target[_INTERVENTION] = config.p_star
    return target


def _sirius_fractions(fractions: np.ndarray) -> np.ndarray:
    """P* of Sirius: interventions 0.5, demonstrations P, steps before a takeover 0.002, other policy steps the rest."""
    target = np.zeros_like(fractions)
    target[_INTERVENTION], target[_OFFLINE] = _SIRIUS_INTERVENTION, fractions[_OFFLINE]
    target[_PRE] = _SIRIUS_PRE if fractions[_PRE] else 0.0
    rest = round(1 - float(target.sum()), 12)
    if rest < 0:
        raise DatasetError(
            f"mixture mode 'sirius': demonstrations are {fractions[_OFFLINE]:.1%} of the samples, expected at most "
            f"{rest + fractions[_OFFLINE]:.1%}: the policy's own steps would get a negative weight; use mode 'weight', "
            f"more online episodes, or fewer demonstrations"
        )
    if rest > 0 and not fractions[_AUTONOMOUS]:
        raise DatasetError(
            f"mixture mode 'sirius' gives {rest:.1%} to the policy's own steps, and no sample is one; use filter "
            f"'none', which keeps them, or mode 'weight'"
        )
    target[_AUTONOMOUS] = rest
    return target


def mark_pre_intervention(index: np.ndarray) -> np.ndarray:
    """Category int8 [N]; autonomous rows at most 15 steps before a takeover are "pre_intervention" (Sirius)."""
    category = index["category"].copy()
    for row in takeover_starts(category == _INTERVENTION):
        before = slice(max(0, row - PRE_INTERVENTION_STEPS), row)
        marked = (category[before] == _AUTONOMOUS) & (index["t"][before] >= index["t"][row] - PRE_INTERVENTION_STEPS)
        for name in ("dataset", "episode"):
            marked &= index[name][before] == index[name][row]
        category[before][marked] = _PRE
    return category


def mixture_table(card: dict[str, Any]) -> str:
    """A mixture's card as a text table, one line per category."""
    lines = [f"{'category':<16} {'samples':>9} {'P':>7} {'P*':>7} {'w':>8} {'repeats':>8}"]
    for name, count in card["counts"].items():
        p, p_star, w, repeats = (card[key][name] for key in ("P", "P_star", "w", "repeats"))
        lines.append(f"{name:<16} {count:>9} {p:>7.3f} {p_star:>7.3f} {w:>8.3f} {repeats:>8.2f}")
    lines.append(
        f"mixture {card['mode']}: effective sample {card['effective_share']:.1%}, "
        f"{card['effective_samples']:.0f} of {card['samples']}"
    )
    return "\n".join([*lines, card["note"]] if card["note"] else lines)
