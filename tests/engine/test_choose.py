"""The options of an engine, what is missing for Ray, and addresses where no cluster answers."""

from __future__ import annotations

import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from common.engine.choose import open_engine
from common.engine.local import LocalEngine, cores
from common.engine.ray_session import connect, probe, require_ray
from common.errors import ConfigError


@contextmanager
def listener(answer: Callable[[socket.socket], object]) -> Iterator[str]:
    """Something that listens and does `answer` with whoever comes; its address."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()

        def serve() -> None:
            link, _ = server.accept()
            with link:
                answer(link)

        threading.Thread(target=serve, daemon=True).start()
        yield f"127.0.0.1:{server.getsockname()[1]}"


def closed_port() -> str:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{server.getsockname()[1]}"


def test_an_option_of_one_engine_is_refused_with_the_other() -> None:
    for address, workers, where in (("127.0.0.1:6379", None, "--ray-address"), (None, 2, "--workers")):
        with pytest.raises(ConfigError, match=where), open_engine("local", address, workers, processes=False):
            pass
    with open_engine("local", None, 3) as engine:
        assert isinstance(engine, LocalEngine) and engine.parallel(7) == 3 and not engine.spreads
    assert LocalEngine().parallel(7) == 7 and LocalEngine().parallel() == cores()


def test_without_ray_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"not installed[\s\S]*pip install -r requirements-cluster\.txt"):
        require_ray()
    with pytest.raises(ConfigError, match="not installed"), open_engine("ray", None, 2):
        pass


@pytest.mark.parametrize("address", ["auto", "ray://head:10001", "head", "head:0", ":6379", "head:port"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(ConfigError, match=r"not the address[\s\S]*HOST:PORT"):
        probe(address)


def test_an_address_where_no_cluster_answers_is_one_error_within_seconds() -> None:
    pytest.importorskip("ray", reason="needs Ray: pip install -r requirements-cluster.txt")
    started = time.monotonic()
    with pytest.raises(ConfigError, match="no Ray cluster answers"), connect(closed_port(), 2):
        pass
    with pytest.raises(ConfigError, match="no Ray cluster answers"), open_engine("ray", closed_port(), 2):
        pass
    with (
        listener(lambda link: link.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")) as address,
        pytest.raises(ConfigError, match="something else than Ray"),
    ):
        probe(address)
    with listener(lambda _: time.sleep(3)) as address, pytest.raises(ConfigError, match="timed out"):
        probe(address, seconds=0.3)
    with listener(lambda _: None) as address, pytest.raises(ConfigError, match="no Ray cluster answers"):
        probe(address)
    assert time.monotonic() - started < 20


def test_a_full_disk_is_one_error_before_a_cluster_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray", reason="needs Ray: pip install -r requirements-cluster.txt")
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1 << 30))
    with pytest.raises(ConfigError, match=r"too little disk[\s\S]*1\.2 GiB[\s\S]*1\.0 GiB free"), connect(None, 2):
        pass


def test_the_disk_that_counts_is_the_one_that_ray_writes_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray", reason="needs Ray: pip install -r requirements-cluster.txt")
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / "not" / "yet"))
    asked: list[Path] = []
    monkeypatch.setattr("shutil.disk_usage", lambda place: asked.append(place) or SimpleNamespace(free=0))
    with pytest.raises(ConfigError, match="not/yet"), connect(None, 2):
        pass
    assert asked == [tmp_path]
