"""`embed_items`: the official layout by id, what is missing or broken, equal bytes, real posters and texts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.track2.item_files import COUNT, IDS, RAW, embed, vectors, write_microlens


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def test_the_official_layout(tmp_path: Path, cache: Path) -> None:
    folder, out, said = write_microlens(tmp_path / "m"), tmp_path / "e.parquet", []
    result = embed(folder, out, cache, said)
    table = pq.read_table(out)
    assert table.column_names == ["item_id", "item_tags", "item_emb_d128"]
    types = [table.schema.field(i).type for i in range(3)]
    assert types[0] == pa.int64() and types[1].value_type == pa.int64() and types[2].value_type == pa.float64()
    assert table["item_id"].to_pylist() == list(range(COUNT + 1))
    assert table["item_tags"].to_pylist() == [[i, 0] for i in range(COUNT + 1)]
    x = vectors(out)
    assert x.shape == (COUNT + 1, 128) and not x[0].any() and not x[:, 4:].any() and x[1:].any(axis=1).all()
    assert result.items == COUNT and result.missing == {"text": 0, "image": 0}
    assert np.sqrt((x[1:, :4] ** 2).mean()) == pytest.approx(0.25, rel=1e-5)
    assert any("random weights" in line for line in said) and said == result.notes


def test_rows_and_directory_in_another_order_give_the_same_vectors(tmp_path: Path, cache: Path) -> None:
    plain = write_microlens(tmp_path / "a")
    mixed = write_microlens(tmp_path / "b", order=np.random.default_rng(2).permutation(COUNT) + 1)
    for settings in ({}, RAW):
        one, two = tmp_path / "one.parquet", tmp_path / "two.parquet"
        embed(plain, one, cache, **settings)
        embed(mixed, two, cache, **settings)
        assert one.read_bytes() == two.read_bytes()


def test_each_row_holds_its_own_item(tmp_path: Path, cache: Path) -> None:
    """Swapping two items' covers swaps their rows of the image embedding, and nothing else."""
    folder = write_microlens(tmp_path / "m")
    embed(folder, tmp_path / "a.parquet", cache, method="image")
    images = folder / "item_images"
    first, second = (images / "3.png").read_bytes(), (images / "7.png").read_bytes()
    (images / "3.png").write_bytes(second)
    (images / "7.png").write_bytes(first)
    embed(folder, tmp_path / "b.parquet", cache, method="image")
    before, after = vectors(tmp_path / "a.parquet"), vectors(tmp_path / "b.parquet")
    swap = np.arange(COUNT + 1)
    swap[[3, 7]] = 7, 3
    np.testing.assert_allclose(after, before[swap], atol=1e-5)
    assert np.abs(before[3] - before[7]).max() > 1e-3


def test_texts_of_one_subject_are_neighbours(tmp_path: Path, cache: Path) -> None:
    folder = write_microlens(tmp_path / "m")
    embed(folder, tmp_path / "t.parquet", cache, method="text")
    x = vectors(tmp_path / "t.parquet")[1:]
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    cosines = x @ x.T - 9 * np.eye(COUNT)
    ids = np.arange(1, COUNT + 1)
    assert (ids[cosines.argmax(axis=1)] % 3 == ids % 3).all()


def test_ready_made_embeddings_are_read_from_either_file(tmp_path: Path, cache: Path) -> None:
    folder = write_microlens(tmp_path / "m")
    embed(folder, tmp_path / "a.parquet", cache, **RAW)
    table = pq.read_table(folder / "item_feature.parquet")
    pq.write_table(table.select(["item_id", "txt_emb_BERT", "img_emb_CLIPRN50"]), folder / "item_emb.parquet")
    pq.write_table(table.select(["item_id", "item_title"]), folder / "item_feature.parquet")
    embed(folder, tmp_path / "b.parquet", cache, **RAW)
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    text = np.array(table["txt_emb_BERT"].to_pylist())
    image = np.array(table["img_emb_CLIPRN50"].to_pylist())
    from sklearn.decomposition import PCA

    oracle = PCA(4, svd_solver="full").fit_transform(np.hstack([text, image]))
    made = vectors(tmp_path / "a.parquet")[1:, :4]
    oracle *= np.sign((oracle * made).sum(axis=0)) * np.sqrt((made**2).mean() / (oracle**2).mean())
    np.testing.assert_allclose(made, oracle, atol=1e-5)


def test_a_second_run_reads_the_cache_and_writes_the_same_bytes(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from common.encoders.timm_image import TimmImageEncoder

    folder = write_microlens(tmp_path / "m")
    embed(folder, tmp_path / "a.parquet", cache)
    calls: list[int] = []
    real = TimmImageEncoder.prepare
    monkeypatch.setattr(TimmImageEncoder, "prepare", lambda self, image: calls.append(1) or real(self, image))
    embed(folder, tmp_path / "b.parquet", cache)
    own = len(calls)  # the encoder looks at one blank image to learn its width
    assert own <= 1
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


def test_one_open_clip_model_gives_texts_and_covers_one_space(tmp_path: Path, cache: Path) -> None:
    from tests.common.test_image_encoder import write_tiny_clip

    folder = write_microlens(tmp_path / "m")
    model = {"library": "open_clip", "model": str(write_tiny_clip(tmp_path / "clip"))}
    for library, note in (("open_clip", False), ("sentence_transformers", True)):
        result = embed(
            folder, tmp_path / "e.parquet", cache, method="weighted_sum", image=model, text={"library": library}
        )
        assert any("no common space" in line for line in result.notes) == note
        assert vectors(tmp_path / "e.parquet")[1:].any(axis=1).all()


def test_contrastive_reads_the_training_histories(tmp_path: Path, cache: Path) -> None:
    folder = write_microlens(tmp_path / "m")
    rng = np.random.default_rng(3)
    rows = 40
    kind = rng.integers(0, 3, rows)
    pool = [[i for i in IDS if i % 3 == k] for k in range(3)]
    history = np.zeros((rows, 8), np.int64)
    for r in range(rows):
        history[r, -4:] = rng.permutation(pool[kind[r]])
    columns = {
        "user_id": np.arange(1, rows + 1),
        "item_seq": pa.array(history.tolist(), pa.list_(pa.int64())),
        "item_id": rng.integers(1, COUNT + 1, rows),
        "likes_level": np.ones(rows, np.int64),
        "views_level": np.ones(rows, np.int64),
        "label": rng.integers(0, 2, rows),
    }
    pq.write_table(pa.table(columns), folder / "MicroLens_1M_x1" / "train.parquet")
    settings = {
        "method": "contrastive",
        "contrastive": {"pairs": 400, "batch_size": 32, "epochs": 8},
        **{"source": "files"},
    }
    result = embed(folder, tmp_path / "e.parquet", cache, **settings)
    assert any("held-out users" in note for note in result.notes)

    def same_kind(path: Path) -> float:
        x = vectors(path)[1:]
        x /= np.linalg.norm(x, axis=1, keepdims=True)
        cosines, same = x @ x.T, np.subtract.outer(IDS, IDS) % 3 == 0
        off = ~np.eye(COUNT, dtype=bool)
        return float(cosines[same & off].mean() - cosines[~same].mean())

    embed(folder, tmp_path / "raw.parquet", cache, **RAW)
    assert same_kind(tmp_path / "e.parquet") > same_kind(tmp_path / "raw.parquet") + 0.3


def real_data() -> tuple[Path, Path]:
    root = Path(__file__).parents[3] / "shared" / "data"
    if not (root / "ml-100k-posters").is_dir():
        pytest.skip(f"no real data at {root}")
    return root / "ml-100k" / "u.item", root / "ml-100k-posters"


@pytest.mark.real
@pytest.mark.parametrize("method", ["text", "image"])
def test_neighbours_of_real_movies_share_genres(tmp_path: Path, cache: Path, method: str) -> None:
    """Nearest neighbours of 300 movies have a higher genre Jaccard than pairs drawn at random."""
    movies, posters = real_data()
    lines = movies.read_text(encoding="latin-1").splitlines()
    table = {int(p[0]): p for p in (line.split("|") for line in lines)}
    chosen = [i for i in sorted(table) if (posters / f"{i}.jpg").is_file()][:300]
    folder = tmp_path / "m"
    (folder / "item_images").mkdir(parents=True)
    texts: dict[int, str] = {}
    overviews = pl.read_csv(movies.parent / "items_with_overview.csv", infer_schema_length=None)
    for row in overviews.iter_rows(named=True):
        texts[int(row["movie_id"])] = row["overview"] or ""
    ids = np.arange(1, len(chosen) + 1)
    for new, old in zip(ids.tolist(), chosen, strict=True):
        (folder / "item_images" / f"{new}.jpg").write_bytes((posters / f"{old}.jpg").read_bytes())
    columns = {
        "item_id": ids,
        "item_tags": [[0]] * len(ids),
        "item_title": [table[i][1] for i in chosen],
        "item_overview": [texts.get(i, "") for i in chosen],
    }
    pq.write_table(pa.table(columns), folder / "item_feature.parquet")
    embed(folder, tmp_path / "e.parquet", cache, method=method, dim=128, image={})
    x = vectors(tmp_path / "e.parquet")[1:]
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    nearest = (x @ x.T - 9 * np.eye(len(x))).argmax(axis=1)
    genres = np.array([[int(g) for g in table[i][5:24]] for i in chosen], bool)

    def jaccard(other: np.ndarray) -> float:
        both = (genres & genres[other]).sum(axis=1)
        return float((both / np.maximum((genres | genres[other]).sum(axis=1), 1)).mean())

    rng = np.random.default_rng(0)
    random = np.array([jaccard(rng.permutation(len(x))) for _ in range(200)])
    print(f"{method}: nearest {jaccard(nearest):.3f}, random {random.mean():.3f} ± {random.std():.3f}")
    assert jaccard(nearest) > random.mean() + 4 * random.std()
