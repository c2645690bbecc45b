"""What a controller must do: replay, take late outcomes, and keep plain state."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from sciflow.controller import Controller, Proposal


def check_controller(controller: Controller, *, steps: int = 20) -> None:
    """Check that a controller replays, takes late outcomes, and keeps plain state.

    Parameters
    ----------
    controller : Controller
        Any configuration of it.
    steps : int
        How many decisions it makes.

    Raises
    ------
    AssertionError
        If equal seeds give other proposals, a state holds anything but plain JSON and arrays of
        numbers or is changed in place, something else is proposed than a proposal and a state, an outcome
        out of order is refused, or the outcome of an unknown or already reported proposal is accepted.
    """
    name = controller.name
    first, state, tokens = _play(controller, steps)
    again, other, _ = _play(controller, steps)
    chance = "draw from the generator that init gets, and keep in the state what the draws depend on"
    assert first == again, f"{name}: equal seeds, other proposals; {chance}"
    assert _plain_state(state) == _plain_state(other), f"{name}: equal seeds, another state; {chance}"
    assert len(set(tokens)) == len(tokens), (
        f"{name}: two proposals share a token, so an outcome does not say whose it is; count them in "
        "the state"
    )
    for word, token in (("a proposal it never made", 10**9), ("the same proposal twice", tokens[0])):
        try:
            controller.observe(state, token, 1.0, "ok")
        except LookupError:
            continue
        raise AssertionError(
            f"{name} accepts the outcome of {word}; keep the open tokens in the state, and raise NotFound "
            "for any other"
        )


def _play(controller: Controller, steps: int) -> tuple[list[Any], Any, list[int]]:
    """What is proposed, the state at the end and the tokens, while outcomes come late."""
    import numpy as np

    name = controller.name
    state = controller.init(np.random.default_rng(0))
    proposals: list[Any] = []
    tokens: list[int] = []
    waiting: list[int] = []
    for i in range(steps):
        before = copy.deepcopy(state)
        known = {n: low + (high - low) * (i % 7) / 6 for n, (low, high) in controller.ranges.items()}
        made: Any = controller.propose(state, {"step": float(i), **known})
        pair = isinstance(made, tuple) and len(made) == 2 and isinstance(made[0], Proposal)
        assert pair, (
            f"{name}: propose gives {made!r}; it returns a Proposal(values, token) and the state after it"
        )
        proposal, after = made
        assert _plain_state(state) == _plain_state(before), (
            f"{name}: propose changes the state in place; return a new one"
        )
        state = after
        proposals.append(dict(proposal.values))
        tokens.append(proposal.token)
        waiting.append(proposal.token)
        if len(waiting) == 3:  # outcomes arrive late and in reverse, one of them a failure
            for token in reversed(waiting):
                status = "diverged" if token == waiting[1] else "ok"
                state = _observed(controller, state, token, 1.0 + i % 3, status)
            waiting.clear()
    return proposals, state, tokens


def _observed(controller: Controller, state: Any, token: int, cost: float, status: str) -> Any:
    before = _plain_state(state)
    try:
        after = controller.observe(state, token, cost, status)
    except LookupError as error:
        raise AssertionError(
            f"{controller.name} refuses the outcome of its open proposal {token}: {error}; outcomes "
            "come late and in any order"
        ) from error
    assert after is not None, f"{controller.name}: observe gives None; it returns the state after the outcome"
    assert _plain_state(state) == before, (
        f"{controller.name}: observe changes the state in place; return a new one"
    )
    return after


def _plain_state(value: Any) -> Any:
    """A state in a form that can be compared; arrays as their type, shape and bytes."""
    import numpy as np

    if isinstance(value, np.ndarray):
        assert value.dtype.kind in "fiub", (
            f"a controller's state holds an array of {value.dtype}: only numbers can be stored"
        )
        return [str(value.dtype), list(value.shape), value.tobytes()]
    if isinstance(value, Mapping):
        odd = [key for key in value if not isinstance(key, str)]
        assert not odd, (
            f"a controller's state has keys that are no text, such as {odd[0]!r}: write str(key), as "
            "JSON has it"
        )
        return {k: _plain_state(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain_state(v) for v in value]
    assert value is None or isinstance(value, str | bool | int | float), (
        f"a controller's state holds a {type(value).__name__}: only JSON and arrays can be stored; keep "
        "numbers from which it can be made again"
    )
    return value
