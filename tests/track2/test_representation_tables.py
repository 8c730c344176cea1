"""Tables of knowledge and codes as `load_data` reads them: by id, and refused when they do not fit the data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from common.errors import ConfigError, DataError
from common.representation.table import FeatureTable
from tests.track2.representation_tables import SIZES, write_codes, write_knowledge
from track2_mmctr.config import DataConfig, FeatureConfig
from track2_mmctr.datasets.microlens import find_folder, load_data
from track2_mmctr.datasets.tables import CtrData

SAMPLE = Path(__file__).parents[2] / "data" / "sample"


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def load(cache: Path, **features: Any) -> CtrData:
    return load_data(find_folder(SAMPLE), DataConfig(), FeatureConfig.model_validate(features), cache)


@pytest.fixture(scope="module")
def bare(cache: Path) -> CtrData:
    return load(cache)


def item_ids(data: CtrData) -> np.ndarray:
    return np.arange(1, len(data.items))


def user_ids(data: CtrData) -> np.ndarray:
    return np.unique(np.concatenate([split.users for split in data.splits.values()]))


def test_knowledge_is_read_by_id_in_any_order(bare: CtrData, cache: Path, tmp_path: Path) -> None:
    items, users = item_ids(bare), user_ids(bare)
    order = np.random.default_rng(1).permutation(len(items))
    paths = [write_knowledge(tmp_path / "i.parquet", items, "item_id"), tmp_path / "mixed.parquet"]
    table = pq.read_table(paths[0])
    pq.write_table(table.take(order), paths[1])
    of_users = write_knowledge(tmp_path / "u.parquet", users, "user_id", dim=5)
    made = [load(cache, knowledge={"items": str(path), "users": str(of_users)}) for path in paths]
    assert made[0].items.digest == made[1].items.digest != bare.items.digest
    knowledge = made[1].items.knowledge
    assert knowledge is not None and knowledge.items is not None and knowledge.users is not None
    assert np.array_equal(knowledge.items.ids, items) and np.array_equal(knowledge.users.ids, users)
    expected = np.random.default_rng(0).normal(size=(len(items), 6)).astype(np.float32)
    assert np.array_equal(knowledge.items.values, expected)


def test_other_vectors_and_other_makers_have_another_digest(bare: CtrData, cache: Path, tmp_path: Path) -> None:
    items = item_ids(bare)
    settings = [{}, {"seed": 1}, {"encoders": {"text": "other@2"}}, {"dim": 7}]
    digests = set()
    for number, values in enumerate(settings):
        path = write_knowledge(tmp_path / f"{number}.parquet", items, "item_id", **values)
        digests.add(load(cache, knowledge={"items": str(path)}).items.digest)
    assert len(digests) == len(settings)


def test_what_lacks_a_row_is_an_error_unless_it_is_allowed(bare: CtrData, cache: Path, tmp_path: Path) -> None:
    items, users = item_ids(bare), user_ids(bare)
    for what, ids, name in (("items", items, "item_id"), ("users", users, "user_id")):
        path = write_knowledge(tmp_path / f"{what}.parquet", ids[3:], name)
        for allowed in (0, 2):
            with pytest.raises(DataError, match=rf"3 {what} have no row[\s\S]*knowledge\.allow_missing=3"):
                load(cache, knowledge={what: str(path), "allow_missing": allowed})
        made = load(cache, knowledge={what: str(path), "allow_missing": 3})
        assert any(f"3 {what} have no row" in note for note in made.notes)
    path = write_codes(tmp_path / "codes.parquet", users[2:], "user_id")
    with pytest.raises(DataError, match=r"2 users have no row[\s\S]*user_sid\.allow_missing=2"):
        load(cache, user_semantic_ids=str(path))
    assert load(cache, user_semantic_ids=str(path), user_sid={"allow_missing": 2}).items.user_codes is not None


def test_a_vector_that_training_cannot_learn_is_said_to_be_so(bare: CtrData, cache: Path, tmp_path: Path) -> None:
    train, everyone = np.unique(bare.train.users), user_ids(bare)
    later = np.setdiff1d(everyone, train)
    kept = train if len(later) else train[1:]
    path = write_knowledge(tmp_path / "u.parquet", kept, "user_id")
    missing = len(everyone) - len(kept)
    notes = load(cache, knowledge={"users": str(path), "allow_missing": missing}).notes
    wanted = "train has none of them" if len(later) else "which is learnt"
    assert any(wanted in note for note in notes)


def refused(cache: Path, message: str, **features: Any) -> None:
    with pytest.raises((DataError, ConfigError), match=message):
        load(cache, **features)


def test_knowledge_that_does_not_fit_is_refused(bare: CtrData, cache: Path, tmp_path: Path) -> None:
    items, users = item_ids(bare), user_ids(bare)
    good = write_knowledge(tmp_path / "i.parquet", items, "item_id")
    of_users = write_knowledge(tmp_path / "u.parquet", users, "user_id", encoders={"text": "other@2"})
    refused(cache, "two encoders", knowledge={"items": str(good), "users": str(of_users)})
    refused(cache, "another encoder", knowledge={"items": str(good), "encoder": "other@2"})
    assert load(cache, knowledge={"items": str(good), "encoder": "tiny@1"}).items.knowledge is not None
    refused(cache, "no such table", knowledge={"items": str(tmp_path / "none.parquet")})
    refused(cache, "other columns", knowledge={"items": str(of_users)})
    refused(cache, "other columns", knowledge={"users": str(good)})
    extra = write_knowledge(tmp_path / "extra.parquet", np.append(items, len(items) + 5), "item_id")
    refused(cache, "not in the item table", knowledge={"items": str(extra)})
    cut = tmp_path / "cut.parquet"
    cut.write_bytes(good.read_bytes()[:-40])
    refused(cache, "damaged", knowledge={"items": str(cut)})
    broken = pq.read_table(good).to_pydict()
    broken["knowledge"][4] = [float("nan")] * 6
    kind = pa.list_(pa.float32(), 6)
    columns = {"item_id": pa.array(broken["item_id"]), "knowledge": pa.array(broken["knowledge"], kind)}
    table = pa.table(columns).replace_schema_metadata(pq.read_schema(good).metadata)
    pq.write_table(table, tmp_path / "nan.parquet")
    refused(cache, r"not finite[\s\S]*item_id 5", knowledge={"items": str(tmp_path / "nan.parquet")})
    twice = table.slice(0, 3)
    pq.write_table(pa.concat_tables([twice, twice]), tmp_path / "twice.parquet")
    refused(cache, "two rows", knowledge={"items": str(tmp_path / "twice.parquet")})
    refused(cache, "not a table of features", knowledge={"items": str(find_folder(SAMPLE) / "item_feature.parquet")})


def test_codes_that_do_not_fit_are_refused(bare: CtrData, cache: Path, tmp_path: Path) -> None:
    items, users = item_ids(bare), user_ids(bare)
    of_users = write_codes(tmp_path / "u.parquet", users, "user_id")
    of_items = write_codes(tmp_path / "i.parquet", items, "item_id")
    made = load(cache, user_semantic_ids=str(of_users), semantic_ids=str(of_items))
    assert made.items.user_codes is not None and made.items.semantic_ids is not None
    assert made.items.user_codes.sizes == made.items.semantic_ids.sizes == SIZES
    first = load(cache, user_semantic_ids=str(of_users), user_sid={"levels": 1}).items.user_codes
    assert first is not None and first.table.values.shape[1] == 1 and first.sizes == SIZES[:1]
    refused(cache, "another version", user_semantic_ids=str(of_users), user_sid={"version": "v7"})
    refused(cache, "another version", semantic_ids=str(of_items), sid={"version": "v7"})
    refused(cache, "more levels", user_semantic_ids=str(of_users), user_sid={"levels": 3})
    refused(cache, "no such table", user_semantic_ids="none.parquet")
    refused(cache, "other columns", user_semantic_ids=str(of_items))
    refused(cache, "no codes of items", semantic_ids=str(of_users))
    knowledge = write_knowledge(tmp_path / "k.parquet", users, "user_id")
    refused(cache, "other columns", user_semantic_ids=str(knowledge))
    unsized = write_codes(tmp_path / "sizes.parquet", users, "user_id", sizes=[3])
    unversioned = write_codes(tmp_path / "version.parquet", users, "user_id", version=None)
    for path in (unsized, unversioned):
        refused(cache, "not a table of codes", user_semantic_ids=str(path))
    path = write_codes(tmp_path / "small.parquet", users, "user_id", sizes=[3, 2])
    refused(cache, "outside its codebook", user_semantic_ids=str(path))
    lost = write_codes(tmp_path / "lost.parquet", items[1:], "item_id")
    refused(cache, "1 items have no semantic ID", semantic_ids=str(lost))


def test_when_a_users_features_are_known_is_read_too(bare: CtrData, cache: Path, tmp_path: Path) -> None:
    users = user_ids(bare)
    after = np.arange(len(users), dtype=np.int32)[:, None]
    columns = {"knowledge": np.ones((len(users), 3), np.float32), "after": after}
    FeatureTable(users, columns, {"method": "kar"}, "user_id").write(tmp_path / "u.parquet")
    knowledge = load(cache, knowledge={"users": str(tmp_path / "u.parquet")}).items.knowledge
    assert knowledge is not None and knowledge.users is not None
    assert np.array_equal(knowledge.users.after, after[:, 0])
