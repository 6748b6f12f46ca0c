import errno
import logging
import re
import time

import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from deqjax.training.checkpoints._checkpoints import CheckpointError, Checkpoints

ADAM = optax.adamw(1e-3)


def make_state(seed=0):
    rng = np.random.default_rng(seed)
    params = {
        "w": jnp.asarray(rng.normal(size=(2, 3)), jnp.bfloat16),
        "b": np.float32([1.0, np.nan, -0.0]),
    }
    return {
        "params": params,
        "optimizer": ADAM.init(params),
        "keys": jax.random.split(jax.random.key(seed, impl="rbg")),
        "module": nnx.state(nnx.Dropout(0.1, rngs=nnx.Rngs(seed))),
        "step": jnp.int32(7),
        "double": rng.normal(size=3),
        "nothing": (None, {}, ()),
    }


def make_iterator():
    source = grain.MapDataset.range(20).seed(1).shuffle().batch(2).repeat()
    return iter(source.to_iter_dataset())


def as_bytes(tree):
    def raw(leaf):
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        return str(leaf.dtype), leaf.shape, np.asarray(leaf).tobytes()

    return [raw(leaf) for leaf in jax.tree.leaves(tree)]


@pytest.fixture
def saved(tmp_path):
    """A folder with step 7."""
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(7, make_state(), make_iterator(), {"seed": 3})
    return tmp_path


def restore(folder, state=None, data_iterator=None, step=None):
    with Checkpoints(folder) as checkpoints:
        return checkpoints.restore(state or make_state(1), data_iterator, step)


def test_round_trip_is_bitwise(saved):
    step, state, meta = restore(saved)
    assert (step, meta) == (7, {"seed": 3})
    assert as_bytes(state) == as_bytes(make_state())


def test_structure_and_key_types_come_back(saved):
    _, state, _ = restore(saved)
    assert jax.tree.structure(state) == jax.tree.structure(make_state())
    assert isinstance(state["optimizer"][0], optax.ScaleByAdamState)
    assert state["keys"].dtype == make_state()["keys"].dtype


def test_abstract_tree_is_enough(tmp_path):
    state = {"w": jnp.ones((2,)), "key": jax.random.key(5)}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state, None, {})
        _, found, _ = checkpoints.restore(jax.eval_shape(lambda: state))
    assert as_bytes(found) == as_bytes(state)


def test_data_position_comes_back(tmp_path):
    here, there = make_iterator(), make_iterator()
    for _ in range(3):
        next(here)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(3, make_state(), here, {})
        checkpoints.restore(make_state(), there)
    np.testing.assert_array_equal(next(there), next(here))


def test_state_is_copied_before_save_returns(tmp_path):
    state = {"w": np.ones(100_000)}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state, None, {})
        state["w"][:] = 0
        _, found, _ = checkpoints.restore(state)
    assert found["w"].min() == 1


def test_a_folder_may_be_named_by_way_of_another_one(tmp_path):
    (tmp_path / "here").mkdir()
    around = tmp_path / "here" / ".." / "there"
    with Checkpoints(around) as checkpoints:
        checkpoints.save(1, {"w": np.ones(2)}, None, {})
    step, state, _ = restore(around, {"w": np.zeros(2)})
    assert (step, state["w"].tolist()) == (1, [1, 1])


def test_keeps_the_newest(tmp_path):
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(step, {"w": np.ones(2)}, None, {})
        checkpoints.wait()
        assert checkpoints.latest_step() == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2", "3"]


def test_step_under_way_is_not_the_latest(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"w": np.ones(2)}, None, {})
        assert checkpoints.latest_step() is None
        checkpoints.wait()
        assert checkpoints.latest_step() == 1


def test_saving_the_same_step_again_does_nothing(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"w": np.ones(2)}, None, {"first": True})
        checkpoints.save(1, {"w": np.ones(2)}, None, {"first": False})
        assert checkpoints.restore({"w": np.ones(2)})[2] == {"first": True}


def test_saving_the_restored_step_does_nothing(saved):
    with Checkpoints(saved) as checkpoints:
        checkpoints.restore(make_state())
        checkpoints.save(7, make_state(1), None, {"seed": 4})
    assert restore(saved)[2] == {"seed": 3}


@pytest.mark.parametrize("step", [6, 7])
def test_foreign_step_is_not_skipped_silently(saved, step):
    with (
        Checkpoints(saved) as checkpoints,
        pytest.raises(CheckpointError, match=f"Step {step} cannot be saved .* holds step 7"),
    ):
        checkpoints.save(step, make_state(), None, {})


def test_leaf_that_is_no_array(tmp_path):
    with (
        Checkpoints(tmp_path) as checkpoints,
        pytest.raises(CheckpointError, match=r"Leaf schedule\.name of the state is 'cosine'"),
    ):
        checkpoints.save(1, {"schedule": {"name": "cosine"}}, None, {})


def test_metadata_must_fit_into_json(tmp_path):
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(TypeError, match="JSON"):
        checkpoints.save(1, {"w": np.ones(2)}, None, {"array": np.ones(2)})


def test_keep_nothing_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="keep=0 would keep no checkpoint"):
        Checkpoints(tmp_path, keep=0)


def test_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"cannot be kept in .*file/below .*; choose another"):
        Checkpoints(tmp_path / "file" / "below")


OTHER_MODELS = {
    "dtype": ({"w": np.ones((2, 3), np.float32)}, "w is bfloat16[2, 3] there and float32[2, 3]"),
    "shape": ({"b": np.ones(4, np.float32)}, "b is float32[3] there and float32[4] here"),
    "more": ({"new": np.ones(4, np.float32)}, "new is absent there and float32[4] here"),
    "fewer": ({"b": None}, "b is float32[3] there and absent here"),
    "key type": ({"key": jax.eval_shape(lambda: jax.random.key(0))}, "key is uint32[4] there"),
}


@pytest.mark.parametrize("case", OTHER_MODELS)
def test_other_model_is_refused(tmp_path, case):
    change, sentence = OTHER_MODELS[case]
    state = make_state()["params"] | {"key": jax.random.key(0, impl="rbg")}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state, None, {})
        with pytest.raises(CheckpointError, match=re.escape(f"another model: leaf {sentence}")):
            checkpoints.restore(state | change)


@pytest.mark.parametrize(("step", "what"), [(None, "checkpoint"), (9, "step 9")])
def test_step_that_is_not_there(tmp_path, step, what):
    with pytest.raises(CheckpointError, match=f"There is no {what} in {tmp_path}"):
        restore(tmp_path, step=step)


@pytest.fixture
def full_disk(file_size_limit):
    """Lets the system refuse files above 20 kB, as a full disk would; the value undoes it."""
    file_size_limit(20_000)
    return lambda: file_size_limit(None)


def noise():
    return {"w": np.random.default_rng(0).normal(size=(300, 300))}


def test_the_best_stay_beside_the_newest(tmp_path):
    with Checkpoints(tmp_path, keep=1, keep_best=1) as checkpoints:
        for step, score in ((1, 3.0), (2, 1.0), (3, np.nan), (4, 2.0), (5, None)):
            checkpoints.save(step, {"w": np.ones(2)}, None, {}, score=score)
        checkpoints.wait()
        assert checkpoints.steps() == [2, 5]
        assert checkpoints.best_step() == 2


def test_the_best_stay_when_a_run_is_resumed(tmp_path):
    for step, score in ((1, 1.0), (2, 3.0), (3, None), (4, 2.0)):
        with Checkpoints(tmp_path, keep=1, keep_best=1) as checkpoints:
            checkpoints.save(step, {"w": np.ones(2)}, None, {}, score=score)
    with Checkpoints(tmp_path) as checkpoints:
        assert (checkpoints.steps(), checkpoints.best_step()) == ([1, 4], 1)


def test_the_newest_sound_step_stays(tmp_path):
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        for step, sound in ((1, True), (2, True), (3, False), (4, False)):
            checkpoints.save(step, {"w": np.ones(2)}, None, {}, sound=sound)
        checkpoints.wait()
        assert checkpoints.steps() == [2, 4]
        found = checkpoints.restore_newest({"w": np.ones(2)}, say=print, sound=True)
        assert found[0] == 2


def test_damaged_steps_are_not_the_best(tmp_path):
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        checkpoints.save(1, {"w": np.ones(2)}, None, {}, score=1.0)
        checkpoints.save(2, {"w": np.ones(2)}, None, {}, score=2.0)
        checkpoints.wait()
        (tmp_path / "1" / "meta" / "metadata").write_text("")
        assert checkpoints.best_step() == 2


def test_what_the_system_refuses_is_no_damage(saved, monkeypatch):
    def refused(*_, **__):
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr("pathlib.Path.read_text", refused)
    with (
        Checkpoints(saved) as checkpoints,
        pytest.raises(CheckpointError, match=r"cannot be read now .*Too many open files"),
    ):
        checkpoints.restore_newest(make_state(1), say=print, quarantine=saved / "quarantine")
    assert (saved / "7").is_dir()


def test_no_score_no_best(saved):
    with Checkpoints(saved) as checkpoints:
        assert checkpoints.best_step() is None


def test_the_hash_is_that_of_the_state(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        first = checkpoints.save(1, make_state(), None, {})
        same = checkpoints.save(2, make_state(), None, {"other": "metadata"})
        other = checkpoints.save(3, make_state(1), None, {})
        checkpoints.wait()
        assert first == same == checkpoints.state_hash(1)
        assert other != first


def test_a_reader_writes_nothing(saved):
    before = sorted(path.name for path in saved.rglob("*"))
    with Checkpoints(saved, read_only=True) as checkpoints:
        assert checkpoints.restore(make_state(1))[0] == 7
    assert sorted(path.name for path in saved.rglob("*")) == before


def test_what_a_crash_left_half_written_is_cleared_away(saved):
    half = saved / "8.orbax-checkpoint-tmp"
    half.mkdir()
    (half / "rest").write_text("")
    assert restore(saved)[0] == 7
    assert not half.exists()


FAILED = "Step 1 could not be saved in .* check the free space"


def test_failed_save_raises_at_the_next_save(tmp_path, full_disk, capfd):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, noise(), None, {})
        with pytest.raises(CheckpointError, match=FAILED):
            checkpoints.save(2, noise(), None, {})
    assert capfd.readouterr() == ("", "")


def poll_for_ten_seconds(checkpoints):
    for _ in range(1000):
        checkpoints.poll()
        time.sleep(0.01)


def test_failed_save_is_found_out_without_waiting(tmp_path, full_disk):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, noise(), None, {})
        with pytest.raises(CheckpointError, match=FAILED):
            poll_for_ten_seconds(checkpoints)


def test_failed_save_raises_at_close(tmp_path, full_disk):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, noise(), None, {})
    with pytest.raises(CheckpointError, match=FAILED):
        checkpoints.close()


def test_failed_save_is_a_note_on_an_earlier_error(tmp_path, full_disk):
    def stop_after_a_save():
        with Checkpoints(tmp_path) as checkpoints:
            checkpoints.save(1, noise(), None, {})
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as error:
        stop_after_a_save()
    assert "Step 1 could not be saved" in error.value.__notes__[0]


def test_failed_save_leaves_no_step_and_can_be_repeated(tmp_path, full_disk):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, noise(), None, {})
        with pytest.raises(CheckpointError, match=FAILED):
            checkpoints.wait()
        assert checkpoints.latest_step() is None
        full_disk()
        checkpoints.save(1, noise(), None, {})
        assert as_bytes(checkpoints.restore(noise())[1]) == as_bytes(noise())


def test_other_users_of_absl_stay_audible(tmp_path, caplog):
    with Checkpoints(tmp_path):
        logging.getLogger("absl").warning("from elsewhere")
    assert "from elsewhere" in caplog.text


def test_log_filter_goes_with_the_object(tmp_path):
    before = list(logging.getLogger("absl").filters)
    with Checkpoints(tmp_path):
        pass
    assert logging.getLogger("absl").filters == before
