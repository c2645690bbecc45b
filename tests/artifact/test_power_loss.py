"""No power cut may show half a member or lose one that was acknowledged."""

import collections

import numpy as np
import pytest

import sciflow.artifact.member as member_module
from sciflow.artifact import Artifact
from sciflow.artifact.gather import Gather
from sciflow.artifact.writer import Writer, committed
from sciflow.errors import SciflowError
from sciflow.schema import Field, Schema
from sciflow.store import Store
from tests.artifact.power_loss import Recorder, Replay, apply, disk

SHAPES = {"q": (4,), "u": (3, 5)}
FIELDS = {"q": Field(("member", "y"), "K"), "u": Field(("member", "time", "x"), "K")}


def truth(member):
    rng = np.random.default_rng(member)
    return {name: rng.random(shape).astype("f4") + 1 for name, shape in SHAPES.items()}


def campaign(root, members, **options):
    """Write some members level by level and one at once, and publish; what was asked of the disk."""
    with Recorder(root, **options) as record:  # noqa: SIM117 - the store's lock is released inside
        with Store(root, "fsync").writer(Schema("ensemble"), "a" * 64) as out:
            for name, field in FIELDS.items():
                out.create(name, field, (members + 1, *SHAPES[name]), member=True)
            for m in range(members):
                values = truth(m)
                with out.member(m) as one:
                    for t in range(3):
                        still = {"q": values["q"]} if t == 0 else {}
                        one.append({"u": values["u"][t], **still}, restart=lambda t=t: {"t": np.array(t)})
                    one.commit({"status": 1})
                record.note(m)
            out.write_member(members, truth(members), {"status": 1})
            record.note(members)
            out.publish({"stage": {"component": "test"}, "start": 0.0, "end": 0.0})
            record.note("published")
    return record


def faults(place, promised):  # noqa: C901 - one branch for every fault
    """What is wrong with a disk, as words."""
    seen = {}
    for path in place.glob("artifacts/*"):
        try:
            artifact = Artifact.open(path)
            seen |= {m: {n: artifact.read(n)[m] for n in FIELDS} for m in range(len(artifact.read("q")))}
        except SciflowError:
            yield "published and broken"
    for path in place.glob("partial/*/artifact"):
        for m in committed(path):
            try:
                readers = {n: Gather(path / "data.zarr" / n, verify="off") for n in FIELDS}
                seen[m] = {n: reader.whole(np.array([m]))[0] for n, reader in readers.items()}
            except SciflowError:
                yield "visible and unreadable"
    for m, values in seen.items():
        if any(not np.array_equal(values[n], v) for n, v in truth(m).items()):
            yield "visible and torn"
    for m in promised - {"published"}:
        if m not in seen:
            yield "acknowledged and lost"
    if "published" in promised and not list(place.glob("artifacts/*")):
        yield "published and lost"


def every_state(record, tmp_path):
    """How many different disks there are, and how often something is wrong with one."""
    replay, known, wrong = Replay(record), set(), collections.Counter()
    for number, operation in enumerate([None, *record.operations]):
        if operation is not None:
            replay.step(operation)
        promised = {what for at, what in record.notes if at <= number}
        for names, data in replay.disks():
            key = replay.fingerprint(names, data), frozenset(promised)
            if key not in known:
                known.add(key)
                with disk(replay, names, data, tmp_path / "disk") as place:
                    wrong.update(set(faults(place, promised)))
    return len(known), wrong


@pytest.fixture
def root(tmp_path):
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


def test_two_members_and_publication_survive_every_power_cut(root, tmp_path):
    states, wrong = every_state(campaign(root, 1), tmp_path)
    assert wrong == {}
    assert states > 40


@pytest.mark.torture
def test_more_members_survive_every_power_cut(root, tmp_path, capsys):
    states, wrong = every_state(campaign(root, 4), tmp_path)
    assert wrong == {}
    with capsys.disabled():
        print(f"\npower cut: {states} states of 5 members and their publication, no violation")


def test_the_record_is_complete(root):
    """With everything surviving, the model's disk is the real one, byte for byte."""
    record = campaign(root, 1)
    replay = Replay(record)
    for operation in record.operations:
        replay.step(operation)
    for one in replay.pending:
        apply(replay.names, one)
    modelled = {p: c for p, c in replay.tree(replay.names, {}) if c is not None}
    real = {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}
    gone = set(modelled) - set(real)
    assert all(p.startswith("partial/") for p in gone), (
        "shutil.rmtree removes by handle, which is not recorded"
    )
    assert {p: c for p, c in modelled.items() if p in real} == real


@pytest.mark.parametrize(
    ("forget", "wrong"),
    [
        (lambda kind, name: kind == "f" and name in FIELDS, "visible and torn"),
        (lambda kind, name: kind == "f" and name.endswith(".log"), "acknowledged and lost"),
        (lambda kind, name: kind == "d" and name in FIELDS, "acknowledged and lost"),
        (lambda kind, name: kind == "d", "published and lost"),
    ],
)
def test_without_a_sync_the_model_finds_the_loss(root, tmp_path, forget, wrong):
    record = campaign(root, 0, forget=forget)
    replay = Replay(record)
    known, found = set(), set()
    for number, operation in enumerate(record.operations, 1):
        replay.step(operation)
        promised = {what for at, what in record.notes if at <= number}
        for names, data in replay.disks():
            key = replay.fingerprint(names, data), frozenset(promised)
            if key not in known and wrong not in found:
                known.add(key)
                with disk(replay, names, data, tmp_path / "disk") as place:
                    found.update(faults(place, promised))
        if wrong in found:
            return
    raise AssertionError(f"{len(known)} states, found only {found}")


def test_a_journal_before_the_data_would_lie(root, tmp_path, monkeypatch):
    """The order of a commit is needed: with the record first a torn member counts."""
    real = member_module.Member._publish

    def early(self, record):
        files = {}
        for name, part in self._parts.items():
            part.finish()
            final = self._root / "data.zarr" / name / part.layout.key(self.member)
            self._disk.publish(part.path, final)
            files[f"{name}/{final.name}"] = part.summary()
        for name in self._parts:
            self._disk.sync_path(self._root / "data.zarr" / name)
        self._journal.append({**record, "member": self.member, "levels": self.level, "files": files})
        return real(self, record)

    monkeypatch.setattr(member_module.Member, "_publish", early)
    _, wrong = every_state(campaign(root, 1), tmp_path)
    assert wrong["visible and torn"] > 0


def test_what_a_power_cut_leaves_can_be_continued(root, tmp_path):
    """On a sample of the disks the members are finished, and nothing wrong comes out."""
    record = campaign(root, 1)
    replay, tried = Replay(record, ignored=()), 0
    for number, operation in enumerate(record.operations):
        replay.step(operation)
        if number % 6:
            continue
        for turn, (names, data) in enumerate(replay.disks()):
            if turn % 37 or tried > 60:
                continue
            with disk(replay, names, data, tmp_path / "disk") as place:
                tried += goes_on(place)
    assert tried > 5


def goes_on(place):
    """Finish what is being written on a disk; 1 if there was something."""
    done = 0
    for path in place.glob("partial/*/artifact"):
        try:
            out = Writer.attach(path)
            layouts = out.layouts
        except (SciflowError, FileNotFoundError):
            continue
        if set(layouts) != set(FIELDS):
            continue
        out.recover()
        for m in range(2):
            if m not in out.committed():
                values = truth(m)
                with out.member(m) as one:
                    assert one.resume_from <= 3
                    for t in range(one.resume_from, 3):
                        still = {"q": values["q"]} if t == 0 else {}
                        one.append({"u": values["u"][t], **still})
                    one.commit({"status": 1})
            done = 1
        assert not set(faults(place, {0, 1}))
    return done
