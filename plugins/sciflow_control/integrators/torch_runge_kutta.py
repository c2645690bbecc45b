"""Embedded Runge-Kutta methods in torch: large systems and batches, on any device."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from sciflow.errors import Invalid
from sciflow_control.integrators.embedded import Embedded
from sciflow_control.integrators.initial_value import InitialValue, finite_start


class TorchRungeKutta(Embedded):
    """An embedded Runge-Kutta method for a right-hand side in torch.

    Parameters
    ----------
    problem : InitialValue
        ``rhs(t, y)`` returns the slope, of the shape of `y`; `t` is a float, and parameters are its own
        affair. The state is a tensor of float32 or float64 on any device.
    method : str
        One of `tableaus.METHODS`.
    bounds : tuple of float
        Shortest and longest step.
    batched : bool
        The first axis of the state counts members that are solved side by side with the same steps: the
        error is that of the worst of them, else that of all numbers together.
    restart : mapping of str to ndarray or None
        What `restart` gave: goes on from there instead of from the start.

    Raises
    ------
    NotFound
        If there is no such method.
    Invalid
        If the bounds are not in order, or the state or the scale are not what they must be.

    Notes
    -----
    No gradients are kept. The processor waits for the device once for each attempt. The bits of a step on
    a GPU are the same in each run where torch's deterministic algorithms are.
    """

    def __init__(
        self,
        problem: InitialValue,
        method: str = "dormand_prince",
        bounds: tuple[float, float] = (1e-10, 1.0),
        batched: bool = False,
        restart: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        super().__init__(problem, method, bounds, restart)
        state = problem.state
        if getattr(state, "dtype", None) not in (torch.float32, torch.float64) or not state.numel():
            raise Invalid("the state is a tensor of float32 or float64")
        if batched and state.ndim < 2:
            raise Invalid(f"a batch of states has an axis of members, got shape {tuple(state.shape)}")

        def like(values: Any) -> torch.Tensor:
            return torch.as_tensor(values, dtype=state.dtype, device=state.device)

        self._shape, self._members = state.shape, len(state) if batched else 1
        scale = like(problem.scale)
        if scale.ndim and scale.shape != state.shape[1:] and scale.shape != state.shape:
            raise Invalid(f"scale has shape {tuple(scale.shape)}, the state {tuple(state.shape)}")
        self._scale = scale.expand(state.shape).reshape(-1)
        self._y: torch.Tensor = state.detach().clone().reshape(-1)
        if restart is not None:
            self._y = like(restart["state"]).clone()
        finite_start(
            bool(torch.isfinite(self._y).all()),
            bool((torch.isfinite(self._scale) & (self._scale > 0)).all()),
        )
        self._k: torch.Tensor = like(np.zeros((self.tableau.stages, state.numel())))
        if restart is not None and "slope" in restart:
            self._k[0] = like(restart["slope"])
        self._table: torch.Tensor = like(self.tableau.packed())
        self._c, self._same = self.tableau.c.tolist(), self.tableau.first_same_as_last
        self._new = self._y
        self._begin(restart)

    @property
    def state(self) -> torch.Tensor:
        """Of the last step that stands, as the initial one; a copy."""
        return self._y.reshape(self._shape).clone()

    def solution(self) -> np.ndarray:
        """The state of the last step that stands, flat, in double precision; a copy."""
        found: np.ndarray = self._y.to("cpu", torch.float64, copy=True).numpy()
        return found

    def _rhs(self, time: float, state: torch.Tensor) -> torch.Tensor:
        slope: torch.Tensor = self._problem.rhs(time, state.reshape(self._shape))
        if slope.shape != self._shape:
            raise Invalid(
                f"the state has shape {tuple(self._shape)}, the right-hand side gives {tuple(slope.shape)}"
            )
        flat: torch.Tensor = slope.reshape(-1)
        return flat

    @torch.no_grad()
    def _slope(self) -> None:
        self._k[0] = self._rhs(self.time, self._y)

    @torch.no_grad()
    def _step(self, length: float) -> tuple[float, float]:
        stages, k, before, new = self.tableau.stages, self._k, self._y, self._y
        for stage in range(1, stages):
            before, new = new, self._combined(stage, stage, length)
            k[stage] = self._rhs(self.time + self._c[stage] * length, new)
        last, self._new = new, new if self._same else self._combined(stages, stages, length)
        size = self._scale + torch.maximum(self._y.abs(), self._new.abs())
        error = self._norm(length * torch.mv(k.T, self._table[stages + 1]) / size)
        slopes, states = self._norm((k[-1] - k[-2]) / size), self._norm((last - before) / size)
        stiffness = torch.where(states > 0, length * slopes / states, torch.zeros_like(states))
        # A single transfer from the device.
        found = torch.stack([error.max(), stiffness.max()]).tolist()
        return found[0], found[1]

    def _advance(self) -> None:
        self._y = self._new
        if self._same:
            self._k[0] = self._k[-1]

    @torch.no_grad()
    def _pace(self) -> float:
        return float(self._norm(self._k[0] / (self._scale + self._y.abs())).max())

    def _arrays(self) -> tuple[np.ndarray, np.ndarray]:
        return self._y.to("cpu", copy=True).numpy(), self._k[0].to("cpu", copy=True).numpy()

    def _quantity(self) -> float:
        of = self._problem.invariant
        return math.nan if of is None else float(of(self.state))

    def _combined(self, row: int, count: int, length: float) -> torch.Tensor:
        return self._y + length * torch.mv(self._k[:count].T, self._table[row, :count])

    def _norm(self, values: torch.Tensor) -> torch.Tensor:
        """Of each member."""
        found: torch.Tensor = values.reshape(self._members, -1).square().mean(1).sqrt()
        return found
