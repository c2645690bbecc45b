"""Losses and residuals against formulas written out by hand, theorems and the solvers' solutions."""

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from scipy import fft

from sciflow import Context, Field, Invalid, NotFound, Signature
from sciflow_operators.components import (
    FNO,
    MLP,
    BurgersStep,
    DarcyFlow,
    Physics,
    RelativeL2,
    Sobolev,
    Spectral,
    Squared,
    VorticityStep,
    Weighted,
)
from sciflow_operators.fields.channels import Flat, Layout, groups
from sciflow_operators.training.derivatives import derivative, power, wavenumbers
from sciflow_operators.training.target import Target
from sciflow_spectral.components import Burgers, NavierStokes
from tests.operators.test_training import fit, smoothing


def target_of(inputs, outputs, coordinates, periodic=(), typical=1.0, flat=False):
    """What a loss knows; inputs and outputs as {name: axes}."""
    fields = [{n: Field(axes, "1") for n, axes in which.items()} for which in (inputs, outputs)]
    signature = Signature(*fields, coordinates, tuple(periodic))
    layout = (Flat if flat else Layout).of(signature)
    parts = groups(layout.outputs)
    return Target(signature, layout, parts, [typical] * len(parts), torch.ones(sum(parts)))


def line(n, length=1.0, periodic=True):
    return np.arange(n) * length / n if periodic else np.linspace(0, length, n)


def plane(n, m, lengths=(1.0, 1.0), periodic=("y", "x")):
    coordinates = {a: line(k, s, a in periodic) for a, k, s in zip("yx", (n, m), lengths, strict=True)}
    return target_of({"u": ("y", "x")}, {"u": ("y", "x")}, coordinates, periodic)


def random(*shape, seed=0):
    return torch.tensor(np.random.default_rng(seed).standard_normal(shape))


def orders(errors):
    """Observed orders of convergence of errors on grids that double."""
    return np.log2(np.divide(errors[:-1], errors[1:]))


# Derivatives


def test_the_derivative_of_a_wave_is_exact_on_a_periodic_axis():
    x = torch.tensor(line(12, 3.0))
    for k in range(6):
        wave = torch.sin(2 * math.pi * k * x / 3)[None, :, None]
        slope = 2 * math.pi * k / 3 * torch.cos(2 * math.pi * k * x / 3)[None, :, None]
        torch.testing.assert_close(derivative(wave, 1, 3 / 12, True), slope, atol=1e-12, rtol=0)


@pytest.mark.parametrize("n", [7, 8])
def test_the_periodic_derivative_is_that_of_the_complex_transform(n):
    u = random(2, n, 3)
    k = np.fft.fftfreq(n, 1 / n)
    k[n // 2] *= n % 2
    there = np.fft.ifft(2j * np.pi * k[:, None] * np.fft.fft(u.numpy(), axis=1), axis=1).real
    np.testing.assert_allclose(derivative(u, 1, 1 / n, True).numpy(), there, atol=1e-12)


def test_differences_are_of_second_order_up_to_the_ends():
    errors = []
    for n in (17, 33, 65):
        x = torch.tensor(line(n, 2.0, False))
        slope = derivative(torch.exp(x)[None, :, None], 1, 2 / (n - 1), False)[0, :, 0]
        errors.append(float((slope - torch.exp(x)).abs().max()))
    assert orders(errors).min() > 1.8


# Spectra


@pytest.mark.parametrize("periodic", [(True, True), (True, False), (False, True), (False, False)])
@pytest.mark.parametrize("shape", [(6, 7), (5, 8)])
def test_the_power_of_all_waves_is_the_mean_square(periodic, shape):
    u = random(2, *shape, 3)
    total = power(u, periodic).sum(dim=(1, 2))
    torch.testing.assert_close(total, u.square().mean(dim=(1, 2)), rtol=1e-12, atol=0)


def test_power_along_an_axis_that_is_not_periodic_is_the_cosine_transforms():
    u = random(1, 9, 1)
    there = fft.dct(u.numpy()[0, :, 0], norm="ortho") ** 2 / 9
    np.testing.assert_allclose(power(u, [False]).numpy()[0, :9, 0], there, atol=1e-14)
    assert float(power(u, [False])[0, 9:].max()) < 1e-28


def test_each_wave_stands_where_its_wavenumber_says():
    n, m, lengths = 8, 9, (2.0, 3.0)
    waves = wavenumbers((n, m), (True, False), (lengths[0], lengths[1]), torch.zeros((), dtype=torch.double))
    y, x = torch.tensor(line(n, 2.0)), (torch.arange(m, dtype=torch.double) + 0.5) / m
    for p, q in [(0, 0), (3, 2), (-2, 5)]:
        u = torch.cos(2 * math.pi * p * y / 2)[:, None] * torch.cos(math.pi * q * x)[None, :]
        found = power(u[None, ..., None], (True, False))[0, ..., 0]
        wanted = math.hypot(2 * math.pi * p / lengths[0], math.pi * q / lengths[1])
        assert float(waves[found > 1e-12].max()) == pytest.approx(wanted)
        assert float(waves[found > 1e-12].min()) == pytest.approx(wanted)


# Losses

GRIDS = {
    "periodic": plane(8, 12),
    "mixed": plane(8, 11, periodic=("x",)),
    "walls": plane(7, 9, (1.0, 2.0), ()),
}


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("loss", [Sobolev(order=0, floor=0), Spectral(bands=1, floor=0)])
def test_without_derivatives_and_with_one_band_it_is_the_relative_error(grid, loss):
    target = GRIDS[grid]
    shape = (3, *target.layout.points, 1)
    a, b = random(*shape), random(*shape, seed=1)
    torch.testing.assert_close(loss(a, b, b, target), RelativeL2()(a, b, b, target), rtol=1e-12, atol=0)


def test_a_sobolev_norm_is_the_weighted_sum_over_waves():
    """On a periodic grid: sum over k of (1 + |k|^2 + |k|^4) |u_k|^2, with |k| in radians per length."""
    target = plane(9, 11, (2.0, 3.0))
    a, b = random(3, 9, 11, 1), random(3, 9, 11, 1, seed=1)
    k = np.hypot(*np.meshgrid(np.fft.fftfreq(9, 2 / 9), np.fft.fftfreq(11, 3 / 11), indexing="ij"))
    k = 2 * np.pi * 0.5 * k

    def square(u):
        return ((1 + k**2 + k**4) * np.abs(np.fft.fft2(u[..., 0].numpy())) ** 2).sum(axis=(1, 2))

    wanted = np.sqrt(square(a - b) / square(b))
    found = Sobolev(order=2, length=0.5)(a, b, b, target)
    np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-10)


@pytest.mark.parametrize("periodic", [True, False])
def test_the_h1_norm_converges_to_the_integral(periodic):
    """Of exp(sin 2 pi x) against zero error plus x-dependent noise: a ratio known in the limit."""
    errors = []
    for n in (16, 32, 64) if periodic else (33, 65, 129):
        x = torch.tensor(line(n, 1.0, periodic))
        target = target_of({"u": ("x",)}, {"u": ("x",)}, {"x": x.numpy()}, ("x",) if periodic else ())
        u, e = torch.sin(2 * math.pi * x), 0.1 * torch.sin(6 * math.pi * x)
        found = Sobolev(length=1.0)((u + e)[None, :, None], u[None, :, None], None, target)
        # The mean square of a sine is a half, of its slope (2 pi k)^2 / 2.
        wanted = 0.1 * math.sqrt((1 + (6 * math.pi) ** 2) / (1 + (2 * math.pi) ** 2))
        errors.append(abs(float(found) - wanted))
    assert max(errors) < 1e-12 if periodic else orders(errors).min() > 0.9


def test_the_units_of_coordinates_and_fields_do_not_change_a_loss():
    a, b = random(3, 8, 12, 1), random(3, 8, 12, 1, seed=1)
    metres, millimetres = plane(8, 12), plane(8, 12, (1000.0, 1000.0))
    for loss in (Sobolev(order=2), Spectral()):
        one = loss(a, b, b, metres)
        torch.testing.assert_close(one, loss(a, b, b, millimetres), rtol=1e-9, atol=0)
        torch.testing.assert_close(one, loss(1000 * a, 1000 * b, b, metres), rtol=1e-9, atol=0)


def test_bands_are_octaves_below_the_largest_wavenumber():
    """An error in one wave counts in its own band alone: a tenth of the band, over the bands."""
    n, target = 64, target_of({"u": ("x",)}, {"u": ("x",)}, {"x": line(64)}, ("x",))
    x = torch.tensor(line(n))
    waves = {0: 3, 1: 6, 2: 12, 3: 24}
    truth = sum(10.0**-b * torch.cos(2 * math.pi * k * x) for b, k in waves.items())
    for b, k in waves.items():
        guess = truth + 0.1 * 10.0**-b * torch.cos(2 * math.pi * k * x)
        found = Spectral(bands=4, floor=1e-9)(guess[None, :, None], truth[None, :, None], None, target)
        assert float(found) == pytest.approx(0.1 / 4, rel=1e-9)
    assert float(RelativeL2()(guess[None, :, None], truth[None, :, None], None, target)) < 2e-4


def test_a_loss_is_the_mean_over_the_fields():
    both = target_of({"u": ("x",)}, {"u": ("x",), "v": ("x",)}, {"x": line(8)}, ("x",))
    one = target_of({"u": ("x",)}, {"u": ("x",)}, {"x": line(8)}, ("x",))
    a, b = random(3, 8, 2), random(3, 8, 2, seed=1)
    for loss in (Sobolev(), Spectral(bands=2)):
        each = [loss(a[..., i : i + 1], b[..., i : i + 1], b, one) for i in (0, 1)]
        torch.testing.assert_close(loss(a, b, b, both), (each[0] + each[1]) / 2, rtol=1e-10, atol=0)


@pytest.mark.parametrize("loss", [Sobolev(), Spectral(bands=2), Weighted(((Sobolev(), 1), (Squared(), 2)))])
def test_gradients_are_those_of_differences_and_finite_at_no_error(loss):
    target = plane(5, 4, periodic=("x",))
    b = random(2, 5, 4, 1)
    guess = random(2, 5, 4, 1, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda a: loss(a, b, b, target), guess, atol=1e-6)
    exact = b.clone().requires_grad_()
    loss(exact, b, b, target).sum().backward()
    assert bool(torch.isfinite(exact.grad).all())
    assert loss(b[:0], b[:0], b[:0], target).shape == (0,)


def test_a_weighted_sum_is_one():
    target = GRIDS["walls"]
    a, b = random(2, 7, 9, 1), random(2, 7, 9, 1, seed=1)
    loss = Weighted(((RelativeL2(), 2.0), (Spectral(), 0.25)))
    wanted = 2 * RelativeL2()(a, b, b, target) + 0.25 * Spectral()(a, b, b, target)
    torch.testing.assert_close(loss(a, b, b, target), wanted)
    assert Weighted.from_json(loss.to_json()) == loss


def test_a_truth_of_zero_is_measured_against_the_typical_size():
    target = plane(8, 8)
    zero = torch.zeros(1, 8, 8, 1)
    for loss in (Sobolev(order=0), Spectral(bands=1)):
        assert float(loss(zero + 1e-3, zero, zero, target)) == pytest.approx(1.0, rel=1e-5)


def test_what_a_loss_cannot_do_is_refused():
    uneven = target_of({"u": ("x",)}, {"u": ("x",)}, {"x": np.array([0.0, 1, 2, 4, 8])})
    row = target_of({"a": ()}, {"u": ("x",)}, {"x": line(5)}, flat=True)
    u = random(1, 5, 1)
    with pytest.raises(Invalid, match="coordinates of 'x' are not"):
        Sobolev()(u, u, u, uneven)
    with pytest.raises(Invalid, match="all numbers in one row"):
        Spectral()(u[..., 0], u[..., 0], u, row)
    with pytest.raises(NotFound, match="the input 'permeability'. There is: u"):
        Physics(DarcyFlow(field="u"))(u, u, u, uneven)
    with pytest.raises(Invalid, match="weight of squared must be positive"):
        Weighted(((Squared(), 0.0),))


@pytest.mark.parametrize(
    "loss",
    [Sobolev(), Spectral(), Weighted(((RelativeL2(), 1.0), (Physics(BurgersStep("v", 0.0, 1.0)), 0.01)))],
)
def test_networks_learn_with_each_loss(loss):
    samples = smoothing(40)
    if isinstance(loss, Weighted):
        samples.signature = Signature(
            {"v": Field(("x",), "K")}, samples.signature.outputs, {"x": line(32)}, ("x",)
        )
        samples.x = {"v": samples.x["u"]}
    config = FNO(width=8, modes=8, layers=2, epochs=20, batch=5, threads=1, device="cpu", loss=loss)
    _, reports, _ = fit(config, samples)
    assert reports[-1].metrics["train_loss"] < 0.7 * reports[0].metrics["train_loss"]
    with pytest.raises(Invalid, match="all numbers in one row"):
        fit(MLP(width=4, layers=1, epochs=1, threads=1, device="cpu", loss=Sobolev()), smoothing(4))


def test_what_is_compiled_is_the_same():
    target = plane(8, 12, periodic=("x",))
    a, b = random(3, 8, 12, 1).float(), random(3, 8, 12, 1, seed=1).float()
    for loss in (Sobolev(), Spectral()):
        compiled = torch.compile(
            lambda a, loss=loss: loss(a, b, b, target), backend="aot_eager", fullgraph=True
        )
        torch.testing.assert_close(compiled(a), loss(a, b, b, target))


# Residuals


def darcy_case(n, m):
    """-div(a grad u) = f on [0, 1] x [0, 2] with a = exp(x y / 2), u = sin(x + 2 y) x y, f made for it."""
    import sympy

    s, t = sympy.symbols("x y")
    u, a = sympy.sin(s + 2 * t) * s * t, sympy.exp(s * t / 2)
    f = -sum(sympy.diff(a * sympy.diff(u, v), v) for v in (s, t))
    y, x = np.meshgrid(line(n, 2.0, False), line(m, 1.0, False), indexing="ij")
    values = [sympy.lambdify((s, t), g)(x, y) for g in (a, f, u)]
    grid = {"y": line(n, 2.0, False), "x": line(m, 1.0, False)}
    axes = ("y", "x")
    target = target_of({"k": axes, "f": axes}, {"u": axes}, grid)
    return target, torch.tensor(np.stack(values[:2], -1))[None], torch.tensor(values[2])[None, ..., None]


def test_the_residual_of_darcys_equation_is_of_second_order():
    residual, errors = DarcyFlow("u", "k", "f"), []
    for n in (17, 33, 65):
        target, x, u = darcy_case(n, n + 4)
        left = residual(x, u, target)
        assert left.shape == (1, n - 2, n + 2, 1)
        errors.append(float(left.abs().max()))
    assert orders(errors).min() > 1.8
    wrong = residual(x, 1.1 * u, target)
    torch.testing.assert_close(wrong, -0.1 * -x[:, 1:-1, 1:-1, 1:], rtol=0, atol=0.01 * float(x.abs().max()))


def test_darcys_equation_of_the_solver_balances():
    pytest.importorskip("dolfinx")
    from sciflow_fenics.components import Darcy

    axes, errors = ("y", "x"), []
    for n in (17, 65):
        # The finest mesh that both grids are part of, so that the medium is the same.
        problem = Darcy(cells=64, degree=2, grid=n)
        state = next(iter(problem.solve({"length": 0.3, "variance": 0.1, "source": 2.0}, Context(seed=3))))
        fields = {}
        for name, part in state.fields.items():
            fields[name] = np.empty(n * n)
            fields[name][part.index] = part.values
        grid = dict.fromkeys(axes, line(n, 1.0, False))
        target = target_of({"permeability": axes, "source": ()}, {"pressure": axes}, grid)
        x = np.stack([fields["permeability"], np.full(n * n, 2.0)], -1).reshape(1, n, n, 2)
        x, y = torch.tensor(x), torch.tensor(fields["pressure"].reshape(1, n, n, 1))
        loss = Physics(DarcyFlow(source="source"))
        errors.append(float(loss(y, y, x, target)))
        assert float(loss(1.2 * y, y, x, target)) > 2 * errors[-1]
    # The medium has one derivative, not two: the residual of the differences falls slower than h^2.
    assert errors[1] < 0.4 * errors[0]
    assert errors[1] < 0.02


def burgers_case(n, levels):
    """The solver's levels from half of the time on, when the short waves of the beginning are gone."""
    problem = Burgers(points=n, solve_points=256, levels=2 * levels - 1, end=0.2, steps=80)
    mu = {"viscosity": np.array([0.02, 0.1]), "member": np.array([0, 1])}
    states = [s.fields["u"] for s in problem.solve_batch(mu, Context())][levels - 1 :]
    axes = ("x",)
    grid = {"x": line(n), "lead": np.arange(1.0, levels)}
    target = target_of({"u": axes, "viscosity": ()}, {"u": ("lead", *axes)}, grid, axes)
    u = torch.tensor(np.stack(states, axis=-1))
    nu = torch.tensor(mu["viscosity"])[:, None, None].expand(2, n, 1)
    return target, torch.cat([u[..., :1], nu], -1), u[..., 1:], 0.1 / (levels - 1)


def test_burgers_equation_of_the_solver_balances_to_second_order_in_the_step():
    errors = []
    for levels in (11, 21, 41):
        target, x, y, step = burgers_case(64, levels)
        residual = BurgersStep("u", "viscosity", step)
        assert residual(x, y, target).shape == (2, 64, levels - 1)
        # Over the step: what is left of the rate of change.
        errors.append(float(residual(x, y, target).abs().max()) / step)
        loss = Physics(residual)(y, y, x, target)
        if levels == 41:
            assert float(loss.max()) < 1e-3
            assert float(Physics(residual)(1.1 * y, y, x, target).min()) > 0.05
    assert orders(errors).min() > 1.8


def test_burgers_residual_with_walls_is_of_second_order():
    """The travelling front a - b tanh(b (x - a t) / (2 nu)) solves the equation."""
    nu, a, b, step, errors = 0.1, 0.5, 0.8, 1e-4, []
    for n in (33, 65, 129):
        x = line(n, 2.0, False) - 1
        u = [a - b * np.tanh(b * (x - a * t) / (2 * nu)) for t in (0.0, step)]
        target = target_of({"u": ("x",)}, {"u": ("x",)}, {"x": x})
        old, new = (torch.tensor(v)[None, :, None] for v in u)
        errors.append(float(BurgersStep("u", nu, step)(old, new, target).abs().max()) / step)
    assert orders(errors).min() > 1.7


def test_the_vorticity_of_the_solver_balances_to_second_order_in_the_step():
    errors = []
    for levels in (5, 9, 17):
        problem = NavierStokes(points=32, levels=2 * levels - 1, end=2.0, steps=64)
        mu = {"viscosity": np.array([1e-3, 1e-2]), "force": np.array([0.1, 0.2]), "member": np.arange(2)}
        states = [s.fields["vorticity"] for s in problem.solve_batch(mu, Context())]
        w = np.stack(states[levels - 1 :], axis=-1)
        grid = {"y": line(32), "x": line(32), "lead": np.arange(1.0, levels)}
        axes = ("y", "x")
        target = target_of(
            {"vorticity": axes, "viscosity": (), "force": ()}, {"vorticity": ("lead", *axes)}, grid, axes
        )
        scalars = [
            np.broadcast_to(mu[n][:, None, None, None], (2, 32, 32, 1)) for n in ("viscosity", "force")
        ]
        x = torch.tensor(np.concatenate([w[..., :1], *scalars], axis=-1))
        step = 1.0 / (levels - 1)
        residual = VorticityStep(step=step)
        left = residual(x, torch.tensor(w[..., 1:]), target)
        errors.append(float(left.abs().max()) / step)
        for wrong in ({"viscosity": 0.05}, {"force": 0.0}):
            changed = residual.replace(**wrong)(x, torch.tensor(w[..., 1:]), target)
            assert float(changed.abs().max()) > 3 * float(left.abs().max())
    assert orders(errors).min() > 1.8


def test_the_order_of_the_axes_does_not_matter_to_a_vorticity():
    axes, w = ("y", "x"), random(2, 8, 10, 2)
    grid = {"y": line(8), "x": line(10)}
    residual = VorticityStep("w", 1e-2, 0.3, 0.1)
    one = target_of({"w": axes}, {"w": axes}, grid, axes)
    other = target_of({"w": axes[::-1]}, {"w": axes[::-1]}, grid, axes)
    turned = w.transpose(1, 2)
    torch.testing.assert_close(
        residual(w[..., :1], w[..., 1:], one).transpose(1, 2),
        residual(turned[..., :1], turned[..., 1:], other),
    )


def test_a_step_of_no_length_asks_for_the_field_itself():
    target = target_of({"u": ("x",), "lead_time": ()}, {"u": ("x",)}, {"x": line(16)}, ("x",))
    u = random(3, 16, 1)
    step = torch.tensor([0.0, 0.1, 0.1])[:, None, None].expand(3, 16, 1)
    loss = Physics(BurgersStep("u", 0.01))(u, u, torch.cat([u, step], -1), target)
    assert bool(torch.isfinite(loss).all())
    assert float(loss[0]) == pytest.approx(0.0, abs=1e-6)
