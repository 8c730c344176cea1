"""my_ranker: what its docstring promises."""

import sys
import types

import numpy as np
import pytest
import torch

from common import own_code
from common.config import load_config
from common.errors import ConfigError
from tests.track2.planted_rows import random_rows
from track2_mmctr import my_ranker
from track2_mmctr.batches import make_batch
from track2_mmctr.config import CONFIG_FOLDER, FeatureConfig, MyRankerConfig, RunConfig
from track2_mmctr.my_ranker import MyRanker
from track2_mmctr.rankers import ranker_class, ranker_place
from track2_mmctr.rankers.packed import mean_pool


def test_the_file_says_where_to_edit_and_how_to_run() -> None:
    assert my_ranker.__doc__ is not None
    assert my_ranker.__doc__.startswith("EDIT HERE")
    assert "./run_all.sh track2 --config my_ranker" in my_ranker.__doc__
    config = load_config(RunConfig, "my_ranker", CONFIG_FOLDER, ["ranker.params.hidden=48"])
    assert config.ranker == MyRankerConfig(type="my_ranker", params={"hidden": 48})


def test_params_reach_the_model() -> None:
    items, _ = random_rows()
    model = MyRanker(MyRankerConfig(type="my_ranker", params={"hidden": 48}), FeatureConfig(dim=4), items)
    assert next(model.head.parameters()).shape[0] == 48


def test_the_rectangle_of_the_docstring_holds_the_same_histories() -> None:
    items, split = random_rows()
    torch.manual_seed(0)
    model = MyRanker(MyRankerConfig(type="my_ranker"), FeatureConfig(dim=4), items)
    batch = make_batch(split, np.arange(len(split)), 64)
    ids, mask = batch.padded
    history = model.encoder(ids.flatten()).view(*ids.shape, -1)
    mean = (history * mask[..., None]).sum(1) / batch.lengths.clamp(min=1)[:, None]
    torch.testing.assert_close(mean, mean_pool(model.encoder(batch.items), batch))
    assert not mask[batch.lengths == 0].any()


def test_a_file_of_one_s_own_is_the_ranker_that_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    config = MyRankerConfig(type="my_ranker", file="my_other")
    with pytest.raises(ConfigError, match="no such file") as error:
        ranker_class(config)
    assert error.value.expected == "one of: my_ranker"
    other = types.ModuleType("track2_mmctr.my_other")
    monkeypatch.setattr(own_code, "find_spec", lambda name: name)
    monkeypatch.setitem(sys.modules, other.__name__, other)
    monkeypatch.setattr(other, "MyRanker", MyRanker, raising=False)
    assert ranker_class(config) is MyRanker
    assert ranker_place(config) == ("track2_mmctr.my_other", "MyRanker")
