"""``sciflow predict``: what a model answers to files, and what it refuses."""

import contextlib
import json
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr

from sciflow import Field, Invalid, Signature
from sciflow.cli import main
from sciflow.flow import run
from sciflow.given import Given, checked
from sciflow.predicting import coordinates_of
from sciflow.stages.design import Design
from sciflow.stages.simulate import Simulate
from sciflow.stages.train import Train, load_model
from tests.toys import Least, Wave

X = np.linspace(0, 1, 8)


@pytest.fixture
def made(plain, monkeypatch, tmp_path):
    """An ensemble and a model of it, in the store that the command line is given."""
    import asyncio

    async def flow():
        points = await run(Design(problem=Wave(), count=12))
        data = await run(Simulate(Wave()), design=points)
        return data, await run(Train(Least(), ("u[0]", "a"), ("u",), valid=0.1), ensemble=data)

    monkeypatch.chdir(tmp_path)
    data, model = asyncio.run(flow())
    return data, model, load_model(model)


def predict(made, *arguments):
    return main(["predict", str(made[1].path), *map(str, arguments)])


def inputs(made, count=5):
    batch = {"u[0]": made[0].read("u")[:count, 0], "a": made[0].read("parameters")[:count, 0]}
    return batch, made[2].predict(batch)["u"]


def test_every_kind_of_file_gives_the_models_answer(made, capsys):
    x, wanted = inputs(made)
    np.savez("in.npz", **x)
    np.savez("plain.npz", u_0=x["u[0]"], a=x["a"])
    Path("in.json").write_text(json.dumps({k: v.tolist() for k, v in x.items()}))
    xr.Dataset({"u_0": (("sample", "x"), x["u[0]"]), "a": ("sample", x["a"])}).to_netcdf(
        "in.nc", engine="scipy"
    )
    xr.Dataset({"u_0": (("sample", "x"), x["u[0]"]), "a": ("sample", x["a"])}).to_zarr(
        "in.zarr", zarr_format=3, consolidated=False
    )
    for name in ("in.npz", "plain.npz", "in.json", "in.nc", "in.zarr"):
        for out in (f"{name}.zarr", f"{name}.out.npz"):
            assert predict(made, name, "-o", out) == 0
            said = capsys.readouterr()
            assert said.out == f"{out}\n"
            assert "u: 5 x 3 x 8" in said.err
        np.testing.assert_allclose(zarr.open_group(f"{name}.zarr")["u"][...], wanted, rtol=1e-6)
        with np.load(f"{name}.out.npz") as file:
            np.testing.assert_allclose(file["u"], wanted, rtol=1e-6)
            assert json.loads(str(file["about"]))["units"] == {"u": "K"}


def test_what_is_written_has_names_units_coordinates_and_its_origin(made):
    x, _ = inputs(made)
    np.savez("in.npz", **x)
    assert predict(made, "in.npz") == 0
    data = xr.open_zarr("prediction.zarr", consolidated=False)
    assert data["u"].dims == ("sample", "time", "x")
    assert data["u"].attrs["units"] == "K"
    np.testing.assert_array_equal(data["x"], made[2].signature.coordinates["x"])
    np.testing.assert_array_equal(data["time"], made[2].signature.coordinates["time"])
    assert data.attrs["model"] == made[1].digest
    assert data.attrs["input"] == "in.npz"


def test_one_sample_and_numbers_from_the_command_line(made):
    x, wanted = inputs(made)
    np.savez("one.npz", **{"u[0]": x["u[0]"][2]})
    assert predict(made, "one.npz", "--set", f"a={x['a'][2]!r}") == 0
    np.testing.assert_allclose(zarr.open_group("prediction.zarr")["u"][...], wanted[2:3], rtol=1e-6)


def test_an_ensemble_is_an_input(made):
    assert predict(made, made[0].path, "-o", "all.zarr", "--members", "1,4-6") == 0
    group = zarr.open_group("all.zarr")
    assert group["member"][...].tolist() == [1, 4, 5, 6]
    _, wanted = inputs(made, 12)
    np.testing.assert_allclose(group["u"][...], wanted[[1, 4, 5, 6]], rtol=1e-6)
    assert predict(made, "ensemble-", "--store", made[0].path.parent.parent, "-o", "named.npz") == 0


def test_nothing_is_overwritten_in_silence(made, capsys):
    x, _ = inputs(made)
    np.savez("in.npz", **x)
    assert predict(made, "in.npz") == 0
    before = zarr.open_group("prediction.zarr")["u"][...]
    assert predict(made, "in.npz") == 1
    assert "prediction.zarr is there already" in capsys.readouterr().err
    np.savez("in.npz", **{k: v[:2] for k, v in x.items()})
    assert predict(made, "in.npz", "--overwrite") == 0
    assert zarr.open_group("prediction.zarr")["u"].shape[0] == 2 < len(before)


@pytest.mark.parametrize("name", ["kept.zarr", "kept.npz"])
def test_what_was_there_stays_if_its_successor_cannot_take_its_place(made, name, monkeypatch):
    x, _ = inputs(made)
    np.savez("in.npz", **x)
    assert predict(made, "in.npz", "-o", name) == 0

    def content():
        return {p: p.read_bytes() for p in [Path(name), *Path(name).rglob("*")] if p.is_file()}

    before = content()

    def refuse(self, target):
        raise OSError("no")

    monkeypatch.setattr(Path, "replace", refuse)
    with contextlib.suppress(OSError):
        predict(made, "in.npz", "-o", name, "--overwrite")
    assert before
    assert content() == before
    assert [p.name for p in Path().glob(f".{name}*")] == []


def test_what_an_export_writes_beside_the_weights_replaces_nothing_in_silence(made, capsys):
    Path("net.json").write_text("mine")
    export = ["export", str(made[1].path), "net.safetensors"]
    assert main(export) == 1
    assert "net.json is there already; give another name, or --overwrite" in capsys.readouterr().err
    assert Path("net.json").read_text() == "mine"
    assert not Path("net.safetensors").exists()
    assert main([*export, "--overwrite"]) == 0
    assert json.loads(Path("net.json").read_text())["model"] == made[1].digest


def test_what_a_model_warns_of_is_said_once_and_without_a_place_in_the_source(made, capsys, monkeypatch):
    np.savez("in.npz", **inputs(made)[0])
    answer = type(made[2]).predict

    def careful(self, x):
        warnings.warn("a is outside of [0, 1]", stacklevel=2)
        return answer(self, x)

    monkeypatch.setattr("sciflow.predicting.AT_ONCE", 2)
    monkeypatch.setattr(type(made[2]), "predict", careful)
    assert predict(made, "in.npz") == 0
    said = capsys.readouterr().err
    assert said.count("sciflow: a is outside of [0, 1]\n") == 1
    assert "Warning" not in said


def test_an_artifact_of_another_kind_is_refused_by_its_kind(made, capsys):
    model = str(made[1].path)
    assert main(["predict", model, model]) == 1
    assert "is of kind model, no ensemble" in capsys.readouterr().err
    assert main(["export", model, "net.pt2", "--inputs", model]) == 1
    assert f"--inputs: {model} is of kind model, no ensemble" in capsys.readouterr().err
    assert main(["export", str(made[0].path), "net.pt2"]) == 1
    assert "is of kind ensemble; it holds no fitted surrogate" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"b": 1.0}, "in.npz: the model has no input 'b'. There is: a, u[0]"),
        ({"u[0]": None}, "in.npz: these inputs of the model are missing: u[0] (x; unit K)"),
        (
            {"u[0]": np.ones((5, 9))},
            "in.npz: the model was fitted on {'u[0]': (8,), 'a': ()}, this is {'u[0]': (9,)",
        ),
        (
            {"u[0]": np.ones((5, 2, 8))},
            "in.npz: 'u[0]' has shape (5, 2, 8); the model takes (x), or that behind",
        ),
        (
            {"u[0]": np.ones((4, 8))},
            "in.npz: these inputs have different numbers of samples: {'u[0]': 4, 'a': 5}",
        ),
        ({"u[0]": np.full((5, 8), np.nan)}, "in.npz: 'u[0]' is not finite at (0, 0) and 39 more places"),
        ({"a": np.array([1, 1, np.inf, 1, 1])}, "in.npz: 'a' is not finite at (2,)\n"),
        ({"a": np.array(["x"] * 5)}, "in.npz: 'a' holds <U1, not numbers"),
        (
            {"x": X * 1000},
            "in.npz: the axis 'x' goes from 0 to 1000, that of the training samples from 0 to 1",
        ),
    ],
)
def test_what_does_not_fit_is_refused_with_file_and_reason(made, capsys, change, message):
    x, _ = inputs(made)
    np.savez("in.npz", **{k: v for k, v in {**x, **change}.items() if v is not None})
    assert predict(made, "in.npz") == 1
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said
    assert not list(made[0].path.parent.parent.parent.glob("*prediction*"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "c=1"], "--set c: the model has no such input"),
        (["--set", "u[0]=1"], "--set u[0]: this input is a field with axes ('x',); give a file"),
        (["--set", "a=one"], "--set a=one: write NAME=VALUE with a number"),
        (["--set", "a=nan"], "write NAME=VALUE with a finite number"),
        (["no.npz"], "there is no input no.npz"),
        (["-o", "out.csv"], "'out.csv': the name must end in .zarr or .npz"),
        (["-o", "no/out.npz"], "there is no directory no"),
        (["--members", "1"], "--members chooses from an ensemble"),
        (["broken.json"], "broken.json is not JSON"),
        (["ragged.json"], "ragged.json: 'a' is no number and no regular array"),
        (["pickle.npz"], "pickle.npz cannot be read as .npz: "),
        (["cut.npz"], "cut.npz cannot be read as .npz: numpy.savez did not write it, or not to its end"),
        (["nothing.npz"], "nothing.npz cannot be read as .npz: "),
        (["text.npz"], "text.npz cannot be read as .npz: numpy.savez did not write it"),
        (["single.npz"], "single.npz holds one array without a name; write named ones with numpy.savez"),
        (["none.npz"], "none.npz: there are no samples in it"),
    ],
)
def test_wrong_arguments_are_refused(made, capsys, arguments, message):
    Path("broken.json").write_text("{")
    Path("ragged.json").write_text('{"a": [[1], [1, 2]]}')
    np.savez("pickle.npz", a=np.array([{}], dtype=object))
    np.savez("none.npz", **{"u[0]": np.ones((0, 8)), "a": np.ones(0)})
    Path("cut.npz").write_bytes(Path("none.npz").read_bytes()[:100])
    Path("nothing.npz").touch()
    Path("text.npz").write_text("u = 1, 2, 3")
    with Path("single.npz").open("wb") as file:
        np.save(file, np.ones(3))
    assert predict(made, *arguments) == 1
    assert message in capsys.readouterr().err


def test_units_in_a_file_are_compared(made, capsys):
    x, _ = inputs(made)
    data = xr.Dataset({"u_0": (("sample", "x"), x["u[0]"], {"units": "degC"}), "a": ("sample", x["a"])})
    data.to_zarr("in.zarr", zarr_format=3, consolidated=False)
    assert predict(made, "in.zarr") == 1
    assert "'u_0' is in 'degC', the model takes 'K'; convert it" in capsys.readouterr().err


def test_axes_that_go_downwards_are_compared_too():
    down = Signature({"u": Field(("y",), "K")}, {"u": Field(("y",), "K")}, {"y": X[::-1]})
    u = np.ones((2, 8))
    assert checked(Given("here", {"u": u}, coordinates={"y": X[::-1]}), down, {})["u"] is u
    with pytest.raises(
        Invalid, match="the axis 'y' goes from 0 to 1, that of the training samples from 1 to 0"
    ):
        checked(Given("here", {"u": u}, coordinates={"y": X}), down, {})


def test_coordinates_follow_the_grid_of_the_prediction():
    field = Field(("y", "x"), "K")
    signature = Signature({"u": field}, {"u": field}, {"y": X, "x": np.arange(4) / 4}, ("x",))
    found = coordinates_of(signature, {"u": (15, 8)}, {})
    np.testing.assert_allclose(found["y"], np.linspace(0, 1, 15))
    np.testing.assert_allclose(found["x"], np.arange(8) / 8)
    # A finer grid of the same domain is no other domain.
    given = Given("f", {"u": np.ones((15, 8))}, {}, {"y": np.linspace(0, 1, 15), "x": np.arange(8) / 8})
    assert checked(given, signature, {})["u"].shape == (1, 15, 8)


def test_the_help_is_quick():
    best = 9.0
    for _ in range(3):
        begin = time.perf_counter()
        done = subprocess.run([sys.executable, "-m", "sciflow.cli", "predict", "--help"], capture_output=True)
        best = min(best, time.perf_counter() - begin)
    assert b"--members" in done.stdout
    assert best < 0.3
