"""Site: one machine's description; where the stages of a flow run there, and with what."""

from __future__ import annotations

import dataclasses
import os
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from sciflow.errors import Invalid, NotFound, nearest
from sciflow.executor import Executor, Resources

if TYPE_CHECKING:
    from sciflow.stage import Stage

_FIELDS = {f.name: f for f in dataclasses.fields(Resources)}


@dataclass(frozen=True)
class Place:
    """What a site says about one stage.

    Attributes
    ----------
    where : {"", "job", "driver"}
        In a job of its own, or in the process of the flow; empty leaves it to the stage.
    resources : mapping
        Fields of `Resources`; they win over what the flow asks for.
    """

    where: Literal["", "job", "driver"] = ""
    resources: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Site:
    """A machine, or one way to use it.

    Attributes
    ----------
    name : str
        Of its file.
    description : str
        For people.
    flows : int
        Flow runs at the same time, when started from the Prefect UI.
    executor : Executor or None
        Where stages run that say nothing else; None for the process of the flow.
    defaults : mapping
        Fields of `Resources` for what neither flow nor stage table says.
    stages : mapping of str to Place
        By the names of stages.
    """

    name: str = "here"
    description: str = "this machine: stages in the process of the flow, MPI members under mpirun"
    flows: int = 4
    executor: Executor | None = None
    defaults: Mapping[str, Any] = field(default_factory=dict)
    stages: Mapping[str, Place] = field(default_factory=dict)

    def place(
        self, stage: Stage, executor: Executor | None, resources: Resources | None
    ) -> tuple[Executor | None, Resources]:
        """Where a stage runs, and with what.

        Parameters
        ----------
        stage : Stage
            Which.
        executor, resources : Executor or None, Resources or None
            What the flow asked for. Its executor stays; its resources are overruled by the site's
            table of this stage, and completed from the site's defaults.
        """
        own = self.stages.get(stage.name, Place())
        wish = resources or Resources()
        left = {k: v for k, v in self.defaults.items() if getattr(wish, k) == _FIELDS[k].default}
        merged = dataclasses.replace(wish, **{**left, **own.resources})
        if executor is not None:
            return executor, merged
        apart = own.where == "job" or (own.where == "" and not stage.light)
        if (
            self.executor is None
            and apart
            and not stage.orchestrates
            and (merged.ranks > 1 or merged.threads)
        ):
            from sciflow.executors.mpi import Mpi

            # Ranks, and a count of threads that holds, it can only have in processes of its own.
            return Mpi(), merged
        return (self.executor if apart else None), merged


def folders() -> list[Path]:
    """Where site files are looked for: ``SCIFLOW_SITES``, ``hpc/`` here, ``~/.config/sciflow/sites``."""
    named = [Path(p) for p in os.environ.get("SCIFLOW_SITES", "").split(os.pathsep) if p]
    config = Path(os.environ.get("XDG_CONFIG_HOME", "~/.config")).expanduser()
    return [*named, Path("hpc"), config / "sciflow" / "sites"]


def sites() -> dict[str, Path | None]:
    """Every site that can be named, with its file; the built-in ones have none."""
    found: dict[str, Path | None] = {"here": None, "allocation": None}
    for folder in reversed(folders()):
        for file in sorted(folder.glob("*.toml")):
            found[file.stem] = file
    return found


def load_site(text: str) -> Site:
    """A site by its name, or by the path of its file.

    Raises
    ------
    NotFound
        If there is none; the message lists those that exist and where they were looked for.
    Invalid
        If its file is not right; one line for each problem, with its path in the file.
    """
    if text.endswith(".toml"):
        file = Path(text)
        if not file.is_file():
            raise NotFound(f"{text}: no such site file")
        return read_site(file)
    known = sites()
    if text not in known:
        looked = ", ".join(str(f) for f in folders())
        raise NotFound(f"no site {text!r}. {nearest(text, known)} Site files are looked for in: {looked}")
    found = known[text]
    if found is not None:
        return read_site(found)
    if text == "allocation":
        from sciflow.executors.steps import Steps

        return Site("allocation", "inside one Slurm allocation: each job is a step of it", 1, Steps())
    return Site()


def current() -> Site:
    """The site that ``SCIFLOW_SITE`` names, else this machine."""
    return load_site(os.environ.get("SCIFLOW_SITE") or "here")


def read_site(file: Path) -> Site:
    """Read and check a site file; see `load_site`."""
    try:
        document = tomllib.loads(file.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Invalid(f"{file}: {error}") from None
    problems = list(_problems(document))
    executor: Executor | None = None
    defaults: dict[str, Any] = {}
    stages: dict[str, Place] = {}
    try:
        executor = _executor(document.get("executor"))
    except (Invalid, NotFound) as error:
        problems += str(error).splitlines()
    tables = {"defaults": document.get("defaults"), **_named("stages", document.get("stages"))}
    for label, table in tables.items():
        if not isinstance(table, dict):
            continue
        try:
            found = _resources(label, {k: v for k, v in table.items() if k != "where" or label == "defaults"})
        except Invalid as error:
            problems += str(error).splitlines()
            continue
        if label == "defaults":
            defaults = found
        else:
            stages[label.partition(".")[2]] = Place(table.get("where", ""), found)
    if problems:
        raise Invalid("\n".join(f"{file}: {problem}" for problem in problems))
    return Site(
        file.stem, document.get("description", ""), document.get("flows", 4), executor, defaults, stages
    )


def _named(prefix: str, tables: Any) -> dict[str, Any]:
    return {f"{prefix}.{name}": t for name, t in tables.items()} if isinstance(tables, dict) else {}


def _executor(table: Any) -> Executor | None:
    """The executor that a table describes."""
    from sciflow.registry import registry

    if not isinstance(table, dict):
        return None
    if "component" not in table:
        raise Invalid('executor: say which one, as in component = "slurm"')
    return cast("Executor", registry().build(table, kind="executor"))


def _problems(document: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with the outline of a site file."""
    shape = {"description": str, "flows": int, "executor": dict, "defaults": dict, "stages": dict}
    for key, value in document.items():
        if key not in shape:
            yield f"there is no setting {key!r}. {nearest(key, shape)}"
        elif not isinstance(value, shape[key]) or isinstance(value, bool):
            yield f"{key}: {value!r} is not a {'table' if shape[key] is dict else shape[key].__name__}"
    if isinstance(document.get("flows", 1), int) and document.get("flows", 1) < 1:
        yield f"flows: at least one flow must be able to run, got {document['flows']}"
    stages = document.get("stages", {})
    for name, table in stages.items() if isinstance(stages, dict) else ():
        if not isinstance(table, dict):
            yield f"stages.{name}: a table is expected, got {table!r}"
        elif table.get("where", "") not in ("", "job", "driver"):
            yield f"stages.{name}.where: {table['where']!r} is neither 'job' nor 'driver'"


def _resources(label: str, table: Mapping[str, Any]) -> dict[str, Any]:
    """Checked fields of `Resources`."""
    from sciflow.validation import check

    for key in table:
        if key not in _FIELDS:
            raise Invalid(f"{label}: there is no setting {key!r}. {nearest(key, _FIELDS)}")
    whole = check(Resources, dict(table), label)
    return {key: getattr(whole, key) for key in table}
