"""Milvus over an address: what is kept there, and what is said when nobody answers, or no longer."""

import socket
import time
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.errors import ConfigError, DataError
from common.index.build import IndexSettings, check_engine
from common.index.milvus_index import MilvusIndex
from common.index.milvus_server import Server, checked, shown
from tests.common.index.vectors import build, faiss, integers

pytest.importorskip("pymilvus", reason="Milvus is an extra: pip install -r requirements-cluster.txt")
pytest.importorskip("milvus_lite", reason="Milvus is an extra: pip install -r requirements-cluster.txt")

VECTORS, IDS = integers(300, 8, 0)


class Served:
    """A server on a port of this machine, to be stopped and started again."""

    def __init__(self, data: Path) -> None:
        self.data, self.port = data, 0
        self.start()

    def start(self) -> None:
        from milvus_lite.adapter.grpc.server import start_server_in_thread

        self._server, self._database, self.port = start_server_in_thread(str(self.data), port=self.port)

    def stop(self) -> None:
        self._server.stop(0).wait()
        self._database.close()

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def collections(self) -> list[str]:
        server = Server(self.uri)
        found = server.call("list_collections")
        server.close()
        return found


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    monkeypatch.setattr("common.index.milvus_server.CALL_SECONDS", 2.0)
    one = Served(tmp_path / "server")
    yield one
    one.stop()


def closed_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def test_a_server_answers_as_faiss_does_and_keeps_what_is_saved_only(served: Served, tmp_path: Path) -> None:
    index = build(tmp_path, VECTORS, IDS, uri=served.uri)
    expected = faiss(VECTORS, IDS).search(VECTORS[:5], 9)
    for one, other in zip(index.search(VECTORS[:5], 9), expected, strict=True):
        np.testing.assert_array_equal(one, other)
    passing = build(tmp_path, VECTORS, IDS, uri=served.uri)  # the same content at the same time
    assert len(served.collections()) == 2
    passing.close()
    assert len(served.collections()) == 1
    index.save(tmp_path / "saved")
    with pytest.raises(DataError, match="takes no more"):
        index.add(VECTORS[:1], np.asarray([10**6]))
    index.close()
    assert [name.startswith("mirc_saved_") for name in served.collections()] == [True]
    served.stop()
    with pytest.raises(ConfigError, match="no Milvus server answers"):
        MilvusIndex.load(tmp_path / "saved", work=tmp_path)
    served.start()
    again = MilvusIndex.load(tmp_path / "saved", work=tmp_path / "elsewhere")
    for one, other in zip(again.search(VECTORS[:5], 9), expected, strict=True):
        np.testing.assert_array_equal(one, other)
    again.close()
    assert len(served.collections()) == 1


@pytest.mark.parametrize(
    ("change", "got"), [("delete", "299 vectors"), ("replace", "other vectors"), ("drop", "no such")]
)
def test_a_saved_collection_that_was_changed_is_refused(served: Served, tmp_path: Path, change: str, got: str) -> None:
    index = build(tmp_path, VECTORS, IDS, uri=served.uri)
    index.save(tmp_path / "saved")
    index.close()
    server, (name,) = Server(served.uri), served.collections()
    if change == "drop":
        server.call("drop_collection", name)
    elif change == "delete":
        server.call("delete", name, ids=[int(IDS[0])])
    else:
        server.call("upsert", name, [{"id": int(one), "vector": VECTORS[0] + 1} for one in IDS])
    server.close()
    with pytest.raises(DataError, match=got):
        MilvusIndex.load(tmp_path / "saved", work=tmp_path)
    assert not [path for path in (tmp_path / "milvus").iterdir() if path.is_dir()]


def test_a_server_that_goes_away_is_one_error_and_nothing_is_half_written(served: Served, tmp_path: Path) -> None:
    index = build(tmp_path, VECTORS, IDS, uri=served.uri)
    index.search(VECTORS[:1], 1)
    served.stop()
    for call in (lambda: index.search(VECTORS[:1], 1), lambda: index.save(tmp_path / "saved")):
        with pytest.raises(DataError, match="has gone away"):
            call()
    assert not (tmp_path / "saved").exists()
    index.close()
    served.start()


def test_a_filling_that_was_cut_off_goes_on(served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, call, said = [0], Server.call, []

    def cut(self: Server, name: str, *arguments: Any, **options: Any) -> Any:
        calls[0] += name == "insert"
        if calls[0] == 3:
            served.stop()
        return call(self, name, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr("common.index.milvus_collection._BATCH_BYTES", 2000)
        patch.setattr(Server, "call", cut)
        with pytest.raises(DataError, match="has gone away"):
            build(tmp_path, VECTORS, IDS, uri=served.uri)
    served.start()
    index = build(tmp_path, VECTORS, IDS, uri=served.uri, say=said.append)
    assert said == ["milvus: 100 of 300 vectors are there from a run that was cut off"]
    np.testing.assert_array_equal(index.search(VECTORS[:5], 9)[1], faiss(VECTORS, IDS).search(VECTORS[:5], 9)[1])
    index.close()
    assert served.collections() == []


def test_nobody_at_the_address_is_said_soon_and_without_secrets(tmp_path: Path) -> None:
    start, uri = time.monotonic(), f"http://me:sesame@127.0.0.1:{closed_port()}"
    for call in (
        lambda: check_engine(IndexSettings.of("milvus", uri, "you:open")),
        lambda: MilvusIndex(4, work=tmp_path, uri=uri, token="you:open"),  # noqa: S106
    ):
        with pytest.raises(ConfigError, match="no Milvus server answers") as caught:
            call()
        assert "127.0.0.1" in str(caught.value)
        assert not any(secret in str(caught.value) for secret in ("sesame", "open", "me:"))
    assert time.monotonic() - start < 30


@pytest.mark.parametrize(
    "uri", ["", "localhost:19530", "ftp://localhost", "http://", "http://h:99999", "saved.db", "http://[x"]
)
def test_what_is_no_address_is_refused(uri: str) -> None:
    with pytest.raises(ConfigError, match="not the address"):
        checked(uri)
    assert "@" not in shown(f"http://me:sesame@{uri}")


def test_a_refused_token_is_said_and_not_shown() -> None:
    import grpc
    from pymilvus.grpc_gen import milvus_pb2_grpc

    class Guarded(milvus_pb2_grpc.MilvusServiceServicer):
        def Connect(self, request: Any, context: Any) -> None:
            sent = dict(context.invocation_metadata()).get("authorization", "")
            context.abort(grpc.StatusCode.UNAUTHENTICATED, f"auth check failure for sesame {sent}")

    server = grpc.server(futures.ThreadPoolExecutor(1))
    milvus_pb2_grpc.add_MilvusServiceServicer_to_server(Guarded(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with pytest.raises(ConfigError, match="refuses the token") as caught:
            Server(f"http://127.0.0.1:{port}", "root:sesame")
        assert "sesame" not in str(caught.value) and "MIRC_MILVUS_TOKEN" in str(caught.value)
    finally:
        server.stop(0)
