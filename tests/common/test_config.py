"""Strict configurations: every slip in a YAML file or override is an error that says what to do."""

from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field, ValidationError

from common.config import Config, apply_override, dump_config, flatten, load_config
from common.errors import ConfigError


class Small(Config):
    type: Literal["small"]
    weight: float = Field(0.5, ge=0, le=1)


class Large(Config):
    type: Literal["large"]
    layers: int = Field(2, ge=1)


class Inner(Config):
    batch_size: int = Field(8, ge=1)
    name: str | None = None


class Outer(Config):
    seed: int = 7
    inner: Inner = Inner()
    parts: dict[str, Annotated[Small | Large, Field(discriminator="type")]] = {}


def load(folder: Path, text: str, *overrides: str) -> Outer:
    (folder / "baseline.yaml").write_text(text, encoding="utf-8")
    return load_config(Outer, "baseline", folder, overrides)


def refused(folder: Path, text: str, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(folder, text, *overrides)
    return caught.value.block()


def test_values_defaults_and_overrides(tmp_path: Path) -> None:
    text = "seed: 3\ninner: {batch_size: 4}\nparts:\n  a: {type: small, weight: 0.25}\n  b: {type: large}\n"
    config = load(tmp_path, text, "inner.name='x y'", "parts.b.layers=5", "seed=11")
    assert (config.seed, config.inner.batch_size, config.inner.name) == (11, 4, "x y")
    assert config.parts == {"a": Small(type="small", weight=0.25), "b": Large(type="large", layers=5)}


@pytest.mark.parametrize("name", ["baseline", "baseline.yaml"])
def test_a_configuration_is_found_by_name_or_path(name: str, tmp_path: Path) -> None:
    load(tmp_path, "seed: 3")
    assert load_config(Outer, name, tmp_path).seed == 3
    other = tmp_path / "elsewhere" / "mine.yml"
    other.parent.mkdir()
    other.write_text("seed: 4")
    assert load_config(Outer, str(other), tmp_path).seed == 4


def test_an_unknown_name_is_refused_with_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "lexical.yaml").write_text("seed: 1")
    for name in ("lexcal", "lexcal.yaml"):
        with pytest.raises(ConfigError, match=r"did you mean --config lexical\?"):
            load_config(Outer, name, tmp_path)
    with pytest.raises(ConfigError, match="no configuration") as caught:
        load_config(Outer, "../lexical", tmp_path)
    assert "lexical" in caught.value.block()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sead: 3", "sead: unknown key; did you mean 'seed'?"),
        ("inner: {batchsize: 3}", "inner.batchsize: unknown key; did you mean 'batch_size'?"),
        ("parts:\n  a: {type: small, wieght: 1}", "unknown key; did you mean 'weight'?"),
        ("zzzzqqq: 3", "zzzzqqq: unknown key"),
        ("inner: {batch_size: 0}", "inner.batch_size: Input should be greater than or equal to 1, got 0"),
        ("parts:\n  a: {type: small, weight: 1.5}", "less than or equal to 1, got 1.5"),
        ("inner: {batch_size: many}", "got 'many'"),
        ("seed: [1]", "seed"),
        ("parts:\n  a: {type: medium}", "medium"),
        ("parts:\n  a: {weight: 1}", "parts.a"),
        ("seed: 3\nseed: 4", "key 'seed' is given twice"),
        ("inner:\n  name: a\n  name: b", "key 'name' is given twice"),
        ("- seed", "not a mapping"),
        ("", "not a mapping"),
        ("seed: [1", "not valid YAML"),
        ("seed: !!python/object/apply:os.getcwd []", "not valid YAML"),
    ],
)
def test_slips_are_refused_by_name(text: str, said: str, tmp_path: Path) -> None:
    block = refused(tmp_path, text)
    assert said in block
    assert "baseline.yaml" in block


def test_all_slips_are_named_at_once(tmp_path: Path) -> None:
    block = refused(tmp_path, "sead: 3\ninner: {batch_size: 0, nam: x}")
    assert all(piece in block for piece in ("sead", "inner.batch_size", "inner.nam"))


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "baseline.yaml").write_bytes(b"seed: \xff\xfe")
    with pytest.raises(ConfigError, match="not valid YAML"):
        load_config(Outer, "baseline", tmp_path)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("seed", "a.b=value"),
        ("=3", "a.b=value"),
        ("seed.deep=3", "'seed' in 'seed.deep' is not a section"),
        ("seed=[1", "not valid YAML"),
        ("inner.batchsize=3", "did you mean 'batch_size'?"),
        ("inner.batch_size=-3", "got -3"),
    ],
)
def test_wrong_overrides_are_refused(override: str, said: str, tmp_path: Path) -> None:
    assert said in refused(tmp_path, "seed: 3", override)


def test_an_override_keeps_equals_signs_of_its_value(tmp_path: Path) -> None:
    assert load(tmp_path, "seed: 3", "inner.name=a=b").inner.name == "a=b"


def test_configurations_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Outer().seed = 4  # type: ignore[misc]


def test_a_dump_reads_back_the_same(tmp_path: Path) -> None:
    config = load(tmp_path, "seed: 5\nparts:\n  é: {type: small}\n", "inner.name=null")
    text = dump_config(config)
    assert load(tmp_path, text) == config
    assert list(yaml.safe_load(text)) == ["seed", "inner", "parts"]
    assert "é" in text


keys = st.text("abc", min_size=1, max_size=3)
trees = st.recursive(st.integers(), lambda sub: st.dictionaries(keys, sub, min_size=1, max_size=3), max_leaves=8)


@settings(deadline=None)
@given(st.dictionaries(keys, trees, max_size=3))
def test_flat_keys_rebuild_the_tree(tree: dict[str, Any]) -> None:
    rebuilt: dict[str, Any] = {}
    for key, value in flatten(tree).items():
        apply_override(rebuilt, f"{key}={value}")
    assert rebuilt == tree
