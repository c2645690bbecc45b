"""What arrives is what `Stored` would read: the same samples to the bit, whoever sends which part when."""

import asyncio
import itertools
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sciflow import Context, Invalid, NotFound, Part, Share, run
from sciflow.flow import Session, within
from sciflow.problem import member_seed
from sciflow.stages.design import Design
from sciflow.stages.simulate import Simulate
from sciflow.store import Store
from sciflow.stored import Stored
from sciflow_online.intake import Intake, Recipe
from sciflow_online.wire import Header, Kind, dtype_code
from tests.toys import March, Steps, Wave

SEED, COUNT = 7, 4
CASES = {
    "whole": (Wave(), ("a", "b", "q"), ("u",), None),
    "one level": (Wave(), ("a", "q", "u[0]"), ("u[-1]",), None),
    "operator": (Wave(), ("a", "b", "q", "time"), ("u",), (0, 1)),
    "operator of two": (March(), ("b", "time"), ("v",), (0, 2)),
    "step": (Wave(), ("u",), ("u",), (1, 1)),
    "two in": (March(), ("u", "a"), ("v",), (2, 1)),
    "bundle": (March(), ("v", "u", "q", "time"), ("u",), (2, 3)),
    "scattered whole": (March(), ("a",), ("v",), None),
    "static out": (Wave(), ("a", "u"), ("q",), None),
    "chosen steps": (Steps(), ("u", "b"), ("u",), (1, 1)),
}


@pytest.fixture(scope="module")
def ensembles(tmp_path_factory):
    """The ensemble of a problem, simulated once."""

    @cache
    def of(problem):
        async def flow():
            points = await run(Design(problem=problem, count=COUNT))
            return await run(Simulate(problem, seed=SEED), design=points)

        with within(Session(Store(tmp_path_factory.mktemp("store")), "test")):
            return asyncio.run(flow())

    return of


def whole(value):
    """A field of a serial solver as one array."""
    if isinstance(value, Part | Share):
        made = np.empty(len(value.values), np.asarray(value.values).dtype)
        made[... if value.index is None else value.index] = value.values
        return made
    return np.ravel(value)


def levels_of(problem, ensemble, member):
    """Levels of a member as its solver yields them: (time, {field: flat values})."""
    names = problem.parameters
    mu = dict(zip(names, ensemble.read("parameters")[member], strict=True))
    for state in problem.solve(mu, Context(member_seed(SEED, member))):
        yield state.time, {n: whole(v) for n, v in state.fields.items() if v is not None}


def parts_of(recipe, member, states, ranks, scattered, seed):
    """All messages of a member, each field cut into ranks; with the INDEX messages that go before."""
    index, data = [], []
    for level, (moment, fields) in enumerate(states):
        for number, kind in enumerate(recipe.fields):
            if kind.name not in fields:
                continue
            values = fields[kind.name].astype(kind.dtype)
            rng = np.random.default_rng([seed, number])
            order = rng.permutation(kind.size) if scattered else np.arange(kind.size)
            cuts = np.linspace(0, kind.size, ranks + 1).astype(int)
            for rank, (start, end) in enumerate(itertools.pairwise(cuts)):
                mine = order[start:end]
                if scattered and level == 0:
                    head = Header(
                        Kind.INDEX, dtype_code("int64"), number, rank, ranks, start=start, count=len(mine)
                    )
                    index.append((rank, head, mine.astype("int64").tobytes()))
                head = Header(
                    Kind.DATA, kind.code, number, rank, ranks, member, 0, level if kind.timed else 0, moment,
                    start, len(mine),
                )  # fmt: skip
                data.append((rank, head, values[mine].tobytes()))
    return index, data


def samples_of(recipe, ensemble, *, ranks=1, scattered=False, seed=0, trainers=1):
    """Every sample that an intake gives, by member and number; parts come in a random order."""
    rng, found = np.random.default_rng(seed), {}
    intakes = [Intake(recipe, COUNT, rank, trainers) for rank in range(trainers)]
    queue = []
    for member in range(COUNT):
        point = ensemble.read("parameters")[member]
        index, data = parts_of(
            recipe, member, levels_of(recipe.problem, ensemble, member), ranks, scattered, seed
        )
        for intake in intakes:
            intake.begin(member, 0, point)
            for rank, head, payload in index:
                intake.place((member, rank), head, payload)
        queue += [((member, rank), head, payload) for rank, head, payload in data]
    for i in rng.permutation(len(queue)) if seed else range(len(queue)):
        peer, head, payload = queue[i]
        kind = recipe.fields[head.field]
        owners = range(trainers) if not kind.timed else [recipe.owner(head.member, head.level, trainers)]
        for owner in owners:
            for sample in intakes[owner].add(peer, head, payload):
                key = sample.member, sample.number
                assert key not in found, "a sample came twice"
                # Its arrays may look into the message.
                found[key] = {k: np.array(v) for k, v in sample.arrays.items()}
    return found


def compare(recipe, found, stored):
    """The multisets are equal to the bit, dtypes included."""
    batch = stored.all()
    assert len(found) == len(stored)
    for i, key in enumerate(sorted(found)):
        for side, arrays in (("x", batch.x), ("y", batch.y)):
            for name, values in arrays.items():
                mine = found[key][f"{side}:{name}"]
                assert mine.dtype == values.dtype, name
                assert mine.shape == values[i].shape, name
                assert mine.tobytes() == values[i].tobytes(), (key, name)
    assert {k: v[1] for k, v in recipe.slabs().items()} == {
        f"{s}:{n}": str(a.dtype) for s, part in (("x", batch.x), ("y", batch.y)) for n, a in part.items()
    }


@pytest.mark.parametrize("case", CASES)
def test_what_arrives_is_what_is_stored(ensembles, case):
    problem, inputs, outputs, window = CASES[case]
    ensemble = ensembles(problem)
    recipe = Recipe(problem, inputs, outputs, window)
    stored = Stored(ensemble, inputs, outputs, window=window)
    compare(recipe, samples_of(recipe, ensemble), stored)
    if "step" not in problem.coordinates():
        assert recipe.signature.to_json() == stored.signature.to_json()
        assert len(stored) == COUNT * recipe.samples


@settings(max_examples=60, deadline=None)
@given(
    case=st.sampled_from([c for c in CASES if c != "chosen steps"]), ranks=st.integers(1, 4),
    scattered=st.booleans(), seed=st.integers(1, 2**32), trainers=st.integers(1, 3),
)  # fmt: skip
def test_neither_order_nor_ranks_nor_trainers_change_the_samples(
    ensembles, case, ranks, scattered, seed, trainers
):
    problem, inputs, outputs, window = CASES[case]
    ensemble = ensembles(problem)
    recipe = Recipe(problem, inputs, outputs, window)
    found = samples_of(recipe, ensemble, ranks=ranks, scattered=scattered, seed=seed, trainers=trainers)
    compare(recipe, found, Stored(ensemble, inputs, outputs, window=window))


def intake(window=(0, 1)):
    made = Intake(Recipe(Wave(), ("a", "q") if window else ("a",), ("u",), window), 3)
    made.begin(1, 2, np.array([1.0, 0.5]))
    return made


def data(**more):
    """A level of u, number 1 of the fields, as it should be; or with something changed."""
    count = more.pop("values", 8)
    head = {"dtype": 1, "field": 1, "member": 1, "attempt": 2, "level": 0, "count": count, **more}
    return Header(Kind.DATA, **head), np.zeros(count, ("", "f4", "f8", "i4")[head["dtype"]]).tobytes()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"field": 2}, r"no field number 2; this run takes 0 q, 1 u"),
        ({"dtype": 2}, r"field 'u': values of type float64, this run takes float32"),
        ({"dtype": 3}, r"field 'u': values of type int32, this run takes float32"),
        ({"values": 9}, r"field 'u': 9 values, a level has 8"),
        ({"values": 4, "start": 6}, r"field 'u': values 6 to 9, a level has 8"),
        ({"start": 2**63}, r"field 'u': values 9223372036854775808 to"),
        ({"level": 3}, r"field 'u': time level 3, a member has 3"),
        ({"level": -1}, r"field 'u': time level -1, a member has 3"),
        ({"field": 0}, r"field 'q': values of type float32, this run takes float64"),
    ],
)
def test_what_cannot_be_right_is_refused_by_name(change, words):
    with pytest.raises(Invalid, match=words):
        intake().add("p", *data(**change))


def test_a_value_that_is_not_finite_is_refused_by_name():
    head, _ = data(level=1)
    for bad in (np.nan, np.inf, -np.inf):
        values = np.array([0, 1, bad, 3, 4, 5, 6, 7], "f4")
        with pytest.raises(Invalid, match="field 'u' is not finite at time level 1"):
            intake().add("p", head, values.tobytes())
    # Large values whose squares overflow are finite.
    assert intake().add("p", head, np.full(8, 3e38, "f4").tobytes()) == []


@pytest.mark.parametrize(
    ("field", "positions", "words"),
    [
        (1, [0, 8], "field 'u': positions outside 0 to 7"),
        (1, [-1, 2], "field 'u': positions outside 0 to 7"),
        (5, [0], "positions for field number 5; there are 2"),
    ],
)
def test_positions_that_do_not_lie_in_the_field_are_refused_by_name(field, positions, words):
    head = Header(Kind.INDEX, dtype_code("int64"), field, count=len(positions))
    with pytest.raises(Invalid, match=words):
        intake().place("p", head, np.array(positions).tobytes())


def test_other_attempts_and_strange_members_change_nothing():
    one = intake()
    for change in ({"attempt": 1}, {"attempt": 3}, {"member": 0}, {"member": -1}, {"member": 99}):
        assert one.add("p", *data(**change)) == []
    assert not one.known.any()


def test_what_a_connection_announced_ends_with_it():
    """Another rank may be given the same name; its values lie where it says itself."""
    one = intake(None)
    head = Header(Kind.INDEX, dtype_code("int64"), 0, start=0, count=4)
    one.place("p", head, np.array([7, 6, 5, 4]).tobytes())
    one.forget("p")
    values = np.arange(4, dtype="f4")
    for level in range(3):
        for start in (0, 4):
            found = one.add(
                "p", data(field=0, level=level, values=4, start=start)[0], (values + start).tobytes()
            )
    assert found[0].arrays["y:u"].tolist() == [list(range(8))] * 3


@pytest.mark.parametrize(
    ("inputs", "outputs", "window", "error", "words"),
    [
        (("a", "c"), ("u",), None, NotFound, "no field or parameter 'c'"),
        (("a",), ("w",), None, NotFound, "no field or parameter 'w'"),
        (("a", "u"), ("u",), (0, 1), Invalid, "'u' has a time axis"),
        (("u[0]",), ("u",), (1, 1), Invalid, "a window chooses the time levels"),
        (("q[0]",), ("u",), None, Invalid, "the field 'q' has no time axis"),
        (("u[3]",), ("u",), None, Invalid, "there are 3 time levels"),
        (("u",), ("u",), (2, 2), Invalid, "longer than the trajectories"),
        (("u",), ("u",), (-1, 1), Invalid, "no or more levels in"),
        (("u",), ("u",), (1, 0), Invalid, "one or more out"),
        (("a",), ("q",), (0, 1), Invalid, "a window needs a field with a time axis"),
        (("a", "time"), ("u",), None, NotFound, "'time'"),
        (("a b",), ("u",), None, Invalid, "is not a field"),
    ],
)
def test_fields_and_windows_that_do_not_fit_are_refused(inputs, outputs, window, error, words):
    with pytest.raises(error, match=words):
        Recipe(Wave(), inputs, outputs, window)
