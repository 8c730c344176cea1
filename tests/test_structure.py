"""Rules of the house that no type checker knows: who imports whom, what is never called, what every part has."""

import ast
import importlib
import inspect
import re
import subprocess
import typing
from pathlib import Path

import pytest

from common.config import Config, load_config
from track1_mdr.config import (
    CONFIG_FOLDER,
    BaseRouteConfig,
    FusionConfig,
    LearnedConfig,
    RerankConfig,
    RouteConfig,
    RunConfig,
    TaskConfig,
)
from track1_mdr.fusion.learned import find_model
from track1_mdr.rerank.base import Reranker
from track1_mdr.routes import ROUTES, build_route
from track1_mdr.routes.base import Environment, Route

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("common", "track1_mdr", "track2_mmctr")
CODE = (*PACKAGES, "data", "benchmarks", "tests")
LONGEST = 350
CONFIGS = sorted(path.stem for path in CONFIG_FOLDER.glob("*.yaml"))


def tracked() -> list[Path]:
    """The files of the project: tracked by git, or of a copy without git, everything but what is ignored there."""
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode == 0 and done.stdout:
        return [path for name in done.stdout.split("\0") if name and (path := ROOT / name).is_file()]
    return [path for folder in CODE if (ROOT / folder).is_dir() for path in (ROOT / folder).rglob("*.py")]


def sources() -> list[Path]:
    return [path for path in tracked() if path.suffix == ".py"]


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imports(tree: ast.AST) -> set[str]:
    """Every module that is imported anywhere in the file, late imports and importlib's included."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, "imports are absolute"
            found.add(node.module)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found |= set(re.findall(r"^(?:common|track1_mdr|track2_mmctr)(?:\.\w+)+$", node.value))
    return found


def forbidden(path: Path, tree: ast.AST) -> list[str]:
    """Calls and imports that the house does not have, with their lines."""
    faults: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            bad = {m.split(".")[0] for m in modules} & {"pickle", "cPickle", "dill", "joblib", "shelve", "marshal"}
            faults += [f"{name_of(path)}:{node.lineno}: import of {module}" for module in sorted(bad)]
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            options = {k.arg: ast.unparse(k.value) for k in node.keywords if k.arg}
            bad_call = (
                called in ("eval", "exec", "os.system", "os.popen", "compile", "torch.jit.load")
                or (called == "torch.load" and options.get("weights_only") != "True")
                or options.get("shell", "False") != "False"
                or options.get("allow_pickle", "False") != "False"
                or options.get("trust_remote_code", "False") != "False"
                or called.endswith((".read_pickle", ".to_pickle"))
                or (called == "yaml.load" and options.get("Loader") != "_StrictLoader")
            )
            if bad_call:
                faults.append(f"{name_of(path)}:{node.lineno}: {ast.unparse(node)[:80]}")
    return faults


PARSED = {path: ast.parse(path.read_text(encoding="utf-8")) for path in sources()}


def test_the_files_are_found() -> None:
    names = {name_of(path) for path in PARSED}
    assert {"common/errors.py", "track1_mdr/__main__.py", "data/make_sample.py"} <= names


@pytest.mark.parametrize(("package", "never"), [("common", ("track1_mdr", "track2_mmctr")), *[
    (own, (other,)) for own, other in (("track1_mdr", "track2_mmctr"), ("track2_mmctr", "track1_mdr"))
]])  # fmt: skip
def test_common_imports_no_track_and_the_tracks_not_each_other(package: str, never: tuple[str, ...]) -> None:
    faults = [
        f"{name_of(path)} imports {module}"
        for path, tree in PARSED.items()
        if name_of(path).startswith(f"{package}/")
        for module in imports(tree)
        if module.split(".")[0] in never
    ]
    assert faults == []


def test_nothing_that_ships_imports_tests_or_benchmarks() -> None:
    faults = [
        f"{name_of(path)} imports {module}"
        for path, tree in PARSED.items()
        if name_of(path).split("/")[0] in PACKAGES
        for module in imports(tree)
        if module.split(".")[0] in ("tests", "benchmarks", "data", "pytest")
    ]
    assert faults == []


def test_no_pickle_eval_shell_or_code_from_a_hub() -> None:
    """Tests may: some make a pickle to see it refused."""
    project = {path: tree for path, tree in PARSED.items() if not name_of(path).startswith("tests/")}
    assert [fault for path, tree in project.items() for fault in forbidden(path, tree)] == []


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from joblib import load",
        "eval('1')",
        "import torch\ntorch.load('x')",
        "import subprocess\nsubprocess.run('ls', shell=True)",
        "import numpy as np\nnp.load('x', allow_pickle=True)",
        "f(trust_remote_code=True)",
        "import yaml\nyaml.load(text)",
    ],
)
def test_the_search_finds_what_it_looks_for(line: str) -> None:
    assert len(forbidden(ROOT / "x.py", ast.parse(line))) == 1


def test_the_search_for_imports_sees_late_and_named_ones() -> None:
    tree = ast.parse('def f():\n    from track1_mdr.app import run\nX = {"a": "track2_mmctr.my_ranker"}')
    assert imports(tree) == {"track1_mdr.app", "track2_mmctr.my_ranker"}


# Written in parts, so that this file itself has none of them.
STARTS = ("/wo" + r"rk/", "/ho" + r"me/\w", "/ro" + r"ot\b", "/Us" + r"ers/\w")
MACHINE = re.compile("|".join(rf"(?<![\w.~<]){start}" for start in STARTS))


def test_no_path_of_one_machine_is_in_a_file() -> None:
    faults: list[str] = []
    for path in tracked():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # pictures, PDFs, parquet
        faults += [
            f"{name_of(path)}:{number}: {line.strip()[:80]}"
            for number, line in enumerate(text.splitlines(), start=1)
            if MACHINE.search(line)
        ]
    assert faults == []


def test_no_module_reads_the_environment_or_the_working_directory() -> None:
    """They enter at the top: `__main__` modules, benchmarks and tests."""
    faults = [
        f"{name_of(path)}:{node.lineno}"
        for path, tree in PARSED.items()
        if name_of(path).split("/")[0] in PACKAGES and path.name != "__main__.py"
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and ast.unparse(node) in ("os.environ", "os.getenv", "Path.cwd", "os.getcwd")
    ]
    assert faults == []


def test_files_stay_of_a_size_to_be_read() -> None:
    long = {
        name_of(path): lines
        for path in PARSED
        if name_of(path).split("/")[0] in PACKAGES and (lines := len(path.read_text().splitlines())) > LONGEST
    }
    assert long == {}


# --- configuration and the parts it names ---


def members(union: object) -> list[type[Config]]:
    """The models of an annotated union."""
    return list(typing.get_args(typing.get_args(union)[0]))


def type_of(model: type[Config]) -> str:
    (name,) = typing.get_args(model.model_fields["type"].annotation)
    return name


def test_every_route_type_has_a_class_and_every_class_a_type() -> None:
    assert {type_of(model) for model in members(RouteConfig)} == set(ROUTES)
    assert all(issubclass(model, BaseRouteConfig) for model in members(RouteConfig))


@pytest.mark.parametrize("kind", sorted(ROUTES))
def test_each_route_keeps_the_contract(kind: str) -> None:
    module, name = ROUTES[kind]
    route = getattr(importlib.import_module(module), name)
    assert list(inspect.signature(route).parameters)[:2] == ["config", "environment"]
    for method in ("fit", "score"):
        wanted = list(inspect.signature(getattr(Route, method)).parameters)
        assert list(inspect.signature(getattr(route, method)).parameters) == wanted


def test_rerankers_and_fusions_have_a_type_of_their_own() -> None:
    for union in (RerankConfig, FusionConfig):
        kinds = [type_of(model) for model in members(union)]
        assert len(set(kinds)) == len(kinds) > 1
    assert list(inspect.signature(Reranker.rerank).parameters) == ["self", "queries", "passages", "head"]


def tasks(config: RunConfig) -> list[TaskConfig]:
    return [task for task in (config.tasks.mmdocir, config.tasks.m2kr) if task is not None]


@pytest.mark.parametrize("name", CONFIGS)
def test_each_configuration_parses_names_itself_and_says_what_it_is(name: str) -> None:
    config = load_config(RunConfig, name, CONFIG_FOLDER)
    assert config.name == name
    assert len(config.about.split()) > 10
    assert tasks(config)


@pytest.mark.parametrize("name", CONFIGS)
def test_each_configuration_s_fusions_name_routes_that_run(name: str) -> None:
    for task in tasks(load_config(RunConfig, name, CONFIG_FOLDER)):
        running = {key for key, route in task.routes.items() if route is not None}
        rerankers = {key for key, one in task.rerank.items() if one is not None}
        for fusion, known in ((task.fusion, running), (task.final, running | rerankers)):
            if fusion is None:
                continue
            for field in ("weights", "bonus", "anchors"):
                assert set(getattr(fusion, field, {})) <= known
            if isinstance(fusion, LearnedConfig):
                assert (find_model(fusion.model) / "fusion.json").is_file()
        assert not running & rerankers, "a reranker under a route's name would hide its scores"


@pytest.mark.parametrize("name", CONFIGS)
def test_each_configuration_s_routes_build_where_their_weights_are_at_hand(name: str, tmp_path: Path) -> None:
    """Routes that need no weights, or weights that a package ships; the recipes' hub models are in test_recipes."""
    from common.encoders.packaged import PACKAGED

    built = 0
    for task in tasks(load_config(RunConfig, name, CONFIG_FOLDER)):
        for route in task.routes.values():
            if route is None or getattr(route, "model", None) not in (None, *PACKAGED):
                continue
            made = build_route(route, Environment(tmp_path))
            assert type(made).__name__ == ROUTES[route.type][1]
            built += 1
    assert built or name in ("ilearn", "gpu_is_all_you_need", "llmhunter")
