"""`embed` with each representation method, end to end on planted raw embeddings, and what a ranker makes of it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from typer.testing import CliRunner, Result

import track2_mmctr.__main__ as cli
from common.config import load_config
from common.faults import FaultLog
from common.representation.table import read_features
from tests.common.tiny_models import write_sentence_transformer
from tests.processes import one_thread as one_thread
from track2_mmctr.batches import make_batch
from track2_mmctr.config import CONFIG_FOLDER, DataConfig, RunConfig
from track2_mmctr.datasets.microlens import load_data
from track2_mmctr.embeddings.encode import Tools
from track2_mmctr.embeddings.gather import gather
from track2_mmctr.embeddings.registry import METHODS, REPRESENTATIONS
from track2_mmctr.embeddings.represent import merged
from track2_mmctr.embeddings.represent_config import RepresentConfig
from track2_mmctr.rankers import build_ranker

SAMPLE = Path(__file__).parents[2] / "data" / "sample" / "microlens"
FAST = ["method.fit.epochs=1", "source=files"]
SETTINGS: dict[str, list[str]] = {
    "uniembedding": [*FAST, "method.dim=8", "method.hidden=8"],
    "ease": [
        *FAST,
        "modalities=[text, image]",
        "teacher=text",
        "method.modalities=[image]",
        "method.semantic.fit.epochs=1",
    ],
    "roma": [
        *FAST,
        "method.pretrain.epochs=1",
        "method.output=8",
        "method.max_words=8",
        "method.history=4",
        "method.scratch={dim: 16, layers: 3, heads: 2, feedforward: 16, positions: 32}",
    ],
    "uist": ["source=files"],
    "kar": [],
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample with raw embeddings: random, but for what is planted of the item's first tag."""
    folder = tmp_path_factory.mktemp("data")
    shutil.copytree(SAMPLE, folder / "microlens")
    path = folder / "microlens" / "item_feature.parquet"
    feature = pl.read_parquet(path)
    rng = np.random.default_rng(0)
    first = np.array([row[0] for row in feature["item_tags"].to_list()])
    for name, width in (("txt_emb_BERT", 12), ("img_emb_CLIPRN50", 10)):
        vectors = rng.normal(size=(first.max() + 1, width))[first] + 0.3 * rng.normal(size=(len(first), width))
        feature = feature.with_columns(pl.Series(name, vectors.astype(np.float32).tolist()))
    feature.write_parquet(path)
    return folder


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def text_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sentence_transformer(tmp_path_factory.mktemp("text"))


def call(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def embed(name: str, root: Path, out: Path, cache: Path, settings: list[str]) -> str:
    given = [part for one in settings for part in ("--set", one)]
    result = call("embed", "--method", name, "--data", root, "--out", out, "--cache", cache, "--device", "cpu", *given)
    assert result.exit_code == 0, result.output
    return result.output


def next_settings(output: str) -> list[str]:
    """The settings of the command that is to be typed next."""
    lines = [line for line in output.splitlines() if " run " in line]
    assert lines, output
    words = lines[-1].split()
    return [words[place + 1] for place, word in enumerate(words) if word == "--set"]


def check_ranker(settings: list[str], root: Path, cache: Path) -> tuple[RunConfig, torch.Tensor]:
    """Load the data as the next command would, and give some rows to DIN."""
    small = ["features.dim=4", "ranker.attention_units=[4]", "ranker.hidden_units=[8]"]
    config = load_config(RunConfig, "din", CONFIG_FOLDER, [*small, *settings])
    data = load_data(root / "microlens", DataConfig(), config.features, cache)
    torch.manual_seed(0)
    model = build_ranker(config.ranker, config.features, data.items).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2)
        logits = model(make_batch(data.splits["valid"], np.arange(30), 64))
    assert torch.isfinite(logits).all()
    return config, logits


@pytest.mark.parametrize("name", ["uniembedding", "ease", "roma"])
def test_methods_of_an_embedding_write_what_task_1_reads(name: str, root: Path, cache: Path, tmp_path: Path) -> None:
    first = tmp_path / "0.parquet"
    output = embed(name, root, first, cache, SETTINGS[name])
    table = pl.read_parquet(first)
    vectors = np.array(table["item_emb_d128"].to_list())
    assert vectors.shape[1] == 128 and not vectors[0].any() and vectors[1:].any(1).all()
    assert np.sqrt(np.square(vectors[1:][:, vectors[1:].any(0)]).mean()) < 2
    assert "task1 --embedding" in output and (tmp_path / "0.method" / "method.json").is_file()
    assert not list((cache / "track2" / "representation").glob("*")), "no state is left of a fit that ended"
    check_ranker([f"features.embedding={first}"], root, cache)


def test_the_same_seed_gives_the_same_file(root: Path, cache: Path, tmp_path: Path) -> None:
    made = []
    for number, seed in enumerate((7, 7, 8)):
        path = tmp_path / f"{number}.parquet"
        embed("uniembedding", root, path, cache, [*SETTINGS["uniembedding"], f"seed={seed}"])
        made.append(path.read_bytes())
    assert made[0] == made[1] != made[2]


def test_kar_writes_knowledge_of_items_and_users(root: Path, cache: Path, text_model: Path, tmp_path: Path) -> None:
    settings = [f"method.encoder.model={text_model}", "method.encoder.max_tokens=64", "method.prompts.history=2"]
    output = embed("kar", root, tmp_path / "k.parquet", cache, settings)
    assert "the filled template itself is the knowledge" in output and "known of the items: title" in output
    items, users = read_features(tmp_path / "k.parquet"), read_features(tmp_path / "k.users.parquet")
    assert items.columns["knowledge"].shape == (len(items.ids), 32) and "after" in users.columns
    assert items.about["encoders"] == users.about["encoders"]
    wanted = next_settings(output)
    config, logits = check_ranker(wanted, root, cache)
    assert config.features.knowledge.used
    changed = read_features(tmp_path / "k.users.parquet")
    order = np.random.default_rng(0).permutation(len(changed.ids))
    shuffled = {"knowledge": changed.columns["knowledge"][order], "after": changed.columns["after"]}
    type(changed)(changed.ids, shuffled, changed.about, "user_id").write(tmp_path / "k.users.parquet")
    _, other = check_ranker(wanted, root, cache)
    assert not torch.equal(logits, other), "other users' knowledge gives other logits"


def test_uist_writes_codes_for_the_hierarchical_mixture(root: Path, cache: Path, tmp_path: Path) -> None:
    output = embed("uist", root, tmp_path / "u.parquet", cache, SETTINGS["uist"])
    items, users = read_features(tmp_path / "u.parquet"), read_features(tmp_path / "u.users.parquet")
    assert items.columns["codes"].shape[1] == users.columns["codes"].shape[1] == 4
    assert items.about["version"] != users.about["version"] and "codebook_sizes" in output
    config, _ = check_ranker(next_settings(output), root, cache)
    assert config.features.hmi
    alone = embed("uist", root, tmp_path / "i.parquet", cache, [*SETTINGS["uist"], "method.parts=items"])
    assert not (tmp_path / "i.users.parquet").exists() and "hmi" not in alone
    check_ranker(next_settings(alone), root, cache)


def test_items_with_nothing_to_read_are_refused_or_get_the_mean(root: Path, cache: Path, tmp_path: Path) -> None:
    copy = tmp_path / "data"
    shutil.copytree(root, copy)
    path = copy / "microlens" / "item_feature.parquet"
    feature = pl.read_parquet(path)
    lost = feature["item_id"] == 5
    for name in ("txt_emb_BERT", "img_emb_CLIPRN50"):
        feature = feature.with_columns(pl.when(lost).then(None).otherwise(pl.col(name)).alias(name))
    feature.write_parquet(path)
    given = [part for one in SETTINGS["uniembedding"] for part in ("--set", one)]
    bad = call(
        "embed", "--method", "uniembedding", "--data", copy, "--out", tmp_path / "x.parquet", "--cache", cache, *given
    )
    assert bad.exit_code == 2 and "item 5" in bad.output and "allow_faults=1" in bad.output
    assert not (tmp_path / "x.parquet").exists()
    output = embed("uniembedding", copy, tmp_path / "y.parquet", cache, [*SETTINGS["uniembedding"], "allow_faults=1"])
    assert "1 items have no features of their own" in output
    vectors = np.array(pl.read_parquet(tmp_path / "y.parquet")["item_emb_d128"].to_list())
    others = np.delete(vectors[1:], 4, axis=0).mean(0)
    np.testing.assert_allclose(vectors[5], others, atol=1e-5)


def test_settings_that_do_not_exist_are_refused(root: Path, cache: Path, tmp_path: Path) -> None:
    def refused(name: str, *settings: str) -> str:
        given = [part for one in settings for part in ("--set", one)]
        result = call(
            "embed", "--method", name, "--data", root, "--out", tmp_path / "x.parquet", "--cache", cache, *given
        )
        assert result.exit_code == 2, result.output
        return result.output

    assert "did you mean --method uist" in refused("uits")
    assert "did you mean 'dim'" in refused("uniembedding", "source=files", "method.dims=3")
    assert "did you mean 'seed'" in refused("uniembedding", "sed=3")
    assert "only ease" in refused("uniembedding", "source=files", "teacher=text")
    assert "nothing teaches the Q-Former" in refused("ease", "source=files")
    assert "does not split the items" in refused("uniembedding", "source=files", "domains.by=tag", "domains.tag=9999")
    assert not (tmp_path / "x.parquet").exists()


def test_one_registry_names_all_methods() -> None:
    assert set(REPRESENTATIONS) == {"kar", "ease", "roma", "uniembedding", "uist"} < set(METHODS)
    for name, method in REPRESENTATIONS.items():
        assert method.load().kind == name


def gathered(root: Path, cache: Path, name: str = "uniembedding", **values: Any) -> Any:
    config = RepresentConfig.model_validate({"source": "files", **values})
    return gather(root / "microlens", REPRESENTATIONS[name], config, Tools(cache, "cpu", 1, FaultLog()), [])


@pytest.mark.parametrize("by", ["popularity", "tag"])
def test_domains_follow_the_stated_split(by: str, root: Path, cache: Path) -> None:
    found = gathered(root, cache, domains={"by": by})
    domains = found.items.domain_of
    assert len(found.items.domain_names) == 2 and 0 < domains.sum() < len(domains)
    if by == "popularity":
        counts = np.bincount(found.training.items, minlength=len(domains))
        assert counts[domains == 0].min() >= counts[domains == 1].max()
        assert abs(int(domains.sum()) * 2 - len(domains)) <= 1
    else:
        tag = int(found.items.domain_names[0].removeprefix("tag "))
        assert np.array_equal(domains == 0, [tag in row for row in found.catalogue.tags[1:]])


def test_nothing_of_valid_and_test_is_learnt_from(root: Path, cache: Path, tmp_path: Path) -> None:
    copy = tmp_path / "data"
    shutil.copytree(root, copy)
    before = gathered(root, cache)
    for name in ("valid", "test"):
        path = copy / "microlens" / "MicroLens_1M_x1" / f"{name}.parquet"
        table = pl.read_parquet(path)
        table.with_columns(item_seq=table["item_seq"].reverse()).write_parquet(path)
    after = gathered(copy, cache)
    for name in ("training", "described"):
        one, two = getattr(before, name), getattr(after, name)
        assert np.array_equal(one.items, two.items) and np.array_equal(one.users, two.users)
    assert len(gathered(root, cache, history={"users": "train"}).users) <= len(before.users)


def test_merged_settings_keep_the_methods_own_defaults() -> None:
    assert merged({"fit": {"epochs": 9, "figure": "score"}, "a": None}, {"fit": {"epochs": 2}, "a": {"b": 1}}) == {
        "fit": {"epochs": 2, "figure": "score"},
        "a": {"b": 1},
    }


def test_a_fit_that_was_interrupted_goes_on(
    root: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from common.representation.uniembedding.method import UniEmbedding

    settings = [*SETTINGS["uniembedding"], "method.fit.epochs=3", "seed=3"]
    original, calls, stop = UniEmbedding.loss, 0, 0

    def counted(self: UniEmbedding, batch: Any) -> dict[str, torch.Tensor]:
        nonlocal calls
        calls += 1
        if calls == stop:
            raise KeyboardInterrupt
        return original(self, batch)

    monkeypatch.setattr(UniEmbedding, "loss", counted)
    embed("uniembedding", root, tmp_path / "whole.parquet", cache, settings)
    whole, calls, stop = calls, 0, 2 * calls // 3
    given = [part for one in settings for part in ("--set", one)]
    arguments = ["embed", "--method", "uniembedding", "--data", root, "--cache", cache, *given]
    assert call(*arguments, "--out", tmp_path / "x.parquet").exit_code != 0
    assert list((cache / "track2" / "representation").glob("uniembedding-*")), "the state is kept"
    assert not (tmp_path / "x.parquet").exists()
    calls = stop = 0
    again = call(*arguments, "--out", tmp_path / "x.parquet")
    assert again.exit_code == 0, again.output
    assert 0 < calls < whole, "what was done is not done again"
    assert (tmp_path / "x.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()
