"""Online trainings end to end: jobs that talk over ZeroMQ, and what is left of them in the store."""

import asyncio

import numpy as np
import pytest

from sciflow import Invalid, Missing, NotFound, Resources, report, run
from sciflow.flow import within
from sciflow.stages.design import Design
from sciflow.stages.evaluate import Evaluate
from sciflow.stages.simulate import Simulate
from sciflow.stages.train import Train, load_model
from sciflow_online.components import OnlineTrain
from sciflow_online.reservoirs import FIFO, FIRO, Reservoir
from sciflow_online.steering import Breed, SobolSteering
from tests.online.runs import running, session, settled_uses, stage, train
from tests.online.toys import Mean, Moody
from tests.toys import Block, Least, March, Steps, Wave

COUNT = 20


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """One run that several tests look at: its session, stage and model."""
    here = session(tmp_path_factory.mktemp("store"))
    made = stage(keep=True, seed=3)
    return here, made, train(here, made)


def alike(here, stage, **inputs):
    with within(here):
        return asyncio.run(run(stage, **inputs))


def test_every_sample_came_once_and_was_drawn_as_often_as_it_must(base):
    _, made, model = base
    samples = 12 * 4
    settled_uses(model, samples, made.surrogate.epochs)
    about = model.attributes["online"]
    assert (about["samples"], about["duplicates"], about["refused"], about["resubmitted"]) == (
        samples,
        0,
        0,
        0,
    )
    assert model.attributes["failures"] == {}
    assert model.attributes["window"] == [0, 1]
    assert model.attributes["parameters"] == ["a", "b"]
    draws = model.read("history_draws")
    assert draws.tolist() == [samples] * 4, "each report is one pass"
    assert (model.read("history_held") == 4 * 4).all(), "all validation samples are there from the start"


def test_curves_say_what_went_on(base):
    here, _, model = base
    wanted = {
        "train_loss", "reservoir_fill", "reservoir_age_mean", "reservoir_uses_mean", "received", "drawn",
        "received_per_second", "drawn_per_second", "trainer_idle", "solvers_blocked", "members_done",
        "members_failed", "members_running", "resubmitted",
    }  # fmt: skip
    assert {f"history_{name}" for name in wanted} <= set(model.schema.fields)
    for name in ("trainer_idle", "solvers_blocked", "reservoir_fill"):
        values = model.read(f"history_{name}")
        assert ((values >= 0) & (values <= 1)).all(), name
    steps = [e["step"] for s, e in here.events if s.startswith("online_train") and e["event"] == "metric"]
    assert steps == [1, 2, 3, 4]
    shown = [e for s, e in here.events if s.startswith("online_train") and e["event"] == "progress"]
    assert "the trainer waited" in shown[-1]["figures"]
    assert shown[-1]["done"] == shown[-1]["total"] == 4


def test_the_members_are_divided_as_those_of_a_stored_training(base):
    here, made, model = base
    with within(here):
        points = asyncio.run(run(Design(problem=made.problem, count=COUNT)))
        data = asyncio.run(run(Simulate(made.problem, seed=3), design=points))
        other = asyncio.run(
            run(Train(Least(), ("a",), ("u[0]",), made.train, made.valid, seed=3), ensemble=data)
        )
    for part in ("train_members", "valid_members", "test_members"):
        assert model.read(part).tolist() == other.read(part).tolist()


def test_what_was_kept_is_the_ensemble_that_simulate_makes(base, tmp_path):
    here, made, model = base
    points = alike(here, Design(problem=made.problem, count=COUNT))
    data = alike(here, Simulate(made.problem, seed=3), design=points)
    assert here.records[-1].state == "cached"
    assert model.attributes["ensemble"] == data.digest
    elsewhere = session(tmp_path)
    points = alike(elsewhere, Design(problem=made.problem, count=COUNT))
    apart = alike(elsewhere, Simulate(made.problem, seed=3), design=points)
    assert elsewhere.records[-1].state == "computed"
    assert data.read("status").tolist() == [1] * COUNT
    assert data.digest == apart.digest


def test_the_model_is_evaluated_on_what_was_kept_and_the_report_says_who_waited(base):
    here, made, model = base
    points = alike(here, Design(problem=made.problem, count=COUNT))
    data = alike(here, Simulate(made.problem, seed=3), design=points)
    score = alike(here, Evaluate(), model=model, ensemble=data, training=data)
    test = model.read("test_members")
    assert score.read("members").tolist() == np.repeat(test, 4).tolist()
    with within(here):
        page = asyncio.run(report("Online", score, model)).read_text()
    for words in ("Training while the solvers ran", "the trainer waited for samples", "reservoir"):
        assert words in page


def test_a_second_run_is_the_same_artifact_and_where_it_runs_does_not_matter(base):
    here, made, model = base
    again = train(here, made.replace(credits=3, patience=1.0, trainer=Resources(ranks=2), gather="root"))
    assert here.records[-1].state == "cached"
    assert again.digest == model.digest


def test_nothing_of_a_run_is_left_behind(base):
    here, _, _ = base
    assert running(here.store.root) == []
    assert list((here.store.root / "partial").iterdir()) == []


def weights(model):
    return {k: np.asarray(v).tobytes() for k, v in load_model(model).state().items()}


@pytest.mark.mpi
def test_ranks_of_a_solver_and_who_gathers_do_not_change_what_is_learned(tmp_path):
    pytest.importorskip("mpi4py")
    made = stage(
        March(levels=3), inputs_of=("a", "time"), outputs_of=("v",), order="fixed",
        reservoir=Reservoir(capacity=8, threshold=4),
    )  # fmt: skip
    found = [
        weights(train(session(tmp_path / f"{ranks}{gather}"), made.replace(gather=gather), 10, ranks=ranks))
        for ranks, gather in ((1, "owner"), (2, "owner"), (2, "root"))
    ]
    assert found[0] == found[1] == found[2]


@pytest.mark.mpi
def test_two_trainer_ranks_share_the_samples(tmp_path):
    pytest.importorskip("mpi4py")
    made = stage(March(levels=3), inputs_of=("a", "time"), outputs_of=("v",), trainer=Resources(ranks=2))
    here = session(tmp_path)
    model = train(here, made, 10, ranks=2)
    assert model.attributes["online"]["samples"] == 6 * 3
    assert model.attributes["failures"] == {}
    assert running(here.store.root) == []


@pytest.mark.parametrize(
    ("problem", "inputs", "block"), [(Block(), ("a", "b", "time"), True), (Steps(), ("b", "u"), False)]
)
def test_batched_problems_and_such_that_choose_their_steps(tmp_path, problem, inputs, block):
    window = (0, 1) if block else (1, 1)
    made = stage(problem, inputs_of=inputs, window=window, keep=True, minimum=0.5)
    here = session(tmp_path)
    model = train(here, made, 40)
    roots = set(here.store.root.glob("artifacts/ensemble-*"))
    assert len(roots) == 1
    failed = {int(m) for m in model.attributes["failures"]}
    points = model.read("points")
    assert failed == (set(np.flatnonzero(points[:, 0] > 1.95).tolist()) if block else set())
    train_members = model.read("train_members")
    per_member = np.full(40, 2) if block else np.array([len(problem.times(a)) - 1 for a in points[:, 0]])
    assert model.attributes["online"]["samples"] >= per_member[train_members].sum()
    data = alike(here, Design(problem=problem, count=40))
    data = alike(here, Simulate(problem, minimum=0.5), design=data)
    assert (here.records[-1].state == "cached") == (not block)
    assert data.members().tolist() == sorted(set(range(40)) - failed)


@pytest.mark.parametrize("steering", [Breed(), SobolSteering()])
def test_steered_members_are_elsewhere_and_within_the_space(tmp_path, steering):
    made = stage(steering=steering, keep=True)
    here = session(tmp_path)
    model = train(here, made)
    points = alike(here, Design(problem=made.problem, count=COUNT)).read("parameters")
    steered, members = model.read("points"), model.read("train_members")
    assert np.array_equal(steered[model.read("valid_members")], points[model.read("valid_members")])
    assert not (steered[members] == points[members]).all(axis=1).any()
    for i, parameter in enumerate(made.problem.parameters.values()):
        assert ((steered[:, i] >= parameter.low) & (steered[:, i] <= parameter.high)).all()
    (ensemble,) = here.store.root.glob("artifacts/ensemble-*")
    from sciflow.artifact import Artifact

    assert Artifact.open(ensemble).read("parameters").tobytes() == steered.tobytes()
    alike(here, Simulate(made.problem), design=alike(here, Design(problem=made.problem, count=COUNT)))
    assert here.records[-1].state == "computed", "steered members are not those of the design"


@pytest.mark.parametrize(
    ("policy", "order"),
    [(FIFO(capacity=6), "fixed"), (FIFO(capacity=3), "fixed"), (FIRO(capacity=3), "arrival")],
)
def test_reservoirs_that_use_samples_once_do_so(tmp_path, policy, order):
    """Also where a batch, here four samples, is larger than the reservoir."""
    model = train(session(tmp_path), stage(reservoir=policy, order=order), 10)
    settled_uses(model, 6 * 4, 1)


def test_a_whole_member_as_one_sample_for_an_operator(tmp_path):
    pytest.importorskip("torch")
    from sciflow_operators.components import FNO

    surrogate = FNO(width=4, modes=2, layers=1, epochs=3, batch=4, threads=1, device="cpu")
    made = stage(Wave(), surrogate, inputs_of=("a", "b"), window=None, repeats=2.0)
    model = train(session(tmp_path), made, 10)
    settled_uses(model, 6, 2)
    assert np.isfinite(model.read("history_valid_error")).all()


def refused(tmp_path, made, count=5):
    here = session(tmp_path)
    points = alike(here, Design(problem=made.problem, count=count))
    with within(here):
        return asyncio.run(run(made, design=points))


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"inputs_of": ("a", "c")}, NotFound, "no field or parameter 'c'"),
        ({"inputs_of": ("a", "u")}, Invalid, "'u' has a time axis"),
        ({"window": (3, 3), "inputs_of": ("u",)}, Invalid, "longer than the trajectories"),
        ({"window": None}, NotFound, "'time'"),
    ],
)
def test_fields_and_windows_that_do_not_fit_are_refused_before_anything_starts(
    tmp_path, change, error, words
):
    with pytest.raises(error, match=words):
        refused(tmp_path, stage(**change))


def test_a_controller_that_cannot_steer_is_refused_before_anything_starts(tmp_path):
    from sciflow_control.controllers.fixed_step import FixedStep
    from sciflow_spectral.components import Burgers

    problem = Burgers(points=16, solve_points=64, levels=3, stepping=FixedStep(2.0))
    with pytest.raises(Invalid, match="the solver takes dt from"):
        refused(tmp_path, stage(problem, inputs_of=("viscosity", "time")))


def test_without_pyzmq_it_says_what_to_install(tmp_path, monkeypatch):
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n, *a: None if n == "zmq" else real(n, *a))
    with pytest.raises(Missing, match=r"pip install 'sciflow\[online\]'"):
        refused(tmp_path, stage())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"reservoir": FIFO(), "repeats": 3.0}, "'fifo' uses each sample once; repeats=3"),
        ({"order": "fixed", "trainer": Resources(ranks=2)}, "fixed order needs a single trainer rank"),
        ({"order": "fixed", "steering": Breed()}, "does not go with a fixed order"),
        ({"train": 0.8, "valid": 0.2}, "below one in all"),
        ({"lanes": 0}, "must be at least 1"),
        ({"credits": 0}, "must be at least 1"),
        ({"attempts": 0}, "must be at least 1"),
        ({"repeats": -1.0}, "cannot be negative"),
        ({"patience": 0.0}, "must be positive"),
        ({"heartbeat": 0.0}, "must be positive"),
        ({"minimum": 1.5}, "between 0 and 1"),
        ({"inputs_of": ()}, "at least one input"),
    ],
)
def test_configurations_that_make_no_sense_are_refused(change, words):
    with pytest.raises(Invalid, match=words):
        stage(**change)


def test_where_and_how_patiently_it_runs_is_no_part_of_its_identity():
    made = stage()
    other = made.replace(
        transport="mpi", attempts=5, minimum=0.1, credits=2, heartbeat=1.0, patience=1.0,
        checkpoint_seconds=5.0, gather="root", listen="127.0.0.1", trainer=Resources(ranks=3),
    )  # fmt: skip
    assert made.identity() == other.identity()
    for change in ({"seed": 1}, {"repeats": 2.0}, {"keep": True}, {"surrogate": Mean(step=1.0)}):
        assert made.replace(**change).identity() != made.identity()
    assert isinstance(other, OnlineTrain)
    assert other.problem == Moody()
