"""An OpenAI-compatible endpoint: every fault that a server can have, against one on the loopback."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from common.errors import ConfigError, DataError
from common.faults import FaultLog
from common.representation.kar.endpoint import EndpointConfig, EndpointSource
from common.representation.kar.knowledge import GatherConfig, gather
from common.representation.kar.prompts import Prompt
from common.representation.kar.sources import Answer, SourceStoppedError

Reply = Callable[["Handler", dict[str, Any]], None]


class Handler(BaseHTTPRequestHandler):
    """Answers by the replies that a test has put into the server, the last one again and again."""

    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.asked.append((self.path, body, self.headers.get("Authorization")))
            self.server.times.append(time.monotonic())
            reply = self.server.replies.pop(0) if len(self.server.replies) > 1 else self.server.replies[0]
        reply(self, body)

    def say(self, code: int, data: bytes, *, length: int | None = None, **headers: str) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(data) if length is None else length))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: object) -> None:
        """Stay quiet."""


class Server(ThreadingHTTPServer):
    """A server with what it was asked, and the replies to come."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.replies: list[Reply] = [good()]
        self.asked: list[tuple[str, dict[str, Any], str | None]] = []
        self.times: list[float] = []
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def handle_error(self, *args: object) -> None:
        """A client that gave up is no news."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    made = Server()
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()
    thread.join()


def completion(content: object, finish: object = "stop", **more: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": content} | more
    return {
        "choices": [{"index": 0, "message": message, "finish_reason": finish}],
        "usage": {"prompt_tokens": 11, "completion_tokens": 7},
    }


def good(text: str = "") -> Reply:
    """Reply with a text, by default with what was asked."""
    return lambda handler, body: handler.say(
        200, json.dumps(completion(text or f"of {body['messages'][-1]['content']}")).encode()
    )


def json_reply(value: object) -> Reply:
    return lambda handler, _: handler.say(200, json.dumps(value).encode())


def raw(code: int, data: bytes = b"", **options: Any) -> Reply:
    return lambda handler, _: handler.say(code, data, **options)


def source(server: Server, **options: Any) -> EndpointSource:
    key = options.pop("key", None)
    config = {"url": server.url, "model": "tiny", "first_wait": 0.01, "timeout": 5, "attempts": 3, "parallel": 1}
    return EndpointSource(EndpointConfig.model_validate(config | options), key)


def prompts(count: int = 1) -> list[Prompt]:
    return [Prompt("item", number, f"item {number}") for number in range(count)]


def only(server: Server, **options: Any) -> Answer:
    return source(server, **options).answer(prompts())[0]


def test_a_good_answer_with_its_tokens(server: Server) -> None:
    made = source(server, key="secret\n", system="Be brief.", max_tokens=50)
    assert made.answer(prompts(2)) == [Answer("of item 0", 11, 7, "stop"), Answer("of item 1", 11, 7, "stop")]
    path, body, key = server.asked[0]
    assert path == "/v1/chat/completions" and key == "Bearer secret"
    assert body == {
        "model": "tiny",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "item 0"}],
        "max_tokens": 50,
        "temperature": 0.0,
        "seed": 0,
    }
    assert "secret" not in json.dumps([made.name, made.settings, made.url])
    only(server, max_tokens_field="max_completion_tokens", temperature=None, seed=None)
    assert server.asked[-1][1].keys() == {"model", "messages", "max_completion_tokens"}
    assert server.asked[-1][2] is None


@pytest.mark.parametrize(
    ("first", "said"),
    [
        (raw(500, b"oops"), "HTTP 500"),
        (raw(503), "HTTP 503"),
        (raw(200, b"<html>busy</html>"), "not JSON: <html>busy"),
        (raw(200, b""), "the reply is empty"),
        (raw(200, b'{"choices": [{"mess'), "not JSON"),
        (raw(200, b'{"choices": [{"mess', length=900), "broke off"),
        (json_reply({"error": "no choices"}), "no chat completion"),
        (json_reply({"choices": []}), "no chat completion"),
        (json_reply([1, 2]), "no chat completion"),
        (json_reply({"choices": [{"message": None}]}), "no chat completion"),
        (raw(200, b"x" * (17 * 2**20)), "broke off"),
    ],
)
def test_a_damaged_reply_is_asked_again_and_then_fails(server: Server, first: Reply, said: str) -> None:
    server.replies = [first, good()]
    assert only(server).text == "of item 0"
    assert len(server.asked) == 2
    server.replies = [first]
    answer = only(server)
    assert said in answer.error and answer.text == "" and not answer.final
    assert len(server.asked) == 5


class Waits(threading.Event):
    """Notes the waits and does not wait."""

    made: list[float | None] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.made.append(timeout)
        return False


def test_waits_double_without_jitter(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(threading, "Event", Waits)
        made = source(server, first_wait=1, max_wait=5, attempts=6)
    server.replies = [raw(500)]
    made.answer(prompts())
    assert Waits.made == [1, 2, 4, 5, 5]
    made.stop()


def test_a_stop_ends_the_waits(server: Server) -> None:
    server.replies = [raw(500)]
    made = source(server, first_wait=60)
    threading.Timer(0.1, made.stop).start()
    started = time.monotonic()
    with pytest.raises(SourceStoppedError, match="stopped"):
        made.answer(prompts())
    assert time.monotonic() - started < 30
    made.start()
    server.replies = [good()]
    assert made.answer(prompts())[0].text == "of item 0"


@pytest.mark.parametrize("wait", ["0.3", "date"])
def test_retry_after_is_honoured(server: Server, wait: str) -> None:
    asked_for = formatdate(time.time() + 2, usegmt=True) if wait == "date" else wait
    server.replies = [raw(429, Retry_After=asked_for), good()]
    started = time.monotonic()
    assert only(server, first_wait=0).text == "of item 0"
    assert time.monotonic() - started >= 0.3
    server.replies = [raw(429, Retry_After="soon"), good()]  # it cannot be read: the usual wait
    assert only(server).text == "of item 0"


def test_a_rate_limit_that_lasts_stops_the_source(server: Server) -> None:
    server.replies = [raw(429, b"slow down", Retry_After="0.01")]
    with pytest.raises(SourceStoppedError, match="HTTP 429"):
        only(server)
    assert len(server.asked) == 3
    server.replies = [raw(429, Retry_After="3600")]
    with pytest.raises(SourceStoppedError, match="asks to wait 3,600 s"):
        only(server)


@pytest.mark.parametrize("code", [401, 403, 404, 302])
def test_what_no_retry_can_mend_stops_the_source_at_once(server: Server, code: int) -> None:
    server.replies = [raw(code, b"no such key", Location="/elsewhere")]
    with pytest.raises(SourceStoppedError, match=f"HTTP {code}") as caught:
        only(server, key="secret")
    assert len(server.asked) == 1 and "secret" not in str(caught.value)


@pytest.mark.parametrize("code", [400, 413, 422])
def test_a_prompt_that_is_refused_fails_alone_without_retries(server: Server, code: int) -> None:
    server.replies = [raw(code, b"too long"), good()]
    first, second = source(server).answer(prompts(2))
    assert f"HTTP {code}" in first.error and "too long" in first.error and second.text == "of item 1"
    assert len(server.asked) == 2


@pytest.mark.parametrize(
    ("reply", "finish", "said"),
    [
        (completion("", "content_filter"), "content_filter", "withheld"),
        (completion(None, "stop", refusal="I will not."), "refusal", "I will not."),
        (completion(None, "refusal"), "refusal", "withheld"),
        (completion("", "length"), "error", "empty (finish_reason length)"),
        (completion("  \n"), "error", "empty"),
        (completion({"odd": 1}), "error", "empty"),
    ],
)
def test_refusals_and_empty_answers_are_no_knowledge(
    server: Server, reply: dict[str, Any], finish: str, said: str
) -> None:
    server.replies = [json_reply(reply)]
    answer = only(server)
    assert answer.finish == finish and said in answer.error and answer.text == ""
    assert (answer.prompt_tokens, answer.completion_tokens) == (11, 7)
    assert answer.final == (finish != "error") and len(server.asked) == 1


def test_answers_that_are_cut_or_in_parts_or_without_usage(server: Server) -> None:
    server.replies = [json_reply(completion("half of", "length"))]
    assert only(server).finish == "length"
    server.replies = [json_reply(completion([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}, 3]))]
    assert only(server).text == "ab"
    for usage in (None, {}, {"prompt_tokens": "many", "completion_tokens": -1}):
        server.replies = [json_reply(completion("text") | {"usage": usage})]
        answer = only(server)
        assert answer.text == "text" and answer.prompt_tokens is None and answer.completion_tokens is None


def slow(seconds: float) -> Reply:
    def reply(handler: Handler, body: dict[str, Any]) -> None:
        time.sleep(seconds)
        good()(handler, body)

    return reply


def dripping(handler: Handler, body: dict[str, Any]) -> None:
    """Send a byte now and then: no single read takes long, the whole never ends."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    for _ in range(500):
        handler.wfile.write(b" ")
        handler.wfile.flush()
        time.sleep(0.05)


@pytest.mark.parametrize("reply", [slow(25.0), dripping])
def test_a_slow_endpoint_is_given_up_in_time(server: Server, reply: Reply) -> None:
    server.replies = [reply]
    started = time.monotonic()
    answer = only(server, timeout=0.2, attempts=2)
    assert "within 0.2 s" in answer.error and not answer.final
    assert time.monotonic() - started < 20


def test_an_endpoint_that_is_down_stops_the_source(server: Server) -> None:
    made = source(server)
    server.shutdown()
    server.server_close()
    with pytest.raises(SourceStoppedError, match="no connection"):
        made.answer(prompts())


def test_finished_answers_are_kept_when_the_endpoint_dies(server: Server, tmp_path: Path) -> None:
    server.replies = [good(), good(), good(), raw(403)]
    said: list[str] = []
    for parallel in (1, 2):
        folder = tmp_path / str(parallel)
        server.asked.clear()
        server.replies = [good(), good(), good(), raw(403)]
        with pytest.raises(SourceStoppedError, match="finished answers are kept"):
            gather(prompts(6), source(server, parallel=parallel), folder, say=said.append)
        kept = {json.loads(line)["id"] for line in next(folder.rglob("answers.jsonl")).read_text().splitlines()}
        assert len(kept) == 3
        server.asked.clear()
        server.replies = [good()]
        found = gather(prompts(6), source(server, parallel=parallel), folder, say=said.append)
        assert found.texts == [f"of item {number}" for number in range(6)]
        assert {body["messages"][0]["content"] for _, body, _ in server.asked} == {
            f"item {number}" for number in set(range(6)) - kept
        }


def test_many_requests_run_at_once_and_keep_their_order(server: Server, tmp_path: Path) -> None:
    together = threading.Barrier(4)  # no request is answered before four are there

    def reply(handler: Handler, body: dict[str, Any]) -> None:
        together.wait(timeout=60)
        time.sleep(0.01 * (int(body["messages"][0]["content"][5:]) % 3))
        good()(handler, body)

    server.replies = [reply]
    found = gather(prompts(24), source(server, parallel=4, timeout=60), tmp_path, say=lambda _: None)
    assert found.texts == [f"of item {number}" for number in range(24)]


def test_failures_of_single_prompts_are_recorded_and_asked_again(server: Server, tmp_path: Path) -> None:
    refusal = json_reply(completion(None, refusal="no"))
    server.replies = [raw(400), refusal, good()]
    faults = FaultLog()
    config = GatherConfig(allowed_failures=2, input_price=10, output_price=100)
    found = gather(prompts(3), source(server), tmp_path, config, faults=faults, say=lambda _: None)
    assert found.texts == [None, None, "of item 2"]
    assert [fault.item for fault in faults.faults] == ["item 0", "item 1"]
    assert (found.costs.prompt_tokens, found.costs.completion_tokens, found.costs.uncounted) == (22, 14, 1)
    assert found.costs.money == pytest.approx((22 * 10 + 14 * 100) / 1e6)
    server.asked.clear()
    with pytest.raises(DataError, match="item 1: the model refused: no"):
        gather(prompts(3), source(server), tmp_path, say=lambda _: None)
    assert len(server.asked) == 1  # the refusal is an answer; only the failed one is asked again


def test_an_endpoint_of_junk_is_given_up(server: Server, tmp_path: Path) -> None:
    server.replies = [good(), raw(200, b"junk")]
    config = GatherConfig(allowed_failures=1000, give_up_after=4)
    with pytest.raises(SourceStoppedError, match="4 times in a row"):
        gather(prompts(50), source(server, attempts=1), tmp_path, config, say=lambda _: None)
    assert len(server.asked) == 5


@pytest.mark.parametrize(
    "url", ["ftp://host/v1", "host:80", "http://", "https://a:b@host/v1", "http://h/v1?x=1", "http://h:x/v1", ""]
)
def test_odd_urls_are_refused_without_showing_a_password(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        EndpointSource(EndpointConfig(url=url, model="m"))
    assert "a:b" not in str(caught.value)


def test_keys_that_no_header_can_hold_are_refused_without_showing_them() -> None:
    config = EndpointConfig(url="http://h/v1", model="m")
    for key in ("one two", "two\nlines", "schlüssel", " "):
        with pytest.raises(ConfigError) as caught:
            EndpointSource(config, key)
        assert key.strip() == "" or key not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "asked"),
    [
        ("http://h:1", "http://h:1/v1/chat/completions"),
        ("http://h:1/", "http://h:1/v1/chat/completions"),
        ("https://h/v1/", "https://h/v1/chat/completions"),
        ("https://h/api/openai/v4", "https://h/api/openai/v4/chat/completions"),
        ("https://h/v1/chat/completions", "https://h/v1/chat/completions"),
    ],
)
def test_base_urls(given: str, asked: str) -> None:
    assert EndpointSource(EndpointConfig(url=given, model="m")).url == asked
