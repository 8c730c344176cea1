"""`tokenize`: what the file holds, that runs take it, and every way in which it can be wrong."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner, Result

import track2_mmctr.__main__ as cli
from common.config import make_config
from common.errors import ConfigError, DataError, UserError
from common.planted import additive_vectors
from common.tokenizers import load_quantizer
from common.tokenizers.files import SidFile, read_sids, write_sids
from tests.track2.ctr_files import edit, list_column, put, write_layout
from track2_mmctr.config import DataConfig, FeatureConfig, SidConfig
from track2_mmctr.datasets.microlens import find_folder, load_data
from track2_mmctr.datasets.semantic_ids import semantic_ids_of
from track2_mmctr.tokenize_config import TokenizeConfig
from track2_mmctr.tokenize_items import default_codes, tokenize_items

ITEMS = 120
SMALL = {"codebook_sizes": [8, 8]}
INFO = Path("MicroLens_1M_x1") / "item_info.parquet"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The official layout, with an additive embedding of two levels of eight codes."""
    root = tmp_path_factory.mktemp("layout") / "microlens"
    write_layout(root, items=ITEMS)
    x, _ = additive_vectors(ITEMS, dim=128, levels=2, codes=8, noise=0.02, seed=4)
    rows = np.concatenate([np.zeros((1, 128)), x])
    edit(root / INFO, lambda table: put(table, "item_emb_d128", list_column(rows, pa.float64())))
    return root


def config(**values: object) -> TokenizeConfig:
    return make_config(TokenizeConfig, SMALL | values, [], "test")


def test_the_file_holds_the_quantizers_codes_of_every_item(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "ids.parquet"
    made = tokenize_items(folder, config(), "auto", out, tmp_path / "quantizer")
    table = pq.read_table(out)
    assert table.column_names == ["item_id", "sid_0", "sid_1", "sid_2"]
    assert [str(field.type) for field in table.schema] == ["int64", "int32", "int32", "int32"]
    assert table["item_id"].to_pylist() == list(range(1, ITEMS + 1)), "the padding item has no row"
    x = np.stack([np.array(row) for row in pq.read_table(folder / INFO)["item_emb_d128"].to_pylist()])[1:]
    sids = np.stack([table[f"sid_{level}"].to_numpy() for level in range(3)], axis=1)
    np.testing.assert_array_equal(load_quantizer(tmp_path / "quantizer").encode(x.astype(np.float32)), sids[:, :2])
    assert len(np.unique(sids, axis=0)) == ITEMS
    file = read_sids(out)
    assert (file.sizes[:2], file.levels, file.version) == ((8, 8), 2, made.version)
    assert made.collisions.distinct == len(np.unique(sids[:, :2], axis=0)) < ITEMS


def test_codes_follow_the_planted_structure(folder: Path, tmp_path: Path) -> None:
    """Items of one first code are one planted cluster: the quantizer read the embedding and not the ids."""
    _, planted = additive_vectors(ITEMS, dim=128, levels=2, codes=8, noise=0.02, seed=4)
    tokenize_items(folder, config(), "auto", tmp_path / "ids.parquet")
    codes = read_sids(tmp_path / "ids.parquet").sids[:, 0]
    pure = sum(np.bincount(planted[codes == c, 0]).max() for c in np.unique(codes))
    assert pure / ITEMS > 0.85
    shuffled = np.random.default_rng(0).permutation(planted[:, 0])
    assert sum(np.bincount(shuffled[codes == c]).max() for c in np.unique(codes)) / ITEMS < 0.5


def test_same_seed_same_bytes_another_seed_another_version(folder: Path, tmp_path: Path) -> None:
    names = ("a", "b", "c")
    made = [
        tokenize_items(folder, config(seed=seed), "auto", tmp_path / name)
        for name, seed in zip(names, (1, 1, 2), strict=True)
    ]
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert made[0].version == made[1].version != made[2].version


def test_another_embedding_and_other_quantizers(folder: Path, tmp_path: Path) -> None:
    x, _ = additive_vectors(ITEMS, dim=12, levels=2, codes=4, seed=9)
    emb = {"item_id": np.arange(1, ITEMS + 1), "emb": list_column(x.astype(np.float64))}
    pq.write_table(pa.table(emb), tmp_path / "mine.parquet")
    made = tokenize_items(
        folder,
        config(codebook_sizes=[4, 4, 4], quantizer={"iterations": 7}, rank_codes=50),
        str(tmp_path / "mine.parquet"),
        tmp_path / "ids.parquet",
        tmp_path / "q",
    )
    assert made.sizes == (4, 4, 4, 50)
    fitted = load_quantizer(tmp_path / "q")
    assert fitted.dim == 12 and fitted.settings()["iterations"] == 7
    auto = tokenize_items(folder, TokenizeConfig(), "auto", tmp_path / "auto.parquet")
    assert auto.sizes[:3] == (8, 8, 8) and default_codes(ITEMS) == 8 and default_codes(10**6) == 256


@pytest.mark.parametrize(
    ("values", "embedding", "error"),
    [
        ({"codebook_sizes": [ITEMS + 1]}, "auto", DataError),
        ({"dedup": "raise"}, "auto", DataError),
        ({"rank_codes": 1}, "auto", ConfigError),
        ({"kind": "rq_kmean"}, "auto", ConfigError),
        ({"quantizer": {"iteration": 3}}, "auto", ConfigError),
        ({}, "none", ConfigError),
        ({}, "nowhere.parquet", ConfigError),
    ],
)
def test_what_cannot_be_done_is_refused_and_nothing_is_written(
    folder: Path, tmp_path: Path, values: dict[str, object], embedding: str, error: type[UserError]
) -> None:
    with pytest.raises(error):
        tokenize_items(folder, config(**values), embedding, tmp_path / "ids.parquet", tmp_path / "q")
    assert not (tmp_path / "ids.parquet").exists()


# ---- the file as a feature


def sid_file(**changes: object) -> SidFile:
    rng = np.random.default_rng(0)
    sids = np.stack(np.unravel_index(rng.permutation(512)[:ITEMS], (8, 8, 8)), axis=1).astype(np.int32)
    values = {"item_ids": np.arange(1, ITEMS + 1), "sids": sids, "sizes": (8, 8, 8), "version": "v1", "levels": 2}
    return SidFile(**(values | changes))  # pyright: ignore[reportArgumentType]


def features(path: Path, **sid: object) -> FeatureConfig:
    return FeatureConfig(semantic_ids=str(path), sid=SidConfig.model_validate(sid))


def test_the_item_table_takes_the_codes_by_id_and_its_digest_with_them(folder: Path, tmp_path: Path) -> None:
    path, file = tmp_path / "ids.parquet", sid_file()
    write_sids(path, file)
    edit(path, lambda table: table.take(np.random.default_rng(1).permutation(ITEMS)))  # rows in any order
    plain = load_data(folder, DataConfig(), FeatureConfig(), tmp_path / "cache").items
    items = load_data(folder, DataConfig(), features(path), tmp_path / "cache").items
    assert plain.semantic_ids is None and items.semantic_ids is not None
    np.testing.assert_array_equal(items.semantic_ids.codes[1:], file.sids[:, :2])  # without the rank level
    assert not items.semantic_ids.codes[0].any()
    assert items.semantic_ids.sizes == (8, 8) and items.semantic_ids.version == "v1"
    digests = {plain.digest, items.digest}
    for other in (features(path, levels=1), features(path, levels=3)):
        digests.add(load_data(folder, DataConfig(), other, tmp_path / "cache").items.digest)
    write_sids(path, sid_file(version="v2"))
    digests.add(load_data(folder, DataConfig(), features(path), tmp_path / "cache").items.digest)
    assert len(digests) == 5
    assert load_data(folder, DataConfig(), FeatureConfig(), tmp_path / "cache").items.digest == plain.digest


def test_a_row_for_the_padding_item_is_not_read(tmp_path: Path) -> None:
    file = sid_file()
    write_sids(tmp_path / "a", sid_file(item_ids=np.arange(ITEMS)))  # ids 0..N-1: item 0 has codes
    ids = semantic_ids_of(features(tmp_path / "a"), ITEMS)
    assert ids is not None and not ids.codes[0].any()
    np.testing.assert_array_equal(ids.codes[1:], file.sids[1:, :2])


@pytest.mark.parametrize(
    ("change", "sid", "error", "says"),
    [
        ({"item_ids": np.arange(2, ITEMS + 2)}, {}, DataError, str(ITEMS + 1)),
        ({"item_ids": np.arange(-1, ITEMS - 1)}, {}, DataError, "-1"),
        ({"item_ids": np.arange(1, ITEMS), "sids": sid_file().sids[1:]}, {}, DataError, f"none for item {ITEMS}"),
        ({"sizes": (8, 8, 7)}, {}, DataError, "outside its codebook"),
        ({}, {"version": "v0"}, DataError, "v0"),
        ({}, {"levels": 4}, ConfigError, "more levels"),
    ],
    ids=["unknown", "negative", "missing", "code", "version", "levels"],
)
def test_a_file_of_other_data_is_refused(
    tmp_path: Path, change: dict[str, object], sid: dict[str, object], error: type[UserError], says: str
) -> None:
    write_sids(tmp_path / "ids.parquet", sid_file(**change))
    with pytest.raises(error, match=says):
        semantic_ids_of(features(tmp_path / "ids.parquet", **sid), ITEMS + 1)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:200])


@pytest.mark.parametrize(
    "damage",
    [
        _cut,
        lambda path: path.write_bytes(b"no parquet"),
        lambda path: edit(path, lambda table: table.replace_schema_metadata(None)),
        lambda path: edit(path, lambda table: table.drop_columns(["sid_1"])),
        lambda path: edit(path, lambda table: put(table, "item_id", np.ones(ITEMS, np.int64))),
    ],
    ids=["cut", "other", "no version", "no level", "repeated"],
)
def test_a_damaged_file_is_refused(tmp_path: Path, damage: Callable[[Path], object]) -> None:
    path = tmp_path / "ids.parquet"
    write_sids(path, sid_file())
    damage(path)
    with pytest.raises(DataError, match=str(path)):
        semantic_ids_of(features(path), ITEMS + 1)


# ---- the command


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(cli, "ROOT", tmp_path / "home")
    monkeypatch.setenv("MIRC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "home"


def call(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments], env={"COLUMNS": "200"})


def test_the_command_writes_reports_and_says_how_to_go_on(home: Path, folder: Path, tmp_path: Path) -> None:
    result = call("tokenize", "--data", folder, "--set", "codebook_sizes=[8,8]")
    assert result.exit_code == 0, result.output
    out = home / "data" / "embeddings" / "semantic_ids.parquet"
    version = read_sids(out).version
    for part in ("items that collide", f"version {version}", f"--set features.semantic_ids={out} --data {folder}"):
        assert part in result.output, result.output
    tiny = ["train.epochs=1", "features.dim=4", "ranker.attention_units=[8]", "ranker.hidden_units=[8]", "device=cpu"]
    settings = [part for value in (f"features.semantic_ids={out}", *tiny) for part in ("--set", value)]
    run = call("run", "--config", "din", "--data", folder, *settings)
    assert run.exit_code == 0 and "AUC on valid" in run.output, run.output
    refused = call("run", "--config", "din", "--data", folder, *settings, "--set", "features.sid.version=feed")
    assert refused.exit_code == 2 and "another version" in refused.stderr and "Traceback" not in refused.output


def test_faults_are_one_block(home: Path, folder: Path) -> None:
    result = call("tokenize", "--data", find_folder(folder), "--set", "codebook_size=[8]")
    assert result.exit_code == 2 and "codebook_sizes" in result.stderr, result.output
    result = call("tokenize", "--data", folder, "--embedding", "none.parquet")
    assert result.exit_code == 2 and result.stderr.startswith("error: no such embedding"), result.output
    assert not (home / "data" / "embeddings").exists()
