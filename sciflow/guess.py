"""Guess: where a solver begins, as a field of the problem; a fitted model serves as one."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from sciflow.component import Component
from sciflow.context import exchange
from sciflow.errors import Diverged, Invalid, NotFound, SciflowError, nearest
from sciflow.problem import Problem
from sciflow.schema import Field

if TYPE_CHECKING:
    import numpy as np

    from sciflow.artifact import Artifact
    from sciflow.context import Context
    from sciflow.samples import Signature
    from sciflow.surrogate import Model

ABSENT = "0" * 64
"""Digest of no artifact: what stands in a configuration that is an example."""


class Guess(Component):
    """Says where a solver begins instead of at a start of its own.

    A solver that takes one converges to its own tolerance all the same, and drops a guess that is not finite
    or farther from the solution than its own start: a guess decides how many iterations are taken, not what
    they lead to.
    """

    kind: ClassVar[str] = "guess"

    @abstractmethod
    def check(self, problem: TakesGuess) -> None:
        """Refuse a problem that this cannot guess the solution of, before any job starts.

        Raises
        ------
        Invalid, NotFound
            Saying what does not fit, or is not there.
        """

    @abstractmethod
    def predict(
        self, problem: TakesGuess, mu: Mapping[str, float], known: Mapping[str, np.ndarray]
    ) -> np.ndarray:
        """The field ``problem.guessed`` for one parameter point; asked on one rank alone.

        Parameters
        ----------
        problem : TakesGuess
            Which is about to be solved.
        mu : mapping of str to float
            A complete point of its parameters.
        known : mapping of str to ndarray
            The fields ``problem.foreknown``, whole, in their units.

        Returns
        -------
        ndarray, shape ``problem.shape(problem.guessed)``
            In the unit of the field.

        Raises
        ------
        Diverged
            If there is none for this point: the solver begins where it does without.
        """


class TakesGuess(Problem):
    """A problem with a field ``guess : Guess | None``.

    Where it is None it is left out of the configuration as JSON, so that the problem is the same as before
    there was such a field.

    Attributes
    ----------
    guessed : str
        The field of `fields` that a guess is one of; without the axis ``time``.
    foreknown : tuple of str
        Fields of `fields` that are known before the problem is solved, which a guess may be made from.
    """

    guess: Guess | None
    guessed: ClassVar[str]
    foreknown: ClassVar[tuple[str, ...]] = ()

    def to_json(self) -> dict[str, Any]:
        """See `Component.to_json`."""
        document = super().to_json()
        if document.get("guess") is None:
            document.pop("guess", None)
        return document

    def check_guess(self) -> None:
        """Refuse a guess that is not one of this problem's solution, before any job is started.

        Raises
        ------
        Invalid
            If `guess` is no guess, or one of something else.
        NotFound
            If it needs an artifact that is not there.
        """
        if self.guess is None:
            return
        if not isinstance(self.guess, Guess):
            raise Invalid(f"guess of {self.name} is a Guess, for example FromModel(path), got {self.guess!r}")
        self.guess.check(self)


def first_guess(
    problem: TakesGuess, mu: Mapping[str, float], ctx: Context, known: Mapping[str, np.ndarray] | None = None
) -> np.ndarray | None:
    """Where the solver of a member may begin; collective, and the same bits on every rank.

    Parameters
    ----------
    problem : TakesGuess
        Whose guess is asked, on the first rank.
    mu : mapping of str to float
        A complete point.
    ctx : Context
        Ranks that solve the member.
    known : mapping of str to ndarray or None
        The fields ``problem.foreknown``, whole, at least on the first rank.

    Returns
    -------
    ndarray, shape ``problem.shape(problem.guessed)``, or None
        Finite, float64; None where there is no guess, or none for this point.

    Raises
    ------
    Invalid
        On every rank alike, if the guess fails in another way than by `Diverged`, or has another shape.
    """
    import numpy as np

    if problem.guess is None:
        return None
    shape = problem.shape(problem.guessed)
    values, trouble = np.zeros(shape), ""
    if ctx.comm.rank == 0:
        try:
            values = _asked(problem, mu, known or {}, shape)
        except Diverged as error:
            ctx.log.info("no guess for this member: %s", error)
            trouble = "none"
        # A model is foreign code; the other ranks wait for what comes of it.
        except Exception as error:
            said = f"{error}" if isinstance(error, SciflowError) else f"{type(error).__name__}: {error}"
            trouble = f"the guess of {problem.name} failed: {said}"
    trouble = exchange(ctx.comm, trouble)[0]
    if trouble == "none":
        return None
    if trouble:
        raise Invalid(trouble)
    if ctx.comm.size > 1:
        mpi: Any = ctx.comm
        mpi.Bcast(values, root=0)
    return values


def _asked(
    problem: TakesGuess, mu: Mapping[str, float], known: Mapping[str, np.ndarray], shape: tuple[int, ...]
) -> np.ndarray:
    """A whole and finite guess.

    Raises
    ------
    Diverged
        If it is not finite.
    Invalid
        If it has another shape.
    """
    import numpy as np

    assert problem.guess is not None
    found = np.array(problem.guess.predict(problem, mu, known), dtype=np.float64, order="C")
    if found.shape != shape:
        raise Invalid(f"{problem.guess.name} gave shape {found.shape}, {problem.guessed!r} has {shape}")
    if not np.isfinite(found).all():
        raise Diverged(f"{problem.guess.name} is not finite")
    return found


@dataclass(frozen=True)
class FromModel(Guess):
    """What a fitted model predicts.

    Takes models that map parameters, and fields that are known before the problem is solved (its source, its
    permeability), to the field that is solved for, on the problem's own grid.

    Attributes
    ----------
    model : str
        Directory of a ``model`` artifact, made by the stages ``train``, ``build_rom`` and others.
    model_digest : str
        Of the artifact. Where it is empty that of the one that is there is taken when the configuration is
        made.

    Raises
    ------
    Invalid
        If no model is named.
    """

    name: ClassVar[str] = "from_model"
    model: str
    model_digest: str = ""

    def __post_init__(self) -> None:
        if not self.model:
            raise Invalid("model is the directory of a model artifact")
        if not self.model_digest:
            object.__setattr__(self, "model_digest", opened(self.model).digest)

    @classmethod
    def example(cls) -> Self:
        """A configuration; whether the artifact is there is looked at when it is used."""
        return cls("artifacts/model-0123456789abcdef", ABSENT)

    def check(self, problem: TakesGuess) -> None:
        """See `Guess.check`.

        Raises
        ------
        NotFound
            If there is no artifact, or its surrogate is not installed.
        Missing
            If software that the surrogate needs is not installed.
        Invalid
            If it is another artifact, of another kind, a model of time steps, or one from other inputs or to
            other outputs than this problem has, or on another grid.
        """
        from sciflow.registry import registry, require
        from sciflow.samples import Signature

        artifact = opened(self.model, self.model_digest)
        about = artifact.attributes
        if "surrogate" not in about or "signature" not in about:
            raise Invalid(f"{artifact.path} holds no fitted surrogate")
        require(registry().build(about["surrogate"], kind="surrogate"))
        if about.get("window") is not None or about.get("pairs") is not None:
            raise Invalid(
                f"{artifact.path} is a model of time steps; a guess needs one that maps parameters to "
                f"{problem.guessed!r}, trained without window and pairs"
            )
        check_signature(Signature.from_json(about["signature"]), problem, str(artifact.path))

    def predict(
        self, problem: TakesGuess, mu: Mapping[str, float], known: Mapping[str, np.ndarray]
    ) -> np.ndarray:
        """See `Guess.predict`."""
        import numpy as np

        model = fitted(self.model, self.model_digest)
        values = {**mu, **known}
        x = {
            name: np.asarray(values[name], dtype=field.dtype)[None]
            for name, field in model.signature.inputs.items()
        }
        with warnings.catch_warnings():
            # That a point lies outside of what was learned: the solver sees how far off it is.
            warnings.simplefilter("ignore", UserWarning)
            return np.asarray(model.predict(x)[problem.guessed][0])


def opened(path: str, digest: str = "") -> Artifact:
    """The artifact of a model, if it is the one.

    Raises
    ------
    NotFound
        If there is none.
    Invalid
        If it is of another kind or digest.
    """
    from sciflow.artifact import Artifact

    if not Path(path).is_dir():
        raise NotFound(
            f"no model artifact at {path}: name the directory of one, which a training stage makes"
        )
    artifact = Artifact.open(path, verify=False)
    if artifact.schema.kind != "model":
        raise Invalid(f"{artifact.path} is a {artifact.schema.kind}, a guess is made from a model")
    if digest and artifact.digest != digest:
        raise Invalid(
            f"{artifact.path} has the digest {artifact.digest}, the configuration asks for {digest}: it was "
            "made anew; name its digest, or leave it empty to take what is there"
        )
    return artifact


@lru_cache(maxsize=4)
def fitted(path: str, digest: str) -> Model:
    """The model of an artifact, verified and read once in a process.

    Raises
    ------
    NotFound, Invalid
        As `opened`, and if it is damaged.
    """
    from sciflow.stages.train import load_model

    artifact = opened(path, digest)
    artifact.verify(full=True)
    return load_model(artifact)


def check_signature(signature: Signature, problem: TakesGuess, where: str) -> None:
    """Refuse a model whose inputs this problem does not have before it is solved, or without its field.

    Parameters
    ----------
    signature : Signature
        Of the model.
    problem : TakesGuess
        Whose field is guessed.
    where : str
        The model, for the message.

    Raises
    ------
    Invalid
        Naming the input or output, and what there is.
    """
    name = problem.guessed
    if name not in signature.outputs:
        raise Invalid(
            f"{where} predicts {', '.join(signature.outputs)}; a guess for {problem.name} is its {name!r}"
        )
    _check_field(name, signature.outputs[name], signature, problem, where)
    for given, field in signature.inputs.items():
        if given in problem.parameters and not field.axes:
            continue
        if given not in problem.foreknown:
            there = [*problem.parameters, *problem.foreknown]
            raise Invalid(
                f"{where} needs {given!r}, which {problem.name} does not know before it is solved. "
                f"{nearest(given, there)}"
            )
        _check_field(given, field, signature, problem, where)


def _check_field(name: str, field: Field, signature: Signature, problem: TakesGuess, where: str) -> None:
    """Refuse a field of a model with other axes, points or unit than the problem's."""
    import numpy as np

    own, lines = problem.fields[name], problem.coordinates()
    if field.axes != own.axes:
        raise Invalid(f"{where}: {name!r} has the axes {field.axes}, in {problem.name} {own.axes}")
    if field.unit != own.unit:
        raise Invalid(f"{where}: {name!r} is in {field.unit}, in {problem.name} in {own.unit}")
    for axis in own.axes:
        theirs, ours = signature.coordinates[axis], np.asarray(lines[axis], dtype=np.float64)
        if len(theirs) != len(ours) or not np.allclose(
            theirs, ours, rtol=1e-6, atol=1e-6 * float(np.ptp(ours))
        ):
            raise Invalid(
                f"{where}: {name!r} is on another grid, {len(theirs)} points of {axis!r} from {theirs[0]:g} "
                f"to {theirs[-1]:g}; {problem.name} has {len(ours)} from {ours[0]:g} to {ours[-1]:g}"
            )
