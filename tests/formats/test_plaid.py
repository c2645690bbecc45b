"""PLAID data sets, as pyplaid lays them out; read without pyplaid."""

import subprocess
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

POINTS = np.array([[0, 0], [1, 0], [1, 1], [0, 1.0], [2, 0]])
SECTIONS = [("edges", 3, [[1, 2], [2, 3]]), ("triangles", 5, [[1, 2, 3], [1, 3, 4], [3, 2, 5]])]
SAMPLES = ["train/sample_000000000", "train/sample_000000001", "test/sample_000000000"]


def node(parent, name, label, values=None):
    """A node of a CGNS tree, as the library writes it to HDF5."""
    made = parent.create_group(name)
    kinds = {"f": "R8", "i": "I8", "S": "C1"}
    values = np.frombuffer(values.encode(), "i1") if isinstance(values, str) else values
    text = values is not None and np.asarray(values).dtype == np.int8
    kind = "MT" if values is None else "C1" if text else kinds[np.asarray(values).dtype.kind]
    for key, word, width in (("name", name, 33), ("label", label, 33), ("type", kind, 3)):
        made.attrs[key] = np.array(word.encode(), f"S{width}")
    if values is not None:
        made[" data"] = np.asarray(values)
    return made


def cgns(
    path, time, fields, cell_fields=(), numbers=(), points=POINTS, sections=SECTIONS, zone="Unstructured"
):
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for name, size in (("Base", [2, 2]), ("Global", [1, 1])):
            base = node(file, name, "CGNSBase_t", np.array(size))
            iterative = node(base, "Time", "BaseIterativeData_t", np.array([1]))
            node(iterative, "TimeValues", "DataArray_t", np.array([time]))
            if name == "Global":
                for n, values in dict(numbers).items():
                    node(base, n, "DataArray_t", values if isinstance(values, str) else np.atleast_1d(values))
                continue
            made = node(base, "Zone", "Zone_t", np.array([[len(points)], [3], [0]]))
            node(made, "ZoneType", "ZoneType_t", zone)
            grid = node(made, "GridCoordinates", "GridCoordinates_t")
            for d, values in zip("XYZ", points.T, strict=False):
                node(grid, f"Coordinate{d}", "DataArray_t", values)
            first = 1
            for n, kind, rows in sections:
                flat = np.array([v for row in rows for v in row])
                section = node(made, n, "Elements_t", np.array([kind, 0]))
                node(section, "ElementRange", "IndexRange_t", np.array([first, first + len(rows) - 1]))
                node(section, "ElementConnectivity", "DataArray_t", flat)
                first += len(rows)
            for place, group in (("Vertex", fields), ("CellCenter", cell_fields)):
                solution = node(made, f"{place}Fields", "FlowSolution_t")
                node(solution, "GridLocation", "GridLocation_t", place)
                for n, values in dict(group).items():
                    node(solution, n, "DataArray_t", values)


def values(number, time):
    rng = np.random.default_rng([number, int(10 * time)])
    return {"T": rng.random(5), "P": rng.random(5)}, {"q": rng.random(3)}


def make(root, times=(0.0, 0.5), labels=SAMPLES, **change):
    for number, label in enumerate(labels):
        for step, time in enumerate(times):
            fields, cell_fields = values(number, time)
            numbers = {"mu": 1.5 + number, "drag": number + time, "vec": np.arange(3.0) + number, "id": "abc"}
            file = root / "data" / label / "meshes" / f"mesh_{step:09d}.cgns"
            cgns(file, time, fields, cell_fields, numbers, **change)
    return root


def load(path, tmp_path):
    made = import_ensemble(path, None, Store(tmp_path / "store", "rename"))
    assert made.provenance["stage"]["format"] == "plaid"
    assert not [f for f in findings(made.path, "semantic") if f.severe]
    return made


def refused(path, tmp_path, match, kind="plaid"):
    store = Store(tmp_path / "store", "rename")
    with pytest.raises(Invalid, match=match):
        import_ensemble(path, kind, store)
    assert list(store.artifacts()) == []


def test_fields_numbers_and_splits(tmp_path):
    made = load(make(tmp_path / "set"), tmp_path)
    order = [2, 0, 1]  # test before train
    assert made.attributes["splits"] == {"test": [0], "train": [1, 2]}
    assert made.attributes["member_names"] == sorted(SAMPLES)
    assert made.schema["t"].axes == ("member", "time", "node")
    assert made.schema["q"].axes == ("member", "time", "face")
    for member, number in enumerate(order):
        for level, time in enumerate((0.0, 0.5)):
            fields, cell_fields = values(number, time)
            np.testing.assert_array_equal(made.read("t")[member, level], fields["T"])
            np.testing.assert_array_equal(made.read("p")[member, level], fields["P"])
            np.testing.assert_array_equal(made.read("q")[member, level], cell_fields["q"])
    assert made.attributes["parameters"] == ["mu"]
    assert made.read("parameters")[:, 0].tolist() == [3.5, 1.5, 2.5]
    assert made.read("drag").tolist() == [[n, n + 0.5] for n in order]
    assert made.read("vec").tolist() == [[n, n + 1, n + 2] for n in order]
    assert made.read("triangles").tolist() == [[0, 1, 2], [0, 2, 3], [2, 1, 4]]
    np.testing.assert_array_equal(made.read("node_x"), POINTS[:, 0])


def test_results_are_no_parameters_where_a_problem_says_so(tmp_path):
    root = make(tmp_path / "set", times=(0.0,))
    assert load(root, tmp_path).attributes["parameters"] == ["drag", "mu"]
    note = root / "problem_definitions" / "flow.yaml"
    note.parent.mkdir()
    note.write_text("input_features: [Global/mu]\noutput_features: [Base/Zone/VertexFields/T, Global/drag]\n")
    made = load(root, tmp_path)
    assert made.attributes["parameters"] == ["mu"]
    assert made.read("drag").tolist() == [2, 0, 1]
    assert made.schema["t"].axes == ("member", "node")


def test_cells_of_several_kinds_keep_their_values(tmp_path):
    """CGNS numbers cells in the order of the file, an ensemble by kind."""
    mixed = [("cells", 20, [[5, 1, 2, 3], [7, 1, 2, 3, 4], [5, 3, 2, 5]])]
    made = load(make(tmp_path / "set", times=(0.0,), sections=mixed), tmp_path)
    assert made.read("faces").tolist() == [[0, 1, 2, -1], [2, 1, 4, -1], [0, 1, 2, 3]]
    assert made.read("face_kind").tolist() == [5, 5, 9]
    np.testing.assert_array_equal(made.read("q")[1], values(0, 0.0)[1]["q"][[0, 2, 1]])


def test_the_layout_before_pyplaid_0_2(tmp_path):
    for number in range(2):
        folder = tmp_path / "set" / "dataset" / "samples" / f"sample_{number:09d}"
        cgns(folder / "meshes" / "mesh_000000000.cgns", 0.0, {"T": values(number, 0.0)[0]["T"]})
        (folder / "scalars.csv").write_text(f"P,p1\n{number}.0,2.5\n")
    made = load(tmp_path / "set", tmp_path)
    assert made.attributes["parameters"] == ["p", "p1"]
    assert made.read("parameters").tolist() == [[0, 2.5], [1, 2.5]]
    assert "splits" not in made.attributes


def test_files_of_cgns_alone_are_mesh_files(tmp_path):
    for number in range(2):
        cgns(tmp_path / "runs" / f"m{number}.cgns", 0.0, {"T": values(number, 0.0)[0]["T"]})
    pytest.importorskip("meshio")
    made = import_ensemble(tmp_path / "runs", None, Store(tmp_path / "store", "rename"))
    np.testing.assert_array_equal(made.read("t")[1], values(1, 0.0)[0]["T"])


PYPLAID = """
import sys
import numpy as np
sys.path.insert(0, {here!r})
from pathlib import Path
import CGNS.PAT.cgnslib as CGL
from plaid.containers.sample import Sample
from tests.formats.test_plaid import POINTS, SAMPLES, values
for number, label in enumerate(SAMPLES):
    sample = Sample()
    for time in (0.0, 0.5):
        sample.init_base(2, 2, "Base", time=time)
        sample.init_zone(np.array([[5, 3, 0]]), zone="Zone", base="Base", time=time)
        sample.set_nodes(POINTS, zone="Zone", base="Base", time=time)
        zone = sample.get_zone("Zone", "Base", time=time)
        corners = np.array([1, 2, 3, 1, 3, 4, 3, 2, 5])
        CGL.newElements(zone, "Elements_TRI_3", etype="TRI_3", erange=np.array([1, 3]), econnectivity=corners)
        fields, cell_fields = values(number, time)
        for name, field in fields.items():
            sample.add_field(name, field, zone="Zone", base="Base", time=time)
        sample.add_field("q", cell_fields["q"], location="CellCenter", zone="Zone", base="Base", time=time)
        sample.add_global("mu", 1.5 + number, time=time)
        sample.add_global("drag", number + time, time=time)
        sample.add_global("vec", np.arange(3.0) + number, time=time)
    target = Path({root!r}) / "data" / label
    target.parent.mkdir(parents=True, exist_ok=True)
    sample.save_to_dir(target)
"""


def test_what_pyplaid_writes_is_what_we_write(tmp_path):
    """In a process of its own: pyplaid brings an HDF5 library too."""
    import pathlib

    here = str(pathlib.Path(__file__).parents[2])
    program = PYPLAID.format(here=here, root=str(tmp_path / "theirs"))
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    if "No module named" in ran.stderr:
        pytest.skip("pyplaid is not installed; it needs pyarrow, pycgns and datasets (some 200 MB)")
    assert ran.returncode == 0, ran.stderr
    theirs = load(tmp_path / "theirs", tmp_path)
    ours = load(make(tmp_path / "ours"), tmp_path)
    assert set(theirs.schema.fields) == set(ours.schema.fields)
    for name in ours.schema.fields:
        np.testing.assert_array_equal(theirs.read(name), ours.read(name))
    assert theirs.attributes["splits"] == ours.attributes["splits"]


# -- what is refused -------------------------------------------------------------------------------


def again(root, label, time=0.0, step=0, **change):
    """One file of a set that `make` wrote, written otherwise."""
    number = SAMPLES.index(label)
    fields, cell_fields = values(number, time)
    numbers = {"mu": 1.5 + number, "drag": number + time, "vec": np.arange(3.0) + number}
    all_ = {"fields": fields, "cell_fields": cell_fields, "numbers": numbers} | change
    cgns(root / "data" / label / "meshes" / f"mesh_{step:09d}.cgns", all_.pop("time", time), **all_)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"points": POINTS * [1, 2]}, "is on another mesh than .*sample_000000000.*: node 2 is at"),
        ({"sections": [("t", 5, [[1, 2, 3], [1, 3, 4], [2, 3, 5]])]}, "its cells have other corners"),
        ({"fields": {"T": np.zeros(5)}}, "has no 'P' among its node fields"),
        ({"fields": {"T": np.zeros(4), "P": np.zeros(5)}}, "T: 4 values at 5 of Vertex"),
        ({"numbers": {"mu": 1.0, "drag": 1.0}}, "train/sample_000000001 has no 'vec', test/sample_0+ has"),
        (
            {"numbers": {"mu": np.nan, "drag": 1.0, "vec": np.zeros(3)}},
            "'mu' in train/sample_000000001 is not",
        ),
        ({"time": 0.25}, r"1 time levels \(0.25 to 0.25\), but .* 1 time levels \(0 to 0\)"),
        ({"zone": "Structured"}, "a structured zone"),
        ({"sections": [("t", 22, [[1, 2, 3]])]}, "CGNS' kind 22 cannot be imported"),
        ({"sections": [("t", 5, [[1, 2, 9]])], "cell_fields": {}}, "another mesh"),
    ],
)
def test_a_sample_that_differs_is_refused(tmp_path, change, match):
    root = make(tmp_path / "set", times=(0.0,))
    again(root, SAMPLES[1], **change)
    refused(root, tmp_path, match)


def test_sets_that_cannot_be_read_are_refused(tmp_path):
    root = tmp_path / "arrow"
    root.mkdir()
    (root / "infos.yaml").write_text("owner: a\nnum_samples: {train: 2}\nstorage_backend: hf_datasets\n")
    refused(root, tmp_path, "written by the backend 'hf_datasets'.*backend='cgns'", None)
    root = make(tmp_path / "set")
    again(root, SAMPLES[0], time=0.0, step=1)
    refused(root, tmp_path, "are both at the time 0")
    file = root / "data" / SAMPLES[0] / "meshes" / "mesh_000000001.cgns"
    file.write_bytes(file.read_bytes()[:200])
    refused(root, tmp_path, "mesh_000000001.cgns is no HDF5 file")
    again(root, SAMPLES[0], time=0.5, step=1)
    with h5py.File(file, "r+") as open_:
        del open_["Base/Zone"]
        open_["Base/Zone"] = h5py.ExternalLink("mesh_000000000.cgns", "/Base/Zone")
    refused(root, tmp_path, "leads out of the file")
    refused(tmp_path, tmp_path, "no samples of PLAID")
