"""Members in mesh files: what meshio, VTK and dolfinx write becomes an ensemble."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

if "dolfinx" in sys.modules:
    pytest.skip(
        "h5py and dolfinx bring different HDF5 libraries: run tests/formats alone", allow_module_level=True
    )
meshio = pytest.importorskip("meshio")
h5py = pytest.importorskip("h5py")

from sciflow.artifact.verify import findings
from sciflow.errors import Invalid, Missing
from sciflow.formats import export, import_ensemble
from sciflow.store import Store

X, Y = (a.reshape(-1) for a in np.meshgrid(np.linspace(0, 2, 4), np.linspace(0, 1, 3)))
FLAT = np.stack([X, Y, 0 * X], axis=1)
CORNER = np.array([i + 4 * j for j in range(2) for i in range(3)])
TRIANGLES = np.concatenate(
    [np.stack([CORNER, CORNER + 1, CORNER + 5], 1), np.stack([CORNER, CORNER + 4, CORNER + 5], 1)]
)
QUADS = np.stack([CORNER, CORNER + 1, CORNER + 5, CORNER + 4], 1)
CUBE = np.array([[i, j, k] for k in (0, 1) for j in (0, 1) for i in (0, 1)], dtype=float)
HEXA = np.array([[0, 1, 3, 2, 4, 5, 7, 6]])


def fields(number, time=0.0, points=FLAT, cells=12):
    rng = np.random.default_rng([number, int(10 * time)])
    return {"T": rng.random(len(points)), "U": rng.random((len(points), 3))}, {"strain": [rng.random(cells)]}


def write(file, number, time=0.0, points=FLAT, cells=(("triangle", TRIANGLES),), **change):
    node, cell = fields(number, time, points, sum(len(c) for _, c in cells))
    cuts = np.cumsum([len(c) for _, c in cells])[:-1]
    cell = {n: np.split(v[0], cuts) for n, v in cell.items()}
    node = {n: v for n, v in {**node, **change}.items() if v is not None}
    file.parent.mkdir(parents=True, exist_ok=True)
    meshio.Mesh(points, list(cells), point_data=node, cell_data=cell).write(file)


def members(root, count=3, suffix=".vtu", **options):
    for number in range(count):
        write(root / f"run-{number}{suffix}", number, **options)
    return root


def load(path, tmp_path, kind=None):
    made = import_ensemble(path, kind, Store(tmp_path / "store", "rename"))
    assert not [f for f in findings(made.path, "semantic") if f.severe]
    return made


def refused(path, tmp_path, match, kind=None):
    store = Store(tmp_path / "store", "rename")
    with pytest.raises(Invalid, match=match):
        import_ensemble(path, kind, store)
    assert list(store.artifacts()) == []


@pytest.mark.parametrize("suffix", [".vtu", ".vtk", ".xdmf", ".med"])
def test_one_file_for_each_member(tmp_path, suffix):
    root = members(tmp_path / "runs", suffix=suffix)
    (root / "parameters.csv").write_text("\ufeffspeed [m/s], Mass\n1,10\n2, 2e1\n\n3,30\n")
    made = load(root, tmp_path)
    assert made.provenance["stage"]["format"] == "meshes"
    assert made.schema["t"].axes == ("member", "node")
    assert made.schema["u"].axes == ("member", "node", "component_3")
    assert made.schema["strain"].axes == ("member", "face")
    assert made.schema["t"].attributes["location"] == "node"
    for number in range(3):
        node, cell = fields(number)
        np.testing.assert_array_equal(made.read("t")[number], node["T"])
        np.testing.assert_array_equal(made.read("u")[number], node["U"])
        np.testing.assert_array_equal(made.read("strain")[number], cell["strain"][0])
    assert made.read("parameters").tolist() == [[1, 10], [2, 20], [3, 30]]
    assert made.attributes["parameters"] == ["speed", "mass"]
    assert made.attributes["parameter_units"] == ["m/s", "1"]
    assert made.attributes["member_names"] == [f"run-{n}{suffix}" for n in range(3)]
    assert load(root, tmp_path).path == made.path


def test_the_mesh_is_stored_as_solvers_of_ours_store_it(tmp_path):
    made = load(members(tmp_path / "runs"), tmp_path)
    about = made.array("mesh").attrs
    assert about["cf_role"] == "mesh_topology"
    assert about["face_node_connectivity"] == "triangles"
    assert about["node_coordinates"] == "node_x node_y"
    np.testing.assert_array_equal(made.read("node_x"), X)
    triangles = made.read("triangles")
    assert [set(t) for t in triangles.tolist()] == [set(t) for t in TRIANGLES.tolist()]
    a, b, c = (FLAT[triangles[:, i], :2] for i in range(3))
    assert np.allclose(np.linalg.det(np.stack([b - a, c - a], axis=1)), 2 / 3 * 1 / 2)  # all anticlockwise


def test_a_surface_in_space_is_not_taken_for_a_plane(tmp_path):
    bent = FLAT + np.stack([0 * X, 0 * X, X**2], axis=1)
    made = load(members(tmp_path / "runs", points=bent), tmp_path)
    assert made.array("mesh").attrs["node_coordinates"] == "node_x node_y node_z"
    assert made.array("mesh").attrs["face_node_connectivity"] == "faces"
    np.testing.assert_array_equal(made.read("faces"), TRIANGLES)
    np.testing.assert_array_equal(made.read("node_z"), X**2)


def test_mixed_cells_and_volumes_go_to_vtk_and_back_to_the_same_mesh(tmp_path):
    mixed = (("triangle", TRIANGLES[:2]), ("quad", QUADS[2:]), ("line", QUADS[:, :2]))
    made = load(members(tmp_path / "mixed", cells=mixed), tmp_path)
    assert made.read("faces").tolist() == [[*t, -1] for t in TRIANGLES[:2].tolist()] + QUADS[2:].tolist()
    assert made.read("face_kind").tolist() == [5] * 2 + [9] * 4
    assert made.read("strain").shape == (3, 6)  # those of the lines are left out
    solid = load(members(tmp_path / "solid", points=CUBE, cells=(("hexahedron", HEXA),)), tmp_path)
    assert solid.read("volumes").tolist() == HEXA.tolist()
    assert solid.schema["strain"].axes == ("member", "volume")
    pytest.importorskip("vtkmodules.vtkIOHDF")
    from tests.formats.test_formats import frames, vtkhdf

    for one, cells, points in ((made, 6, FLAT), (solid, 1, CUBE)):
        target = tmp_path / f"view-{cells}"
        export(one, "vtkhdf", target, fields=["t", "u"])
        (_, arrays, where, block), *more = frames(vtkhdf(target / "member-1.vtkhdf"))
        assert not more
        assert block.GetNumberOfCells() == cells
        np.testing.assert_array_equal(where, points)
        np.testing.assert_array_equal(arrays["u"], one.read("u")[1])
        with pytest.raises(Invalid, match="XDMF is written for meshes of triangles"):
            export(one, "xdmf", tmp_path / f"x-{cells}")


# -- several time levels ---------------------------------------------------------------------------

TIMES = (0.0, 0.5, 1.5)


def pvd(root, count=2):
    for number in range(count):
        for step, time in enumerate(TIMES):
            write(root / f"parts-{number}" / f"s{step}.vtu", number, time)
        lines = [f'<DataSet timestep="{t}" file="parts-{number}/s{s}.vtu"/>' for s, t in enumerate(TIMES)]
        (root / f"m{number}.pvd").write_text(
            f'<VTKFile type="Collection"><Collection>{"".join(lines[::-1])}</Collection></VTKFile>'
        )


def series(root, count=2):
    for number in range(count):
        for step, time in enumerate(TIMES):
            write(root / f"m{number}" / f"s{step}.vtu", number, time)
        files = [{"name": f"s{s}.vtu", "time": t} for s, t in enumerate(TIMES)]
        (root / f"m{number}" / "all.vtu.series").write_text(json.dumps({"files": files}))


def xdmf(root, count=2):
    root.mkdir()
    for number in range(count):
        node, cell = fields(number)
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(root)  # meshio writes the values where one is
            with meshio.xdmf.TimeSeriesWriter(f"m{number}.xdmf") as out:
                out.write_points_cells(FLAT, [("triangle", TRIANGLES)])
                for time in TIMES:
                    node, cell = fields(number, time)
                    out.write_data(time, point_data=node, cell_data=cell)


def folders(root, count=2):
    for number in range(count):
        for step, time in enumerate(TIMES):
            write(root / f"m{number}" / f"s{9 + step}.vtk", number, time)  # s9, s10, s11


@pytest.mark.parametrize("lay", [pvd, series, xdmf, folders])
def test_a_series_for_each_member(tmp_path, lay):
    lay(tmp_path / "runs")
    made = load(tmp_path / "runs", tmp_path)
    assert made.schema["u"].axes == ("member", "time", "node", "component_3")
    assert made.read("time").tolist() == ([0, 1, 2] if lay is folders else list(TIMES))
    for number in range(2):
        for level, time in enumerate(TIMES):
            node, cell = fields(number, time)
            np.testing.assert_array_equal(made.read("u")[number, level], node["U"])
            np.testing.assert_array_equal(made.read("strain")[number, level], cell["strain"][0])


def test_what_dolfinx_writes(tmp_path):
    """Two functions in one file, of which meshio alone drops the first."""
    program = f"""
import numpy as np
from mpi4py import MPI
from dolfinx import fem, io, mesh
for m in range(2):
    made = mesh.create_unit_square(MPI.COMM_SELF, 3, 2)
    V = getattr(fem, "functionspace", getattr(fem, "FunctionSpace", None))(made, ("Lagrange", 1))
    u, v = fem.Function(V, name="u"), fem.Function(V, name="v")
    with io.XDMFFile(MPI.COMM_SELF, {str(tmp_path / "runs")!r} + f"/m{{m}}.xdmf", "w") as out:
        out.write_mesh(made)
        for t in (0.0, 0.25):
            u.interpolate(lambda x: (1 + m) * x[0] + t)
            v.interpolate(lambda x: x[1] - t)
            out.write_function(u, t)
            out.write_function(v, t)
"""
    (tmp_path / "runs").mkdir()
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    if "No module named" in ran.stderr:
        pytest.skip("dolfinx is not installed")
    assert ran.returncode == 0, ran.stderr
    made = load(tmp_path / "runs", tmp_path)
    x, y = made.read("node_x"), made.read("node_y")
    for m in range(2):
        for level, t in enumerate((0.0, 0.25)):
            np.testing.assert_allclose(made.read("u")[m, level], (1 + m) * x + t, atol=1e-14)
            np.testing.assert_allclose(made.read("v")[m, level], y - t, atol=1e-14)


# -- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (
            {"points": FLAT + np.array([0, 1e-6, 0])},
            r"run-2\.vtu is on another mesh than .*run-0\.vtu: node 4 is at",
        ),
        ({"cells": [("triangle", TRIANGLES[::-1])]}, r"run-2\.vtu is on another mesh .* other corners"),
        ({"cells": [("triangle", TRIANGLES[1:])]}, r"run-2\.vtu is on another mesh .* kinds or numbers"),
        (
            {"T": None},
            r"run-2\.vtu has no 'T' among its node fields, but .*run-0\.vtu has 'T' of shape \(12,\)",
        ),
        ({"V": X}, r"run-2\.vtu has 'V' of shape \(12,\) among its node fields, but .*run-0\.vtu has no 'V'"),
        ({"T": np.zeros((12, 2))}, r"run-2\.vtu has 'T' of shape \(12, [23]\)"),
        ({"T": np.full(12, np.nan)}, r"member 2 \(run-2\.vtu\), field 't' is not finite"),
    ],
)
def test_a_member_that_differs_is_refused(tmp_path, change, match):
    root = members(tmp_path / "runs", count=2)
    write(root / "run-2.vtu", 2, **change)
    refused(root, tmp_path, match)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("a\n1\n2\n", r"parameters\.csv: 2 rows below the names, but there are 3 members"),
        ("1,2\n1,2\n3,4\n", "first row holds numbers"),
        ("a\n1\n2\nthree\n", r"line 4, column 'a': 'three' is no number"),
        ("a,b\n1,2\n3\n4,5\n", "line 3: 1 values, the first row names 2"),
        ("a\n1\nnan\n2\n", "parameter 'a' is not finite"),
        ("a [m],a [s]\n1,2\n1,2\n1,2\n", "the name 'a' is there twice"),
        ("a b,A_b\n1,2\n1,2\n1,2\n", "would both be called 'a_b'"),
        ("member,a\nrun-0,1\nrun-1,2\nrun-7,3\n", "line 4: there is no member 'run-7'"),
        ("member,a\nrun-0,1\nrun-1,2\nrun-1.vtu,3\n", "line 4: the member 'run-1.vtu' has a row already"),
        ("", "empty; the first row names the columns"),
    ],
)
def test_parameters_that_do_not_fit_are_refused(tmp_path, text, match):
    root = members(tmp_path / "runs")
    (root / "parameters.csv").write_text(text)
    refused(root, tmp_path, match)


def test_rows_belong_to_names(tmp_path):
    root = tmp_path / "runs"
    for number in (8, 9, 10):
        write(root / f"run-{number}.vtu", number)
    (root / "parameters.csv").write_text("a\n8\n9\n10\n")
    refused(root, tmp_path, "is the second row that of 'run-8.vtu' or of 'run-9.vtu'")
    (root / "parameters.csv").write_text("a, member\n10,run-10\n8,run-8\n9,run-9.vtu\n")
    made = load(root, tmp_path)
    assert made.read("parameters")[:, 0].tolist() == [8, 9, 10]
    np.testing.assert_array_equal(made.read("t")[2], fields(10)[0]["T"])


def test_series_that_do_not_fit_are_refused(tmp_path):
    pvd(tmp_path / "a")
    note = tmp_path / "a" / "m1.pvd"
    whole = note.read_text()
    for old, new, match in (
        ('timestep="1.5"', 'timestep="1.25"', r"3 time levels \(0 to 1\.25\), but .* \(0 to 1\.5\)"),
        ('timestep="1.5"', 'timestep="0.5"', "several files at the time 0.5"),
        ('timestep="1.5"', 'timestep="late"', "a time that is no number"),
        ("parts-1/s2.vtu", "parts-1/s3.vtu", r"names s3\.vtu, which is not there"),
        ("parts-1/s2.vtu", "../elsewhere.vtu", "leads out of .*not followed"),
        ("</Collection>", "", "is no XML, or truncated"),
    ):
        write(tmp_path / "elsewhere.vtu", 0)
        note.write_text(whole.replace(old, new))
        refused(tmp_path / "a", tmp_path, match)
    xdmf(tmp_path / "b")
    note = tmp_path / "b" / "m1.xdmf"
    shutil.copy(tmp_path / "b" / "m1.h5", tmp_path / "m1.h5")
    note.write_text(note.read_text().replace("m1.h5:", "../m1.h5:"))
    refused(tmp_path / "b", tmp_path, "leads out of .*not followed")


def test_directories_that_are_no_ensemble_are_refused(tmp_path):
    root = members(tmp_path / "a")
    (root / "run-1.vtu").write_text("<VTKFile")
    refused(root, tmp_path, r"run-1\.vtu: meshio cannot read it")
    root = members(tmp_path / "b")
    write(root / "x.vtk", 3)
    refused(root, tmp_path, r"several formats \(run-0\.vtu, x\.vtk\)")
    root = members(tmp_path / "c")
    write(root / "more" / "x.vtu", 3)
    refused(root, tmp_path, "is a member a file .* or a directory")
    (tmp_path / "d").mkdir()
    refused(tmp_path / "d", tmp_path, "there are no members", "meshes")
    refused(tmp_path / "a" / "run-0.vtu", tmp_path, "name the directory", "meshes")
    root = members(tmp_path / "e", cells=(("vertex", np.arange(12)[:, None]),))
    refused(root, tmp_path, "the mesh has no cells")


def test_without_meshio_it_says_what_to_install(tmp_path, monkeypatch):
    root = members(tmp_path / "a")
    monkeypatch.setitem(sys.modules, "meshio", None)
    with pytest.raises(Missing, match=r"pip install 'sciflow\[meshes\]'"):
        import_ensemble(root, None, Store(tmp_path / "store", "rename"))


def test_the_command_says_what_it_took_for_what(tmp_path, capsys):
    from sciflow.cli import main

    root = members(tmp_path / "runs")
    (root / "parameters.csv").write_text("speed [m/s]\n1\n2\n3\n")
    assert main(["store", "import", str(root), "--store", str(tmp_path / "store")]) == 0
    out, said = capsys.readouterr()
    assert out.strip().startswith(str(tmp_path / "store"))
    assert said.splitlines()[0] == "3 members; parameters: speed [m/s]"
    assert "  u: member 3 x node 12 x component_3 3, float64, unit any" in said.splitlines()
