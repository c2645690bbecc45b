import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

pytest.importorskip("dolfinx")
from mpi4py import MPI

from sciflow import Context, Diverged, Invalid, NotFound
from sciflow.states import Collector
from sciflow_fenics import viscoplastic
from sciflow_fenics.laws import BACK, CUMULATED, HISTORY, METAL, PLASTIC, Metal, ViscoplasticLaw, full_stress
from sciflow_fenics.plate import nodes, pull, quadratic, supports
from sciflow_fenics.viscoplastic import Plate
from sciflow_fenics.weak_forms import ElastoViscoplastic
from tests.fenics.weak_form import assert_ranks_agree, difference, ensemble

SMALL = ElastoViscoplastic(cells=6, cycles=2, steps_per_cycle=12)
MU = {"amplitude": 110e6, "mean": 20e6, "yield_stress": 110e6, "drag": 60e6}
SHEAR = METAL.young / (2 * (1 + METAL.poisson))
LAME = METAL.young * METAL.poisson / ((1 + METAL.poisson) * (1 - 2 * METAL.poisson))


def solve(problem, mu=MU):
    ctx = Context()
    collector = Collector(problem, ctx.comm)
    for state in problem.solve(mu, ctx):
        collector.add(state)
    collector.finish()
    return collector.arrays


def tensor(components, normal=0.0):
    """3 x 3 from xx, yy, xy."""
    xx, yy, xy = components
    return np.array([[xx, xy, 0], [xy, yy, 0], [0, 0, normal]])


def mises(deviator):
    return np.sqrt(1.5 * np.sum(deviator * deviator))


def path(t):
    """Strain xx, yy and twice xy that grows, turns and comes back within two seconds."""
    return np.array([4e-3 * np.sin(np.pi * t), -2e-3 * t * (2 - t), 3e-3 * np.sin(np.pi * t / 2) ** 2])


def stress_of(strain, plastic):
    xx, yy, twice = strain
    elastic = tensor((xx, yy, twice / 2)) - plastic
    return 2 * SHEAR * elastic + LAME * np.trace(elastic) * np.eye(3)


def oracle(end, yield_stress, drag):
    """The law as ordinary differential equations of whole tensors, to ten digits."""

    def rates(t, y):
        plastic, back = y[:9].reshape(3, 3), y[9:18].reshape(3, 3)
        stress = stress_of(path(t), plastic)
        relative = stress - np.trace(stress) / 3 * np.eye(3) - back
        size = mises(relative)
        over = size - yield_stress - METAL.isotropic * (1 - np.exp(-METAL.rate * max(y[18], 0.0)))
        rate = max(over, 0.0) ** METAL.exponent / drag**METAL.exponent
        flow = 1.5 * relative / size * rate if rate else np.zeros((3, 3))
        change = METAL.kinematic * flow / 1.5 - METAL.recall * back * rate
        return np.concatenate([flow.reshape(-1), change.reshape(-1), [rate]])

    found = solve_ivp(rates, (0, end), np.zeros(19), method="Radau", rtol=1e-9, atol=1e-13, max_step=2e-3).y[
        :, -1
    ]
    return found[:9].reshape(3, 3), found[9:18].reshape(3, 3), found[18]


def march(end, steps, yield_stress, drag):
    law, history = ViscoplasticLaw(METAL, yield_stress, drag, end / steps), np.zeros((1, HISTORY))
    for i in range(1, steps + 1):
        stress, _, history = law(path(end * i / steps)[None], history, i)
    return stress, history


@pytest.mark.parametrize(("end", "drag"), [(0.5, 60e6), (2.0, 60e6), (2.0, 400e6)])
def test_the_law_tends_to_the_differential_equations_with_order_one(end, drag):
    plastic, back, cumulated = oracle(end, 120e6, drag)
    exact = stress_of(path(end), plastic)
    errors = []
    for steps in (100, 200, 400):
        stress, history = march(end, steps, 120e6, drag)
        whole = full_stress(METAL, stress, history)[0]
        found = tensor((whole[0], whole[1], whole[3]), whole[2])
        gaps = [
            np.abs(found - exact).max() / np.abs(exact).max(),
            np.abs(tensor(history[0, BACK], -history[0, BACK][:2].sum()) - back).max() / np.abs(back).max(),
            abs(history[0, CUMULATED] - cumulated) / cumulated,
        ]
        errors.append(gaps)
    errors = np.array(errors)
    assert errors[-1].max() < 0.02
    assert (errors[:-1] / errors[1:]).min() > 1.8


def states(draw_seed, size, count=12):
    """Strains and histories that an earlier step could have left."""
    rng = np.random.default_rng(draw_seed)
    law = ViscoplasticLaw(METAL, 110e6, 60e6, 0.3)
    history = np.zeros((count, HISTORY))
    for step in range(3):
        _, _, history = law(rng.standard_normal((count, 3)) * size, history, step)
    return rng.standard_normal((count, 3)) * size, history


@pytest.mark.parametrize("size", [1e-4, 1e-3, 1e-2])
def test_the_tangent_is_the_derivative_of_the_step(size):
    strain, history = states(1, size)
    law = ViscoplasticLaw(METAL, 110e6, 60e6, 0.3)
    tangent, found = law(strain, history, 3)[1], difference(law, strain, history, 3, h=1e-4 * size)
    np.testing.assert_allclose(tangent, found, rtol=0, atol=2e-6 * METAL.young)
    if size > 1e-4:
        assert (law(strain, history, 3)[2][:, CUMULATED] > history[:, CUMULATED]).any()


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.floats(-5, -1),
    drag=st.floats(5, 10),
    dt=st.floats(-4, 3),
    exponent=st.sampled_from([1.0, 2.5, 6.0, 20.0]),
)
def test_the_equations_of_a_step_hold_whatever_the_step(seed, size, drag, dt, exponent):
    """Flow along the relative stress, the overstress of the rate, both hardenings; nothing flows back."""
    metal = Metal(exponent=exponent)
    strain, history = states(seed, 10**size)
    law = ViscoplasticLaw(metal, 100e6, 10**drag, 10**dt)
    stress, _, after = law(strain, history, 0)
    normal = full_stress(metal, stress, after)
    for i in range(len(strain)):
        dp = after[i, CUMULATED] - history[i, CUMULATED]
        back, old = after[i, BACK], history[i, BACK]
        whole = tensor(stress[i], normal[i, 2])
        relative = whole - np.trace(whole) / 3 * np.eye(3) - tensor(back, -back[:2].sum())
        over = mises(relative) - 100e6 - metal.isotropic * (1 - np.exp(-metal.rate * after[i, CUMULATED]))
        assert dp >= 0
        # A change of cumulated strain near its last digit says little about the rate.
        blur = 10**drag * ((dp + 1e-15) ** (1 / exponent) - dp ** (1 / exponent)) / 10 ** (dt / exponent)
        if dp == 0:
            assert over <= 1 + blur
            np.testing.assert_allclose(after[i, PLASTIC], history[i, PLASTIC], rtol=0, atol=1e-15)
            continue
        assert over == pytest.approx(
            10**drag * (dp / 10**dt) ** (1 / exponent), abs=10 + blur + 1e-9 * mises(relative)
        )
        flow = 1.5 * dp * relative / mises(relative)
        direction = np.array([flow[0, 0], flow[1, 1], flow[0, 1]])
        np.testing.assert_allclose(after[i, PLASTIC] - history[i, PLASTIC], direction, rtol=1e-6, atol=1e-15)
        expected = old + metal.kinematic * direction / 1.5 - metal.recall * dp * back
        np.testing.assert_allclose(back, expected, rtol=1e-8, atol=10)


def test_a_law_at_some_points_is_the_law_at_all_points():
    strain, history = states(4, 3e-3, 40)
    law, some = ViscoplasticLaw(METAL, 110e6, 60e6, 0.3), np.arange(0, 40, 3)
    whole, few = law(strain, history, 0), law(strain[some], history[some], 0)
    for one, other in zip(whole, few, strict=True):
        np.testing.assert_allclose(one[some], other, rtol=1e-9, atol=1e-9 * np.abs(one).max())


def test_history_and_strain_are_not_changed():
    strain, history = states(5, 3e-3)
    kept = strain.copy(), history.copy()
    ViscoplasticLaw(METAL, 110e6, 60e6, 0.3)(strain, history, 0)
    np.testing.assert_array_equal(strain, kept[0])
    np.testing.assert_array_equal(history, kept[1])


def test_strains_are_exact_for_quadratic_displacements():
    """``u = (x^2 + x y, 3 y^2 - x)``: elements are straight, so that their strains are linear."""
    form = SMALL.integrals(Context())
    x, y = quadratic(nodes(6, SMALL.side, SMALL.hole)).reshape(-1, 2).T
    u = np.stack([x**2 + x * y, 3 * y**2 - x], axis=1).reshape(-1)[form.rows]
    found, (px, py) = form.strains(u[:, None])[:, :, 0], form.points.T
    np.testing.assert_allclose(found, np.stack([2 * px + py, 6 * py, px - 1], axis=1), atol=1e-12)


def test_the_weights_are_those_of_the_plate_and_the_load_that_of_its_edge():
    areas = []
    for cells in (6, 12):
        form = SMALL.replace(cells=cells).integrals(Context())
        areas.append(SMALL.side**2 - np.pi * SMALL.hole**2 / 4 - form.weights.sum())
        assert form.weights.min() > 0
        assert np.isclose(form.loads.sum(), SMALL.side)
    assert abs(areas[1]) < 0.3 * abs(areas[0])
    height = quadratic(nodes(6, 0.05, 0.01)).reshape(-1, 2)[:, 1]
    assert np.isclose(pull(6, 0.05)[::2] @ height**2, 0.05**3 / 3)


def kirsch(points, hole):
    """Stress xx, yy, xy around a hole in an infinite plate under unit tension along x."""
    r, angle = np.hypot(*points.T), np.arctan2(points[:, 1], points[:, 0])
    s, c2, c4, s2, s4 = (
        (hole / r) ** 2,
        *(f(k * angle) for f, k in ((np.cos, 2), (np.cos, 4))),
        np.sin(2 * angle),
        np.sin(4 * angle),
    )
    xx = 1 - s * (1.5 * c2 + c4) + 1.5 * s**2 * c4
    yy = -s * (0.5 * c2 - c4) - 1.5 * s**2 * c4
    xy = -s * (0.5 * s2 + s4) + 1.5 * s**2 * s4
    return np.stack([xx, yy, xy], axis=1)


def test_below_the_yield_stress_it_is_the_elastic_plate_with_a_hole():
    errors = []
    law = ViscoplasticLaw(METAL, 1e30, 1e6, 1.0)
    for cells in (16, 32):
        plate = Plate(MPI.COMM_SELF, cells, 0.2, 0.01)
        form, start = plate.form, np.zeros((6 * cells**2, HISTORY))
        u, stress, after, newton = plate.step(law, np.zeros(len(form.rows)), start, 1e6, 1e6, 0)
        assert newton == 1
        assert not after.any()
        near = np.hypot(*form.points.T) < 0.02
        gap = (stress[near] / 1e6 - kirsch(form.points[near], 0.01)) ** 2
        errors.append(np.sqrt((form.weights[near] @ gap).max() / form.weights[near].sum()))
        pulled = plate.stiffness.force(stress)
        fixed = supports(cells)[form.rows] & (form.rows % 2 == 0)
        assert np.isclose(pulled[fixed].sum(), -1e6 * 0.2, rtol=1e-9)
        assert not u[~plate.stiffness.free].any()
    assert errors[1] < 0.5 * errors[0]
    assert errors[1] < 0.03


def test_newton_converges_quadratically():
    plate, problem = viscoplastic.plate(SMALL, Context()), SMALL
    form, law = plate.form, problem.law(np.zeros((216, 2)), MU)
    u, history, sizes = np.zeros(len(form.rows)), problem.start(len(form.places)), []
    for _ in range(12):
        stress, tangent, after = law(form.strains(u[:, None])[:, :, 0], history, 0)
        load = problem.load(MU, 2)[0] * form.loads[:, 0]
        residual = np.where(plate.stiffness.free, plate.stiffness.force(stress) - load, 0.0)
        sizes.append(np.linalg.norm(residual) / np.linalg.norm(load))
        if sizes[-1] < 1e-11:
            break
        u = u - plate.stiffness.correction(tangent, residual)
    assert (after[:, CUMULATED] > 0).mean() > 0.3
    late = [s for s in sizes if s < 0.05]
    assert len(sizes) < 10
    assert late[1] < 10 * late[0] ** 2 + 1e-12
    assert late[2] < 10 * late[1] ** 2 + 1e-12


def test_stored_displacements_satisfy_the_weak_form_and_give_the_dual_fields():
    """As a reduced model sees it: strains, law and loads, step after step, on one rank."""
    fields, form = solve(SMALL), SMALL.integrals(Context())
    law, history = SMALL.law(form.points, MU), SMALL.start(len(form.places))
    free = ~supports(SMALL.cells)[form.rows]
    back = np.argsort(form.places)
    for step in range(len(SMALL.steps())):
        u = fields["displacement"][step][form.rows]
        assert not u[~free].any()
        stress, _, history = law(form.strains(u[:, None])[:, :, 0], history, step)
        load = form.loads @ SMALL.load(MU, step)
        inner = form.operator.T @ (form.weights[:, None] * stress).reshape(-1)
        largest = np.linalg.norm(form.loads) * 130e6
        assert np.linalg.norm((inner - load)[free]) < 1e-7 * largest
        for name in SMALL.dual:
            values = SMALL.observe(name, stress, history)[back]
            scale = np.abs(fields[name]).max()
            np.testing.assert_allclose(fields[name][step], values, rtol=0, atol=1e-9 * scale)
    assert fields["cumulated"][-1].max() > 1e-3


def test_what_is_done_to_the_metal_is_never_given_back():
    """Plastic work less what the hardenings store, over each step and at each point."""
    before = SMALL.start(6 * SMALL.cells**2)
    for state in SMALL.solve(MU, Context()):
        after = state.restart()["history"]
        stress = state.fields["stress"].values.reshape(-1, 4)
        change = after - before

        def twice(a, b):
            return a[:, 0] * b[:, 0] + a[:, 1] * b[:, 1] + 2 * a[:, 2] * b[:, 2]

        def double(a, b):
            return twice(a, b) + (a[:, 0] + a[:, 1]) * (b[:, 0] + b[:, 1])

        plastic, back = change[:, PLASTIC], after[:, BACK]
        work = twice(stress[:, [0, 1, 3]], plastic) - stress[:, 2] * plastic[:, :2].sum(axis=1)
        stored = 1.5 / METAL.kinematic * double(back, change[:, BACK])
        stored += METAL.isotropic * (1 - np.exp(-METAL.rate * after[:, CUMULATED])) * change[:, CUMULATED]
        assert (work - stored).min() >= -1e-9 * np.abs(work).max()
        assert change[:, CUMULATED].min() >= 0
        before = after
    assert before[:, CUMULATED].max() > 0


def test_the_error_of_the_time_steps_is_of_order_one():
    problem = SMALL.replace(cells=4, cycles=1)
    fine = solve(problem.replace(steps_per_cycle=256))
    errors = []
    for steps in (16, 32, 64):
        found = solve(problem.replace(steps_per_cycle=steps))
        errors.append(
            [
                np.abs(found[n][-1] - fine[n][-1]).max() / np.abs(fine[n][-1]).max()
                for n in ("displacement", "cumulated")
            ]
        )
    errors = np.array(errors)
    assert (errors[:-1] / errors[1:]).min() > 1.6
    assert errors[-1].max() < 0.1


def test_more_cycles_begin_with_the_same_bits_on_the_same_mesh():
    short, long = SMALL.replace(cycles=1), SMALL.replace(cycles=3)
    one, other = solve(short), solve(long)
    for name, values in one.items():
        assert values.tobytes() == other[name][: len(values)].tobytes(), name
    assert short.integrals(Context()).mesh == long.integrals(Context()).mesh
    assert short.integrals(Context()).mesh != SMALL.replace(cells=8).integrals(Context()).mesh


def test_cycles_become_alike_and_every_one_adds_cumulated_strain():
    n = 12
    problem = SMALL.replace(cells=4, cycles=8, steps_per_cycle=n)
    fields = solve(problem, {**MU, "mean": 0.0})
    added = np.diff(fields["cumulated"][n - 1 :: n].max(axis=1))
    assert added.min() > 0
    changes = 1 - added[1:] / added[:-1]  # the metal hardens, ever more slowly
    assert changes.min() > 0
    assert (np.diff(changes) < 0).all()
    assert changes[-1] < 0.02
    # Without a mean, tension and compression are alike in the end.
    top, bottom = fields["displacement"][-n:][2], fields["displacement"][-n:][8]
    assert np.linalg.norm(top + bottom) < 0.1 * np.linalg.norm(top)


def test_a_small_load_is_elastic_and_a_faster_drag_flows_less():
    assert not solve(SMALL, {**MU, "amplitude": 5e6, "mean": 0.0})["cumulated"].any()
    easy, hard = (solve(SMALL, {**MU, "drag": drag})["cumulated"][-1].max() for drag in (20e6, 200e6))
    assert hard < 0.8 * easy


def test_the_mesh_is_stored_as_the_fields_need_it():
    constants = {name: values for name, (_, values) in SMALL.constants(Context()).items()}
    form, sizes = SMALL.integrals(Context()), SMALL.coordinates()
    points = np.stack([constants["point_x"], constants["point_y"]], axis=1)
    np.testing.assert_allclose(points[form.places], form.points, atol=1e-15)
    assert len(constants["dof_x"]) == len(sizes["dof"])
    corners = np.stack([constants["node_x"], constants["node_y"]], axis=-1)[constants["triangles"]]
    a, b = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    assert (a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]).min() > 0


def test_members_do_not_influence_each_other():
    alone = solve(SMALL)
    solve(SMALL, {**MU, "drag": 200e6, "amplitude": 80e6})
    for name, values in solve(SMALL).items():
        assert values.tobytes() == alone[name].tobytes()


def test_newton_gives_up_in_a_sentence(monkeypatch):
    monkeypatch.setattr(viscoplastic, "NEWTON", 1)
    with pytest.raises(
        Diverged, match=r"step \d+: Newton's method did not converge in 1 steps, last residual"
    ):
        solve(SMALL)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cells": 7}, "cells must be even"),
        ({"cells": 0}, "cells must be a whole number of at least 2"),
        ({"cycles": 0}, "cycles must be"),
        ({"steps_per_cycle": 3}, "steps_per_cycle must be"),
        ({"period": 0.0}, "period must be positive"),
    ],
)
def test_bad_configurations_are_refused(change, message):
    with pytest.raises(Invalid, match=message):
        ElastoViscoplastic(**change)


@pytest.mark.parametrize("change", [{"drag": 0.0}, {"yield_stress": -1.0}, {"amplitude": -1.0}])
def test_bad_parameters_are_refused(change):
    with pytest.raises(Invalid, match=next(iter(change))):
        solve(SMALL, {**MU, **change})


def test_an_unknown_dual_field_is_not_found():
    with pytest.raises(NotFound, match="cumulated"):
        SMALL.observe("cumulate", np.zeros((1, 3)), SMALL.start(1))


@pytest.mark.mpi
def test_one_two_and_three_ranks_give_the_same_form_and_solution(tmp_path):
    assert_ranks_agree(ElastoViscoplastic(cells=4, cycles=1, steps_per_cycle=10), tmp_path, 1e-6)


@pytest.mark.mpi
def test_an_ensemble_on_two_ranks_holds_what_one_rank_computes(plain):
    pytest.importorskip("zarr")
    problem = ElastoViscoplastic(cells=4, cycles=1, steps_per_cycle=8)
    data = ensemble(problem, 2)
    assert (data.read("status") == 1).all()
    point = dict(zip(problem.parameters, data.read("parameters")[1], strict=True))
    for name, values in solve(problem, point).items():
        stored = data.to_xarray()[name].values[1]
        np.testing.assert_allclose(stored, values, rtol=0, atol=1e-6 * np.abs(values).max(), err_msg=name)
        np.testing.assert_array_equal(stored, data.read(name)[1], err_msg=name)
