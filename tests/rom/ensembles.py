"""Ensembles that are written directly, without a solver."""

from __future__ import annotations

import numpy as np

from sciflow.schema import Field, Schema
from sciflow.stages.simulate import ENSEMBLE


def write(
    store, values, axes, *, coordinates=None, extra=None, dtype="float64", failed=(), recipe="0", **about
):
    """An ensemble with one field ``u`` of some axes; values (member, ...)."""
    count = len(values)
    points = np.linspace(1.0, 2.0, count)[:, None] * [1.0, 10.0]
    with store.writer(Schema("ensemble"), recipe.ljust(64, "0")) as out:
        for axis, line in (coordinates or {}).items():
            out.write(axis, np.asarray(line, dtype=float), Field((axis,), "m", "float64"))
        for name, (field, array) in (extra or {}).items():
            out.write(name, array, field)
        out.create("u", Field(("member", *axes), "K", dtype), values.shape, member=True)
        for member in range(count):
            if member not in failed:
                out.write_member(member, {"u": values[member].astype(dtype)}, {"status": 1})
        status = np.ones(count, dtype=np.uint8)
        status[list(failed)] = 2
        out.write("parameters", points, ENSEMBLE["parameters"])
        out.write("status", status, ENSEMBLE["status"])
        out.write("seed", np.arange(count), ENSEMBLE["seed"])
        out.describe(parameters=["a", "b"], parameter_units=["m", "s"], **about)
        return out.publish({})
