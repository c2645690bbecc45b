"""Plain HDF5 files: what may be guessed is, what is ambiguous is refused."""

import json
import sys

import numpy as np
import pytest

if "dolfinx" in sys.modules:
    pytest.skip(
        "h5py and dolfinx bring different HDF5 libraries: run tests/formats alone", allow_module_level=True
    )
h5py = pytest.importorskip("h5py")

from sciflow.artifact.verify import findings
from sciflow.errors import Invalid
from sciflow.formats import import_ensemble
from sciflow.store import Store

RNG = np.random.default_rng(0)
STEADY, TIMED, GRID = RNG.random((4, 7)), RNG.random((4, 3, 7)), RNG.random((4, 3, 6, 5)).astype("f4")


def write(path, **content):
    with h5py.File(path, "w") as file:
        for name, values in content.items():
            file[name.replace("__", "/")] = values
    return path


def load(path, tmp_path):
    made = import_ensemble(path, None, Store(tmp_path / "store", "rename"))
    assert made.provenance["stage"]["format"] == "hdf5"
    assert not [f for f in findings(made.path, "semantic") if f.severe]
    return made


def test_names_and_lengths_tell_what_is_what(tmp_path):
    path = write(
        tmp_path / "a.h5", T=STEADY, results__U=TIMED, p=GRID, mu=np.arange(4.0), time=np.array([0, 0.5, 2]),
        y=np.linspace(0, 1, 6), x=np.linspace(0, 1, 5), title="words are left out",
    )  # fmt: skip
    with h5py.File(path, "r+") as file:
        file["T"].attrs["units"], file["mu"].attrs["units"], file["time"].attrs["units"] = "K", "Pa", b"s"
    made = load(path, tmp_path)
    assert made.schema["t"].axes == ("member", "dof")
    assert made.schema["results_u"].axes == ("member", "time", "dof")
    assert made.schema["p"].axes == ("member", "time", "y", "x")
    assert (made.schema["t"].unit, made.schema["time"].unit) == ("K", "s")
    for name, values in (("t", STEADY), ("results_u", TIMED), ("p", GRID)):
        np.testing.assert_array_equal(made.read(name), values)
    assert made.read("time").tolist() == [0, 0.5, 2]
    assert made.read("dof").tolist() == list(range(7))
    assert made.attributes["parameters"] == ["mu"]
    assert made.attributes["parameter_units"] == ["Pa"]
    assert made.read("parameters")[:, 0].tolist() == [0, 1, 2, 3]


def test_attributes_and_dimension_labels_name_the_axes(tmp_path):
    path = write(
        tmp_path / "a.h5", a=TIMED.transpose(0, 2, 1), b=TIMED, parameters=np.arange(8.0).reshape(4, 2)
    )
    with h5py.File(path, "r+") as file:
        file["a"].attrs["axes"] = ["member", "node", "time"]
        for dim, label in zip(file["b"].dims, ("member", "time", "node"), strict=True):
            dim.label = label
        file["parameters"].attrs["names"] = ["nu", "Re"]
    made = load(path, tmp_path)
    assert made.schema["a"].axes == made.schema["b"].axes == ("member", "time", "node")
    np.testing.assert_array_equal(made.read("a"), TIMED)
    np.testing.assert_array_equal(made.read("a"), made.read("b"))
    assert made.attributes["parameters"] == ["nu", "re"]
    assert made.read("parameters").tolist() == np.arange(8.0).reshape(4, 2).tolist()


def test_dimension_scales_are_coordinates(tmp_path):
    path = write(tmp_path / "a.h5", u=TIMED, t=np.array([1.0, 2, 4]))
    with h5py.File(path, "r+") as file:
        file["t"].make_scale("t")
        file["u"].dims[1].attach_scale(file["t"])
        file["u"].dims[2].label = "dof"
    made = load(path, tmp_path)
    assert made.schema["u"].axes == ("member", "time", "dof") or made.schema["u"].axes == (
        "member",
        "t",
        "dof",
    )
    np.testing.assert_array_equal(made.read("u"), TIMED)


def test_a_note_decides_what_is_imported(tmp_path):
    table = np.arange(8.0).reshape(4, 2)
    path = write(
        tmp_path / "a.h5", big__one=TIMED, other=np.zeros((2, 9)), inputs=table, t=np.array([0, 1.0, 4])
    )
    note = tmp_path / "a.json"
    note.write_text(
        json.dumps(
            {
                "fields": {"u": {"dataset": "big/one", "axes": ["member", "time", "node"], "unit": "m"}},
                "parameters": {"load": {"dataset": "inputs", "column": 1, "unit": "N"}},
                "coordinates": {"time": {"dataset": "t", "unit": "s"}},
            }
        )
    )
    made = load(path, tmp_path)
    np.testing.assert_array_equal(made.read("u"), TIMED)
    assert (made.schema["u"].unit, made.schema["time"].unit) == ("m", "s")
    assert made.attributes["parameters"] == ["load"]
    assert made.attributes["parameter_units"] == ["N"]
    assert made.read("parameters")[:, 0].tolist() == [1, 3, 5, 7]
    note.write_text(note.read_text().replace('"N"', '"kN"'))
    assert load(path, tmp_path).attributes["parameter_units"] == ["kN"]  # another note, another import


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (
            {"u": TIMED},
            r"u: shape \(4, 3, 7\), and axis 1 is no known coordinate; say which: an attribute 'axes'",
        ),
        ({"u": np.zeros((4, 3, 3)), "time": np.arange(3.0)}, "axis 2 may be any of .'time'."),
        ({"u": STEADY, "x": np.arange(7.0), "y": np.arange(7.0)}, r"axis 1 may be any of \['x', 'y'\]"),
        ({"u": STEADY, "v": np.zeros((5, 7))}, r"lengths differ: u \(4, 7\), v \(5, 7\)"),
        (
            {"u": STEADY, "mu": np.zeros(3)},
            "mu: 3 values, but there are 4 members; it is neither a parameter",
        ),
        ({"u": STEADY, "v": np.zeros((4, 9))}, "v: 9 points along 'dof', but 7 elsewhere"),
        ({"mu": np.zeros(4)}, "there are no fields"),
        ({"u": np.zeros((0, 7))}, "there are no members"),
        ({"u": STEADY, "mu": np.full(4, np.nan)}, "parameter 'mu' is not finite"),
        ({"u": np.full((4, 7), np.nan)}, "member 0, field 'u' is not finite"),
        ({"u": STEADY, "x": np.zeros(7)}, "coordinates of 'x' are not monotone"),
        ({"U": STEADY, "u": STEADY}, "would both be called 'u'"),
    ],
)
def test_what_is_ambiguous_is_refused(tmp_path, content, match):
    path = write(tmp_path / "a.h5", **content)
    store = Store(tmp_path / "store", "rename")
    with pytest.raises(Invalid, match=match):
        import_ensemble(path, None, store)
    assert list(store.artifacts()) == []


@pytest.mark.parametrize(
    ("note", "match"),
    [
        ({"fields": {"w": {}}}, "/w: not there"),
        (
            {"fields": {"u": {"axes": ["member", "dof", "x"]}}},
            r"axes \['member', 'dof', 'x'\] for the shape \(4, 7\)",
        ),
        ({"fields": {"u": {"axes": ["dof", "member"]}}}, "'member' first"),
        ({"field": {}}, "fields"),
        ({"fields": {"My u": {"dataset": "u"}}}, "must be called like 'my_u'"),
        ({"fields": {"u": {}}, "parameters": {"a": {"dataset": "u"}}}, "name a 'column'"),
        ([], "a.json"),
    ],
)
def test_a_note_that_does_not_fit_is_refused(tmp_path, note, match):
    path = write(tmp_path / "a.h5", u=STEADY)
    (tmp_path / "a.json").write_text(json.dumps(note))
    with pytest.raises(Invalid, match=match):
        import_ensemble(path, None, Store(tmp_path / "store", "rename"))


def test_lone_numpy_arrays_of_degrees_of_freedom(tmp_path):
    """A (member, dof) array must not become as many time levels as it has degrees of freedom."""
    store = Store(tmp_path / "store", "rename")
    np.savez(tmp_path / "a.npz", u=STEADY, mu=np.arange(4.0))
    made = import_ensemble(tmp_path / "a.npz", None, store)
    assert made.schema["u"].axes == ("member", "dof")
    np.testing.assert_array_equal(made.read("u"), STEADY)
    assert made.attributes["parameters"] == ["mu"]
    np.savez(tmp_path / "b.npz", u=STEADY, time=np.linspace(0, 1, 7))
    assert import_ensemble(tmp_path / "b.npz", None, store).schema["u"].axes == ("member", "time")
