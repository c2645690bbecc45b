"""Ensembles in the files of other projects and back, bit by bit."""

import json
import sys

import numpy as np
import pytest

from sciflow.artifact import Artifact
from sciflow.artifact.verify import findings
from sciflow.errors import Invalid, NotFound
from sciflow.formats import FORMATS, export, import_ensemble
from sciflow.schema import Field, Schema
from sciflow.stages.simulate import ENSEMBLE
from sciflow.store import Store

if "dolfinx" in sys.modules:
    pytest.skip(
        "h5py and dolfinx bring different HDF5 libraries: run tests/formats alone", allow_module_level=True
    )
h5py = pytest.importorskip("h5py")
SIZES = {"x": 6, "y": 5, "z": 4}


def make(  # noqa: C901 - a switch for every kind of ensemble
    root,
    axes=("y", "x"),
    levels=3,
    fields=("u",),
    still=(),
    steps=None,
    mesh=False,
    failed=(1,),
    dtype="float32",
):
    """An ensemble of four members with random values; some failed."""
    rng = np.random.default_rng(len(axes))
    time = "time" if steps is None else "step"
    with Store(root, "rename").writer(ENSEMBLE, "0" * 64) as out:
        shape = tuple(SIZES[a] for a in axes)
        notes = {}
        if mesh:
            axes, shape, notes = ("node",), (9,), {"mesh": "mesh", "location": "node"}
        for a, n in zip(axes, shape, strict=True):
            out.write(a, np.arange(n) * 0.5 + 1, Field((a,), "m", "float64"))
        out.write(time, np.arange(1.0, levels + 1) * 0.25, Field((time,), "s", "float64"))
        for f in fields:
            out.create(
                f, Field(("member", time, *axes), "K", dtype, f, notes), (4, levels, *shape), member=True
            )
        for f in still:
            out.create(f, Field(("member", *axes), "W", dtype, f, notes), (4, *shape), member=True)
        if steps is not None:
            out.create("time", Field(("member", "step"), "s", "float64"), (4, levels), member=True)
            out.write("n_steps", np.array(steps), Field(("member",), "1", "int64"))
        if mesh:
            _mesh(out)
        status = np.ones(4, np.uint8)
        for m in range(4):
            if m in failed:
                status[m] = 2
                out.write_member(m, {}, {"status": 2})
                continue
            with out.member(m) as one:
                for t in range(levels if steps is None else steps[m]):
                    values = {f: rng.random(shape) for f in fields} | (
                        {f: rng.random(shape) for f in still} if not t else {}
                    )
                    if steps is not None:
                        values["time"] = np.asarray(0.1 * (m + 1) * (t + 1))
                    one.append(values)
                one.commit({"status": 1})
        out.write("status", status, ENSEMBLE["status"])
        out.write("seed", np.arange(4), ENSEMBLE["seed"])
        out.write("parameters", rng.random((4, 2)), ENSEMBLE["parameters"])
        out.describe(parameters=["a", "b"], parameter_units=["m", "s"], periodic=["x"] if "x" in axes else [])
        return out.publish({})


def _mesh(out):
    about = {"cf_role": "mesh_topology", "topology_dimension": 2, "node_coordinates": "node_x node_y",
             "face_node_connectivity": "triangles"}  # fmt: skip
    out.write("mesh", np.zeros((), np.int32), Field((), "1", "int32", "", about))
    x, y = np.meshgrid(np.arange(3.0), np.arange(3.0))
    out.write("node_x", x.reshape(-1), Field(("node",), "m", "float64"))
    out.write("node_y", y.reshape(-1), Field(("node",), "m", "float64"))
    corner = [i + 3 * j for j in range(2) for i in range(2)]
    cells = np.array([[c, c + 1, c + 4] for c in corner] + [[c, c + 4, c + 3] for c in corner])
    out.write("triangles", cells, Field(("face", "corner"), "1", "int64"))


def same(one, members, other, fields):
    """All members that were exported, in another ensemble."""
    assert other.read("status").tolist() == [1] * len(members)
    assert not [f for f in findings(other.path, "semantic") if f.severe]
    for ours, theirs in fields.items():
        wanted, found = one.read(ours)[members], other.read(theirs)
        axes, theirs_axes = one.schema[ours].axes, other.schema[theirs].axes
        assert sorted(axes) == sorted(theirs_axes)
        found = found.transpose([theirs_axes.index(a) for a in axes])
        assert found.tobytes() == wanted.tobytes()
        for axis in axes[1:]:
            np.testing.assert_allclose(other.read(axis), one.read(axis), rtol=1e-14)


CASES = [
    ("numpy", {"still": ("q",), "fields": ("u", "v")}, {"u": "u", "v": "v", "q": "q"}),
    ("numpy", {"axes": ("z", "y", "x"), "dtype": "float64"}, {"u": "u"}),
    ("pdebench", {"axes": ("x",)}, {"u": "u"}),
    ("pdebench", {"axes": ("y", "x")}, {"u": "u"}),
    (
        "pdebench",
        {"axes": ("z", "y", "x"), "fields": ("density", "velocity_x")},
        {"density": "density", "velocity_x": "velocity_x"},
    ),
    ("the_well", {"axes": ("x",), "still": ("q",)}, {"u": "u", "q": "q"}),
    ("the_well", {"axes": ("y", "x"), "fields": ("u", "v")}, {"u": "u", "v": "v"}),
    ("the_well", {"axes": ("z", "y", "x"), "dtype": "float64"}, {"u": "u"}),
    ("vtkhdf", {"axes": ("y", "x"), "still": ("q",)}, {"u": "u", "q": "q"}),
    ("vtkhdf", {"axes": ("x",), "dtype": "float64"}, {"u": "u"}),
    ("vtkhdf", {"axes": ("z", "y", "x")}, {"u": "u"}),
]


@pytest.mark.parametrize(("kind", "case", "fields"), CASES)
def test_there_and_back_are_the_same_bits(tmp_path, kind, case, fields):
    one = make(tmp_path / "a", **case)
    suffix = ".h5" if kind in ("pdebench", "the_well") else ""
    files = export(one, kind, tmp_path / f"out{suffix}")
    assert files
    assert all(f.is_file() for f in files)
    store = Store(tmp_path / "b", "rename")
    other = import_ensemble(tmp_path / f"out{suffix}", None, store)
    same(one, [0, 2, 3], other, fields)
    if kind not in ("pdebench",):
        np.testing.assert_array_equal(other.read("parameters"), one.read("parameters")[[0, 2, 3]])
        assert other.attributes["parameter_units"] == ["m", "s"]
    assert other.provenance["stage"] == {"component": "import", "format": kind}
    assert import_ensemble(tmp_path / f"out{suffix}", kind, store).path == other.path
    with pytest.raises(Invalid, match="exists; nothing is overwritten"):
        export(one, kind, tmp_path / f"out{suffix}")


def test_steps_of_their_own_go_through_numpy_files(tmp_path):
    one = make(tmp_path / "a", steps=[3, 0, 1, 2])
    export(one, "numpy", tmp_path / "out")
    other = import_ensemble(tmp_path / "out", None, Store(tmp_path / "b", "rename"))
    assert other.read("n_steps").tolist() == [3, 1, 2]
    np.testing.assert_array_equal(other.read("u"), one.read("u")[[0, 2, 3]])
    np.testing.assert_array_equal(other.read("time"), one.read("time")[[0, 2, 3]])
    for kind in ("the_well", "pdebench"):
        with pytest.raises(Invalid, match="chose their own steps"):
            export(one, kind, tmp_path / kind)
        assert not list(tmp_path.glob(f"{kind}*"))


def test_fields_and_members_are_chosen(tmp_path):
    one = make(tmp_path / "a", fields=("u", "v"))
    export(one, "numpy", tmp_path / "out", fields=["v"], members=[3])
    assert sorted(p.name for p in (tmp_path / "out").iterdir() if p.name[0] in "uv") == ["v.npy"]
    assert np.load(tmp_path / "out" / "v.npy").shape == (1, 3, 5, 6)
    with pytest.raises(NotFound, match=r"members \[1\] have no result"):
        export(one, "numpy", tmp_path / "x", members=[1])
    with pytest.raises(NotFound, match="no field 'w'"):
        export(one, "numpy", tmp_path / "x", fields=["w"])
    with pytest.raises(NotFound, match="no format 'zip'"):
        export(one, "zip", tmp_path / "x")
    assert set(FORMATS) == {"numpy", "pdebench", "the_well", "vtkhdf", "xdmf", "plaid", "meshes", "hdf5"}
    with pytest.raises(Invalid, match="can only be imported"):
        export(one, "meshes", tmp_path / "x")


# -- files as their projects write them ----------------------------------------------------------


def test_pdebench_as_it_is_published(tmp_path):
    rng = np.random.default_rng(0)
    data = rng.random((2, 4, 6, 5)).astype("f4")
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        for name in ("density", "Vx", "Vy"):
            file[name] = data
        file["x-coordinate"], file["y-coordinate"] = np.linspace(0, 1, 6), np.linspace(0, 1, 5)
        file["t-coordinate"] = np.linspace(0, 1, 5)  # one more than there are levels
    one = import_ensemble(tmp_path / "a.hdf5", None, Store(tmp_path / "s", "rename"))
    assert one.schema["velocity_x"].axes == ("member", "time", "y", "x")
    np.testing.assert_array_equal(one.read("density"), data.transpose(0, 1, 3, 2))
    assert len(one.read("time")) == 4
    with h5py.File(tmp_path / "b.h5", "w") as file:
        for seed in ("0000", "0001"):
            file[f"{seed}/data"] = data[int(seed)][..., None]
            file[f"{seed}/grid/x"], file[f"{seed}/grid/y"] = np.linspace(0, 1, 6), np.linspace(0, 1, 5)
            file[f"{seed}/grid/t"] = np.linspace(0, 1, 4)
    one = import_ensemble(tmp_path / "b.h5", None, Store(tmp_path / "s", "rename"))
    np.testing.assert_array_equal(one.read("u"), data.transpose(0, 1, 3, 2))


def test_the_well_as_it_is_published(tmp_path):
    rng = np.random.default_rng(0)
    pressure = rng.random((2, 3, 6, 5)).astype("f4")
    velocity = rng.random((2, 3, 6, 5, 2)).astype("f4")
    mask = rng.random((6, 5)).astype("f4")
    with h5py.File(tmp_path / "w.hdf5", "w") as file:
        file.attrs.update(dataset_name="flow", grid_type="cartesian", n_spatial_dims=2, n_trajectories=2)
        file.attrs["simulation_parameters"] = ["Re"]
        dimensions = file.create_group("dimensions")
        dimensions.attrs["spatial_dims"] = ["x", "y"]
        for name, n in (("time", 3), ("x", 6), ("y", 5)):
            dimensions[name] = np.linspace(0, 1, n, dtype="f4")
            dimensions[name].attrs.update(sample_varying=False, time_varying=False)
        scalars = file.create_group("scalars")
        scalars.attrs["field_names"] = ["Re"]
        scalars["Re"] = 100.0
        scalars["Re"].attrs.update(sample_varying=False, time_varying=False)
        for group, fields in (
            ("t0_fields", {"Pressure": pressure, "mask": mask}),
            ("t1_fields", {"velocity": velocity}),
            ("t2_fields", {}),
        ):
            made = file.create_group(group)
            made.attrs["field_names"] = list(fields)
            for name, values in fields.items():
                made[name] = values
                made[name].attrs.update(
                    sample_varying=name != "mask", time_varying=name != "mask", dim_varying=[True, True]
                )
        x = file.create_group("boundary_conditions/x_periodic")
        x.attrs.update(bc_type="PERIODIC", associated_dims=["x"])
    one = import_ensemble(tmp_path / "w.hdf5", None, Store(tmp_path / "s", "rename"))
    np.testing.assert_array_equal(one.read("pressure"), pressure.transpose(0, 1, 3, 2))
    np.testing.assert_array_equal(one.read("velocity_y"), velocity[..., 1].transpose(0, 1, 3, 2))
    np.testing.assert_array_equal(one.read("mask")[1], mask.T)
    assert one.attributes["periodic"] == ["x"]
    assert one.read("parameters").tolist() == [[100.0], [100.0]]


def test_lone_numpy_files(tmp_path):
    values = np.random.default_rng(0).random((3, 4, 6)).astype("f4")
    np.save(tmp_path / "u.npy", values)
    one = import_ensemble(tmp_path / "u.npy", None, Store(tmp_path / "s", "rename"))
    np.testing.assert_array_equal(one.read("u"), values)
    np.savez(tmp_path / "two.npz", u=values, nu=np.arange(3.0), x=np.linspace(0, 1, 6))
    one = import_ensemble(tmp_path / "two.npz", None, Store(tmp_path / "s", "rename"))
    assert one.attributes["parameters"] == ["nu"]
    assert one.read("x").tolist() == np.linspace(0, 1, 6).tolist()


# -- what is refused -----------------------------------------------------------------------------


def well(tmp_path):
    export(make(tmp_path / "a"), "the_well", tmp_path / "w.h5")
    return tmp_path / "w.h5"


def change(path, edit):
    with h5py.File(path, "r+") as file:
        edit(file)


@pytest.mark.parametrize(
    ("edit", "match"),
    [
        (lambda f: f["dimensions/time"].__setitem__(1, 9.0), "'time' are not monotone"),
        (lambda f: f["t0_fields/u"].__setitem__((1, 2, 0, 0), np.nan), "member 1.*'u'.* not finite"),
        (lambda f: f.attrs.__setitem__("n_trajectories", 7), r"/t0_fields/u: shape .*dimensions say \(7"),
        (lambda f: f.__delitem__("dimensions/x"), "dimensions/x: not there"),
        (
            lambda f: (
                f.__delitem__("dimensions/x"),
                f["dimensions"].__setitem__("x", h5py.ExternalLink("other.h5", "/x")),
            ),
            "leads out of the file",
        ),
        (
            lambda f: (f.__delitem__("dimensions/x"), f["dimensions"].__setitem__("x", ["a", "b"])),
            "holds no numbers",
        ),
        (lambda f: f.attrs.__setitem__("grid_type", "spherical"), "spherical; only cartesian"),
    ],
)
def test_a_bad_well_is_refused_and_nothing_is_published(tmp_path, edit, match):
    path = well(tmp_path)
    change(path, edit)
    store = Store(tmp_path / "s", "rename")
    with pytest.raises(Invalid, match=match):
        import_ensemble(path, None, store)
    assert list(store.artifacts()) == []


def test_truncated_and_foreign_files_are_refused(tmp_path):
    path = well(tmp_path)
    path.write_bytes(path.read_bytes()[:-100])
    store = Store(tmp_path / "s", "rename")
    with pytest.raises(Invalid, match="no HDF5 file, or a truncated one"):
        import_ensemble(path, "the_well", store)
    with pytest.raises(NotFound, match="not there"):
        import_ensemble(tmp_path / "no", None, store)
    (tmp_path / "x.txt").write_text("hello")
    with pytest.raises(NotFound, match="none of the formats .* is recognised"):
        import_ensemble(tmp_path / "x.txt", None, store)
    np.save(tmp_path / "o.npy", np.array([[{}]], dtype=object), allow_pickle=True)
    with pytest.raises(Invalid, match="Python objects"):
        import_ensemble(tmp_path / "o.npy", None, store)
    export(make(tmp_path / "b"), "numpy", tmp_path / "n")
    note = json.loads((tmp_path / "n" / "ensemble.json").read_text())
    note["fields"]["u"]["axes"] = ["time", "x", "y"]
    (tmp_path / "n" / "ensemble.json").write_text(json.dumps(note))
    with pytest.raises(Invalid, match=r"u\.npy: shape"):
        import_ensemble(tmp_path / "n", None, store)
    with pytest.raises(Invalid, match="only be exported"):
        import_ensemble(tmp_path / "n", "xdmf", store)
    assert list(store.artifacts()) == []


# -- read by VTK ---------------------------------------------------------------------------------


def frames(reader):
    """Point data of every time step, by VTK."""
    from vtkmodules.util.numpy_support import vtk_to_numpy
    from vtkmodules.vtkCommonDataModel import vtkCompositeDataSet
    from vtkmodules.vtkCommonExecutionModel import vtkStreamingDemandDrivenPipeline as Pipeline

    reader.UpdateInformation()
    info = reader.GetOutputInformation(0)
    times = info.Get(Pipeline.TIME_STEPS()) or (0.0,)
    for time in times:
        reader.UpdateTimeStep(time)
        data = reader.GetOutputDataObject(0)
        blocks = [data]
        if isinstance(data, vtkCompositeDataSet):
            iterator = data.NewIterator()
            blocks = []
            iterator.InitTraversal()
            while not iterator.IsDoneWithTraversal():
                blocks.append(iterator.GetCurrentDataObject())
                iterator.GoToNextItem()
        for block in blocks:
            points = block.GetPointData()
            arrays = {
                points.GetArrayName(i): vtk_to_numpy(points.GetArray(i)).copy()
                for i in range(points.GetNumberOfArrays())
            }
            where = (
                vtk_to_numpy(block.GetPoints().GetData()).copy()
                if hasattr(block, "GetPoints") and block.GetPoints()
                else None
            )
            yield time, arrays, where, block


def xdmf(path):
    pytest.importorskip("vtkmodules.vtkIOXdmf2")
    from vtkmodules.vtkIOXdmf2 import vtkXdmfReader

    reader = vtkXdmfReader()
    reader.SetFileName(str(path))
    return reader


def vtkhdf(path):
    pytest.importorskip("vtkmodules.vtkIOHDF")
    from vtkmodules.vtkIOHDF import vtkHDFReader

    reader = vtkHDFReader()
    reader.SetFileName(str(path))
    return reader


@pytest.mark.parametrize("axes", [("y", "x"), ("z", "y", "x"), ("x",)])
@pytest.mark.parametrize(("kind", "open_"), [("xdmf", xdmf), ("vtkhdf", vtkhdf)])
def test_vtk_reads_the_same_bits_on_a_grid(tmp_path, axes, kind, open_):
    one = make(tmp_path / "a", axes=axes)
    export(one, kind, tmp_path / "view")
    files = sorted((tmp_path / "view").glob("member-*"))
    assert [f.stem for f in files] == ["member-0", "member-2", "member-3"]
    for member, file in zip((0, 2, 3), files, strict=True):
        found = list(frames(open_(file)))
        assert [t for t, *_ in found] == one.read("time").tolist()
        for level, (_, arrays, _, block) in enumerate(found):
            assert arrays["u"].tobytes() == one.read("u")[member, level].tobytes()
            assert block.GetBounds()[:2] == (1.0, 3.5)


@pytest.mark.parametrize(("kind", "open_"), [("xdmf", xdmf), ("vtkhdf", vtkhdf)])
def test_vtk_reads_the_same_bits_on_a_mesh(tmp_path, kind, open_):
    one = make(tmp_path / "a", mesh=True)
    export(one, kind, tmp_path / "view")
    found = list(frames(open_(next((tmp_path / "view").glob("member-2*")))))
    assert len(found) == 3
    for level, (_, arrays, where, block) in enumerate(found):
        assert arrays["u"].tobytes() == one.read("u")[2, level].tobytes()
        np.testing.assert_array_equal(where[:, 0], one.read("node_x"))
        assert block.GetNumberOfCells() == 8


def test_xdmf_copies_no_value_and_stays_small(tmp_path):
    one = make(tmp_path / "a", levels=3)
    files = export(one, "xdmf", tmp_path / "view")
    assert sum(f.stat().st_size for f in files if f.suffix != ".xdmf") == 0
    for file in files:
        assert file.stat().st_size < 3 * 1024
        assert str(tmp_path) not in file.read_text()


def test_xdmf_of_a_solvers_own_order_shows_the_same_field(tmp_path):
    from sciflow.artifact.share import Share

    order = np.random.default_rng(0).permutation(9)
    values = np.random.default_rng(1).random((2, 9))
    with Store(tmp_path / "s", "rename").writer(ENSEMBLE, "0" * 64) as out:
        notes = {"mesh": "mesh", "location": "node"}
        out.create("u", Field(("member", "time", "node"), "K", "float64", "", notes), (1, 2, 9), member=True)
        _mesh(out)
        out.write("time", np.arange(2.0), Field(("time",), "s", "float64"))
        out.write("node", np.arange(9.0), Field(("node",), "1", "float64"))
        with out.member(0) as one:
            for t in range(2):
                one.append({"u": Share(values[t][order], order)})
            one.commit({"status": 1})
        name = out.committed()[0]["numberings"]["u"]
        out.adopt(name)
        out.describe(numberings={"u": [name]}, parameters=[], parameter_units=[])
        out.write("u_numbering", np.zeros(1, np.int32), Field(("member",), "1", "int32"))
        out.write("status", np.ones(1, np.uint8), ENSEMBLE["status"])
        out.write("seed", np.zeros(1, np.int64), ENSEMBLE["seed"])
        out.write("parameters", np.zeros((1, 0)), ENSEMBLE["parameters"])
        data = out.publish({})
    np.testing.assert_array_equal(data.read("u")[0], values)
    export(data, "xdmf", tmp_path / "view")
    for level, (_, arrays, where, _) in enumerate(frames(xdmf(tmp_path / "view" / "member-0.xdmf"))):
        node = (where[:, 0] + 3 * where[:, 1]).round().astype(int)
        np.testing.assert_array_equal(arrays["u"], values[level][node])


def test_only_ensembles_are_exported(tmp_path):
    with Store(tmp_path, "rename").writer(Schema("thing"), "0" * 64) as out:
        out.write("x", np.arange(2.0), Field(("x",), "m", "float64"))
        thing = out.publish({})
    assert isinstance(thing, Artifact)
    with pytest.raises(Invalid, match="is a thing; only an ensemble"):
        export(thing, "numpy", tmp_path / "out")
