"""What several files of tests share: two runs on tiny data, made once."""

import pytest

from tests.track2.report_runs import Made, make_runs


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Runs to be looked at; whoever changes one copies it first."""
    return make_runs(tmp_path_factory.mktemp("report"))
