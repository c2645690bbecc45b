import dataclasses
from dataclasses import dataclass
from typing import ClassVar, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sciflow.component import Component, canonical, check_choices, check_class, check_parts, digest_of
from sciflow.errors import Invalid, NotFound, nearest
from sciflow.executor import Executor
from sciflow.executors.mpi import Mpi
from sciflow.problem import Problem
from sciflow.stages.simulate import Simulate
from tests.toys import Block, Wave


@dataclass(frozen=True)
class Inner:
    depth: int = 2


@dataclass(frozen=True)
class Sample(Component):
    """For these tests."""

    name: ClassVar[str] = "sample"
    width: int = 3
    rate: float = 0.5
    tags: tuple[str, ...] = ()
    mode: Literal["a", "b"] = "a"
    inner: Inner = Inner()
    solver: Mpi | None = None


samples = st.builds(
    Sample,
    width=st.integers(-(2**40), 2**40),
    rate=st.floats(allow_nan=False, allow_infinity=False),
    tags=st.lists(st.text(max_size=5), max_size=3).map(tuple),
    mode=st.sampled_from(["a", "b"]),
    inner=st.builds(Inner, depth=st.integers(0, 9)),
    solver=st.none() | st.builds(Mpi, launcher=st.sampled_from(["mpirun", "srun"])),
)


@given(samples)
def test_json_round_trip_is_the_identity(component):
    again = Sample.from_json(component.to_json())
    assert again == component
    assert again.digest() == component.digest()


@given(samples, samples)
def test_digests_are_equal_only_for_equal_configurations(one, other):
    assert (one.digest() == other.digest()) == (one.to_json() == other.to_json())


def test_of_many_names_the_closest_are_listed():
    names = [f"field_{i}" for i in range(99)]
    said = nearest("field_7x", names)
    assert said.startswith("Did you mean 'field_7'? There is: ")
    assert said.endswith(" and 75 more.")
    assert "field_77" in said
    assert nearest("x", ["b", "a"]) == "There is: a, b."


def test_a_setting_that_is_none_of_its_choices_is_refused_in_python_too():
    check_choices(Sample(mode="b"))
    with pytest.raises(Invalid, match="sample: mode 'c' is not one of a, b"):
        check_choices(Sample(mode="c"))


def test_a_higher_revision_is_another_identity():
    @dataclass(frozen=True)
    class Later(Sample):
        name: ClassVar[str] = "sample"
        revision: ClassVar[int] = 2

    assert Later().to_json() == Sample().to_json()
    assert Later().digest() != Sample().digest()


@given(st.dictionaries(st.text(max_size=4), st.integers(), max_size=4))
def test_the_order_of_keys_does_not_change_a_digest(document):
    assert digest_of(dict(reversed(list(document.items())))) == digest_of(document)


def test_nan_has_no_canonical_text():
    with pytest.raises(Invalid, match="not plain JSON"):
        canonical({"a": float("nan")})


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"widht": 3}, "sample has no setting 'widht'. Did you mean 'width'"),
        ({"width": "three"}, "sample.width: .*'three'"),
        ({"width": 1.5}, "sample.width"),
        ({"mode": "c"}, "sample.mode: .*'a' or 'b'"),
        ({"inner": {"depht": 1}}, "sample.inner.*depht"),
        ({"inner": {"depth": "x"}}, "sample.inner.depth"),
        ({"solver": {"component": "local"}}, "sample.solver.*a mpi was expected, got 'local'"),
        ({"component": "other"}, "a sample was expected, got 'other'"),
    ],
)
def test_a_wrong_setting_is_named_with_its_path(document, message):
    with pytest.raises(Invalid, match=message):
        Sample.from_json(document)


def test_something_that_is_no_mapping_is_refused():
    with pytest.raises(Invalid, match="a mapping of settings was expected, got list"):
        Sample.from_json([1])


def test_an_abstract_field_takes_any_component_by_name():
    stage = Simulate.from_json({"problem": {"component": "toy_wave", "points": 5}})
    assert stage.problem == Wave(points=5)
    assert Simulate.from_json(stage.to_json()) == stage


def test_an_unknown_component_suggests_the_nearest():
    with pytest.raises(Invalid, match="no problem 'toy_wav' is installed. Did you mean 'toy_wave'"):
        Simulate.from_json({"problem": {"component": "toy_wav"}})


def test_a_component_of_another_kind_is_refused():
    with pytest.raises(Invalid, match="a problem was expected, got the executor 'mpi'"):
        Simulate.from_json({"problem": Mpi()})


def test_the_registry_knows_kinds_apart():
    from sciflow.registry import registry

    assert registry().find("mpi", kind="executor") is Mpi
    with pytest.raises(NotFound, match="no stage 'mpi'"):
        registry().find("mpi", kind="stage")
    assert issubclass(registry().find("toy_block"), Problem)
    assert registry().find("toy_block") is Block


def test_components_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Sample().width = 4


def test_rules_for_classes():
    class NoDataclass(Sample):
        pass

    @dataclass
    class Thawed(Executor):
        name: ClassVar[str] = "thawed"

        def submit(self, spec, directory, resources):
            raise NotImplementedError

    @dataclass(frozen=True)
    class BadName(Sample):
        name: ClassVar[str] = "Bad Name"

    for cls, message in (
        (NoDataclass, "frozen=True"),
        (Thawed, "frozen=True"),
        (BadName, "matching"),
        (Problem, "define"),
    ):
        with pytest.raises(Invalid, match=message):
            check_class(cls)


@dataclass(frozen=True)
class Holder(Component):
    """Holds two others."""

    name: ClassVar[str] = "holder"
    inner: Sample
    other: Mpi | Sample | None = None

    def __post_init__(self):
        check_parts(self)


def test_what_should_be_a_component_and_is_none_is_refused():
    assert Holder(Sample(), Mpi()).other == Mpi()
    for inner, other, message in (
        ("pi", None, "inner is a component of the kind component, got 'pi'"),
        (None, None, "inner is"),
        (Mpi(), None, "inner is"),
        (Sample(), 3, "other is a component of the kind component or executor, got 3"),
    ):
        with pytest.raises(Invalid, match=f"holder: {message}"):
            Holder(inner, other)
