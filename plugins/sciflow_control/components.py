"""Entry point of the plugin: configurations only."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sciflow.component import Component
from sciflow.hooks import hookimpl
from sciflow_control.bandits.bayes_chebyshev import BayesChebyshev
from sciflow_control.bandits.binned import Binned
from sciflow_control.bandits.chebcb import ChebCB
from sciflow_control.bandits.discounted import Discounted
from sciflow_control.bandits.fixed import Fixed, Random
from sciflow_control.bandits.held import Held
from sciflow_control.bandits.keyed import Keyed
from sciflow_control.bandits.relaxation_model import RelaxationModel
from sciflow_control.bandits.thompson import Thompson
from sciflow_control.bandits.tsallis import Tsallis
from sciflow_control.bodies.hermite import Hermite
from sciflow_control.bodies.leapfrog import Leapfrog
from sciflow_control.bodies.problem import ThreeBodyProblem
from sciflow_control.bodies.rebound_integrators import BulirschStoer, Ias15, WHFast
from sciflow_control.bodies.three_body import ThreeBody
from sciflow_control.controllers.fixed_step import FixedStep
from sciflow_control.controllers.guarded import Guarded
from sciflow_control.controllers.iteration_count import IterationCount
from sciflow_control.controllers.maximum_step import MaximumStep
from sciflow_control.controllers.pi import PI
from sciflow_control.controllers.pid import PID
from sciflow_control.controllers.predictive import Predictive
from sciflow_control.controllers.stop_at import StopAt
from sciflow_control.directions.domains import Ball, Box, Obstacles
from sciflow_control.directions.learned import LearnedDirections
from sciflow_control.directions.train import TrainDirections
from sciflow_control.harness.cost_table import CostTable
from sciflow_control.harness.trial import Trial
from sciflow_control.harness.tuner_table import TunerTable
from sciflow_control.integrators.equations import Equations
from sciflow_control.learning.actions import Levels, LogRange
from sciflow_control.learning.learned import Learned
from sciflow_control.learning.learner import DQN, PPO
from sciflow_control.learning.reward import PaperReward, WorkReward
from sciflow_control.learning.train import TrainPolicy
from sciflow_control.recycling.order_design import OrderDesign
from sciflow_control.recycling.recycling import Recycling
from sciflow_control.recycling.trial import RecyclingTrial
from sciflow_control.space import Joined, Options, Relaxation, Solvers
from sciflow_control.steering.episodes import ProblemEpisodes
from sciflow_control.systems.darcy import DarcySystems
from sciflow_control.systems.heat2d import HeatSequence
from sciflow_control.systems.helmholtz import HelmholtzSystems
from sciflow_control.systems.laplacian import ShiftedLaplacian
from sciflow_control.systems.poisson import PoissonSystems
from sciflow_control.systems.thermal import ThermalSystems
from sciflow_control.trials.ensembles import EnsembleTrial
from sciflow_control.trials.step_table import StepTable
from sciflow_control.trials.step_trial import StepTrial
from sciflow_control.tuned.solver import EveryArm, Tuned

if TYPE_CHECKING:
    from sciflow.artifact import Artifact


sciflow_api = "1.0"


@hookimpl
def sciflow_components() -> list[type[Component]]:
    """Tuners, linear solvers, sequences of systems and stages of this plugin."""
    return [
        Relaxation,
        Solvers,
        Options,
        Joined,
        Thompson,
        Tsallis,
        Binned,
        *(ChebCB, BayesChebyshev, RelaxationModel, Held, Keyed, Discounted),
        Fixed,
        Random,
        CostTable,
        Trial,
        TunerTable,
        ShiftedLaplacian,
        HeatSequence,
        OrderDesign,
        RecyclingTrial,
        Recycling,
        DarcySystems,
        HelmholtzSystems,
        PoissonSystems,
        ThermalSystems,
        Tuned,
        EveryArm,
        *(Hermite, Leapfrog, Ias15, BulirschStoer, WHFast, ThreeBody, ThreeBodyProblem),
        *(Equations, ProblemEpisodes),
        *(Ball, Box, Obstacles, LearnedDirections, TrainDirections),
        *(StepTrial, StepTable, EnsembleTrial),
        *(FixedStep, PI, PID, Predictive, IterationCount, MaximumStep, StopAt, Guarded),
        *(Levels, LogRange, DQN, PPO, WorkReward, PaperReward, Learned, TrainPolicy),
    ]


@hookimpl
def sciflow_report(artifact: Artifact) -> list[tuple[str, str]] | None:
    """What tuners and networks learned."""
    from sciflow_control.directions import report as of_directions
    from sciflow_control.harness import report as of_tuners
    from sciflow_control.learned import report as of_ensembles
    from sciflow_control.learning import report as of_policies
    from sciflow_control.recycling import trial_report as of_recycling
    from sciflow_control.trials import report as of_steps

    parts = (of_tuners, of_directions, of_recycling, of_ensembles, of_policies, of_steps)
    return [section for part in parts for section in part.sections(artifact) or []]
