"""The fitted neural ODE: states from an integrator, the loss with what the integration costs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from sciflow.context import summed
from sciflow.errors import Diverged
from sciflow.surrogate import Arrays
from sciflow_operators.ode.continuous import integrate, next_length
from sciflow_operators.ode.equal import fixed
from sciflow_operators.ode.penalty import Costs, at_one, everywhere, pick
from sciflow_operators.ode.solve import march, replay
from sciflow_operators.ode.stages import Derivative, column
from sciflow_operators.ode.states import States
from sciflow_operators.ode.tableau import EVALUATIONS
from sciflow_operators.training.fitted import Fitted

if TYPE_CHECKING:
    from sciflow.context import Comm
    from sciflow.samples import Signature
    from sciflow_operators.fields.channels import Channels, Scale
    from sciflow_operators.ode.neural_ode import NeuralODE
    from sciflow_operators.ode.solve import Solution

COUNTED = ("train_nfe", "regularisation", "error_estimate", "stiffness")
"""What is counted in training, one sum each."""


class Integrated(Fitted):
    """A trained neural ODE.

    Parameters
    ----------
    config : NeuralODE
        Its configuration.
    signature, layout, net, scales
        See `Fitted`; the network gives the derivative of the scaled state.

    Attributes
    ----------
    evaluations : ndarray of int64, shape (batch,)
        How often the network was asked for each sample of the last `predict`.
    """

    config: NeuralODE

    def __init__(
        self,
        config: NeuralODE,
        signature: Signature,
        layout: Channels,
        net: nn.Module,
        scales: tuple[Scale, Scale],
    ) -> None:
        super().__init__(config, signature, layout, net, scales)
        self.evaluations = np.zeros(0, dtype=np.int64)
        self._states = States.of(signature, layout)
        mean, spread = self._states.scale(scales)
        self._scale = [torch.from_numpy(v).to(self.device) for v in (mean, spread)]
        # What never varied stays what it was, in any unit.
        self._moves = (self._scale[1] > 0).to(torch.float32)
        lead = self._states.lead
        # The mean of the lead times is the unit of time, so that theirs does not matter.
        self._unit = float(scales[0].mean[lead]) if lead >= 0 else 1.0
        self._asked: list[Tensor] = []
        self._predicted, self._learned = np.zeros(2), np.zeros(1 + len(COUNTED))

    def apply(self, x: Tensor) -> Tensor:
        """See `Fitted.apply`; NaN where the integration fails."""
        f, z, times = self._problem(x)
        if torch.is_grad_enabled():
            return self._outputs(self._trained(f, z, times, x, None)[0])
        solution = self._solve(f, z, times)
        self._asked.append(solution.evaluations)
        return self._outputs(solution.values)

    def predict(self, x: Arrays) -> dict[str, np.ndarray]:
        """See `Fitted.predict`; `evaluations` is then that of these samples.

        Where a sample cannot be integrated (``max_steps``, steps too short, a state that is not finite)
        its outputs are NaN.
        """
        self._asked.clear()
        found = super().predict(x)
        self.evaluations = torch.cat(self._asked).cpu().numpy()
        self._predicted += [self.evaluations.sum(), len(self.evaluations)]
        self._asked.clear()
        return found

    def objective(self, x: Tensor, y: Tensor, draw: torch.Generator, progress: float) -> Tensor:
        """The loss, and what the integration costs; see `Fitted.objective`."""
        return self.step(x, y, draw, progress)[0]

    def step(self, x: Tensor, y: Tensor, draw: torch.Generator, progress: float) -> tuple[Tensor, Tensor]:
        """See `Fitted.step`; one integration for both.

        Raises
        ------
        Diverged
            If the integration fails.
        """
        f, z, times = self._problem(x)
        uniform = torch.rand(len(x), generator=draw, dtype=torch.float64).to(x.device)
        values, costs = self._trained(f, z, times, x, uniform)
        predicted = self._outputs(values)
        losses = self.config.loss(predicted, y, x, self.target)
        if costs is None:
            return losses, predicted
        extra = costs.weighted(self.config) * self.config.fade**progress
        told = torch.stack([extra, costs.error, costs.stiffness]).detach().sum(dim=1)
        self._learned[2:] += told.double().cpu().numpy()
        return losses + extra, predicted

    def figures(self, comm: Comm) -> dict[str, float]:
        """See `Fitted.figures`.

        ``nfe`` is the number of evaluations of the network for a sample that is predicted, ``train_nfe``
        that of its calls for a batch that is learned from (without those of torchdiffeq's way back),
        ``regularisation`` what was added to the loss of a sample, ``error_estimate`` and ``stiffness`` the
        terms without their weights.
        """
        mine = np.concatenate([self._predicted, self._learned])
        asked, samples, seen, *sums = summed(mine, comm).tolist()
        self._predicted, self._learned = np.zeros(2), np.zeros(1 + len(COUNTED))
        found = {"nfe": asked / samples} if samples else {}
        means = {name: total / max(seen, 1) for name, total in zip(COUNTED, sums, strict=True)}
        return found | {
            k: v for k, v in means.items() if k == "train_nfe" or self.config.regularise != "none"
        }

    def _problem(self, x: Tensor) -> tuple[Derivative, Tensor, Tensor]:
        """Derivative, states at the beginning and times, all scaled."""
        mean_in, spread_in, *_ = self._scaling
        mean, spread = self._scale
        states, moves = self._states, self._moves
        start = torch.tensor(states.start, device=x.device)
        z = (x[..., start.clamp_min(0)] - mean) / torch.where(spread > 0, spread, 1.0)
        z = z * (start >= 0) * moves
        driving = ((x - mean_in) / spread_in)[..., list(states.driving)]
        if states.lead >= 0:
            times = x.flatten(1, -2)[:, 0] if x.ndim > 2 else x
            times = times[:, states.lead : states.lead + 1].double() / self._unit
        else:
            times = torch.tensor([states.times], dtype=torch.float64, device=x.device).expand(len(x), -1)

        def derivative(t: Tensor, state: Tensor) -> Tensor:
            parts = [state, driving]
            if self.config.clock:
                parts.append(column(t, state).expand(*state.shape[:-1], 1))
            return self.call(torch.cat(parts, dim=-1)) * moves

        return derivative, z, times

    def _solve(self, f: Derivative, z: Tensor, times: Tensor) -> Solution:
        config = self.config
        if config.fixed_steps:
            return fixed(f, z, times, config.fixed_steps)[0]
        return march(f, z, times, config.tolerance, config.max_steps)

    def _trained(
        self, f: Derivative, z: Tensor, times: Tensor, x: Tensor, uniform: Tensor | None
    ) -> tuple[Tensor, Costs | None]:
        """Scaled states at the times with gradients, and what they cost; `uniform` chooses local steps."""
        config = self.config
        calls = 0

        def counted(t: Tensor, state: Tensor) -> Tensor:
            nonlocal calls
            calls += 1
            return f(t, state)

        if config.adjoint == "torchdiffeq":
            found = self._continuous(counted, z, times, uniform)
        elif config.fixed_steps:
            found = self._fixed(counted, z, times, uniform)
        else:
            found = self._discrete(counted, z, times, uniform)
        if uniform is not None:
            self._learned[:2] += [len(x), calls * len(x)]
        return found

    def _discrete(
        self, f: Derivative, z: Tensor, times: Tensor, uniform: Tensor | None
    ) -> tuple[Tensor, Costs | None]:
        """Backpropagation through the accepted steps."""
        config = self.config
        solution = march(f, z, times, config.tolerance, config.max_steps)
        if not torch.isfinite(solution.values).all():
            raise self._failed(solution)
        steps, asked = solution.steps, config.regularise != "none" and uniform is not None
        replayed = replay(f, z, times, steps, config.tolerance, asked and config.where == "global")
        if not asked or uniform is None or not len(steps.begins):
            return replayed.values, None
        if config.where == "global":
            return replayed.values, everywhere(replayed, steps)
        return replayed.values, self._local(f, replayed.states, solution, uniform)

    def _fixed(
        self, f: Derivative, z: Tensor, times: Tensor, uniform: Tensor | None
    ) -> tuple[Tensor, Costs | None]:
        """Backpropagation through equal steps."""
        solution, states = fixed(f, z, times, self.config.fixed_steps)
        if self.config.regularise == "none" or uniform is None:
            return solution.values, None
        return solution.values, self._local(f, states, solution, uniform)

    def _local(self, f: Derivative, states: Tensor, solution: Solution, uniform: Tensor) -> Costs:
        """What one step costs, taken again from where it began."""
        steps, config = solution.steps, self.config
        chosen = pick(steps, config.sampling, uniform)
        each = torch.arange(len(chosen), device=chosen.device)
        begin, length = steps.begins[chosen, each], steps.lengths[chosen, each]
        state = states[chosen, each].detach() if config.detach else states[chosen, each]
        return at_one(f, begin, state, length, steps.lengths.sum(dim=0), config.tolerance)

    def _continuous(
        self, f: Derivative, z: Tensor, times: Tensor, uniform: Tensor | None
    ) -> tuple[Tensor, Costs | None]:
        """The adjoint equation; all samples share steps, and the time of a local step."""
        config = self.config
        end = times.max(dim=1).values
        parts = list(self._states.times) if self._states.lead < 0 else [1.0]
        asked = config.regularise != "none" and uniform is not None and len(z) > 0
        drawn = float(uniform[0]) if asked and uniform is not None else 0.0
        wanted = sorted({*parts, drawn}) if asked else parts
        weights = [p for p in self.net.parameters() if p.requires_grad]
        found = integrate(f, z, end, wanted, config.tolerance, weights)
        values = found[:, [wanted.index(p) for p in parts]]
        if not asked:
            return values, None
        state, t = found[:, wanted.index(drawn)], drawn * end
        state = state.detach() if config.detach else state
        length = next_length(f, t, state, end - t, config.tolerance)
        return values, at_one(f, t, state, length, end, config.tolerance)

    def _outputs(self, values: Tensor) -> Tensor:
        """Output channels, in the fields' units, from scaled states at all levels."""
        mean, spread = self._scale
        parts = torch.split(torch.addcmul(mean, values, spread), list(self._states.sizes), dim=-1)
        # Of each field all numbers of a level, level after level.
        return torch.cat([p.movedim(1, -2).flatten(-2) for p in parts], dim=-1)

    def _failed(self, solution: Solution) -> Diverged:
        """What went wrong, and what to do."""
        config = self.config
        bad = ~torch.isfinite(solution.values).flatten(1).all(dim=1)
        which = int(bad.to(torch.int8).argmax())
        tries = int(solution.evaluations[which] - 2) // EVALUATIONS
        return Diverged(
            f"the integration of {int(bad.sum())} of {len(bad)} samples failed: sample {which} of the batch "
            f"after {tries} steps that were tried (max_steps is {config.max_steps}), tolerance "
            f"{config.tolerance}. The equation that was learned has become stiff or blows up: try a smaller "
            "learning_rate, regularise='error' or 'stiffness' with a larger weight, a larger tolerance, or "
            "shorter windows"
        )
