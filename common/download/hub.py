"""Data sets of the Hugging Face hub."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from urllib.parse import quote

from common.download.net import Attempts, Hints, Remote, SourceError, Transient
from common.download.parts import Found, Offer
from common.download.source import HttpSource, Setup


class HubSource(HttpSource):
    """A data set of the Hugging Face hub: listed by its client, with sizes and SHA-256, at one commit."""

    def __init__(self, offer: Offer, setup: Setup) -> None:
        super().__init__(offer, setup)
        self._files: list[Found] | None = None

    def files(self) -> Sequence[Found]:
        """See `Source`."""
        if self._files is None:
            attempts = Attempts(self.setup.net, self.setup.say)
            while self._files is None:
                try:
                    self._files = self._list()
                except Transient as fault:
                    attempts.failed(fault)
        return self._files

    def _list(self) -> list[Found]:
        from huggingface_hub import HfApi
        from huggingface_hub.hf_api import RepoFile

        api = HfApi(endpoint=self.setup.hub, token=self.setup.token or False)
        with self._errors():
            info = api.dataset_info(self.offer.address, timeout=self.setup.net.read)
            self.revision = info.sha or "main"
            entries = api.list_repo_tree(
                self.offer.address, recursive=True, revision=self.revision, repo_type="dataset"
            )
            return [
                Found(entry.path, entry.size, None if entry.lfs is None else entry.lfs.sha256)
                for entry in entries
                if isinstance(entry, RepoFile)
            ]

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn the client's errors into ours."""
        from huggingface_hub import errors

        page = f"{self.setup.hub}/datasets/{self.offer.address}"
        where, todo = self.offer.title, "check the network, then run the same command"
        try:
            yield
        except errors.OfflineModeIsEnabled:
            raise SourceError("the hub is switched off", where=where, got="HF_HUB_OFFLINE", todo="unset it") from None
        except errors.GatedRepoError:
            raise SourceError("access is granted by the owner", where=where, todo=_gate(page)) from None
        except errors.RepositoryNotFoundError:
            raise SourceError("no such data set, or a private one", where=where, got=page, todo=_gate(page)) from None
        except errors.HfHubHTTPError as error:
            status = error.response.status_code
            if status in (401, 403):
                raise SourceError("the hub refuses access", where=where, got=status, todo=_gate(page)) from None
            raise Transient(SourceError("the hub is in trouble", where=where, got=status, todo=todo)) from None
        except (errors.HTTPError, OSError) as error:  # pyright: ignore[reportPrivateImportUsage]
            got = type(error).__name__
            raise Transient(SourceError("the hub cannot be reached", where=where, got=got, todo=todo)) from None

    def remote(self, file: Found) -> Remote:
        """See `HttpSource`."""
        address, page = self.offer.address, f"{self.setup.hub}/datasets/{self.offer.address}"
        return Remote(
            PurePosixPath(file.name).name,
            f"{page}/resolve/{quote(self.revision, safe='')}/{quote(file.name)}",
            f"hub {address} {file.name}",
            file.size,
            file.sha256,
            {"Authorization": f"Bearer {self.setup.token}"} if self.setup.token else {},
            Hints(login=_gate(page), rules=_gate(page)),
        )


def _gate(page: str) -> str:
    return f"open {page} in a browser, log in and accept its conditions; then `hf auth login`, or set HF_TOKEN"
