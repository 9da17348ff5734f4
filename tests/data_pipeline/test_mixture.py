"""The mixture: exact weights over the whole data set, an exact P* when sampling, one expected gradient for both."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipeline.build import build_dataset
from data_pipeline.index import INDEX_DTYPE
from data_pipeline.loader import Loader
from data_pipeline.mapping import CATEGORIES, DEXHIL, DatasetError
from data_pipeline.mixture import Mixture, MixtureConfig, mark_pre_intervention, mixture_table
from data_pipeline.sampler import sample_indices
from dexhil.training.step import weighted_loss


def make_index(**counts: int) -> np.ndarray:
    """INDEX_DTYPE rows, so many of each category, each an episode of its own."""
    index = np.zeros(sum(counts.values()), INDEX_DTYPE)
    names = [name for name, count in counts.items() for _ in range(count)]
    index["category"] = [CATEGORIES.index(name) for name in names]
    index["episode"] = np.arange(len(index))
    return index


def make(mode: str, p_star: float = 0.5, **counts: int) -> Mixture:
    return Mixture(make_index(**counts), MixtureConfig(mode, p_star))


COUNTS = {"offline": 60, "autonomous": 30, "intervention": 10}


def test_weights_of_a_data_set_counted_by_hand():
    mixture = make("weight", 0.4, **COUNTS)
    card = mixture.card()
    assert card["P"] == {"offline": 0.6, "autonomous": 0.3, "intervention": 0.1}
    assert card["P_star"] == pytest.approx({"offline": 0.4, "autonomous": 0.2, "intervention": 0.4})
    assert card["w"] == pytest.approx({"offline": 2 / 3, "autonomous": 2 / 3, "intervention": 4})
    weights = mixture.weights(np.arange(100))
    np.testing.assert_allclose(weights, [2 / 3] * 90 + [4] * 10, rtol=1e-6)
    np.testing.assert_allclose(card["effective_samples"], weights.sum() ** 2 / (weights**2).sum(), rtol=1e-6)
    assert set(card["repeats"].values()) == {1.0}


def test_sirius_weights_of_a_data_set_counted_by_hand():
    card = make("sirius", offline=20, autonomous=40, pre_intervention=20, intervention=20).card()
    assert card["P_star"] == pytest.approx(
        {"offline": 0.2, "autonomous": 0.298, "pre_intervention": 0.002, "intervention": 0.5}
    )
    assert card["w"] == pytest.approx(
        {"offline": 1, "autonomous": 0.745, "pre_intervention": 0.01, "intervention": 2.5}
    )


@pytest.mark.parametrize("mode", ["uniform", "weight", "sample", "iwr", "sirius"])
@pytest.mark.parametrize("counts", [{**COUNTS, "offline": 20}, {"intervention": 7, "autonomous": 300}])
def test_weights_have_mean_one_over_the_index(mode, counts):
    mixture = make(mode, **counts)
    assert mixture.weights(np.arange(sum(counts.values()))).mean() == pytest.approx(1, abs=1e-6)
    assert mixture.target.sum() == pytest.approx(1, abs=1e-12)


def test_the_effective_sample_is_kish_s():
    """4p(1 - p) for p_star 0.5; sampling leaves it whole and repeats the interventions instead."""
    counts = {"offline": 95, "intervention": 5}
    assert make("weight", **counts).card()["effective_share"] == pytest.approx(4 * 0.05 * 0.95)
    card = make("sample", **counts).card()
    assert card["effective_share"] == pytest.approx(1)
    assert card["repeats"] == pytest.approx({"offline": 0.5 / 0.95, "intervention": 10})


def test_iwr_is_eq_7_at_one_half():
    """IWR's adjusted form, N / 2n and N / 2(N - n), and our weight mode."""
    iwr, ours = make("iwr", **COUNTS), make("weight", 0.5, **COUNTS)
    np.testing.assert_array_equal(iwr.weight, ours.weight)
    n, total = COUNTS["intervention"], sum(COUNTS.values())
    expected = {"offline": total / 2 / (total - n), "intervention": total / 2 / n}
    assert {name: iwr.card()["w"][name] for name in expected} == pytest.approx(expected)


@pytest.mark.parametrize("mode", ["uniform", "weight", "sample", "iwr", "sirius"])
@pytest.mark.parametrize("counts", [{"offline": 12}, {"offline": 9, "autonomous": 3}, {"intervention": 12}])
def test_a_single_kind_of_data_is_uniform(mode, counts):
    mixture = make(mode, **counts)
    assert (mixture.weights(np.arange(12)) == 1).all()
    np.testing.assert_array_equal(mixture.draw(3, 2, batch_size=5), sample_indices(3, 2, batch_size=5, num_samples=12))
    assert ("no intervention samples" in mixture.card()["note"]) == ("intervention" not in counts)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"mode": "wieght"}, "mixture mode 'wieght' is not known; did you mean 'weight'"),
        *(({"mode": "weight", "p_star": p}, "p_star: expected 0 < p_star < 1") for p in (0, 1, -0.5, 1.5, math.nan)),
        ({"mode": "iwr", "p_star": 0.3}, "mode 'iwr' has p_star 0.5, got 0.3; use mode 'weight'"),
        ({"mode": "sirius", "p_star": 0.3}, "mode 'sirius' has p_star 0.5, got 0.3"),
    ],
)
def test_a_mixture_that_makes_no_sense_is_refused(config, message):
    with pytest.raises(ValueError, match=message):
        MixtureConfig(**config)


def test_sirius_refuses_negative_weights_and_a_policy_without_steps():
    with pytest.raises(DatasetError, match=r"demonstrations are 60.0% of the samples, expected at most 50.0%: .*negat"):
        make("sirius", **COUNTS)
    with pytest.raises(DatasetError, match=r"are 49.9% of the samples, expected at most 49.8%"):
        make("sirius", offline=499, autonomous=300, pre_intervention=1, intervention=200)
    with pytest.raises(DatasetError, match=r"gives 30.0% to the policy's own steps, and no sample is one; use filter"):
        make("sirius", offline=20, intervention=80)
    assert make("sirius", offline=50, intervention=50).card()["w"] == {"offline": 1.0, "intervention": 1.0}


def test_the_steps_before_a_takeover_are_marked_in_their_episode_only():
    index = make_index(autonomous=20, intervention=2)
    index["episode"], index["t"] = 0, np.arange(22)
    other = index[18:].copy()  # the next episode: two steps, then a takeover
    other["episode"], other["t"] = 1, np.arange(4)
    marked = mark_pre_intervention(np.concatenate([index, other]))
    names = [CATEGORIES[c] for c in marked]
    ours = ["autonomous"] * 5 + ["pre_intervention"] * 15 + ["intervention"] * 2
    assert names == ours + ["pre_intervention"] * 2 + ["intervention"] * 2


def test_the_steps_before_a_takeover_are_marked_in_their_data_set_only():
    index = make_index(autonomous=4, intervention=1)
    index["episode"], index["t"], index["dataset"] = 0, [0, 1, 2, 3, 4], [0, 0, 0, 1, 1]
    marked = mark_pre_intervention(index) == CATEGORIES.index("pre_intervention")
    assert marked.tolist() == [False, False, False, True, False]


def stream(mixture: Mixture, draws: int, batch_size: int, seed: int = 0) -> np.ndarray:
    batches = [mixture.draw(seed, step, batch_size=batch_size) for step in range(math.ceil(draws / batch_size))]
    return np.concatenate(batches)[:draws]


@pytest.mark.parametrize("p_star", [0.5, 0.3, 0.05, 2 / 3, 1e-6])
def test_sampling_keeps_p_star_at_every_length(p_star):
    mixture = make("sample", p_star, **COUNTS)
    rows = stream(mixture, 2000, 50)
    taken = np.cumsum(rows >= 90)
    assert np.abs(taken - p_star * np.arange(1, 2001)).max() < 1 + 2000 * 1e-6


def test_sampling_sees_all_of_a_category_equally_often():
    mixture = make("sample", **COUNTS)
    seen = np.bincount(stream(mixture, 1800, 7), minlength=100)
    assert set(seen[90:].tolist()) == {90}  # 900 draws of 10 interventions
    assert set(seen[:90].tolist()) == {10}
    seen = np.bincount(stream(mixture, 1000, 7), minlength=100)
    assert seen[:90].max() - seen[:90].min() <= 1


def test_the_offline_and_autonomous_shares_are_in_proportion_to_their_counts():
    rows = stream(make("sample", **COUNTS), 1800, 30)
    assert [np.mean(rows < 60), np.mean((rows >= 60) & (rows < 90))] == pytest.approx([1 / 3, 1 / 6])


@pytest.mark.parametrize("hosts", [2, 4])
def test_sampling_is_a_function_of_step_and_host(hosts):
    mixture = make("sample", 0.3, **COUNTS)
    whole = mixture.draw(5, 10**8, batch_size=64)
    parts = [mixture.draw(5, 10**8, batch_size=64, host=host, num_hosts=hosts) for host in range(hosts)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    np.testing.assert_array_equal(
        np.concatenate([mixture.draw(5, k, batch_size=8) for k in range(8)]), stream(mixture, 64, 64, 5)
    )
    assert (mixture.draw(6, 10**8, batch_size=64) != whole).any()


def test_the_card_is_json_and_a_table():
    card = make("weight", **COUNTS).card()
    assert json.loads(json.dumps(card)) == card
    table = mixture_table(card).splitlines()
    assert [line.split() for line in table[:4]] == [
        ["category", "samples", "P", "P*", "w", "repeats"],
        ["offline", "60", "0.600", "0.333", "0.556", "1.00"],
        ["autonomous", "30", "0.300", "0.167", "0.556", "1.00"],
        ["intervention", "10", "0.100", "0.500", "5.000", "1.00"],
    ]
    assert table[4:] == ["mixture weight: effective sample 36.0%, 36 of 100"]
    assert mixture_table(make("weight", offline=3).card()).endswith("no intervention samples: weight 1 everywhere")


@pytest.fixture(scope="module")
def load(tmp_path_factory, recipe, recorder):
    """Loader of 12 offline, 6 autonomous and 6 intervention samples (the filter drops 4 steps), chunk 1."""
    root = tmp_path_factory.mktemp("mixture")
    recorder(root / "episodes", recipe(1, 12))
    recorder(root / "episodes", recipe(5, 10, source="online", round=1, takeovers=((4, 10),)))
    recorder(root / "episodes", recipe(2, 6, source="online", round=1))
    data = build_dataset(root / "episodes", root / "data")

    def make(mode: str = "uniform", p_star: float = 0.5, **changes) -> Loader:
        arguments = {"batch_size": 6, "chunk": 1, "cache_dir": root / "cache"} | changes
        return Loader([data], DEXHIL, mixture=MixtureConfig(mode, p_star), **arguments)

    return make


def gradient(batch: dict, divide: bool) -> np.ndarray:
    """Gradient [2] of the training loss for a linear model of the first action over image brightness.

    divide: as training does, by the valid actions of the batch; else the plain sum.
    """
    brightness = batch["images"]["scene"].mean((1, 2, 3)) / 255
    features = jnp.stack([np.ones_like(brightness), brightness], axis=1)  # [B, 2]
    targets = batch["actions"][..., 0] / 1000  # [B, H]
    mask, weight = jnp.asarray(batch["action_mask"]), jnp.asarray(batch["weight"])

    def loss(parameters):
        squared = ((features @ parameters)[:, None] - targets) ** 2
        total, count = weighted_loss(squared, mask, weight)
        return total / count if divide else total

    return np.asarray(jax.grad(loss)(jnp.array([0.5, 1.0])))


def mean_gradient(loader: Loader, draws: int, divide: bool = True) -> np.ndarray:
    """Mean over the batches of the first `draws` draws, [2]."""
    return np.mean([gradient(loader.batch(step), divide) for step in range(draws // 6)], axis=0)


@pytest.mark.parametrize(("chunk", "divide"), [(1, True), (4, False)])
def test_weighting_and_sampling_have_one_expected_gradient(load, chunk, divide):
    """Over whole cycles the means are expectations, so they agree but for float32 rounding.

    A cycle: 24 samples once for weight; 18 of 18 others beside 3 times 6 interventions for sample. Uniform batches are
    far off, and so would be weights on top of sampling. Padded chunks (chunk 4) agree in the numerator.
    """
    weight = mean_gradient(load("weight", chunk=chunk), 24, divide)
    sample = mean_gradient(load("sample", chunk=chunk), 36, divide)
    uniform = mean_gradient(load("uniform", chunk=chunk), 24, divide)
    np.testing.assert_allclose(weight, sample, rtol=1e-4)
    assert (np.abs(uniform - sample) > 0.3 * np.abs(sample)).all()


def test_every_batch_alone_has_the_expected_gradient(load):
    """Over 1000 seeds, batches of 5 at one step: within 4.5 standard errors (1 in 10^5), where uniform is 10 away."""

    def per_seed(mode: str) -> np.ndarray:
        loader = load(mode, p_star=0.4)
        means = []
        for seed in range(1000):
            rows = loader.mixture.draw(seed, 7, batch_size=5)
            actions, _ = loader.chunks(rows)
            means.append((loader.mixture.weights(rows) * actions[:, 0, 0]).mean())
        return np.array(means)

    is_intervention = load().index["category"][load().samples] == CATEGORIES.index("intervention")
    values = load().all_actions()[:, 0]
    expected = 0.4 * values[is_intervention].mean() + 0.6 * values[~is_intervention].mean()
    errors = {}
    for mode in ("weight", "sample", "uniform"):
        means = per_seed(mode)
        errors[mode] = abs(means.mean() - expected) / (means.std() / math.sqrt(1000))
    assert max(errors["weight"], errors["sample"]) < 4.5
    assert errors["uniform"] > 10


def test_weights_count_the_whole_set_and_no_batch(load):
    """Batches of 2, most of one kind of sample, and the parts of two hosts: w is 2 or 2/3 in all of them."""
    expected = {True: 2.0, False: np.float32(2 / 3)}
    shares = set()
    for host in range(2):
        loader = load("weight", batch_size=4, host=host, num_hosts=2)
        for step in range(6):
            batch = loader.batch(step)
            assert batch["weight"].tolist() == [expected[flag] for flag in batch["is_intervention"].tolist()]
            shares.add(batch["is_intervention"].mean())
    assert {0.0, 0.5} <= shares


def test_a_sampled_stream_resumes_from_a_number(load):
    iterator = load("sample", 0.3, seed=4).iterate(3)
    for step in (3, 4, 5):
        batch, expected = next(iterator), load("sample", 0.3, seed=4).batch(step)
        np.testing.assert_array_equal(batch["rows"], expected["rows"])
        np.testing.assert_array_equal(batch["images"]["wrist"], expected["images"]["wrist"])
        assert (batch["weight"] == 1).all()
    iterator.close()


def test_the_loader_s_card_holds_the_mixture(load):
    loader = load("weight")
    card = loader.card()
    assert card["mixture"] == loader.mixture.card()
    assert card["mixture"]["counts"] == card["categories"] == {"offline": 12, "autonomous": 6, "intervention": 6}
    json.dumps(card)


def test_sirius_marks_steps_that_only_the_filter_none_keeps(load):
    assert "pre_intervention" not in load("weight", filter="none").card()["mixture"]["counts"]
    counts = load("sirius", filter="none").card()["mixture"]["counts"]
    assert counts == {"offline": 12, "autonomous": 6, "intervention": 6, "pre_intervention": 4}
    with pytest.raises(DatasetError, match=r"mixture mode 'sirius': demonstrations are 54\.5%"):
        load("sirius", filter="none", episode_filter={"round": (0, 1), "seed": (1, 5)})


def test_held_out_data_is_uniform(load):
    loader = load("weight", split="heldout", heldout_fraction=0.9)
    assert loader.card()["mixture"]["mode"] == "uniform"
    assert (loader.batch(0)["weight"] == 1).all()
