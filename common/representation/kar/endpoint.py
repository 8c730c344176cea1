"""Knowledge from any OpenAI-compatible endpoint, by URL: POST {base}/chat/completions, with retries.

What happens to which fault:

- no connection, or 429 (rate limit), after the last retry; 401, 403, 404, a redirect: the source stops;
- 5xx, a time-out, a reply that is damaged, truncated or no chat completion: tried again, then this prompt fails, and
  the next run asks it again;
- other 4xx: this prompt fails at once;
- empty content: this prompt fails; content_filter or a refusal: it fails for good, kept as an answer that cost tokens.

Waits are first_wait · 2^attempt, without jitter, or what Retry-After asks for.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from http.client import HTTPException
from typing import Any, Literal
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from pydantic import Field

from common.config import Config
from common.errors import ConfigError
from common.representation.kar.prompts import Prompt
from common.representation.kar.sources import Answer, SourceStoppedError

LIMIT = 16 * 2**20
"""Bytes of a reply that are read; a longer one is damaged."""
_STOPS = {301, 302, 303, 307, 308, 401, 403, 404}


class EndpointConfig(Config):
    """What is asked of the endpoint, and how patiently."""

    url: str = Field(description="base URL, such as http://localhost:8000/v1")
    model: str = Field(min_length=1)
    system: str = Field(default="", description="system message; empty: none")
    max_tokens: int = Field(default=300, ge=1)
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    temperature: float | None = Field(default=0.0, ge=0, description="null: not sent")
    seed: int | None = Field(default=0, description="null: not sent")
    parallel: int = Field(default=4, ge=1, le=256, description="requests at once")
    timeout: float = Field(default=60.0, gt=0, description="seconds that a whole reply may take")
    attempts: int = Field(default=5, ge=1)
    first_wait: float = Field(default=1.0, ge=0, description="seconds before the second attempt; then twice as long")
    max_wait: float = Field(default=120.0, ge=0, description="a Retry-After beyond this stops the work")


@dataclass(frozen=True)
class _Fault:
    """Why an attempt failed; `stops` once the attempts are used up; `wait` seconds that the server asks for."""

    error: str
    stops: bool = False
    again: bool = True
    wait: float | None = None


class EndpointSource:
    """A chat model behind an OpenAI-compatible endpoint.

    Parameters
    ----------
    api_key
        Sent as a bearer token; kept in no file and no message.

    Raises
    ------
    ConfigError
        The URL is not http or https, or holds a password; a key that no header can hold.
    """

    batch_size = 1
    cached = True
    note = ""

    def __init__(self, config: EndpointConfig, api_key: str | None = None) -> None:
        self.config = config
        self.url = _completions(config.url)
        self.name = f"{config.model} at {config.url}"
        fields = {"system", "max_tokens", "max_tokens_field", "temperature", "seed"}
        self.settings: dict[str, Any] = config.model_dump(mode="json", include=fields)
        self.parallel = config.parallel
        self._headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if api_key:
            self._headers["Authorization"] = f"Bearer {_token(api_key)}"
        self._opener = build_opener(_NoRedirect)
        self._stopped = threading.Event()

    def answer(self, prompts: Sequence[Prompt]) -> list[Answer]:
        """Return the endpoint's answers; see the module for which faults stop the source."""
        return [self._ask(prompt.text) for prompt in prompts]

    def start(self) -> None:
        """Allow waits again after a `stop`."""
        self._stopped.clear()

    def stop(self) -> None:
        """End the waits before retries."""
        self._stopped.set()

    def _ask(self, text: str) -> Answer:
        messages = [{"role": "system", "content": self.config.system}] if self.config.system else []
        body: dict[str, Any] = {
            "model": self.config.model,
            "messages": [*messages, {"role": "user", "content": text}],
            self.config.max_tokens_field: self.config.max_tokens,
        }
        body |= {key: self.settings[key] for key in ("temperature", "seed") if self.settings[key] is not None}
        data = json.dumps(body).encode()
        for attempt in range(self.config.attempts):
            found = self._try(data)
            if isinstance(found, Answer):
                return found
            if not found.again or attempt + 1 == self.config.attempts:
                break
            self._wait(found, attempt)
        if found.stops:
            raise self._down(found.error)
        return Answer("", None, None, "error", found.error, final=False)

    def _try(self, data: bytes) -> Answer | _Fault:
        request = Request(self.url, data, self._headers, method="POST")  # noqa: S310 - the scheme was checked
        deadline = time.monotonic() + self.config.timeout
        try:
            with self._opener.open(request, timeout=self.config.timeout) as reply:
                return _read_answer(_body(reply, deadline))
        except HTTPError as error:
            with error:
                return self._refused(error)
        except TimeoutError:
            return _Fault(f"no whole reply within {self.config.timeout:g} s")
        except URLError as error:
            if isinstance(error.reason, TimeoutError):
                return _Fault(f"no connection within {self.config.timeout:g} s", stops=True)
            return _Fault(f"no connection: {error.reason}", stops=True)
        except (OSError, HTTPException) as error:
            return _Fault(f"the connection broke off: {type(error).__name__}")

    def _refused(self, error: HTTPError) -> _Fault:
        said = f"HTTP {error.code} {error.reason}{_message(error)}"
        if error.code == 429:
            return _Fault(said, stops=True, wait=_retry_after(error.headers.get("Retry-After")))
        if error.code >= 500:
            return _Fault(said, wait=_retry_after(error.headers.get("Retry-After")))
        return _Fault(said, stops=error.code in _STOPS, again=False)

    def _wait(self, fault: _Fault, attempt: int) -> None:
        seconds = min(self.config.first_wait * 2**attempt, self.config.max_wait)
        if fault.wait is not None:
            if fault.wait > self.config.max_wait:
                raise self._down(f"{fault.error}; it asks to wait {fault.wait:,.0f} s")
            seconds = fault.wait
        if self._stopped.wait(seconds):
            raise self._down("stopped while waiting to ask again")

    def _down(self, error: str) -> SourceStoppedError:
        return SourceStoppedError(
            "the endpoint does not answer",
            where=self.url,
            expected="an OpenAI-compatible POST /chat/completions",
            got=error,
            todo="check the URL, the key and the server, then give the same command again: finished answers are kept",
        )


class _NoRedirect(HTTPRedirectHandler):
    """Follows no redirect: it would take the key to another place, and turn POST into GET."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


def _token(key: str) -> str:
    """Return the key without the line end that a file gives it; a message of `http.client` would show an odd one."""
    token = key.strip()
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise ConfigError(
            "the API key cannot be sent", expected="printable ASCII without spaces", got="other characters"
        )
    return token


def _completions(url: str) -> str:
    parts = urlsplit(url)
    try:
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # a port that is no number
        usable = False
    if not usable or parts.query or parts.fragment:
        raise ConfigError("this is no base URL", where="url", expected="such as https://host/v1", got=parts.scheme)
    if parts.username or parts.password:
        raise ConfigError("the URL holds a name or password", where="url", todo="give the key as the API key")
    path = parts.path.rstrip("/")
    if not path.endswith("/chat/completions"):
        path = f"{path or '/v1'}/chat/completions"
    return f"{parts.scheme}://{parts.netloc}{path}"


def _body(reply: Any, deadline: float) -> bytes:
    """Read a reply whole; a server that drips bytes is cut off at the deadline."""
    parts, size = [], 0
    while part := reply.read1(65536):
        parts.append(part)
        size += len(part)
        if time.monotonic() > deadline:
            raise TimeoutError
        if size > LIMIT:
            raise HTTPException(f"more than {LIMIT} bytes")
    if reply.length:  # read1 does not complain where a body ends before its Content-Length
        raise HTTPException("the reply ends early")
    return b"".join(parts)


def _read_answer(data: bytes) -> Answer | _Fault:
    try:
        reply = json.loads(data)
    except ValueError:
        return _Fault("the reply is empty" if not data.strip() else f"the reply is not JSON: {_short(data)}")
    try:
        choice = reply["choices"][0]
        message = choice["message"]
        content, refusal = message.get("content"), message.get("refusal")
        finish = str(choice.get("finish_reason") or "stop")
    except (KeyError, IndexError, TypeError, AttributeError):
        return _Fault(f"the reply is no chat completion: {_short(data)}")
    usage = reply.get("usage")
    used = [_count(usage, name) for name in ("prompt_tokens", "completion_tokens")]
    if refusal or finish in ("content_filter", "refusal"):
        why = f"the model refused: {refusal}" if refusal else f"the answer was withheld: finish_reason {finish}"
        return Answer("", *used, finish="refusal" if refusal else finish, error=why)
    text = _text(content).strip()
    if not text:
        return Answer("", *used, finish="error", error=f"the answer is empty (finish_reason {finish})", final=False)
    return Answer(text, *used, finish=finish)


def _text(content: Any) -> str:
    """Return a message's text; some servers give a list of parts."""
    if isinstance(content, list):
        return "".join(part["text"] for part in content if isinstance(part, dict) and isinstance(part.get("text"), str))
    return content if isinstance(content, str) else ""


def _count(usage: Any, name: str) -> int | None:
    value = usage.get(name) if isinstance(usage, dict) else None
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _message(error: HTTPError) -> str:
    try:
        data = error.read(4096)
    except (OSError, HTTPException):
        return ""
    return f": {_short(data)}" if data.strip() else ""


def _short(data: bytes) -> str:
    return " ".join(data.decode("utf-8", "replace").split())[:200]


def _retry_after(value: str | None) -> float | None:
    """Return the seconds of a Retry-After header, a number or a date; None where there is none that can be read."""
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None
