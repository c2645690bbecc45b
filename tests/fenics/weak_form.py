"""What the tests of the reducible problems share: the residual as the seam defines it, runs on ranks."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from sciflow import Resources, run
from sciflow.executors.mpi import Mpi, environment
from sciflow.stages.design import Design
from sciflow.stages.simulate import Simulate


def residual(form, law, vector, history, load=(), step=0):
    """``sum_q w_q B_q . s - sum_j g_j f_j`` at the rows, the stress and the history, on one rank."""
    strain = form.strains(vector[:, None])[:, :, 0]
    stress, tangent, after = law(strain, history, step)
    basis = form.strains(np.eye(len(vector)))
    inner = np.einsum("q,qcn,qc->n", form.weights, basis, stress)
    return inner - form.loads @ np.asarray(load), tangent, after


def difference(law, strain, history, step=0, h=1e-6):
    """The tangent by central differences of size `h` in each component."""
    count = strain.shape[1]
    found = np.empty((len(strain), count, count))
    for j in range(count):
        shift = np.zeros(count)
        shift[j] = h
        plus, minus = law(strain + shift, history, step)[0], law(strain - shift, history, step)[0]
        found[:, :, j] = (plus - minus) / (2 * h)
    return found


def on_ranks(problem, ranks, file):
    command = Mpi().command(ranks)
    command = command[: command.index(sys.executable)]
    script = Path(__file__).with_name("weak_form_ranks.py")
    done = subprocess.run(
        [*command, sys.executable, script, json.dumps(problem.to_json()), file],
        env=environment(1, ranks),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    with np.load(file, allow_pickle=False) as data:
        return {name: data[name] for name in data.files}


def assert_ranks_agree(problem, folder, tolerance):
    """Strains and solution in canonical order are those of one rank; tolerance over the largest value."""
    one, *others = [on_ranks(problem, ranks, folder / f"{ranks}.npz") for ranks in (1, 2, 3)]
    for other in others:
        assert one.keys() == other.keys()
        np.testing.assert_array_equal(one["mesh"], other["mesh"])
        for name, values in one.items():
            scale = np.abs(values).max(initial=0)
            np.testing.assert_allclose(other[name], values, rtol=0, atol=tolerance * scale, err_msg=name)


def ensemble(problem, ranks):
    """The artifact of two members solved on so many ranks."""

    async def flow():
        design = await run(Design(problem=problem, count=2))
        return await run(Simulate(problem, seed=2), design=design, resources=Resources(ranks=ranks))

    return asyncio.run(flow())
