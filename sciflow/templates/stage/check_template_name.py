"""What must hold for the stage: the rules of its kind, and what is known about it alone."""

import asyncio
from pathlib import Path

import numpy as np
import pytest
from sciflow import Artifact, NotFound, Problem, run
from sciflow.registry import registry
from sciflow.stages.design import Design
from sciflow.stages.simulate import Simulate
from sciflow.testing import check, example

from sciflow.templates.stage.template_name import TemplateName


def test_it_holds_to_the_rules_of_stages() -> None:
    """Schemas, identity, refusal of inputs, JSON, imports."""
    check(example(TemplateName))


async def small(stage: TemplateName) -> tuple[Artifact, Artifact]:
    """Seven members of Burgers' equation, and what the stage makes of them."""
    problem = example(registry().find("burgers"))
    assert isinstance(problem, Problem)
    data = await run(Simulate(problem), design=await run(Design(problem=problem, count=7)))
    return data, await run(stage, ensemble=data)


def test_it_computes_what_numpy_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is held at once."""
    monkeypatch.chdir(tmp_path)
    data, made = asyncio.run(small(TemplateName(batch=3)))
    values = data.read("u").astype(float)
    np.testing.assert_allclose(made.read("mean"), values.mean(axis=0), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(made.read("deviation"), values.std(axis=0, ddof=1), rtol=1e-9, atol=1e-12)
    assert made.to_xarray()["mean"].dims == ("time", "x")


def test_a_field_that_is_not_there_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is computed."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NotFound, match="no field 'pressure'"):
        asyncio.run(small(TemplateName(field="pressure")))
