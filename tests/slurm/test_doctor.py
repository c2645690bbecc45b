"""`sciflow doctor --site`: tries a cluster before a campaign does."""

import shutil

import pytest

import sciflow
from sciflow.cli import main
from tests.slurm.test_survival import SITE

pytestmark = pytest.mark.slurm


def doctor(tmp_path, capsys, site=SITE, **names):
    file = tmp_path / "site.toml"
    file.write_text(site)
    code = main(["doctor", "--site", str(file), "--store", str(tmp_path / "store")])
    return code, capsys.readouterr().out


def test_a_good_site_passes(cluster, tmp_path, capsys):
    code, text = doctor(tmp_path, capsys)
    assert code == 0, text
    assert "2 ranks on" in text
    assert "the node sees what is written here" in text
    assert "the same packages on both sides" in text
    assert "accounting storage is disabled" in text
    assert not list((tmp_path / "store").glob("doctor-*")), "the doctor left something behind"


def test_a_partition_that_does_not_exist_is_named(cluster, tmp_path, capsys):
    code, text = doctor(tmp_path, capsys, SITE + 'partition = "gpus"\n[stages.train]\npartition = "debug"\n')
    assert code == 1
    assert "!!  defaults" in text
    assert "partitions here: debug, short, spare" in text
    assert "ok  stage train" in text


def test_ranks_that_do_not_see_each_other_are_found(cluster, tmp_path, capsys):
    code, text = doctor(
        tmp_path, capsys, SITE.replace("poll = 1.0", 'poll = 1.0\nlauncher = "srun"\nmpi = "none"')
    )
    assert code == 1
    assert "!!  hello job" in text, text


def test_another_environment_on_the_node_is_found(cluster, tmp_path, capsys, monkeypatch):
    """Its code and packages are others: results would not be those of this side."""
    monkeypatch.chdir(tmp_path)
    other = tmp_path / "other"
    shutil.copytree(sciflow.__path__[0], other / "sciflow", ignore=shutil.ignore_patterns("__pycache__"))
    (other / "sciflow" / "more.py").write_text("# another version\n")
    site = SITE.replace("poll = 1.0", f"poll = 1.0\nprologue = 'export PYTHONPATH={other}:$PYTHONPATH'")
    code, text = doctor(tmp_path, capsys, site)
    assert code == 1
    assert "the code of sciflow differs" in text
