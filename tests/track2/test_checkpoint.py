import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from common.errors import ConfigError, DataError, UserError
from common.training import tensors
from tests.processes import one_thread as one_thread
from tests.track2.tiny_training import SMALL, Bomb, explode_at, make_config, make_data, make_model, run, weights
from track2_mmctr.config import LossConfig
from track2_mmctr.training import checkpoint
from track2_mmctr.training.checkpoint import load_model, save_model
from track2_mmctr.training.predict import predict


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory):
    """An uninterrupted run: its weights and its result."""
    torch.set_num_threads(1)
    data = make_data()
    model = make_model(data)
    return model, run(model, data, tmp_path_factory.mktemp("whole"))


def interrupted(folder: Path, forward: int, seconds: float = 0) -> None:
    data = make_data()
    model = make_model(data)
    explode_at(model, forward)
    with pytest.raises(Bomb):
        run(model, data, folder, checkpoint_seconds=seconds)


@pytest.mark.parametrize(("forward", "seconds", "step"), [(2, 0, 1), (7, 0, 6), (8, 0, 7), (11, 0, 10), (11, 60, 7)])
def test_a_resumed_run_ends_with_the_same_bytes(forward: int, seconds: float, step: int, whole, tmp_path: Path):
    interrupted(tmp_path, forward, seconds)
    data = make_data()
    model = make_model(data, seed=99)  # what it is initialised with no longer matters
    result = run(model, data, tmp_path)
    assert result.resumed_from == step
    assert weights(model) == weights(whole[0])
    fields = ("epoch", "step", "train_loss", "auc", "logloss", "learning_rate", "average_auc")
    for mine, theirs in zip(result.evaluations, whole[1].evaluations, strict=True):
        assert [getattr(mine, f) for f in fields] == [getattr(theirs, f) for f in fields]
    assert (result.best_auc, result.best_logloss) == (whole[1].best_auc, whole[1].best_logloss)


@pytest.mark.parametrize(("where", "step"), [("step", 9), ("write", None)])
def test_a_killed_run_goes_on_to_the_same_bytes(where: str, step: int | None, whole, tmp_path: Path, root: Path):
    command = [sys.executable, "-m", "tests.track2.tiny_training", where, str(tmp_path)]
    done = subprocess.run(command, cwd=root, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False, timeout=120)
    assert done.returncode == -signal.SIGKILL
    data = make_data()
    model = make_model(data)
    result = run(model, data, tmp_path)
    assert result.resumed_from and (step is None or result.resumed_from == step)
    assert weights(model) == weights(whole[0])


def test_a_finished_run_is_not_trained_again(whole, tmp_path: Path):
    data = make_data()
    run(make_model(data), data, tmp_path)
    model = make_model(data)
    explode_at(model, 1)
    result = run(model, data, tmp_path)
    assert weights(model) == weights(whole[0]) and result.resumed_from == result.steps == whole[1].steps


def test_the_state_is_removed_only_when_told(tmp_path: Path):
    data = make_data()
    run(make_model(data), data, tmp_path)
    assert (tmp_path / "last" / "state.safetensors").is_file()
    run(make_model(data), data, tmp_path, keep=False)
    assert not (tmp_path / "last").exists()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"config": SMALL.model_copy(update={"learning_rate": 0.02})}, r"train\.learning_rate = 0\.02"),
        ({"loss": LossConfig(pairwise=0.5)}, r"loss\.pairwise"),
        ({"seed": 6}, "seed"),
        ({"max_len": 5}, "max_len"),
        ({"identity": "din with other units"}, "identity"),
        ({"data": make_data(placebo=True)}, r"data\.train"),
    ],
)
def test_a_checkpoint_of_another_configuration_is_named(change: dict, named: str, tmp_path: Path):
    interrupted(tmp_path, 4)
    before = (tmp_path / "last" / "state.safetensors").read_bytes()
    change = dict(change)
    data = change.pop("data", make_data())
    with pytest.raises(ConfigError, match=f"another configuration[\\s\\S]*{named}"):
        run(make_model(data), data, tmp_path, **change)
    assert (tmp_path / "last" / "state.safetensors").read_bytes() == before


@pytest.mark.parametrize("damage", ["truncated", "noise", "empty", "header"])
def test_a_damaged_checkpoint_is_an_error_that_says_what_to_do(damage: str, tmp_path: Path):
    interrupted(tmp_path, 4)
    path = tmp_path / "last" / "state.safetensors"
    content = path.read_bytes()
    new = {"truncated": content[:-100], "noise": b"\xff" * 500, "empty": b"", "header": content[:20]}[damage]
    path.write_bytes(new)
    data = make_data()
    with pytest.raises(DataError, match=r"damaged[\s\S]*state.safetensors[\s\S]*delete"):
        run(make_model(data), data, tmp_path)


def test_a_checkpoint_of_another_model_does_not_fit(tmp_path: Path):
    interrupted(tmp_path, 4)
    data = make_data()
    with pytest.raises(DataError, match="does not fit"):
        run(make_model(data, batch_norm=False), data, tmp_path)


def limited(size: int, call) -> None:
    """Call with files limited to `size` bytes: a real write that fails in the middle."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        call()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_stops_with_an_error_and_the_old_checkpoint_stays(whole, tmp_path: Path):
    interrupted(tmp_path, 4)
    path = tmp_path / "last" / "state.safetensors"
    before = path.read_bytes()
    data = make_data()
    with pytest.raises(UserError, match="could not be written"):
        limited(len(before) // 2, lambda: run(make_model(data), data, tmp_path, checkpoint_seconds=0))
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    model = make_model(data)
    assert run(model, data, tmp_path).resumed_from == 3
    assert weights(model) == weights(whole[0])


@pytest.fixture
def saved(tmp_path: Path):
    data = make_data()
    model = make_model(data)
    folder = tmp_path / "model"
    save_model(folder, model, make_config(), data.items)
    return folder, model, data


def test_a_saved_model_predicts_the_same(saved):
    folder, model, data = saved
    torch.manual_seed(1)
    state = torch.get_rng_state()
    loaded, config = load_model(folder, data.items)
    assert torch.equal(torch.get_rng_state(), state)
    assert config == make_config() and not loaded.training
    split = data.splits["valid"]
    expected = predict(model, split, max_len=6, device="cpu")
    assert predict(loaded, split, max_len=6, device="cpu").tobytes() == expected.tobytes()
    assert sorted(p.name for p in folder.iterdir()) == ["model.json", "model.safetensors"]


def test_saving_twice_gives_the_same_bytes(saved, tmp_path: Path):
    folder, model, data = saved
    save_model(tmp_path / "again", model, make_config(), data.items)
    for name in ("model.json", "model.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()


def test_a_model_of_another_item_table_is_refused(saved):
    from tests.track2.tiny_training import make_items

    with pytest.raises(DataError, match="another item table"):
        load_model(saved[0], make_items(seed=1))


def test_a_model_of_another_configuration_is_refused_and_the_difference_named(saved):
    folder, _, data = saved
    assert load_model(folder, data.items, make_config())[1] == make_config()
    with pytest.raises(ConfigError, match=r"ranker\.net_dropout[\s\S]*0\.3"):
        load_model(folder, data.items, make_config(dropout=0.3))


@pytest.mark.parametrize("name", ["model.json", "model.safetensors"])
def test_a_missing_file_is_named(saved, name: str):
    folder, _, data = saved
    (folder / name).unlink()
    with pytest.raises(DataError, match=name):
        load_model(folder, data.items)


def test_no_folder_at_all(tmp_path: Path):
    with pytest.raises(DataError, match="no model there"):
        load_model(tmp_path / "nowhere", make_data(10).items)


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty"])
def test_damaged_weights_are_refused(saved, damage: str):
    folder, _, data = saved
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes({"truncated": path.read_bytes()[:-7], "flipped": bytes(content), "empty": b""}[damage])
    with pytest.raises(DataError, match=r"damaged[\s\S]*model.safetensors"):
        load_model(folder, data.items)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"format": "mirc-track2-model-0"}', '{"format": "mirc-track2-model-1"}']
)
def test_a_damaged_description_is_refused(saved, text: str):
    folder, _, data = saved
    (folder / "model.json").write_text(text)
    with pytest.raises(DataError, match=r"model\.json"):
        load_model(folder, data.items)


def edit_about(folder: Path, change) -> None:
    about = json.loads((folder / "model.json").read_text())
    change(about)
    (folder / "model.json").write_text(json.dumps(about))


def test_a_description_changed_by_hand_is_refused(saved):
    folder, _, data = saved
    edit_about(folder, lambda about: about["config"]["data"].update(max_len=3))
    with pytest.raises(DataError, match="changed after"):
        load_model(folder, data.items)
    edit_about(folder, lambda about: about["config"].update(typo=3))
    with pytest.raises(DataError, match="not valid"):
        load_model(folder, data.items)


def test_weights_of_other_shapes_are_refused(saved):
    folder, model, data = saved
    weights_of_another = dict(model.state_dict()) | {"head.0.weight": torch.zeros(2, 2)}
    tensors.save_file(weights_of_another, folder / "model.safetensors")
    edit_about(folder, lambda about: about.update(weights_sha256=checkpoint.file_digest(folder / "model.safetensors")))
    with pytest.raises(DataError, match=r"do not fit[\s\S]*head.0.weight"):
        load_model(folder, data.items)


def test_a_full_disk_leaves_the_old_model(saved):
    folder, _, data = saved
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    with pytest.raises(UserError, match="could not be written"):
        limited(2000, lambda: save_model(folder, make_model(data, seed=8), make_config(), data.items))
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    assert [p.name for p in folder.parent.iterdir()] == ["model"]
