"""Exported models answer as the models do, in torch and in ONNX, and are refused where they do not."""

import asyncio
import json
import re
import warnings

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from sciflow import Context, Failed, Field, Invalid, Signature
from sciflow.cli import main
from sciflow.flow import run
from sciflow.stages.design import Design
from sciflow.stages.simulate import Simulate
from sciflow.stages.train import Train, load_model
from sciflow_operators.components import FNO, MLP, MPPDE, Refiner
from sciflow_operators.export import graphs
from sciflow_operators.export.mapped import Mapped, graph_names
from sciflow_spectral.components import NavierStokes
from tests.conftest import ROOT
from tests.operators.test_training import Memory
from tests.toys import Least, Wave

onnx = pytest.mark.skipif(
    any(graphs.importlib.util.find_spec(n) is None for n in ("onnx", "onnxscript", "onnxruntime")),
    reason="no onnx, onnxscript, onnxruntime",
)
QUICK = {"epochs": 1, "threads": 1, "device": "cpu"}
NETS = {
    "fno": FNO(width=6, modes=4, layers=1, **QUICK),
    "mlp": MLP(width=8, layers=2, **QUICK),
    "mp_pde": MPPDE(width=4, layers=1, **QUICK),
}


def samples_of(dimensions, levels, n=8):
    """Random samples with a field, a field of several levels, a number; periodic along the last axis."""
    rng = np.random.default_rng(0)
    axes = ("y", "x")[2 - dimensions :]
    space = (n,) * dimensions
    shapes = {"u": ("time", *axes), "k": axes, "nu": ()}
    x = {"u": (3, 2, *space), "k": (3, *space), "nu": (3,)}
    y = {"u": (3, *((levels,) if levels > 1 else ()), *space)}
    coordinates = {"time": np.arange(2.0), "lead": np.arange(1.0, 1 + levels), "y": np.linspace(0, 1, n)}
    coordinates["x"] = np.arange(n) / n
    out = {"u": (*(("lead",) if levels > 1 else ()), *axes)}
    signature = Signature(
        {k: Field(v, "K") for k, v in shapes.items()},
        {k: Field(v, "K") for k, v in out.items()},
        coordinates,
        ("x",),
    )
    draw = ({k: 5 + rng.standard_normal(s).astype("float32") for k, s in part.items()} for part in (x, y))
    return Memory(*draw, signature)


def fitted(config, samples):
    generator = config.fit(samples, samples, Context(seed=1))
    while True:
        try:
            next(generator)
        except StopIteration as end:
            return end.value


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize(("dimensions", "levels"), [(1, 1), (2, 3)])
def test_one_module_maps_fields_in_their_units(name, dimensions, levels):
    samples = samples_of(dimensions, levels)
    model = fitted(NETS[name], samples)
    mapped = Mapped(model).eval()
    with torch.no_grad():
        (found,) = mapped(*(torch.from_numpy(v) for v in samples.x.values()))
    assert found.numpy().tobytes() == model.predict(samples.x)["u"].tobytes()
    drawn = mapped.random(500, 0)
    for key, values in drawn.items():
        assert values.shape[1:] == samples.x[key].shape[1:]
        assert float(values.mean()) == pytest.approx(float(samples.x[key].mean()), abs=0.3)


def test_names_in_a_graph_are_words_and_unique():
    assert graph_names({"u": 0, "u[0]": 0, "u[-1]": 0}, {"u": 0, "u[-1]": 0}) == (
        ["u", "u_0", "u_m1"],
        ["u_out", "u_m1_out"],
    )


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """Models in a store, with the ensemble they were trained on; by name."""
    from sciflow.flow import Session, within
    from sciflow.store import Store

    folder = tmp_path_factory.mktemp("exports")
    store = Store(folder / "store")
    found = {}

    async def flow():
        problem = NavierStokes(points=16, levels=3, end=0.2, steps=20)
        points = await run(Design(problem=problem, count=8))
        data = await run(Simulate(problem), design=points)
        wave = await run(Simulate(Wave()), design=await run(Design(problem=Wave(), count=8)))
        for name in ("fno", "mp_pde"):
            step = Train(NETS[name], ("vorticity", "viscosity"), ("vorticity",), 0.5, 0.2, window=(1, 1))
            found[name] = await run(step, ensemble=data)
        found["mlp"] = await run(Train(NETS["mlp"], ("u[0]", "a"), ("u",), 0.5, 0.2), ensemble=wave)
        found["least"] = await run(Train(Least(), ("u[0]", "a"), ("u",), 0.5, 0.2), ensemble=wave)

    with within(Session(store, "test")):
        asyncio.run(flow())
    return found


def play(path, about, x):
    """Answers of an exported file, without any of our code."""
    if path.suffix == ".pt2":
        module = torch.export.load(path).module()
        values = [v.numpy() for v in module(*(torch.from_numpy(x[n]) for n in about["graph_inputs"]))]
    else:
        import onnxruntime

        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        values = session.run(None, {about["graph_inputs"][n]: v for n, v in x.items()})
    return dict(zip(about["graph_outputs"], values, strict=True))


def about_of(path):
    """What a file says of itself."""
    if path.suffix == ".pt2":
        extra = {"sciflow.json": ""}
        torch.export.load(path, extra_files=extra)
        return json.loads(extra["sciflow.json"])
    import onnx as library

    document = library.load(str(path))
    assert document.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    return json.loads({p.key: p.value for p in document.metadata_props}["sciflow"])


@pytest.mark.parametrize(
    ("name", "suffix"),
    [("fno", ".pt2"), ("mlp", ".pt2"), *(pytest.param(n, ".onnx", marks=onnx) for n in NETS)],
)
def test_files_answer_as_the_model_does(stored, tmp_path, capsys, name, suffix):
    path = tmp_path / f"model{suffix}"
    assert main(["export", str(stored[name].path), str(path)]) == 0
    said = capsys.readouterr()
    assert said.out == f"{path}\n"
    for what in ("random inputs, batch of 1", "random inputs, batch of 5", "training inputs"):
        (line,) = [row for row in said.err.splitlines() if what in row]
        assert float(line.split(": ")[1].split()[0]) <= 1e-5
    about = about_of(path)
    assert about["model"] == stored[name].digest
    model = load_model(stored[name])
    rng = np.random.default_rng(3)
    shapes = {n: model.signature.shape_of(f) for n, f in model.signature.inputs.items()}
    x = {n: rng.standard_normal((7, *s)).astype("float32") for n, s in shapes.items()}
    for key, values in model.predict(x).items():
        np.testing.assert_allclose(
            play(path, about, x)[key], values, atol=1e-5 * np.abs(values).max(), rtol=0
        )


def test_a_graph_for_another_grid(stored, tmp_path, capsys):
    path = tmp_path / "fine.pt2"
    assert main(["export", str(stored["fno"].path), str(path), "--points", "32x24"]) == 0
    assert about_of(path)["points"] == [32, 24]
    x = {"vorticity": np.ones((2, 32, 24), "float32"), "viscosity": np.ones(2, "float32")}
    found = play(path, about_of(path), x)["vorticity"]
    np.testing.assert_allclose(found, load_model(stored["fno"]).predict(x)["vorticity"], rtol=1e-4, atol=1e-6)
    assert main(["export", str(stored["mlp"].path), str(tmp_path / "m.pt2"), "--points", "9"]) == 1
    assert "bound to the grid it was fitted on" in capsys.readouterr().err


def test_weights_and_signature_are_read_without_sciflow(stored, tmp_path):
    from safetensors.numpy import load_file

    path = tmp_path / "weights.safetensors"
    assert main(["export", str(stored["least"].path), str(path)]) == 0
    document = json.loads(path.with_suffix(".json").read_text())
    weights = load_file(path)["weights"]
    x = {"u[0]": np.ones((2, 8)), "a": np.ones(2)}
    assert [name for name, _ in document["signature"]["inputs"]] == list(x)
    wanted = load_model(stored["least"]).predict(x)["u"]
    row = np.concatenate([np.ones((2, 8)), np.ones((2, 1))], axis=1)
    assert weights.shape[1] == wanted[0].size
    assert len(weights) in (row.shape[1], row.shape[1] + 1)


def test_a_graph_that_answers_otherwise_is_not_kept(stored, tmp_path, monkeypatch):
    write = graphs.write_torch

    def off(mapped, path, about):
        replay = write(mapped, path, about)
        return lambda x: {n: v * (1 + 2e-5) for n, v in replay(x).items()}

    monkeypatch.setattr(graphs, "write_torch", off)
    with pytest.raises(Failed, match="differ from the model's by 2e-05 of the largest value"):
        graphs.export(stored["mlp"], tmp_path / "m.pt2", None, None)
    assert list(tmp_path.iterdir()) == []


def test_an_answer_that_is_not_a_number_is_different():
    good, bad = np.ones((2, 3)), np.array([[1, np.nan, 1], [1, 1, 1]])
    for found, wanted in ((bad, good), (good, bad)):
        for names in (("u", "v"), ("v", "u")):
            x, y = dict(zip(names, (found, good), strict=True)), dict(zip(names, (wanted, good), strict=True))
            assert np.isnan(graphs.difference(x, y))
    assert graphs.difference({"u": 1.5 * good, "v": good}, {"u": good, "v": good}) == 0.5


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("least", ["m.onnx"], "no plugin writes toy_least as .onnx"),
        ("fno", ["m.pth"], "must end in .safetensors or .pt2 or .onnx"),
        ("fno", ["m.pt2", "--points", "32"], "give a number of points for each of y, x"),
        ("fno", ["m.pt2", "--points", "32by32"], "write 128 or 128x128"),
    ],
)
def test_what_cannot_be_exported_is_refused(stored, tmp_path, monkeypatch, capsys, name, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert main(["export", str(stored[name].path), *arguments]) == 1
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_asks_its_network_twice_is_refused():
    from sciflow_operators.training.fitted import Fitted

    class Twice(Fitted):
        def predict(self, x):
            return super().predict(super().predict(x))

    samples = samples_of(1, 1)
    model = fitted(NETS["fno"], samples)
    twice = Twice(model.config, model.signature, model.layout, model.net, model.scales)
    with pytest.raises(Invalid, match="answers by more than one pass"):
        Mapped(twice)
    with pytest.raises(Invalid, match="refiner answers by more than one pass"):
        Mapped(fitted(Refiner.example().replace(epochs=1), samples))
    Mapped(fitted(Refiner.example().replace(epochs=1, steps=0), samples))


@onnx
def test_without_onnx_it_says_what_to_install(stored, tmp_path, monkeypatch, capsys):
    real = graphs.importlib.util.find_spec
    monkeypatch.setattr(
        graphs.importlib.util, "find_spec", lambda n, *a: None if n == "onnxscript" else real(n, *a)
    )
    assert main(["export", str(stored["mlp"].path), str(tmp_path / "m.onnx")]) == 1
    assert "pip install 'sciflow[onnx]'" in capsys.readouterr().err


@pytest.mark.torture
@onnx
def test_every_network_leaves_in_both_formats(tmp_path):
    """But those that answer by many passes with random numbers of their own."""
    from sciflow.registry import registry
    from sciflow.testing import example
    from sciflow_operators.training.trained import Trained

    axes, rng = ("y", "x"), np.random.default_rng(0)
    u, v = rng.standard_normal((2, 4, 16, 16)).astype("float32")
    signature = Signature(
        {"u": Field(axes, "K"), "lead_time": Field((), "s")},
        {"u": Field(axes, "K")},
        dict.fromkeys(axes, np.arange(16) / 16),
        axes,
    )
    samples = Memory({"u": u, "lead_time": np.ones(4, "float32")}, {"u": v}, signature)
    seen = set()
    for cls, _ in registry().components():
        if cls.kind != "surrogate" or not issubclass(cls, Trained) or cls.name in ("refiner", "equino"):
            continue
        model = fitted(example(cls).replace(epochs=1), samples)
        model.net.requires_grad_(False)
        mapped = Mapped(model).eval()
        about = {"graph_inputs": {"u": "u", "lead_time": "lead_time"}, "graph_outputs": {"u": "u_out"}}
        with graphs.quiet(), torch.no_grad():
            for write, suffix in ((graphs.write_torch, "pt2"), (graphs.write_onnx, "onnx")):
                replay = write(mapped, tmp_path / f"{cls.name}.{suffix}", about)
                assert list(graphs._compared(mapped, replay, None)), cls.name
        seen.add(cls.name)
    assert {"fno", "mlp", "mp_pde", "unet", "multigrid", "poseidon"} <= seen


def test_the_page_reads_weights_without_sciflow(stored, tmp_path, monkeypatch):
    text = (ROOT / "docs" / "export.md").read_text()
    (block,) = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert len([line for line in block.splitlines() if line and "import" not in line]) <= 10
    monkeypatch.chdir(tmp_path)
    assert main(["export", str(stored["mlp"].path), "weights.safetensors"]) == 0
    rng = np.random.default_rng(0)
    x = {"u[0]": rng.random((3, 8)).astype("float32"), "a": rng.random(3).astype("float32")}
    np.savez("in.npz", **x)
    names: dict = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        exec(block, names)
    wanted = load_model(stored["mlp"]).predict(x)["u"]
    np.testing.assert_allclose(names["out"].reshape(wanted.shape), wanted, rtol=1e-5)
