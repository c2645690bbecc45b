"""The solver that stands in for another one, the component, shared spaces and bases to begin with."""

import logging

import numpy as np
import pytest

pytest.importorskip("petsc4py")
from petsc4py import PETSc

from sciflow import Context, Diverged, Invalid, Missing, NotFound
from sciflow.schema import Field, Schema
from sciflow.store import Store
from sciflow_control.recycling import seeding
from sciflow_control.recycling.ksp import RecyclingKSP, hpddm_options
from sciflow_control.recycling.preconditioners import SETTINGS, preconditioner
from sciflow_control.recycling.recycling import Recycling
from sciflow_control.recycling.spaces import FOLDER, KEPT, Spaces, layout
from tests.control.krylov import diffusion, petsc, prepared, solver, transport

METHODS = ["gcro_dr", "deflated_cg"]
N = 100


def sequence(count, seed=0, n=10):
    rng = np.random.default_rng(seed)
    base = diffusion(n, rng, 1.0)
    return [(base + 0.02 * np.diag(rng.random(n * n)), rng.standard_normal(n * n)) for _ in range(count)]


def vectors(matrix, b):
    x, right = matrix.createVecs()
    right.setArray(b)
    return right, x


def member(solving, ksp, systems):
    """Solutions and iterations."""
    found = []
    for dense, b in systems:
        matrix = petsc(dense)
        ksp.setOperators(matrix)
        right, x = vectors(matrix, b)
        found.append((x, solving.solve(right, x, {})))
        assert np.linalg.norm(b - dense @ x.array) <= 1.001e-8 * np.linalg.norm(b)
    return [x.array.copy() for x, _ in found], [i for _, i in found]


def opened(config, ctx, restart=None, n=10, pc="jacobi"):
    ksp = solver(petsc(np.eye(n * n)), "cg", pc)
    return config.wrap(ksp, ctx, restart), ksp


@pytest.mark.parametrize("method", METHODS)
def test_it_stands_in_for_a_solver(method):
    ksp = solver(petsc(np.eye(N)), "cg", "jacobi")
    recycling, counts = RecyclingKSP(ksp, method, m=20, k=8), []
    for dense, b in sequence(5):
        matrix = petsc(dense)
        recycling.setOperators(matrix)
        right, x = vectors(matrix, b)
        recycling.solve(right, x)
        assert recycling.getConvergedReason() == 2
        assert not recycling.fell_back
        assert np.isclose(recycling.getResidualNorm(), np.linalg.norm(b - dense @ x.array), rtol=1e-3)
        counts.append(recycling.getIterationNumber())
    assert max(counts[1:]) < 0.8 * counts[0]
    assert recycling.getType() == "cg"
    assert recycling.space().shape == (N, 8)


def test_a_guess_counts_where_the_solver_says_so():
    (dense, b), matrix = sequence(1)[0], petsc(sequence(1)[0][0])
    right, x = vectors(matrix, b)
    ksp = solver(matrix, "cg", "jacobi")
    recycling = RecyclingKSP(ksp)
    exact = np.linalg.solve(dense, b)
    x.setArray(exact)
    recycling.solve(right, x)
    assert recycling.getIterationNumber() > 5, "from zero"
    x.setArray(exact)
    recycling.setInitialGuessNonzero(True)
    recycling.solve(right, x)
    assert recycling.getIterationNumber() == 0


@pytest.mark.parametrize("name", sorted(SETTINGS))
def test_every_preconditioner_solves(name):
    systems = sequence(3, seed=1, n=6)
    ksp = solver(petsc(np.eye(36)), "cg")
    recycling = RecyclingKSP(ksp, m=16, k=5, preconditioner=name)
    for dense, b in systems:
        matrix = petsc(dense)
        recycling.setOperators(matrix)
        right, x = vectors(matrix, b)
        recycling.solve(right, x)
        assert not recycling.fell_back
        np.testing.assert_allclose(x.array, np.linalg.solve(dense, b), rtol=1e-5, atol=1e-7)


def test_forward_and_symmetric_sweeps_are_those_of_the_formulas():
    dense, v = transport(5, np.random.default_rng(2)), np.random.default_rng(3).standard_normal(25)
    lower, d, upper = np.tril(dense), np.diag(dense.diagonal()), np.triu(dense)
    sweeps = {"sor": np.linalg.inv(lower), "ssor": np.linalg.inv(upper) @ d @ np.linalg.inv(lower)}
    for name, inverse in sweeps.items():
        matrix = petsc(dense)
        pc = preconditioner(name, matrix.getComm())
        pc.setOperators(matrix)
        right, z = vectors(matrix, v)
        pc.setUp()
        pc.apply(right, z)
        np.testing.assert_allclose(z.array, inverse @ v, rtol=1e-10, err_msg=name)


@pytest.mark.parametrize("method", METHODS)
def test_the_given_solver_finishes_what_recycling_cannot(method, caplog):
    systems = sequence(5, seed=4)
    ksp = solver(petsc(systems[0][0]), "cg", "jacobi")
    recycling = RecyclingKSP(ksp, method, m=10, k=4)
    calls = []
    own = recycling._made().solve

    def short(*args, limit, **settings):
        calls.append(limit)
        return own(*args, limit=5, **settings)

    recycling._solver.solve = short
    for i, (dense, b) in enumerate(systems):
        matrix = petsc(dense)
        recycling.setOperators(matrix)
        right, x = vectors(matrix, b)
        recycling.solve(right, x)
        assert recycling.fell_back
        assert recycling.getConvergedReason() > 0
        assert np.linalg.norm(b - dense @ x.array) <= 1.001e-8 * np.linalg.norm(b)
        assert recycling.getIterationNumber() == ksp.getIterationNumber() + (5 if i < 3 else 0)
    assert len(calls) == 3
    assert not ksp.getInitialGuessNonzero()
    assert "the given solver goes on alone" in caplog.text


def test_a_preconditioner_that_gives_no_numbers_does_not_spoil_the_iterate():
    dense, b = sequence(1)[0]
    matrix = petsc(dense)
    ksp = solver(matrix, "cg", "jacobi")
    recycling = RecyclingKSP(ksp)
    recycling._applied = lambda _: lambda v, z: z.set(np.nan)
    right, x = vectors(matrix, b)
    recycling.solve(right, x)
    assert recycling.fell_back
    assert recycling.getConvergedReason() > 0
    np.testing.assert_allclose(x.array, np.linalg.solve(dense, b), rtol=1e-5, atol=1e-7)
    del recycling._applied
    recycling.solve(right, x)
    assert not recycling.fell_back, "one failure is forgiven"


def test_a_zero_pivot_ends_in_the_given_solver():
    dense = np.array([[0.0, 1.0], [1.0, 0.0]])
    matrix = petsc(dense)
    recycling = RecyclingKSP(solver(matrix, "gmres"), m=4, k=1, preconditioner="ilu")
    right, x = vectors(matrix, np.array([2.0, 3.0]))
    recycling.solve(right, x)
    np.testing.assert_allclose(x.array, [3.0, 2.0], rtol=1e-8)


def test_a_factorisation_as_the_given_solver():
    dense, b = sequence(1)[0]
    matrix = petsc(dense)
    ksp = solver(matrix, "preonly", "lu")
    ksp.setNormType(PETSc.KSP.NormType.NONE)
    recycling = RecyclingKSP(ksp)
    right, x = vectors(matrix, b)
    recycling.solve(right, x)
    assert recycling.getIterationNumber() == 1
    assert not recycling.fell_back
    recycling._made().solve = lambda *args, **settings: recycling._solver._end("its")
    recycling.solve(right, x)
    assert recycling.fell_back
    np.testing.assert_allclose(dense @ x.array, b, atol=1e-10)


def test_a_singular_operator_with_its_null_space():
    rng = np.random.default_rng(5)
    dense = diffusion(8, rng, 1.0)
    dense -= np.diag(dense.sum(axis=1))  # no flow through the boundary
    matrix = petsc(dense)
    null = PETSc.NullSpace().create(constant=True, comm=matrix.getComm())
    matrix.setNullSpace(null)
    b = rng.standard_normal(64)
    b -= b.mean()
    for method in METHODS:
        recycling = RecyclingKSP(solver(matrix, "cg", "jacobi"), method, m=20, k=6)
        right, x = vectors(matrix, b)
        recycling.solve(right, x)
        assert not recycling.fell_back
        assert np.linalg.norm(b - dense @ x.array) < 1.001e-8 * np.linalg.norm(b)
        assert abs(x.array.mean()) < 1e-10 * np.linalg.norm(x.array)


@pytest.mark.parametrize("method", METHODS)
def test_an_operator_that_stays_is_known_by_its_values(method):
    systems = sequence(2, seed=6)
    recycling = RecyclingKSP(solver(petsc(np.eye(N)), "cg", "jacobi"), method, m=20, k=8)
    spent = []
    for dense in (systems[0][0], systems[0][0], systems[1][0], systems[1][0]):
        matrix = petsc(dense)  # assembled anew every time
        recycling.setOperators(matrix)
        right, x = vectors(matrix, systems[0][1])
        recycling.solve(right, x)
        spent.append(recycling.products - recycling.getIterationNumber())
    assert spent[1] + 6 < spent[2]
    assert spent[3] + 6 < spent[2]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("stop", [1, 3])
def test_a_member_that_goes_on_gives_the_same_bits(method, stop, tmp_path):
    systems = sequence(3, seed=7)
    systems = [systems[i] for i in (0, 0, 1, 2, 2, 0)]
    config = Recycling(method, m=16, k=6)
    ctx = Context(scratch=tmp_path)
    first, ksp = opened(config, ctx)
    whole, counts = member(first, ksp, systems)
    second, ksp = opened(config, ctx)
    member(second, ksp, systems[:stop])
    kept = {k: v.copy() for k, v in second.restart().items()}
    first.close()  # somebody else's space must not get in between
    third, ksp = opened(config, ctx, kept)
    assert set(third.restart()) == set(kept), "also before its first solve"
    rest, after = member(third, ksp, systems[stop:])
    assert after == counts[stop:]
    for x, y in zip(rest, whole[stop:], strict=True):
        np.testing.assert_array_equal(x, y)


def test_a_state_of_something_else_is_refused():
    config = Recycling(m=16, k=6)
    first, ksp = opened(config, Context())
    member(first, ksp, sequence(1))
    for other, n in ((Recycling(m=16, k=6), 8), (Recycling(m=5, k=2), 10)):
        again, ksp = opened(other, Context(), first.restart(), n=n)
        with pytest.raises(Invalid, match="state"):
            member(again, ksp, sequence(1, n=n))


@pytest.mark.parametrize("method", METHODS)
def test_members_begin_where_others_ended(method, tmp_path, caplog):
    config, ctx = Recycling(method, m=20, k=8), Context(scratch=tmp_path)
    first, ksp = opened(config, ctx)
    _, counts = member(first, ksp, sequence(3))
    first.close()
    second, ksp = opened(config, ctx)
    _, after = member(second, ksp, sequence(3))
    assert after[0] < 0.8 * counts[0]
    alone, ksp = opened(config.replace(share=False), ctx)
    assert member(alone, ksp, sequence(3))[1] == counts
    assert len(list((tmp_path / FOLDER).rglob("*.zarr"))) == 1, "the second one has not ended"
    with caplog.at_level(logging.INFO):
        other, ksp = opened(config, ctx, n=8)
        member(other, ksp, sequence(1, n=8))
    assert "another size" in caplog.text
    assert not list((tmp_path / FOLDER).rglob("*.partial"))


def test_members_of_one_system_each_learn_how_to_carry_a_space(tmp_path):
    """Steady problems: what is tried and found must outlive a member."""
    config, ctx = Recycling(m=16, k=6), Context(scratch=tmp_path)
    apart, together = [], []
    for dense, b in sequence(9, seed=11):
        one, ksp = opened(config, ctx)
        apart += member(one, ksp, [(dense, b)])[1]
        one.close()
    whole, ksp = opened(config, Context())
    together = member(whole, ksp, sequence(9, seed=11))[1]
    assert apart == together


def test_spaces_come_newest_first_and_damaged_ones_are_passed_over(tmp_path, caplog):
    matrix = petsc(np.eye(12))
    spaces = Spaces(
        tmp_path, layout(matrix, method="gcro_dr", k=2), matrix.getComm(), logging.getLogger("sciflow")
    )
    assert spaces.newest() is None
    for i in range(KEPT + 3):
        spaces.write({"space": np.full((12, 2), float(i)), "counts": np.arange(3)})
        if not i:  # a job is killed while it writes
            (spaces.folder / f"{next(spaces.folder.glob('*.zarr')).stem}.partial").mkdir()
    assert len(list(spaces.folder.iterdir())) == KEPT
    assert (spaces.newest()["space"] == KEPT + 2).all()
    np.testing.assert_array_equal(spaces.newest()["counts"], np.arange(3))
    newest = sorted(spaces.folder.glob("*.zarr"))[-1]
    for file in newest.rglob("zarr.json"):
        file.write_text("{")
    second = sorted(spaces.folder.glob("*.zarr"))[-2]
    next(p for p in (second / "rank_0").rglob("*") if p.is_file() and p.name != "zarr.json").write_bytes(
        b"no"
    )
    assert (spaces.newest()["space"] == KEPT).all()
    assert "is ignored" in caplog.text
    spaces.write({"space": np.full((12, 2), np.nan)})
    assert (spaces.newest()["space"] == KEPT).all(), "not finite"


def test_a_disk_that_refuses_is_told_and_no_more(tmp_path, caplog):
    (tmp_path / FOLDER).write_text("in the way")
    first, ksp = opened(Recycling(m=16, k=6), Context(scratch=tmp_path))
    member(first, ksp, sequence(1))
    first.close()
    assert "was not kept" in caplog.text


def test_nothing_is_written_where_a_job_has_no_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first, ksp = opened(Recycling(m=16, k=6), Context())
    member(first, ksp, sequence(1))
    first.close()
    assert not list(tmp_path.iterdir())


def artifact(root, values, axes):
    with Store(root, "rename").writer(Schema("basis"), "0" * 64) as out:
        out.write("basis", values, Field(axes, "any", "float64"))
        return str(out.publish({}).path)


def slow(dense, count):
    """Eigenvectors of the Jacobi-preconditioned operator that belong to the smallest eigenvalues."""
    root = np.sqrt(dense.diagonal())
    return np.linalg.eigh(dense / np.outer(root, root))[1][:, :count] / root[:, None]


@pytest.mark.parametrize("method", METHODS)
def test_a_basis_to_begin_with(method, tmp_path):
    systems = sequence(1, seed=8)
    modes = slow(systems[0][0], 8)
    plain, ksp = opened(Recycling(method, m=20, k=6), Context())
    _, (count,) = member(plain, ksp, systems)
    mixed = np.random.default_rng(0).standard_normal((6, 6)) @ modes.T[:6]
    kinds = {
        "modes": artifact(tmp_path / "a", modes.T.reshape(8, 10, 10), ("mode", "y", "x")),
        "snapshots": artifact(tmp_path / "b", mixed.reshape(3, 2, N), ("member", "time", "dof")),
        "file": str(tmp_path / "basis.npy"),
    }
    np.save(kinds["file"], modes)
    for kind, path in kinds.items():
        seeded, ksp = opened(Recycling(method, m=20, k=6, basis=path), Context())
        _, (fewer,) = member(seeded, ksp, systems)
        assert fewer < 0.8 * count, kind


def test_rows_of_a_basis_are_found_by_what_the_solver_carries(tmp_path):
    (dense, b), order = sequence(1, seed=9)[0], np.random.default_rng(1).permutation(N)
    modes, turned = slow(dense, 6), dense[np.ix_(order, order)]
    path = artifact(tmp_path, modes, ("dof", "mode"))
    counts = []
    for known in (False, True):
        solving, ksp = opened(Recycling(m=20, k=6, basis=path), Context())
        if known:
            ksp.compose(seeding.ROWS, PETSc.IS().createGeneral(order.astype(np.int32), comm=PETSc.COMM_SELF))
        counts += member(solving, ksp, [(turned, b[order])])[1]
    assert counts[1] < 0.8 * counts[0]


def test_a_basis_is_identified_by_its_content(tmp_path):
    path = tmp_path / "basis.npy"
    np.save(path, np.eye(N)[:, :3])
    config = Recycling(k=6, basis=str(path))
    assert config.digest_of_basis == seeding.digest(str(path))
    assert Recycling.from_json(config.to_json()) == config
    np.save(path, np.eye(N)[:, :4])
    assert Recycling(k=6, basis=str(path)).digest() != config.digest()
    solving, ksp = opened(config, Context())
    with pytest.raises(Invalid, match="asks for"):
        member(solving, ksp, sequence(1))
    with pytest.raises(NotFound, match="no artifact"):
        Recycling(basis=str(tmp_path / "nothing"))
    np.save(path, np.eye(N)[:, :3])
    solving, ksp = opened(config, Context(), n=8)
    with pytest.raises(Invalid, match="100 rows for an operator of 64"):
        member(solving, ksp, sequence(1, n=8))
    with pytest.raises(Invalid, match="none of mode"):
        seeding.read(artifact(tmp_path / "c", np.ones((3, 4)), ("y", "x")), "basis", 2)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.ones(4), r"float64 and shape \(4,\), wanted"),
        (np.ones((4, 2)) * 1j, "complex128"),
        (np.array([["a", "b"]]), "<U1"),
        (np.where(np.arange(8).reshape(4, 2) == 5, np.nan, 1.0), "vector 1 has nan in row 2"),
        (np.full((4, 2), np.inf), "vector 0 has inf in row 0"),
        (np.zeros((4, 2)), "no finite vector"),
        (None, "no .npy file of numbers"),
    ],
)
def test_what_can_be_no_basis_is_refused_before_a_job_starts(values, message, tmp_path):
    path = tmp_path / "basis.npy"
    path.write_text("hello") if values is None else np.save(path, values)
    with pytest.raises(Invalid, match=message) as refused:
        Recycling(basis=str(path))
    assert str(path) in str(refused.value)


def test_an_artifact_that_can_be_no_basis_is_refused_before_a_job_starts(tmp_path):
    with pytest.raises(NotFound, match="no field 'other'"):
        Recycling(basis=artifact(tmp_path / "a", np.ones((3, 4)), ("mode", "dof")), field="other")
    with pytest.raises(Invalid, match="none of mode"):
        Recycling(basis=artifact(tmp_path / "b", np.ones((3, 4)), ("y", "x")))
    spoiled = np.ones((3, 4))
    spoiled[1] = np.nan
    with pytest.raises(Invalid, match="vector 1 has nan"):
        Recycling(basis=artifact(tmp_path / "c", spoiled, ("mode", "dof")))
    # A member that failed leaves NaN among its snapshots, which is no reason to refuse the others.
    assert seeding.read(artifact(tmp_path / "d", spoiled, ("member", "dof")), "basis", 2).shape == (4, 1)
    spoiled[2, 3] = np.nan
    with pytest.raises(Invalid, match="vector 2 has nan in row 3"):
        seeding.read(artifact(tmp_path / "e", spoiled, ("member", "dof")), "basis", 2)


def test_a_member_that_cannot_be_solved_diverges():
    solving, ksp = opened(Recycling(m=16, k=6), Context())
    matrix = petsc(np.diag([0.0] * 50 + [1.0] * 50))
    ksp.setOperators(matrix)
    right, x = vectors(matrix, np.ones(N))
    with pytest.raises(Diverged, match="neither recycling nor the problem's own solver"):
        solving.solve(right, x, {})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"m": 1}, "m=1"),
        ({"k": 40}, "k=40"),
        ({"k": -1}, "k=-1"),
        ({"method": "minres"}, "minres"),
        ({"preconditioner": "lu"}, "lu"),
        ({"refresh": 0}, "refresh=0"),
        ({"method": "deflated_cg", "preconditioner": "sor"}, "not symmetric"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(Invalid, match=message):
        Recycling(**settings)
    with pytest.raises(Invalid, match=message):
        RecyclingKSP(solver(petsc(np.eye(4)), "cg"), **settings)


def test_a_space_that_does_not_fit_is_refused():
    recycling = RecyclingKSP(solver(petsc(np.eye(9)), "cg"), m=4, k=2)
    for space in (np.ones((8, 2)), np.full((9, 2), np.inf), np.ones(9)):
        with pytest.raises(Invalid, match="does not fit"):
            recycling.seed(space)


def test_what_hpddm_would_be_told():
    # No PETSc with HPDDM was at hand: only the options are tested.
    assert hpddm_options(30, 7) == {
        "ksp_type": "hpddm",
        "ksp_hpddm_type": "gcrodr",
        "ksp_hpddm_variant": "right",
        "ksp_hpddm_recycle": "7",
        "ksp_gmres_restart": "30",
    }
    if not PETSc.Sys.hasExternalPackage("hpddm"):
        with pytest.raises(Missing, match="without HPDDM"):
            RecyclingKSP(solver(petsc(np.eye(4)), "cg"), hpddm=True)


@pytest.mark.parametrize("method", METHODS)
def test_norms_that_petsc_keeps_are_not_taken_for_new_ones(method):
    """A preconditioner that is a solver itself asks for the norm of vectors whose memory changed."""
    systems = sequence(3, seed=10)
    matrix = petsc(systems[0][0])
    inner = solver(matrix, "cg", "jacobi", rtol=1e-5)
    recycling = RecyclingKSP(solver(matrix, "cg", "jacobi"), method, m=6, k=2)

    def apply(v, z):
        v.norm()  # PETSc keeps it until it is told of a change
        inner.solve(v, z)
        assert np.isclose(v.norm(), np.linalg.norm(v.getArray(readonly=True)))

    recycling._applied = lambda _: apply
    for _, b in systems:
        right, x = vectors(matrix, b)
        recycling.solve(right, x)
        assert not recycling.fell_back
        assert recycling.getIterationNumber() <= 4


def test_prepared_oracle_is_petscs():
    dense = np.diag([2.0, 4.0])
    matrix = petsc(dense)
    right, z = vectors(matrix, np.ones(2))
    prepared(matrix, "jacobi").apply(right, z)
    np.testing.assert_allclose(z.array, [0.5, 0.25])
