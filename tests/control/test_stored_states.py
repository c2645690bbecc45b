"""States of tuners as files: read again to the bit, refused where they do not fit, never half written."""

import os
import zipfile
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import zarr
from zarr.storage import ZipStore

from sciflow.errors import Failed, Invalid, NotFound
from sciflow_control.bandits.binned import Binned
from sciflow_control.bandits.fixed import Random
from sciflow_control.bandits.stored import load, merge_stored, save
from sciflow_control.bandits.thompson import Thompson
from sciflow_control.bandits.tsallis import Tsallis
from sciflow_control.space import Relaxation, Solvers
from tests.control.test_bandits import BANDITS, FIVE, IDS, bits, play, rough, sometimes

every = pytest.mark.parametrize("tuner", BANDITS, ids=IDS)


@every
def test_a_state_goes_on_with_the_same_bits(tuner, tmp_path):
    state, _ = play(tuner, rough, 33, status=sometimes, delay=4)
    assert state["open"]
    path = tmp_path / "deep" / "state.zarr.zip"
    save(path, tuner, state)
    again = load(path, tuner)
    assert bits(again) == bits(state)
    for i in range(20):
        features = {"c": i / 20}
        (one, state), (two, again) = tuner.propose(state, features), tuner.propose(again, features)
        assert one == two
        arm = tuner.decision(state, one.token).arm
        state, again = (tuner.observe(s, one.token, rough(i, arm), "ok") for s in (state, again))
    assert bits(again) == bits(state)


def test_other_programs_can_read_it(tmp_path):
    tuner = Thompson(FIVE)
    state, _ = play(tuner, rough, 10)
    save(tmp_path / "s.zip", tuner, state)
    with ZipStore(tmp_path / "s.zip", mode="r") as store:
        group = zarr.open_group(store, mode="r")
        assert group.attrs["tuner"] == tuner.to_json()
        assert (group["state.sums.table"][:] == state["sums"]["table"]).all()


def test_features_that_are_no_numbers_are_kept(tmp_path):
    tuner = Random(FIVE)
    _, state = tuner.propose(tuner.init(np.random.default_rng(0)), {"a": np.nan, "b": -np.inf})
    save(tmp_path / "s", tuner, state)
    features = tuner.decision(load(tmp_path / "s", tuner), 0).features
    assert np.isnan(features["a"])
    assert features["b"] == -np.inf


def test_numbers_of_numpy_are_kept_as_numbers(tmp_path):
    tuner = Random(FIVE)
    features = {"ranks": np.int64(2), "c": np.float32(0.5), "d": np.float64(np.inf)}
    _, state = tuner.propose(tuner.init(np.random.default_rng(0)), features)
    save(tmp_path / "s", tuner, state)
    assert tuner.decision(load(tmp_path / "s", tuner), 0).features == {"ranks": 2, "c": 0.5, "d": np.inf}


def test_the_state_of_another_tuner_or_space_is_refused(tmp_path):
    tuner = Thompson(FIVE)
    save(tmp_path / "s.zip", tuner, tuner.init(np.random.default_rng(0)))
    others = [Thompson(Relaxation(1.0, 1.8, 6)), Tsallis(FIVE), Binned(tuner, "c", 0, 1), Thompson(Solvers())]
    for other in others:
        with pytest.raises(Invalid) as refusal:
            load(tmp_path / "s.zip", other)
        text = str(refusal.value)
        assert str(tmp_path / "s.zip") in text
        assert '"count":5,"high":1.8' in text
        assert f'"component":"{other.name}"' in text


def test_the_state_of_another_revision_is_refused(tmp_path):
    @dataclass(frozen=True)
    class Newer(Thompson):
        revision: ClassVar[int] = 2

    save(tmp_path / "s.zip", Thompson(), Thompson().init(np.random.default_rng(0)))
    with pytest.raises(Invalid, match="another revision"):
        load(tmp_path / "s.zip", Newer())


@pytest.mark.parametrize("tuner", [Tsallis(FIVE), BANDITS[6]], ids=["tsallis", "binned"])
def test_states_of_an_array_of_jobs_are_merged(tuner, tmp_path):
    paths, logs = [], []
    for job in range(3):
        state, log = play(tuner, rough, 20 + job, seed=job)
        paths.append(tmp_path / f"{job}.zip")
        logs.append(log)
        save(paths[-1], tuner, state)
    merged = merge_stored(paths, tuner)
    known = tuner.init(np.random.default_rng(0))
    for log in logs:
        known = tuner.absorb(known, log)
    assert bits(merged["sums"]) == bits(known["sums"])
    assert bits(merge_stored(reversed(paths), tuner)["sums"]) == bits(merged["sums"])
    with pytest.raises(Invalid, match="no states to merge"):
        merge_stored([], tuner)


def test_a_new_run_begins_with_what_an_earlier_one_knew(tmp_path):
    tuner = Thompson(FIVE)
    save(tmp_path / "s", tuner, play(tuner, lambda i, a: 1.0 + abs(a - 3), 100)[0])
    new = tuner.init(np.random.default_rng(99))
    state = tuner.merge([new, load(tmp_path / "s", tuner)])
    assert (state["seed"], state["count"], state["open"]) == (new["seed"], 0, {})
    assert tuner.best(state, {}) == 3
    assert tuner.propose(state, {})[0].token == 0


def test_damage_is_found_wherever_it_is(tmp_path):
    tuner = Tsallis(FIVE)
    path = tmp_path / "s.zip"
    save(path, tuner, play(tuner, rough, 30)[0])
    whole, state = path.read_bytes(), load(path, tuner)
    random = np.random.default_rng(0)
    for size in (0, 1, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(Invalid, match="s.zip cannot be read as the state of a tuner: .+"):
            load(path, tuner)
    found = [_message(path, whole, at, tuner, state) for at in random.integers(0, len(whole), 60).tolist()]
    assert all("s.zip" in text for text in found if text)
    assert sum(map(bool, found)) > 20


def _message(path, whole, at, tuner, state):
    """What is said of a turned bit; nothing where it does not matter, as in a date of the archive."""
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 16]) + whole[at + 1 :])
    try:
        again = load(path, tuner)
    except Invalid as refusal:
        return str(refusal)
    assert bits(again) == bits(state)
    return ""


def test_what_is_no_state_is_refused(tmp_path):
    tuner, path = Thompson(FIVE), tmp_path / "other.zip"
    with pytest.raises(NotFound, match="other.zip: there is no such file"):
        load(path, tuner)
    path.mkdir()
    with pytest.raises(Invalid, match="other.zip cannot be read"):
        load(path, tuner)
    path.rmdir()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(Invalid, match="other.zip cannot be read"):
        load(path, tuner)
    path.unlink()
    with ZipStore(path, mode="w") as store:
        zarr.create_group(store, attributes={"title": "a field"})
    with pytest.raises(
        Invalid, match="is no state of a tuner: its format is None, not 'sciflow tuner state 1'"
    ):
        load(path, tuner)


def test_a_changed_content_is_refused(tmp_path):
    tuner, path = Thompson(FIVE), tmp_path / "s.zip"
    save(path, tuner, play(tuner, rough, 10)[0])
    with ZipStore(path, mode="r") as store:
        group = zarr.open_group(store, mode="r")
        about = dict(group.attrs)
        arrays = {name: array[...] for name, array in group.arrays()}
    about["state"]["count"] = 5
    with ZipStore(path, mode="w") as store:
        group = zarr.create_group(store, attributes=about)
        for name, values in arrays.items():
            group.create_array(name, data=values)
    with pytest.raises(Invalid, match="its content does not match its digest"):
        load(path, tuner)


@pytest.mark.parametrize("value", [object(), np.array(["text"]), {3: 1}, {"$array": 1}, {"a/b": 1}])
def test_what_is_neither_json_nor_numbers_is_not_stored(tmp_path, value):
    with pytest.raises(Invalid, match=r"state\.extra"):
        save(tmp_path / "s", Thompson(FIVE), {"extra": value})
    assert not list(tmp_path.iterdir())


def test_a_write_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
    tuner, path = Thompson(FIVE), tmp_path / "s.zip"
    first, _ = play(tuner, rough, 10)
    save(path, tuner, first)

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwritev", full)
    with pytest.raises(Failed, match="s.zip: the disk is full; what was there before is kept"):
        save(path, tuner, play(tuner, rough, 20)[0])
    assert bits(load(path, tuner)) == bits(first)
    assert [p.name for p in tmp_path.iterdir()] == ["s.zip"]
