"""Bad input of `embed`: what is missing is noted, what is broken is a fault, what cannot be is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from common.config import make_config
from common.errors import ConfigError, DataError, UserError
from tests.track2.item_files import COUNT, IDS, RAW, embed, vectors, write_microlens
from track2_mmctr.embeddings.config import EmbedConfig


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def test_missing_covers_and_titles_are_noted_and_get_the_mean(tmp_path: Path, cache: Path) -> None:
    folder = write_microlens(tmp_path / "m", titles={2: "", 5: None, 6: "   "})
    (folder / "item_images" / "4.jpg").unlink()
    said: list[str] = []
    result = embed(folder, tmp_path / "e.parquet", cache, said)
    x = vectors(tmp_path / "e.parquet")
    assert result.missing == {"text": 3, "image": 1}
    assert not x[[2, 5, 6], :2].any() and x[[2, 5, 6], 2:4].any(axis=1).all()
    assert not x[4, 2:4].any() and x[4, :2].any()
    assert any("3 items have no text" in line and "item 2, 5, 6" in line for line in said)
    assert any("1 items have no cover" in line and "item 4" in line for line in said)


def test_an_item_without_text_and_cover_is_a_fault(tmp_path: Path, cache: Path) -> None:
    folder = write_microlens(tmp_path / "m", titles={4: ""})
    (folder / "item_images" / "4.jpg").unlink()
    with pytest.raises(DataError, match="item 4: has neither a text nor a cover"):
        embed(folder, tmp_path / "e.parquet", cache)
    assert not (tmp_path / "e.parquet").exists()
    embed(folder, tmp_path / "e.parquet", cache, allow_faults=1)
    assert not vectors(tmp_path / "e.parquet")[4].any()


@pytest.mark.parametrize("content", [b"", b"<html>404</html>", b"\xff\xd8\xff\xe0 cut"])
def test_a_cover_that_cannot_be_decoded_is_a_fault(tmp_path: Path, cache: Path, content: bytes) -> None:
    folder = write_microlens(tmp_path / "m")
    (folder / "item_images" / "4.jpg").write_bytes(content)
    with pytest.raises(DataError, match=r"4\.jpg"):
        embed(folder, tmp_path / "e.parquet", cache)
    said: list[str] = []
    result = embed(folder, tmp_path / "e.parquet", cache, said, allow_faults=1)
    assert result.missing["image"] == 1 and not vectors(tmp_path / "e.parquet")[4, 2:4].any()
    assert any("cannot be decoded" in line for line in said) and any("4.jpg" in line for line in said)


def change(folder: Path, name: str, **columns: Any) -> None:
    """Replace columns of a parquet file; None drops one."""
    path = next(folder.rglob(name))
    table = {c: v for c, v in ({**pq.read_table(path).to_pydict(), **columns}).items() if v is not None}
    pq.write_table(pa.table(table), path)


RAGGED = [[1.0] * 6] * 11 + [[1.0]]
NAN = [[1.0] * 6] * 11 + [[1.0] * 5 + [float("nan")]]


@pytest.mark.parametrize(
    ("name", "columns", "settings", "message"),
    [
        ("item_feature.parquet", {"item_title": None}, {}, "none of the texts"),
        ("item_feature.parquet", {"item_id": None}, {}, "column item_id is missing"),
        ("item_feature.parquet", {"item_id": [*IDS[:-1], 99]}, {}, "not in item_info"),
        ("item_feature.parquet", {"item_id": [*IDS[:-1], 1]}, {}, "given twice"),
        ("item_feature.parquet", {"item_id": [*IDS[:-1], None]}, {}, "null or negative"),
        ("item_feature.parquet", {"item_title": IDS}, {}, "another type"),
        ("item_feature.parquet", {"txt_emb_BERT": None}, RAW, "no file has the column txt_emb_BERT"),
        ("item_feature.parquet", {"txt_emb_BERT": RAGGED}, RAW, "ragged"),
        ("item_feature.parquet", {"txt_emb_BERT": NAN}, RAW, "item_id 12"),
        ("item_feature.parquet", {"txt_emb_BERT": ["x"] * COUNT}, RAW, "lists of numbers"),
        ("item_info.parquet", {"item_tags": None}, RAW, "column item_tags is missing"),
        ("item_info.parquet", {"item_id": [*range(COUNT), 99]}, RAW, "items have no row"),
        ("item_info.parquet", {"item_id": [str(i) for i in range(COUNT + 1)]}, RAW, "expected: integers"),
        ("item_info.parquet", {"item_tags": ["x"] * (COUNT + 1)}, RAW, "lists of integers"),
    ],
)
def test_bad_files(tmp_path: Path, cache: Path, name: str, columns: dict, settings: dict, message: str) -> None:
    folder = write_microlens(tmp_path / "m")
    change(folder, name, **columns)
    with pytest.raises(UserError, match=message):
        embed(folder, tmp_path / "e.parquet", cache, **settings)
    assert not (tmp_path / "e.parquet").exists()


def test_a_truncated_and_an_absent_file(tmp_path: Path, cache: Path) -> None:
    folder = write_microlens(tmp_path / "m")
    path = folder / "item_feature.parquet"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match="truncated or damaged"):
        embed(folder, tmp_path / "e.parquet", cache, **RAW)
    path.unlink()
    with pytest.raises(DataError, match="is missing"):
        embed(folder, tmp_path / "e.parquet", cache, method="text")
    with pytest.raises(DataError, match="folder of covers is missing"):
        (folder / "item_images").rename(folder / "elsewhere")
        embed(folder, tmp_path / "e.parquet", cache, method="image")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "pca"}, "method"),
        ({"dim": 129}, "dim"),
        ({"dim": 7}, "must be even"),
        ({"text": {"library": "open_clip"}}, "set image.library open_clip"),
        ({"fields": []}, "fields"),
        ({"imagge": {}}, "did you mean 'image'"),
    ],
)
def test_configurations_that_cannot_be(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_config(EmbedConfig, settings, [], "test")


def test_an_open_clip_architecture_needs_weights(tmp_path: Path, cache: Path) -> None:
    folder = write_microlens(tmp_path / "m")
    with pytest.raises(ConfigError, match="needs weights"):
        embed(folder, tmp_path / "e.parquet", cache, image={"library": "open_clip", "model": "ViT-B-32"})
