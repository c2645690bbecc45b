"""Packages that `sciflow new-plugin` makes: they pass at once, and nothing is half made."""

import os
import re
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

import sciflow
from sciflow import Failed, NotFound
from sciflow.cli import main
from sciflow.commands.new_plugin import kinds, make, module_name
from sciflow.registry import Registry

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A package of each kind, in one folder."""
    folder = tmp_path_factory.mktemp("made")
    for kind in kinds():
        make(f"Acme-{kind.replace('_', '.')}s", kind, folder)
    return folder


def test_the_tests_of_every_kind_pass_at_once(made):
    """With nothing installed: the module lies beside its test."""
    path = os.pathsep.join([*map(str, made.iterdir()), os.environ["PYTHONPATH"]])
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *map(str, sorted(made.iterdir()))],
        cwd=made,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) >= 12


def test_what_is_made_is_in_good_order(made):
    """As ruff has it with the rules of this house; types are checked where the templates are."""
    rules = re.search(r"^select = (\[.*\])$", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[1]
    ignored = re.findall(r'^    "([A-Z]+\d+)",', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    for folder in made.iterdir():
        options = ["--isolated", "--no-cache", "--config", "line-length=110"]
        lint = ["check", "--config", f"lint.select={rules}", "--ignore", ",".join(ignored)]
        for words in ([*lint, "--config", 'lint.pydocstyle.convention="numpy"'], ["format", "--check"]):
            done = subprocess.run(
                [sys.executable, "-m", "ruff", *words, *options, "."],
                cwd=folder,
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, done.stdout + done.stderr


def test_nothing_of_a_template_is_left_in_it(made):
    for file in made.rglob("*"):
        if file.is_file() and "__pycache__" not in file.parts:
            assert not re.search("template", file.read_text(), re.IGNORECASE), file
            assert "PLR" not in file.read_text()


@pytest.mark.parametrize("kind", kinds())
def test_it_is_found_by_its_entry_point_and_states_the_version_of_the_hooks(made, kind, monkeypatch):
    folder = made / f"Acme-{kind.replace('_', '.')}s"
    text = (folder / "pyproject.toml").read_text()
    name, module = re.search(r'\[project.entry-points.sciflow\]\n(\w+) = "(\w+)"', text).groups()
    monkeypatch.syspath_prepend(str(folder))
    found = Registry()
    found.load([EntryPoint(name, module, "sciflow")])
    (plugin,) = found.plugins
    assert (plugin.error, plugin.api) == ("", "1.0")
    assert found.find(name).kind == kind
    assert sorted(f.name for f in folder.iterdir() if f.name != "__pycache__") == sorted(
        [".gitignore", "README.md", "pyproject.toml", f"{module}.py", f"test_{module}.py"]
    )


def test_the_command_says_what_to_type_next(tmp_path, capsys):
    assert main(["new-plugin", "my-wave", "--into", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    for command in (
        f"-e {tmp_path}/my-wave",
        "sciflow check my_wave",
        f"python -m pytest {tmp_path}/my-wave",
    ):
        assert command in said
    assert "class MyWave(Problem)" in (tmp_path / "my-wave" / "my_wave.py").read_text()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "cannot be the name of a package: letters"),
        ("my wave", "cannot be the name of a package"),
        ("-wave", "cannot be the name of a package"),
        ("wave-", "cannot be the name of a package"),
        ("../wave", "cannot be the name of a package"),
        ("wävé", "cannot be the name of a package"),
        ("my-wave\n", "cannot be the name of a package"),
        ("3d-wave", "which Python cannot import; begin with a letter, as in my-3d-wave"),
        ("class", "which Python cannot import"),
        ("match", "which Python cannot import"),
        ("problem", "makes the class Problem, which sciflow has itself"),
        ("parameter.space", "makes the class ParameterSpace"),
        ("statistics", "module 'statistics', which Python has itself"),
        ("burgers", r"there is a problem 'burgers' already, of sciflow \S+ \(sciflow_spectral.components\)"),
        ("Toy-Wave", "there is a problem 'toy_wave' already"),
        ("numpy", "there is a module 'numpy' already"),
        ("sciflow", "there is a module 'sciflow' already"),
        ("taken", "taken is there already; take another name"),
    ],
)
def test_a_name_that_cannot_be_is_refused_and_nothing_is_left(tmp_path, capsys, name, message):
    (tmp_path / "taken").mkdir()
    assert main(["new-plugin", "--into", str(tmp_path), "--", name]) == 1
    assert re.search(message, capsys.readouterr().err)
    assert [f.name for f in tmp_path.iterdir()] == ["taken"]


def test_a_place_or_kind_that_is_not_there_is_named(tmp_path):
    with pytest.raises(NotFound, match="no directory .*nowhere: make it"):
        make("my-wave", "problem", tmp_path / "nowhere")
    with pytest.raises(NotFound, match="no template of a 'problm'. Did you mean 'problem'"):
        make("my-wave", "problm", tmp_path)


def test_what_fails_halfway_leaves_nothing(tmp_path, monkeypatch):
    """The disk is full at the third file."""
    whole = Path.write_text
    count = [0]

    def full(path, *arguments, **keywords):
        count[0] += 1
        if count[0] == 3:
            raise OSError(28, "No space left on device")
        return whole(path, *arguments, **keywords)

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(Failed, match="my-wave cannot be written: No space left on device"):
        make("my-wave", "problem", tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "module"), [("my-wave", "my_wave"), ("My.Wave", "my_wave"), ("a__b--c", "a_b_c"), ("x1", "x1")]
)
def test_names_are_normalised_as_pip_does(name, module):
    assert module_name(name) == module


def test_public_names_are_those_that_are_served():
    """They are written out for type checkers, and once more with where they come from."""
    assert sciflow.__all__ == sorted(sciflow._WHERE)
    assert all(hasattr(sciflow, name) for name in sciflow.__all__)


def test_a_component_is_checked_by_its_name(capsys):
    assert main(["check", "burgers"]) == 0
    assert "problem burgers of sciflow" in capsys.readouterr().out
    assert main(["check", "burgres"]) == 1
    assert "Did you mean 'burgers'" in capsys.readouterr().err
    assert main(["check", "train"]) == 1
    assert "train has no default for surrogate, inputs_of, outputs_of: give it a classmethod example()" in (
        capsys.readouterr().err
    )


def test_a_violation_is_told_without_a_traceback(capsys, monkeypatch):
    from sciflow_spectral.components import Burgers

    monkeypatch.setattr(Burgers, "axis_units", lambda self: {})
    assert main(["check", "burgers"]) == 1
    error = capsys.readouterr().err
    assert re.search(r"problem burgers of sciflow \S+ breaks a rule:\n  burgers: no unit for the axis", error)
