"""Configuration of the neural ODE; torch is imported where it is used."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from sciflow.errors import Invalid
from sciflow_operators.training.losses import Loss, Squared
from sciflow_operators.training.trained import Gridded, Trained, on_a_grid

if TYPE_CHECKING:
    from torch import nn

    from sciflow.samples import Signature
    from sciflow_operators.fields.channels import Channels, Scale
    from sciflow_operators.training.fitted import Fitted


@dataclass(frozen=True, kw_only=True)
class NeuralODE(Trained):
    """A network is the time derivative of the state, an adaptive integrator gives the state at later times.

    Attributes
    ----------
    inner : Gridded or None
        The network, one of a regular grid; its own settings of training are not read. None takes a
        perceptron of all numbers of the state, for systems of few of them.
    width, layers : int
        Of the perceptron: numbers in each hidden layer, and hidden layers.
    clock : bool
        Tell the network the time since the inputs; otherwise the equation is the same at all times.
    tolerance : float
        Of the estimated error of a step, relative to ``1 + |z|`` for the state z scaled to spread 1.
    max_steps : int
        Steps that may be tried for one sample.
    fixed_steps : int
        So many equal steps of the classical Runge-Kutta method instead, without an estimate of errors;
        0 is adaptive.
    regularise : {"none", "error", "stiffness", "both"}
        What is added to the loss, so that an integrator needs fewer steps.
    error_weight, stiffness_weight : float
        Of the integrals over time of the estimated error over the tolerance, and of the estimated
        stiffness in units of the longest (with lead times: mean) time between inputs and outputs.
    fade : float
        Over the training both weights fall, exponentially, to this part of what they were; 1 keeps them.
    where : {"global", "local"}
        Take the integrals over all steps, or estimate them from one step of every solve.
    sampling : {"time", "steps"}
        How that step is drawn: at a time that is uniform, which estimates the integrals without bias, or
        uniformly among the steps, where those that are short come as often as long ones.
    detach : bool
        The local step changes the derivative where it is, and not how the solution comes there.
    adjoint : {"discrete", "torchdiffeq"}
        How gradients are made: through the steps, or by torchdiffeq's adjoint equation, whose memory does
        not grow with the steps (extra ``ode``). Gradients of inputs that drive the equation, which matter
        in roll-outs with several input levels, are made by the first one alone.

    Notes
    -----
    The state is the last level of each output field among the inputs, ``u`` for ``u``, ``u[0]`` for ``u``
    or ``u[-1]``; an output that is no input starts from its mean. All other inputs drive the derivative.
    With z the scaled state and p the scaled other inputs::

        dz/dt = net(z, p),    outputs at times t_i:  u(t_i) = mean + spread z(t_i)

    Levels of a window are 1, 2, ... steps ahead, those of a whole trajectory where they were stored, and
    with pairs the input ``"lead_time"`` says when. Every sample has steps of its own, so what is predicted
    does not depend on the rest of a batch. How it is trained: see `Trained`; what regularises it: see
    `sciflow_operators.ode.penalty`.

    Six evaluations of the network for a step that is tried, and two. Training tries them without
    gradients, takes the accepted ones again with gradients, and holds their activations.

    References
    ----------
    R. T. Q. Chen, Y. Rubanova, J. Bettencourt and D. Duvenaud, "Neural ordinary differential equations",
    NeurIPS 2018, arXiv:1806.07366.
    """

    name: ClassVar[str] = "neural_ode"
    inner: Gridded | None = None
    width: int = 64
    layers: int = 2
    clock: bool = False
    tolerance: float = 1e-4
    max_steps: int = 500
    fixed_steps: int = 0
    regularise: Literal["none", "error", "stiffness", "both"] = "none"
    error_weight: float = 0.1
    stiffness_weight: float = 0.01
    fade: float = 1.0
    where: Literal["global", "local"] = "global"
    sampling: Literal["time", "steps"] = "time"
    detach: bool = False
    adjoint: Literal["discrete", "torchdiffeq"] = "discrete"
    loss: Loss = Squared()
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.inner is not None:
            on_a_grid(self.name, self.inner)
        if not 1e-7 <= self.tolerance < 1:
            raise Invalid(
                f"tolerance must be 1e-7 to 1 (states are in single precision), got {self.tolerance}"
            )
        if self.max_steps < 1 or self.fixed_steps < 0:
            raise Invalid(
                f"max_steps must be at least 1 and fixed_steps not negative, got {self.max_steps} and "
                f"{self.fixed_steps}"
            )
        for name in ("error_weight", "stiffness_weight"):
            if not 0 <= getattr(self, name) < math.inf:
                raise Invalid(f"{name} must be a finite number, not negative, got {getattr(self, name)}")
        if not 0 < self.fade <= 1:
            raise Invalid(f"fade is a part of the weights, above 0 and at most 1, got {self.fade}")
        self._check_costs()

    def _check_costs(self) -> None:
        """Refuse what the integrator cannot tell."""
        if self.regularise != "none" and self.where == "global":
            if self.fixed_steps:
                raise Invalid("equal steps have no estimate of errors to add up: take where='local'")
            if self.adjoint != "discrete":
                raise Invalid(
                    "torchdiffeq does not show its steps: take where='local', or adjoint='discrete'"
                )
        if self.fixed_steps and self.adjoint != "discrete":
            raise Invalid("fixed_steps are differentiated through: take adjoint='discrete'")
        if self.adjoint != "discrete" and self.sampling == "steps" and self.regularise != "none":
            raise Invalid("torchdiffeq does not show its steps: take sampling='time'")

    @classmethod
    def example(cls) -> Self:
        """A small one for conformance checks."""
        return cls(
            width=8, layers=1, tolerance=1e-2, regularise="both", epochs=4, batch=4, threads=1, device="cpu"
        )

    def network(self, signature: Signature) -> tuple[Channels, nn.Module]:
        """See `Trained.network`; the network gives the derivative of the state."""
        from sciflow_operators.baselines.mlp_net import MLPNet
        from sciflow_operators.fields.channels import Layout
        from sciflow_operators.ode.states import Rows, States

        if self.inner is None:
            rows = Rows.of(signature)
            states = States.of(signature, rows)
            count = states.count + len(states.driving) + self.clock
            return rows, MLPNet(count, states.count, self.width, self.layers)
        layout = Layout.of(signature)
        if len(layout.space) not in self.inner.dimensions:
            able = " or ".join(map(str, self.inner.dimensions))
            raise Invalid(f"{self.inner.name} takes {able} spatial axes, these fields have {layout.space}")
        port = States.of(signature, layout).port(layout, signature, self.clock)
        return layout, self.inner.module(port)

    def fitted(
        self, signature: Signature, layout: Channels, net: nn.Module, scales: tuple[Scale, Scale]
    ) -> Fitted:
        """See `Trained.fitted`."""
        from sciflow_operators.ode.model import Integrated

        return Integrated(self, signature, layout, net, scales)
