"""Site files: what they say, and how a wrong one is refused."""

import pytest

from sciflow import Invalid, NotFound, Resources
from sciflow.executors.local import Local
from sciflow.executors.mpi import Mpi
from sciflow.executors.slurm import Slurm
from sciflow.site import Place, Site, current, load_site, read_site, sites
from sciflow.stages.design import Design
from sciflow.stages.simulate import Simulate
from tests.conftest import ROOT
from tests.toys import Wave

WRONG = """
descripton = "x"
flows = 0
[executor]
component = "slurm"
partitoin = "x"
[defaults]
memory = "a lot"
[stages.simulate]
where = "moon"
[stages.train]
nods = 3
"""


def test_every_mistake_is_named_at_once(tmp_path):
    file = tmp_path / "wrong.toml"
    file.write_text(WRONG)
    with pytest.raises(Invalid) as caught:
        read_site(file)
    text = str(caught.value)
    assert len(text.splitlines()) == 6
    assert all(line.startswith(f"{file}: ") for line in text.splitlines())
    for part in (
        "Did you mean 'description'?",
        "flows: at least one",
        "has no setting 'partitoin'",
        "defaults.memory",
        "stages.simulate.where: 'moon'",
        "stages.train: there is no setting 'nods'. Did you mean 'nodes'?",
    ):
        assert part in text, text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("flows = ", "Invalid value"),
        ("executor = 3", "is not a table"),
        ('[executor]\ncomponent = "slurrm"', "Did you mean 'slurm'"),
        ("[executor]\npoll = 3", "say which one"),
        ('[executor]\ncomponent = "slurm"\nparallel = 0', "at least 1"),
        ('[defaults]\npartition = "x; rm -rf /"', "no scheduler uses"),
        ('[defaults]\nextra = ["exclusive"]', "is not an option"),
        ('[defaults]\nwhere = "job"', "no setting 'where'"),
        ("stages = 4", "is not a table"),
    ],
)
def test_a_wrong_file_is_refused(tmp_path, text, message):
    file = tmp_path / "site.toml"
    file.write_text(text)
    with pytest.raises(Invalid, match=message):
        load_site(str(file))


def test_every_site_file_that_comes_with_the_project_is_right():
    files = sorted((ROOT / "hpc").glob("*.toml"))
    assert len(files) >= 2
    for file in files:
        site = read_site(file)
        assert site.description
        assert isinstance(site.executor, Slurm)


def test_sites_are_found_by_name(tmp_path, monkeypatch):
    (tmp_path / "mine.toml").write_text('description = "of mine"\n[executor]\ncomponent = "mpi"\n')
    monkeypatch.setenv("SCIFLOW_SITES", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert {"here", "allocation", "mine"} <= set(sites())
    monkeypatch.setenv("SCIFLOW_SITE", "mine")
    assert current().executor == Mpi()
    assert load_site("here").executor is None
    with pytest.raises(NotFound, match=r"no site 'mein'. Did you mean 'mine'.*looked for in"):
        load_site("mein")
    with pytest.raises(NotFound, match="no such site file"):
        load_site("there/is/none.toml")


def test_who_decides_what_a_stage_gets():
    """The site's table of a stage, then the flow, then the site's defaults."""
    site = Site(
        "x", executor=Mpi(), defaults={"memory": 2.0, "threads": 3, "partition": "all"},
        stages={"simulate": Place("", {"partition": "big", "ranks": 8})},
    )  # fmt: skip
    stage = Simulate(Wave())
    executor, given = site.place(stage, None, Resources(ranks=2, threads=1, partition="mine"))
    assert executor == Mpi()
    assert given == Resources(ranks=8, threads=1, memory=2.0, partition="big")
    assert site.place(stage, Local(), None)[0] == Local()


def test_light_stages_stay_with_the_flow_unless_the_site_says_otherwise():
    design = Design(problem=Wave())
    assert Site("x", executor=Mpi()).place(design, None, None)[0] is None
    assert Site("x", executor=Mpi(), stages={"design": Place("job")}).place(design, None, None)[0] == Mpi()
    driver = Site("x", executor=Mpi(), stages={"simulate": Place("driver")})
    assert driver.place(Simulate(Wave()), None, None)[0] is None
