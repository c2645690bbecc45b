"""Exported models beside the models: differences of the answers, and the time of an answer on one thread."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.figure import Figure, NotRun, medians

if TYPE_CHECKING:
    from sciflow_operators.training.trained import Trained

SHAPES = {"fno_1d": (256,), "fno_2d": (64, 64), "mp_pde": (256,), "mlp": (64,), "unet": (64, 64)}
"""Grids."""


def bench_replay() -> Iterator[Figure]:
    """Random weights, batches of 1 and 8 of random fields; ONNX in onnxruntime, graphs of torch in torch."""
    absent = [n for n in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(n) is None]
    if absent:
        raise NotRun(f"{', '.join(absent)} missing: pip install 'sciflow[onnx]'")
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "benchmarks.bench_export"],
        env=env, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise NotRun(done.stderr.strip().splitlines()[-1])
    for name, found in json.loads(done.stdout.splitlines()[-1]).items():
        grid = " x ".join(map(str, SHAPES[name]))
        yield Figure(f"{name}_torch", found["torch"], 1e-5, "", "<=", f"largest relative difference, {grid}")
        yield Figure(f"{name}_onnx", found["onnx"], 1e-5, "", "<=", f"largest relative difference, {grid}")
        times = f"here {1e3 * found['ours']:.2f} ms, onnxruntime {1e3 * found['theirs']:.2f} ms, batch 8"
        yield Figure(f"{name}_onnx_speed", found["ours"] / found["theirs"], 0.5, note=times)


def measure() -> dict[str, dict[str, float]]:
    """Differences and seconds of an answer to eight samples, by model."""
    import torch

    from sciflow_operators.components import FNO, MLP, MPPDE, UNet

    torch.set_num_threads(1)
    kinds = {"fno_1d": FNO, "fno_2d": FNO, "mp_pde": MPPDE, "mlp": MLP, "unet": UNet}
    return {name: compared(kind(device="cpu", threads=1), SHAPES[name]) for name, kind in kinds.items()}


def compared(config: Trained, points: tuple[int, ...]) -> dict[str, float]:
    """Differences of both kinds of files, and seconds of an answer of the model's and of onnxruntime's."""
    import numpy as np
    import torch

    from sciflow.samples import Signature
    from sciflow.schema import Field
    from sciflow_operators.export import graphs
    from sciflow_operators.export.mapped import Mapped
    from sciflow_operators.fields.channels import Scale

    axes = ("y", "x")[2 - len(points) :]
    field, lines = Field(axes, "K"), {a: np.arange(n) / n for a, n in zip(axes, points, strict=True)}
    signature = Signature({"u": field}, {"v": field}, lines, axes)
    torch.manual_seed(0)
    layout, net = config.network(signature)
    sizes = (layout.channels_in, layout.channels_out)
    ends = [Scale(*(np.full(n, v, np.float32) for v in (3.0, 2.0, 3.6))) for n in sizes]
    model = config.fitted(signature, layout, net.requires_grad_(False), (ends[0], ends[1]))
    mapped = Mapped(model).eval()
    about = {"graph_inputs": {"u": "u"}, "graph_outputs": {"v": "v"}}
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder, graphs.quiet(), torch.no_grad():
        replays = {
            "torch": graphs.write_torch(mapped, Path(folder) / "m.pt2", about),
            "onnx": graphs.write_onnx(mapped, Path(folder) / "m.onnx", about),
        }
        x = {n: v.numpy() for n, v in mapped.random(8, 0).items()}
        for kind, replay in replays.items():
            cases = (x, {n: v[:1] for n, v in x.items()})
            found[kind] = max(graphs.difference(replay(c), model.predict(c)) for c in cases)
        runs = {"ours": lambda: model.predict(x), "theirs": lambda: replays["onnx"](x)}
        return found | medians(runs, repeats=20)


if __name__ == "__main__":
    with contextlib.redirect_stdout(sys.stderr):
        made = measure()
    print(json.dumps(made))
