"""The mistakes that a component is begun with are told in words: what came, what was asked for, "
"what to do."""

import inspect
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

from sciflow import Diverged, Field, Invalid, Missing, Proposal, Report, Schema, Stage, State
from sciflow.component import Component
from sciflow.linear_solver import Plain
from sciflow.templates.controller.template_name import TemplateName as Bandit
from sciflow.templates.linear_solver.template_name import TemplateName as LastGuess
from sciflow.templates.problem.template_name import TemplateName as Rod
from sciflow.templates.stage.template_name import TemplateName as Spread
from sciflow.templates.surrogate.template_name import TemplateName as Polynomial
from sciflow.templates.surrogate.template_name import TemplateNameModel
from sciflow.testing import check, check_component, example
from tests.toys import Least, Wave


def broken(base, **methods):
    """A subclass with other methods."""
    return dataclass(frozen=True)(type("Broken", (base,), {"__module__": base.__module__, **methods}))()


@pytest.mark.parametrize(
    ("component", "made"),
    [
        (Rod(), "check_problem"),
        (Polynomial(), "check_surrogate"),
        (Bandit(), "check_controller"),
        (Spread(), "check_stage"),
    ],
)
def test_every_check_that_fits_is_made(component, made):
    assert check(component) == ("check_component", made)


def test_a_surrogate_of_planes_is_checked_in_a_plane_and_one_of_nothing_says_so():
    def plane(self, samples, valid, ctx, resume=None):
        if len(samples.signature.inputs["u"].axes) != 2:
            raise Invalid("it takes planes")
        return (yield from Least.fit(self, samples, valid, ctx, resume))

    def none(self, samples, valid, ctx, resume=None):
        raise Invalid(f"no {len(samples.signature.inputs['u'].axes)}")
        yield

    assert check(broken(Least, fit=plane)) == ("check_component", "check_surrogate")
    with pytest.raises(Invalid, match=r"neither fields on a line \(no 1\) nor in a plane \(no 2\)"):
        check(broken(Least, fit=none))


def test_software_that_is_missing_is_named():
    with pytest.raises(Missing, match="a_module_that_nobody_has"):
        check(broken(Rod, requires=("a_module_that_nobody_has",)))


def dictionary(self, mu, ctx):
    yield {"u": np.zeros(self.points)}


def unnamed(self, mu, ctx):
    yield State(0.0, np.zeros(self.points))


def drawn(self, rng):
    return {**Bandit.init(self, rng), "seen": np.array(["text"])}


def numbered(self, rng):
    return {**Bandit.init(self, rng), "open": {1: 0}}


def in_place(self, state, token, cost, status):
    after = Bandit.observe(self, state, token, cost, status)
    state["count"] = after["count"]
    return after


def first_only(self, state, token, cost, status):
    if str(token) != min(state["open"], key=int):
        raise LookupError("not the oldest")
    return Bandit.observe(self, state, token, cost, status)


def list_of_reports(self, samples, valid, ctx, resume=None):
    return [Report(1, 1, {}, dict)]


def no_model(self, samples, valid, ctx, resume=None):
    yield Report(1, 1, {}, dict)


def numbers(self, samples, valid, ctx, resume=None):
    yield 0.5
    return 1


def never(self, samples, valid, ctx, resume=None):
    return Least.load(self, {"weights": np.zeros((17, 16))}, samples.signature)
    yield


@pytest.mark.parametrize(
    ("component", "message"),
    [
        ((Rod, {"solve": lambda self, mu, ctx: None}), "solve gives None, no states; write `yield State"),
        ((Rod, {"solve": dictionary}), "solve yields a dict, not a State; write"),
        ((Rod, {"solve": unnamed}), "fields of a State are a ndarray, not arrays by name"),
        (
            (Rod, {"solve": lambda self, mu: None}),
            r"solve takes \(self, mu\), it is called with \(self, mu, ctx\)",
        ),
        ((Rod, {"coordinates": lambda self: {"time": [0.0], "x": [[0.0]]}}), "'x' are not one-dimensional"),
        (
            (Rod, {"fields": {"u": Field(("x", "time"), "K")}}),
            r"time must be the first axis, its axes are \('x'",
        ),
        (
            (Bandit, {"propose": lambda self, state, features: 1.5}),
            r"propose gives 1.5; it returns a Proposal",
        ),
        (
            (Bandit, {"propose": lambda self, state, features: Proposal({}, 0)}),
            "it returns a Proposal.* and the state",
        ),
        (
            (Bandit, {"observe": lambda self, state, token, cost, status: None}),
            "observe gives None; it returns",
        ),
        ((Bandit, {"observe": in_place}), "observe changes the state in place; return a new one"),
        ((Bandit, {"observe": first_only}), "refuses the outcome of its open proposal 2.*come late"),
        ((Bandit, {"init": drawn}), "an array of <U4: only numbers can be stored"),
        ((Bandit, {"init": numbered}), r"keys that are no text, such as 1: write str\(key\)"),
        ((Polynomial, {"fit": list_of_reports}), "it is a generator that yields a Report after each epoch"),
        ((Polynomial, {"fit": no_model}), "fit returns None, not a Model; end it with `return`"),
        ((Polynomial, {"fit": numbers}), r"fit yields a float, not a Report\(epoch"),
        ((Polynomial, {"fit": never}), r"reports count the epochs \[\]; yield one Report after each"),
        ((Spread, {"output": None}), "output is not a Schema but None; declare what it writes"),
        ((Spread, {"inputs": {"ensemble": "ensemble"}}), "inputs are not Schemas: ensemble"),
        ((Spread, {"optional": ("design",)}), "optional names design, which is none of its inputs"),
        (
            (Spread, {"run": lambda self, inputs, out: None}),
            r"run takes \(self, inputs, out\), it is called with",
        ),
    ],
)
def test_a_beginner_is_told_what_to_do(component, message):
    base, methods = component
    check(base())
    with pytest.raises((AssertionError, Invalid), match=message):
        check(broken(base, **methods))


@pytest.mark.parametrize(
    ("predict", "message"),
    [
        (
            lambda self, x: {"w": x["u"]},
            r"predict gives \['w'\], asked for an array by the name of each output",
        ),
        (lambda self, x: x["u"], "asked for an array by the name of each output, 'v'"),
        (lambda self, x: {"v": x["u"][:, :3]}, r"predicts the shape \(12, 3\), not \(12, 16\); the batch"),
        (lambda self, x: {"v": np.full_like(x["u"], np.nan)}, "predictions are not finite on the samples"),
    ],
)
def test_what_a_model_predicts_is_asked_for_in_words(monkeypatch, predict, message):
    monkeypatch.setattr(TemplateNameModel, "predict", predict)
    with pytest.raises(AssertionError, match=message):
        check(Polynomial())


@pytest.mark.parametrize(
    ("wrap", "message"),
    [
        (lambda self, ksp, ctx, restart=None: None, "wrap gives None, it returns a Solving"),
        (lambda self, ksp, ctx, restart=None: Quiet(ksp), "solve gives None; it returns how many iterations"),
        (lambda self, ksp, ctx, restart=None: Loose(ksp), "is solved to .* only, 1e-8 was asked for; keep"),
    ],
)
def test_a_linear_solver_is_told_what_it_does_wrong(wrap, message):
    pytest.importorskip("petsc4py")
    check(LastGuess())
    with pytest.raises(AssertionError, match=message):
        check(broken(LastGuess, wrap=wrap))


class Quiet(Plain):
    """Solves and does not count."""

    def solve(self, b, x, features):
        super().solve(b, x, features)


class Loose(Plain):
    """Is content with a tenth of the residual."""

    def solve(self, b, x, features):
        self._ksp.setTolerances(rtol=1e-1)
        return super().solve(b, x, features)


def test_arguments_may_be_renamed_and_added_where_they_have_a_default():
    """A method is held to how it is called, not to how it is spelt."""

    def solve(self, point, context, verbose=False):
        return Rod.solve(self, point, context)

    check_component(broken(Rod, solve=solve))


def test_every_message_of_a_check_says_who_broke_the_rule_or_what_to_do():
    """No check raises a bare AssertionError: each assert has a sentence."""
    import ast

    import sciflow.testing as package

    for name in ("component", "problem", "surrogate", "stage", "controller", "linear_solver", "executor"):
        module = getattr(package, name)
        for node in ast.walk(ast.parse(inspect.getsource(module))):
            if isinstance(node, ast.Assert) and "is not None" not in ast.unparse(node.test):
                assert node.msg is not None or "isinstance(made, Problem)" in ast.unparse(node.test), (
                    f"{name}: {ast.unparse(node)}"
                )


@dataclass(frozen=True)
class Needy(Stage):
    """Has a setting without a default."""

    name: ClassVar[str] = "needy"
    output: ClassVar[Schema] = Schema("table")
    problem: Component

    def run(self, inputs, out, ctx):
        raise AssertionError("a check must not run a stage")


def test_what_cannot_be_made_from_defaults_is_asked_for_an_example():
    with pytest.raises(Invalid, match=r"needy has no default for problem: give it a classmethod example\(\)"):
        example(Needy)
    assert example(Wave) == Wave()


def test_errors_of_the_solver_pass_through():
    def diverges(self, mu, ctx):
        raise Diverged("residual 1e9")
        yield

    with pytest.raises(Diverged, match="residual 1e9"):
        check(broken(Rod, solve=diverges))
