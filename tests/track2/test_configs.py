"""Every configuration of Track 2 and every ranker keep the contract."""

import inspect
import typing
from pathlib import Path

import numpy as np
import pytest

from common.config import load_config
from tests.track2.test_din import tables
from track2_mmctr.batches import make_batch
from track2_mmctr.config import CONFIG_FOLDER, BaseRankerConfig, RankerConfig, RunConfig
from track2_mmctr.rankers import RANKERS, build_ranker, ranker_class
from track2_mmctr.rankers.base import FittedRanker, Ranker

CONFIGS = sorted(path.stem for path in CONFIG_FOLDER.glob("*.yaml"))


def kinds() -> dict[str, type[BaseRankerConfig]]:
    """Configuration model by type."""
    models = typing.get_args(typing.get_args(RankerConfig)[0])
    return {typing.get_args(model.model_fields["type"].annotation)[0]: model for model in models}


def test_every_ranker_type_has_a_class_and_a_configuration_of_its_own() -> None:
    assert set(kinds()) == set(RANKERS)
    used = {load_config(RunConfig, name, CONFIG_FOLDER).ranker.type for name in CONFIGS}
    assert used == set(RANKERS)
    assert "baseline" in CONFIGS


@pytest.mark.parametrize("kind", sorted(RANKERS))
def test_each_class_keeps_its_contract(kind: str) -> None:
    model = kinds()[kind]
    made = ranker_class(model.model_construct(type=kind))
    parameters = list(inspect.signature(made).parameters)
    if model.neural:
        assert issubclass(made, Ranker)
        assert parameters[:3] == ["config", "features", "items"]
    else:
        assert parameters == ["config", "features"]
        for method in ("fit", "predict", "save"):
            wanted = list(inspect.signature(getattr(FittedRanker, method)).parameters)
            assert list(inspect.signature(getattr(made, method)).parameters) == wanted


@pytest.mark.parametrize("name", CONFIGS)
def test_each_configuration_parses_names_itself_and_says_what_it_is(name: str) -> None:
    config = load_config(RunConfig, name, CONFIG_FOLDER)
    assert config.name == name
    assert len(config.about.split()) > 10
    for key in config.tune.space:  # the space names keys that exist
        node: object = config
        for part in key.split("."):
            assert part in type(node).model_fields, key  # pyright: ignore[reportAttributeAccessIssue]
            node = getattr(node, part)


@pytest.mark.parametrize("name", CONFIGS)
def test_each_neural_configuration_builds_and_gives_a_finite_logit_a_row(name: str, tmp_path: Path) -> None:
    config = load_config(RunConfig, name, CONFIG_FOLDER)
    if not config.ranker.neural:
        pytest.skip("not neural: its own tests fit it")
    items, split = tables(items=60)
    model = build_ranker(config.ranker, config.features.model_copy(update={"dim": 4}), items).eval()
    logits = model(make_batch(split, np.arange(len(split)), config.data.max_len)).detach().numpy()
    assert logits.shape == (len(split),) and np.isfinite(logits).all()
