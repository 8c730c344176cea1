"""EASE as a method: files, resuming, what is left out and what is refused; no language model where it serves."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from common.errors import ConfigError, DataError
from common.representation.ease import Ease, EaseConfig
from common.representation.ease.adapter import RetrievalHead
from common.representation.ease.batches import ClickRows, EaseBatches
from common.representation.ease.config import RetrievalConfig
from common.representation.inputs import Behaviour, Items, Tokens
from common.representation.table import FeatureTable, read_features


def make_items(count: int = 40, seed: int = 0) -> Items:
    rng = np.random.default_rng(seed)
    mask = np.ones((count, 3), bool)
    mask[1::2, 2] = False
    values = rng.normal(size=(count, 3, 6)).astype(np.float32)
    text = Tokens.pooled(rng.normal(size=(count, 5)), None, "text@1")
    return Items(np.arange(count) * 3 + 7, ["a b"] * count, {"image": Tokens(values, mask, "image@1"), "text": text})


def make_config(**changes: Any) -> EaseConfig:
    base: dict[str, Any] = {
        "qformer": {"queries": 3, "width": 8, "heads": 2, "layers": 1},
        "adapter": "retrieval",
        "batch_size": 8,
        "fit": {"epochs": 4, "learning_rate": 0.01, "figure": "score"},
    }
    return EaseConfig.model_validate({**base, **changes})


def make_target(items: Items) -> np.ndarray:
    return np.concatenate([items.modalities["image"].mean(), items.modalities["text"].mean()], 1)


def fit(items: Items, config: EaseConfig | None = None, **options: Any) -> Ease:
    chosen = {"target": make_target(items), "teacher": "t@1", "seed": 3, "say": lambda _: None, **options}
    return Ease(config or make_config()).fit(items, chosen.pop("behaviour", None), **chosen)


def bytes_of(table: FeatureTable) -> bytes:
    return table.ids.tobytes() + table.columns["embedding"].tobytes()


def weights(method: Ease) -> dict[str, bytes]:
    return {name: value.numpy().tobytes() for name, value in method.state_dict().items()}


def test_the_same_seed_gives_the_same_file_and_another_seed_another(tmp_path: Path) -> None:
    items = make_items()
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        fit(items, seed=seed).transform(items).write(tmp_path / name)
    a, b, c = ((tmp_path / name).read_bytes() for name in "abc")
    assert a == b != c
    table = read_features(tmp_path / "a")
    assert table.columns["embedding"].shape == (40, 11) and table.about["encoders"]["image"] == "image@1"
    np.testing.assert_allclose(np.linalg.norm(table.columns["embedding"], axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize("queries", [True, False])
@pytest.mark.parametrize("reader", ["qformer", "mean"])
def test_a_saved_method_gives_the_same_bytes(tmp_path: Path, reader: str, queries: bool) -> None:
    items = make_items()
    size = {"type": reader, "queries": 3, "width": 8, "heads": 2, "layers": 1, "train_queries": queries}
    method = fit(items, make_config(qformer=size))
    method.save(tmp_path / "m")
    torch.manual_seed(99)
    loaded = Ease.load(tmp_path / "m")
    assert weights(loaded) == weights(method)
    assert bytes_of(loaded.transform(items)) == bytes_of(method.transform(items))


def test_frozen_queries_stay_as_drawn_and_learnt_ones_do_not() -> None:
    items = make_items()
    size = {"queries": 3, "width": 8, "heads": 2, "layers": 1}
    frozen, drawn, learnt = (
        fit(items, make_config(qformer={**size, "train_queries": train}, lm_weight=weight), target=target)
        for train, weight, target in (
            (False, 1, make_target(items)),
            (False, 1, make_target(items)[:, :2]),
            (True, 1, make_target(items)),
        )
    )
    assert torch.equal(frozen.reader.queries, drawn.reader.queries)  # pyright: ignore[reportArgumentType]
    assert not torch.equal(frozen.reader.queries, learnt.reader.queries)  # pyright: ignore[reportArgumentType]


class Stop(Exception):
    """What ends a training in the middle."""


@pytest.mark.parametrize("stage", ["reader", "adapter"])
def test_an_interrupted_fit_goes_on_and_ends_with_the_same_bytes(tmp_path: Path, stage: str) -> None:
    items, rng = make_items(), np.random.default_rng(1)
    clicks = ClickRows(rng.integers(0, 5, 300), rng.integers(0, 40, 300), rng.integers(0, 2, 300).astype(np.float32))
    config = make_config(adapter="semantic", semantic={"dim": 4, "batch_size": 64})
    whole = fit(items, config, clicks=clicks)

    def stop(line: str) -> None:
        if line.startswith("epoch 2") and ("auc" in line) == (stage == "adapter"):
            raise Stop

    with pytest.raises(Stop):
        fit(items, config, clicks=clicks, folder=tmp_path, say=stop)
    again: list[str] = []
    resumed = fit(items, config, clicks=clicks, folder=tmp_path, say=again.append)
    assert any(line.startswith("goes on from step") for line in again)
    assert stage == "reader" or not any(", distil " in line for line in again)  # the first stage is not trained again
    assert weights(resumed) == weights(whole)
    assert bytes_of(resumed.transform(items)) == bytes_of(whole.transform(items))
    assert not list(tmp_path.rglob("*.safetensors"))


def test_another_encoder_width_or_a_missing_modality_is_refused() -> None:
    items = make_items()
    method = fit(items)
    image = items.modalities["image"]
    other = replace(items, modalities={**items.modalities, "image": replace(image, encoder="image@2")})
    with pytest.raises(DataError, match="another encoder"):
        method.transform(other)
    narrow = replace(image, values=np.ascontiguousarray(image.values[:, :, :5]))
    with pytest.raises(DataError, match="another width"):
        method.transform(replace(items, modalities={**items.modalities, "image": narrow}))
    with pytest.raises(DataError, match="no image"):
        method.transform(replace(items, modalities={"text": items.modalities["text"]}))


def test_items_without_an_image_are_an_error_or_left_out_and_counted() -> None:
    items = make_items()
    mask = items.modalities["image"].mask.copy()
    mask[[4, 9]] = False
    values = np.where(mask[:, :, None], items.modalities["image"].values, np.nan).astype(np.float32)
    holes = replace(items, modalities={**items.modalities, "image": Tokens(values, mask, "image@1")})
    with pytest.raises(DataError, match=r"item 19 has no image(.|\n)*2 without image"):
        fit(holes, target=make_target(items))
    lines: list[str] = []
    method = fit(holes, make_config(max_missing=2), target=make_target(items), say=lines.append)
    assert "2 of 40 items are left out: 2 without image" in lines[1] and method.state["items"] == 38
    table = method.transform(holes)
    assert len(table.ids) == 38 and not np.isin([19, 34], table.ids).any() and table.about["excluded"] == {"image": 2}
    both = fit(holes, make_config(need="any"), target=make_target(items)).transform(holes)
    assert len(both.ids) == 40 and np.isfinite(both.columns["embedding"]).all()


def test_masked_tokens_change_nothing() -> None:
    items = make_items()
    method = fit(items)
    image = items.modalities["image"]
    noise = np.where(image.mask[:, :, None], image.values, 1e6).astype(np.float32)
    other = replace(items, modalities={**items.modalities, "image": replace(image, values=noise)})
    assert bytes_of(method.transform(other)) == bytes_of(method.transform(items))
    cut = replace(image, values=image.values[1::2, :2], mask=image.mask[1::2, :2])
    part = replace(items.take(np.arange(1, 40, 2)))
    short = replace(part, modalities={**part.modalities, "image": cut})
    np.testing.assert_allclose(
        method.transform(short).columns["embedding"], method.transform(part).columns["embedding"], atol=1e-6
    )


def test_what_nothing_teaches_is_refused() -> None:
    items = make_items()
    with pytest.raises(ConfigError, match="nothing teaches"):
        fit(items, make_config(adapter="none"), target=None)
    with pytest.raises(DataError, match="needs a teacher"):
        fit(items, target=None)
    with pytest.raises(DataError, match="trained on clicks"):
        fit(items, make_config(adapter="semantic"))
    bad = make_target(items)
    bad[5] = np.nan
    with pytest.raises(DataError, match=r"item 22(.|\n)*1 such"):
        fit(items, target=bad)
    with pytest.raises(DataError, match="another shape"):
        fit(items, target=bad[:3])
    with pytest.raises(ValueError, match="multiple of heads"):
        make_config(qformer={"width": 9, "heads": 2})


def test_histories_teach_the_adapter_where_there_are_no_clicks() -> None:
    items = make_items()
    behaviour = Behaviour(np.arange(3), np.array([0, 1, 2, 3, 3]), np.array([0, 2, 2, 5]))
    rows = ClickRows.of_histories(behaviour, 40, 4, 0)
    assert rows.labels.sum() == 5 and len(rows) > 20 and 1 not in rows.users
    clicked = {(0, 0), (0, 1), (2, 2), (2, 3)}
    pairs = list(zip(rows.users.tolist(), rows.items.tolist(), rows.labels.tolist(), strict=True))
    assert all(((user, item) in clicked) == (label == 1) for user, item, label in pairs)
    config = make_config(adapter="semantic", lm_weight=0, semantic={"dim": 6})
    table = fit(items, config, behaviour=behaviour, target=None).transform(items)
    assert table.columns["embedding"].shape == (40, 6)
    empty = Behaviour(np.arange(1), np.arange(0), np.zeros(2, np.int64))
    with pytest.raises(DataError, match="no user has a history"):
        fit(items, config, behaviour=empty, target=None)
    with pytest.raises(DataError, match="clicks have another form"):
        fit(items, config, clicks=ClickRows(np.arange(3), np.array([0, 1, 40]), np.array([0, 1, 1])), target=None)


def test_twins_of_the_teacher_are_no_negatives() -> None:
    head = RetrievalHead(4, 3, RetrievalConfig(loss="infonce"))
    pooled, axes = torch.randn(3, 4), torch.eye(3)
    two = head.loss(pooled, torch.stack([axes[0], axes[0], axes[1]]))
    found: Tensor = head(pooled) / head.config.temperature
    wanted = torch.stack([torch.logsumexp(found[k, :2], 0) - found[k, [0, 0, 1][k]] for k in (0, 1)]).sum()
    last = torch.logsumexp(found[2, [0, 0, 1]], 0) - found[2, 1]
    torch.testing.assert_close(two, (wanted + last) / 3)


def test_batches_hold_each_item_once() -> None:
    items = make_items(41)
    batches = EaseBatches(items, ["image"], described=None, target=None, batch_size=8, seed=0)
    rows = np.concatenate(batches.epoch(0))
    assert sorted(rows.tolist()) == list(range(41)) and min(map(len, batches.epoch(1))) >= 2
    assert batches.epoch(0)[0].tolist() != batches.epoch(1)[0].tolist()


def test_serving_imports_no_language_model(tmp_path: Path) -> None:
    items = make_items()
    method = fit(items)
    method.save(tmp_path / "m")
    image, text = items.modalities["image"], items.modalities["text"]
    np.savez(tmp_path / "x.npz", ids=items.ids, image=image.values, mask=image.mask, text=text.values)
    script = (
        "import sys, numpy as np\n"
        "from pathlib import Path\n"
        "from common.representation.ease import Ease\n"
        "from common.representation.inputs import Items, Tokens\n"
        "folder = Path(sys.argv[1]); x = np.load(folder / 'x.npz')\n"
        "image = Tokens(x['image'], x['mask'], 'image@1')\n"
        "text = Tokens(x['text'], np.ones(x['text'].shape[:2], bool), 'text@1')\n"
        "items = Items(x['ids'], [''] * len(x['ids']), {'image': image, 'text': text})\n"
        "Ease.load(folder / 'm').transform(items).write(folder / 'out.parquet')\n"
        "bad = [m for m in sys.modules if m.split('.')[0] in ('transformers', 'sentence_transformers', 'tokenizers')]\n"
        "assert not bad, bad\n"
        "assert 'common.representation.ease.language_model' not in sys.modules\n"
    )
    root = Path(__file__).parents[3]
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True, cwd=root)
    got = read_features(tmp_path / "out.parquet")
    wanted = method.transform(items)
    assert got.ids.tolist() == wanted.ids.tolist()
    np.testing.assert_allclose(got.columns["embedding"], wanted.columns["embedding"], atol=1e-5)
