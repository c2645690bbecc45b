"""Poseidon's transformer beside its source at equal weights; what one equation teaches about another."""

from __future__ import annotations

import importlib.util
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.figure import Figure, NotRun, medians

SOURCE = "POSEIDON_SOURCE"


def upstream() -> Any:
    """Poseidon's own module of the network, from a checkout of its repository.

    Raises
    ------
    NotRun
        If there is none, or no release of transformers that it runs with.
    """
    path = Path(os.environ.get(SOURCE, "")) / "scOT" / "model.py"
    if SOURCE not in os.environ or not path.is_file() or importlib.util.find_spec("transformers") is None:
        raise NotRun(
            f"set {SOURCE} to a checkout of github.com/camlab-ethz/poseidon and install transformers==4.57.1 "
            "(not scOT from PyPI, which is something else)"
        )
    spec = importlib.util.spec_from_file_location("poseidon_source", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def bench_speed() -> Iterator[Figure]:
    """Size T at 128 x 128 points, batch 2, one thread, at weights that its source saved."""
    source = upstream()
    import torch

    from sciflow_operators.poseidon import published
    from sciflow_operators.poseidon.architecture import SIZES
    from sciflow_operators.poseidon.scot import ScOT

    torch.set_num_threads(1)
    torch.manual_seed(0)
    size = SIZES["T"]
    config = source.ScOTConfig(
        image_size=size.points,
        patch_size=size.patch,
        num_channels=4,
        num_out_channels=4,
        embed_dim=size.width,
        depths=list(size.depths),
        num_heads=list(size.heads),
        skip_connections=list(size.skips),
        window_size=size.window,
        mlp_ratio=size.expansion,
        use_conditioning=True,
        drop_path_rate=0.0,
    )
    theirs = source.ScOT(config)
    with torch.no_grad():
        for p in theirs.parameters():
            p.add_(0.1 * torch.randn_like(p))
    ours = ScOT(4, 4, size)
    with tempfile.TemporaryDirectory() as directory:
        theirs.save_pretrained(directory)
        published.put(ours, *published.read(directory))
    x, time = torch.randn(2, 128, 128, 4), torch.rand(2)
    first = x.permute(0, 3, 1, 2).contiguous()
    calls = {"theirs": lambda: theirs(pixel_values=first, time=time).output, "ours": lambda: ours(x, time)}
    nets = {"theirs": theirs, "ours": ours}
    with torch.no_grad():
        apart = float((calls["ours"]().permute(0, 3, 1, 2) - calls["theirs"]()).abs().max())

    def step(who: str) -> None:
        nets[who].zero_grad(set_to_none=True)
        calls[who]().square().mean().backward()

    def forward(who: str) -> None:
        with torch.no_grad():
            calls[who]()

    runs = {
        f"{name} {who}": (lambda call=call, who=who: call(who))
        for name, call in (("gradient", step), ("forward", forward))
        for who in nets
    }
    seconds = medians(runs, repeats=8, warm=2)
    for name, target in (("gradient", 1.0), ("forward", 1.0)):
        one, other = seconds[f"{name} theirs"], seconds[f"{name} ours"]
        note = f"its source {1e3 * one:.0f} ms, here {1e3 * other:.0f} ms"
        yield Figure(f"{name}_1_thread", one / other, target, note=note)
    yield Figure("difference", apart, 1e-5, "", "<=", "of the outputs, single precision")


def bench_transfer() -> Iterator[Figure]:
    """Few trajectories of one equation, from weights that learned another and from nothing; equal updates."""
    import numpy as np

    from benchmarks.poseidon_transfer import FINE, NOTHING, error, forced, train, vorticity
    from sciflow_operators.poseidon.published import write

    rng = np.random.default_rng(0)
    first, second = vorticity(136, rng), forced(64, rng)
    model: Any = train(first[8:], 0, epochs=12, batch=32, learning_rate=2e-3)
    with tempfile.TemporaryDirectory() as directory:
        write(model.net.net, model.config.sizes, directory)
        for count in (4, 16):
            fixed = {"epochs": 320 // count, "batch": 16}
            nothing, fine = (
                error(train(second[:count], 0, **fixed, **way), second[32:])
                for way in (NOTHING, {**FINE, "weights": directory})
            )
            note = f"error {nothing:.1f} % from nothing, {fine:.1f} % from weights that learned decaying flow"
            yield Figure(f"transfer_{count}_trajectories", nothing / fine, 1.0, note=note)
