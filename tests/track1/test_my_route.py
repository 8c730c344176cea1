"""The team's own route, as shipped and as teams change it."""

import sys
import types
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from common import own_code
from common.errors import ConfigError
from common.submission.mdr import read_submission
from tests.track1.text_tables import make_passages, make_queries, planted
from tests.track1.tiny_root import tiny_root
from track1_mdr import my_route
from track1_mdr.config import MyRouteConfig, RunConfig
from track1_mdr.datasets.tables import Candidates, Scored, top_k
from track1_mdr.my_route import MyRoute
from track1_mdr.pipeline import run
from track1_mdr.routes import build_route
from track1_mdr.routes.base import Environment


def route(**params: int) -> MyRoute:
    return MyRoute(MyRouteConfig(type="my_route", params=dict(params)), Environment(Path("unused")))


def test_a_page_scores_the_share_of_the_question_s_words_that_stand_on_it() -> None:
    built = route()
    built.fit(make_passages([("d", "Solar panels and roof"), ("d", "the solar eclipse"), ("d", "")]))
    (scored,) = built.score(make_queries([("SOLAR panels on a roof", "d")]), Candidates.everything(1, 3))
    assert scored.rows.tolist() == [0, 1, 2]
    assert scored.scores.tolist() == pytest.approx([1.0, 1 / 3, 0.0])


def test_params_reach_the_route() -> None:
    passages, queries = make_passages([("d", "a cat"), ("d", "a dog")]), make_queries([("cat", "d")])
    silent, heard = route(), route(min_length=3)
    for built in (silent, heard):
        built.fit(passages)
    assert len(silent.score(queries, Candidates.everything(1, 2))[0].rows) == 0
    assert heard.score(queries, Candidates.everything(1, 2))[0].scores.tolist() == [1.0, 0.0]


def test_it_stays_inside_the_candidates_and_keeps_the_contract() -> None:
    passages, queries, candidates, gold = planted()
    built = build_route(MyRouteConfig(type="my_route"), Environment(Path("unused")))
    built.fit(passages)
    results = built.score(queries, candidates)
    assert len(results) == len(queries)
    for scored, rows in zip(results, candidates.rows, strict=True):
        assert np.isin(scored.check("my_route", "q").rows, rows).all()
    assert int(top_k(results[0], 1).rows[0]) == gold[0]


def test_a_file_of_one_s_own_is_named_and_one_that_is_not_there_told(monkeypatch: pytest.MonkeyPatch) -> None:
    other = types.ModuleType("track1_mdr.my_other")
    monkeypatch.setattr(own_code, "find_spec", lambda name: name if name == other.__name__ else find_spec(name))
    monkeypatch.setitem(sys.modules, other.__name__, other)
    config = MyRouteConfig(type="my_route", file="my_other")
    with pytest.raises(ConfigError, match="lacks its class"):
        build_route(config, Environment(Path("unused")))
    monkeypatch.setattr(other, "MyRoute", TeamRoute, raising=False)
    assert type(build_route(config, Environment(Path("unused")))) is TeamRoute
    with pytest.raises(ConfigError, match="no such file") as error:
        build_route(MyRouteConfig(type="my_route", file="my_othr"), Environment(Path("unused")))
    assert error.value.expected == "one of: my_route"


@pytest.mark.parametrize("file", ["os", "my_route.py", "my_.x", "../my_route", "my_Route"])
def test_a_configuration_names_no_other_module(file: str) -> None:
    with pytest.raises(ValueError, match="should match pattern"):
        MyRouteConfig(type="my_route", file=file)


class TeamRoute(MyRoute):
    """What a team may write: an opinion about one page a question, none about the others."""

    def score(self, queries: object, candidates: Candidates) -> list[Scored]:
        return [Scored(rows[-1:], np.ones(1, np.float32)) for rows in candidates.rows]


def test_what_a_team_writes_there_is_what_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(my_route, "MyRoute", TeamRoute)
    settings = RunConfig.model_validate(
        {
            "name": "mine",
            "device": "cpu",
            "tasks": {
                "mmdocir": {
                    "routes": {"mine": {"type": "my_route"}, "bm25": {"type": "bm25"}},
                    "fusion": {"type": "zscore", "weights": {"bm25": 1.0}, "bonus": {"mine": 100.0}},
                }
            },
        }
    )
    root = tiny_root(tmp_path / "data")
    run(settings, root, tmp_path / "s.csv", Environment(tmp_path / "c"), tmp_path / "r", tmp_path, lambda _: None)
    rows = read_submission(tmp_path / "s.csv")
    assert [rows[i][0] for i in ("10000", "10002")] == ["5", "2"]
    assert rows["10000"][1] == "1"  # the other route still orders the rest
