"""The a priori criterion: what it says of families where the answer is known, and of its costs."""

import dataclasses

import numpy as np
import pytest

from sciflow import Invalid
from sciflow_rom.assess.criterion import Assess, Costs, seconds_of_member, suitable
from sciflow_rom.assess.efficiency import Errors, predict_errors, silhouette
from sciflow_rom.assess.rates import Rates, measure_online, measure_selector, resolve
from sciflow_rom.assess.report import sections
from sciflow_rom.assess.verdict import assess, decide
from sciflow_rom.bases import dictionary_curves, local_bases
from sciflow_rom.clusters.clusterers import KMedoids, Sine
from sciflow_rom.compress.compression import Compress
from tests.rom.ensembles import write
from tests.rom.test_clusters import held, publish, some

X = np.linspace(0, 1, 160)[:, None]
RATES = Rates(
    full=0.05,
    online=(5e-5, 2e-8, 5e-9),
    selector=1e-5,
    offline=4e-6,
    training=0.5,
    snapshots=240,
    points_per_mode=10.0,
    sources={},
)


def travelling(count=240, seed=0):
    """A bump anywhere, of any size: few modes where it is known roughly, many where it is not."""
    rng = np.random.default_rng(seed)
    return np.exp(-np.square((X - rng.uniform(0.1, 0.9, count)) / 0.05)) * 10 ** rng.uniform(-1, 1, count)


def phases(count=240, seed=0):
    """Random fields pushed to -1 and 1: no two have much in common."""
    rng = np.random.default_rng(seed)
    waves = np.concatenate([f(2 * np.pi * X * k) for f in (np.sin, np.cos) for k in range(1, 13)], axis=1)
    return np.tanh(3 * waves @ rng.standard_normal((24, count)) / 2)


def flat(count=240, seed=0):
    """Five modes that all members share."""
    return np.sin(np.pi * X * np.arange(1, 6)) @ np.random.default_rng(seed).standard_normal((5, count))


@pytest.fixture(scope="module")
def predicted():
    makers = {"travelling": travelling, "phases": phases, "flat": flat}
    return {name: predict_errors(held(make()), Sine(), (2, 5, 10, 20), 20) for name, make in makers.items()}


def test_a_dictionary_is_proposed_for_what_travels(predicted):
    verdict = decide(predicted["travelling"], RATES, 0.02, 10_000)
    assert verdict.choice == "rom_net"
    assert verdict.clusters >= 5
    assert verdict.gain > 1
    assert (
        f"Build a ROM-net with K = {verdict.clusters} clusters and n = {verdict.modes} modes" in verdict.words
    )
    row = np.flatnonzero(predicted["travelling"].clusters == verdict.clusters)[0]
    assert predicted["travelling"].error[row, verdict.modes] <= 0.02


def test_nothing_is_proposed_where_members_have_nothing_in_common(predicted):
    verdict = decide(predicted["phases"], RATES, 0.01, 10_000)
    assert verdict.choice == "none"
    assert "Do not build a reduced model" in verdict.words
    assert "is not in reach" in verdict.words
    ratio = predicted["phases"].error[-1, 5] / predicted["phases"].error[0, 5]
    assert ratio > 0.8


def test_one_basis_is_enough_where_all_members_share_the_modes(predicted):
    verdict = decide(predicted["flat"], RATES, 1e-6, 10_000)
    assert (verdict.choice, verdict.clusters, verdict.modes) == ("global", 1, 5)
    assert "A single global basis is enough: n = 5" in verdict.words


def test_a_full_model_that_is_cheap_is_left_alone(predicted):
    cheap = dataclasses.replace(RATES, full=4e-5)
    assert decide(predicted["travelling"], cheap, 0.02, 10_000).choice == "none"
    assert "a query takes" in decide(predicted["travelling"], cheap, 0.02, 10_000).words
    assert decide(predicted["travelling"], RATES, 0.02, 5).choice == "none"
    assert "it pays from" in decide(predicted["travelling"], RATES, 0.02, 5).words
    unknown = dataclasses.replace(RATES, full=float("nan"))
    assert "is not known" in decide(predicted["travelling"], unknown, 0.02, 10_000).words


def test_a_slow_selector_speaks_against_a_dictionary(predicted):
    slow = dataclasses.replace(RATES, selector=5e-3)
    verdict = decide(predicted["travelling"], slow, 0.02, 10_000)
    assert verdict.choice == "global"
    assert verdict.gain < 1


@pytest.mark.parametrize("name", ["travelling", "phases", "flat"])
def test_more_modes_and_held_out_members_err_on_the_side_they_must(predicted, name):
    errors = predicted[name]
    assert (errors.error[:, 0] == 1).all()
    for curves in (errors.error, errors.worst, errors.width, errors.beyond[None]):
        assert (np.diff(curves, axis=1) <= 1e-12).all()
    assert (errors.worst >= errors.error).all()
    np.testing.assert_allclose(errors.beyond[:21], errors.error[0], atol=1e-12)
    for k, sizes in zip(errors.clusters, errors.sizes, strict=True):
        assert (len(sizes), sizes.sum()) == (k, 240)
    assert (np.diff(errors.loss) <= 0).all()


@pytest.mark.parametrize(("make", "k"), [(travelling, 10), (travelling, 20), (phases, 10), (phases, 20)])
def test_the_error_is_predicted_that_unseen_members_have(make, k):
    """As measured with all training members on as many unseen ones, nearest medoid."""
    whole = held(make(480))
    known, new = whole.of(np.arange(240)), whole.of(np.arange(240, 480))
    predicted = predict_errors(known, Sine(), (k,), 5).error[1, 1:]
    found = KMedoids(k).fit(known, Sine(), np.random.default_rng(0))
    labels = KMedoids(k).assign(found, known, Sine(), new)
    bases = local_bases(known, [found.members(c) for c in range(k)], modes=5)
    measured = dictionary_curves(new, bases, labels, 5)[1:].mean(axis=1)
    assert (predicted / measured)[:3].min() > 0.8
    assert (predicted / measured)[:3].max() < 1.35


def test_units_do_not_change_the_prediction():
    here = predict_errors(held(travelling(60)), Sine(), (4,), 6)
    there = predict_errors(held(1e9 * travelling(60)), Sine(), (4,), 6)
    np.testing.assert_allclose(there.error, here.error, atol=1e-9)
    np.testing.assert_allclose(there.width, here.width, atol=1e-9)


def test_trajectories_count_as_one_member_each():
    snapshots = some(30, 3, dof=60, seed=2, rank=7)
    errors = predict_errors(held(snapshots, 3), Sine(), (2,), 8)
    assert errors.levels == 3
    assert errors.error[0, 7] < 1e-10
    assert errors.error.shape == (2, 9)
    assert [s.sum() for s in errors.sizes] == [30, 30]


# -- costs -----------------------------------------------------------------------------------------


def table(base=0.5):
    """A global basis that needs many modes; a dictionary that needs fewer."""
    n = np.arange(11)
    single, local = 0.9**n, base**n
    beyond = 0.9 ** np.arange(60)
    sizes = [np.array([240]), np.full(10, 24)]
    grid = np.stack([single, local])
    return Errors(np.array([1, 10]), grid, grid, grid, beyond, sizes, np.ones(2), np.array([np.nan, 0.5]))


def test_both_cost_the_same_where_it_breaks_even():
    errors = table()
    dear = dataclasses.replace(RATES, training=100.0)
    row = assess(errors, dear, 10, 4, 1.0)
    assert row.equal == 27
    assert 0.9**27 <= 0.5**4 < 0.9**26
    assert row.break_even > 0
    at = assess(errors, dear, 10, 4, row.break_even)
    assert at.gain == pytest.approx(1.0)
    assert assess(errors, dear, 10, 4, 2 * row.break_even).gain > 1 > assess(errors, dear, 10, 4, 1.0).gain
    assert dear.total(10, 4, row.against_full) == pytest.approx(row.against_full * dear.full)
    assert "it pays from" in decide(errors, dear, 0.1, 1e7).words


def test_a_dictionary_that_hardly_lowers_the_error_is_not_proposed():
    free = dataclasses.replace(RATES, selector=0.0, training=0.0)
    slightly, much = decide(table(0.89), free, 0.4, 1e4), decide(table(0.85), free, 0.4, 1e4)
    assert 0.89**8 / 0.9**8 > 0.8 > 0.85**6 / 0.9**6
    assert (slightly.choice, slightly.modes) == ("global", 9)
    assert (much.choice, much.clusters, much.modes) == ("rom_net", 10, 6)


def test_a_dictionary_needs_two_members_for_each_mode():
    errors = dataclasses.replace(table(), sizes=[np.array([40]), np.full(10, 4)])
    assert decide(errors, RATES, 0.25, 1e6).modes == 2
    assert decide(errors, RATES, 0.2, 1e6).choice == "global"


def test_what_is_cheaper_in_everything_pays_at_once_and_what_is_dearer_never():
    errors = table()
    assert assess(errors, dataclasses.replace(RATES, training=0.0), 10, 4, 10).break_even == 0
    assert np.isnan(assess(errors, dataclasses.replace(RATES, selector=1.0), 10, 4, 10).break_even)
    assert np.isnan(assess(errors, dataclasses.replace(RATES, full=float("nan")), 10, 4, 10).against_full)
    assert assess(errors, RATES, 10, 10, 10).equal == -1
    assert assess(errors, RATES, 1, 4, 10).gain == 1


def test_time_in_another_unit_changes_no_verdict():
    errors = table()
    for queries in (10, 1e3, 1e5):
        here = decide(errors, RATES, 0.1, queries)
        there = decide(
            errors,
            dataclasses.replace(
                RATES,
                full=RATES.full * 1e3,
                online=tuple(1e3 * a for a in RATES.online),
                **{n: 1e3 * getattr(RATES, n) for n in ("selector", "offline", "training")},
            ),
            0.1,
            queries,
        )
        assert (here.choice, here.clusters, here.modes) == (there.choice, there.clusters, there.modes)


def test_given_costs_are_taken_and_others_are_measured():
    given = Costs(full=2.0, online=(1.0, 2.0, 3.0), selector=0.5, offline=0.25, training=7.0)
    rates = resolve(given, 10, 20, 99.0)
    assert (rates.full, rates.online, rates.selector, rates.offline) == (2.0, (1.0, 2.0, 3.0), 0.5, 0.25)
    assert set(rates.sources.values()) == {"given"}
    assert rates.query(1, 2) == 1 + 2 * 10 * 2 * 2 + 3 * 8
    assert rates.query(3, 2) == rates.query(1, 2) + 0.5
    assert rates.build(1, 2) == 0.25 * 10 * 4
    measured = resolve(Costs(), 10, 20, 99.0)
    assert measured.full == 99.0
    assert measured.sources["full"] == "wall time of the ensemble, per member"
    assert np.isnan(resolve(Costs(), 10, 20, None).full)
    a0, a1, a2 = measure_online(10.0)
    assert min(a0, a1, a2) >= 0
    assert 1e-6 < a0 + a1 * 10 * 400 + a2 * 8000 < 0.05
    assert 0 < measure_selector() < 0.01


def test_a_silhouette_is_that_of_its_definition():
    near = np.random.default_rng(0).random((20, 4))
    two = np.sort(near, axis=1)
    assert silhouette(near) == pytest.approx((1 - two[:, 0] / two[:, 1]).mean())
    assert np.isnan(silhouette(near[:, :1]))


@pytest.mark.parametrize(
    ("clusters", "modes", "folds", "words"),
    [
        ((25,), 3, 5, "25 clusters were asked for, but 24 of the 30 members are left"),
        ((2,), 3, 31, "cannot be parted into 31 folds"),
        ((2,), 0, 5, "at least 1"),
        ((0,), 3, 5, "at least 1"),
    ],
)
def test_what_cannot_be_held_out_is_refused(clusters, modes, folds, words):
    with pytest.raises(Invalid, match=words):
        predict_errors(held(some(30)), Sine(), clusters, modes, folds=folds)


def test_as_many_clusters_as_members_are_left_is_the_limit():
    errors = predict_errors(held(some(30)), Sine(), (27,), 3)
    assert errors.error[1, 3] == errors.error[1, 1]


# -- the stage and the report ----------------------------------------------------------------------


@pytest.fixture
def compression(store):
    values = (travelling(60) + 0.0).T
    ensemble = write(store, values, ("x",), coordinates={"x": X[:, 0]})
    return ensemble, publish(Compress(field="u", product="euclidean"), store, "1", ensemble=ensemble)


def test_the_stage_writes_the_table_and_the_verdict_and_the_report_shows_both(store, compression):
    _, compressed = compression
    stage = Assess(tolerance=0.2, clusters=(3, 6), modes=(2, 4), costs=Costs(full=10.0))
    made = publish(stage, store, "2", compression=compressed)
    assert made.read("clusters").tolist() == [1, 3, 6]
    assert made.read("error").shape == (3, 5)
    assert made.read("gain").shape == (3, 2)
    assert (made.read("gain")[0] >= 1 - 1e-12).all()
    about = made.attributes
    assert about["choice"] in ("rom_net", "global", "none")
    ((title, body),) = sections(made)
    assert "worth building" in title
    assert about["verdict"].split(".")[0] in body
    assert body.count("<tr>") == 1 + 6 + 1 + 3 + 1 + 5
    assert sections(compressed) == []


def test_the_stage_refuses_another_ensemble_and_too_many_clusters(store, compression):
    ensemble, compressed = compression
    other = write(store, travelling(60, 1).T, ("x",), coordinates={"x": X[:, 0]}, recipe="7")
    Assess().check({"compression": compressed, "ensemble": ensemble})
    with pytest.raises(Invalid, match="was not made of"):
        Assess().check({"compression": compressed, "ensemble": other})
    with pytest.raises(Invalid, match="ask for fewer clusters"):
        Assess(clusters=(45,)).check({"compression": compressed})
    for wrong in ({"tolerance": 0.0}, {"queries": -1}, {"modes": ()}, {"folds": 1}, {"clusters": (0,)}):
        with pytest.raises(Invalid):
            Assess(**wrong)
    for wrong in ({"full": -1.0}, {"online": (0.0, -1.0, 0.0)}, {"training": -1.0}, {"solves": 0}):
        with pytest.raises(Invalid):
            Costs(**wrong)
    assert seconds_of_member(ensemble) is None


def test_numbers_of_clusters_are_chosen_by_the_number_of_members():
    assert suitable(300) == (2, 3, 5, 8, 12, 20, 30)
    assert suitable(10) == (2,)
    assert suitable(2) == ()


def test_a_settings_file_can_say_all_of_it():
    stage = Assess(clusters=(2, 3), costs=Costs(full=1.0, online=(1.0, 2.0, 3.0)))
    assert Assess.from_json(stage.to_json()) == stage
