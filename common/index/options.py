"""The options of commands that search vectors."""

from __future__ import annotations

from typing import Annotated

import typer

IndexOption = Annotated[
    str, typer.Option("--index", help="What searches vectors: faiss, or milvus (milvus-lite in the process, or --uri)")
]
UriOption = Annotated[
    str | None,
    typer.Option("--uri", help="http://HOST:PORT of a Milvus server; its token, if any, in MIRC_MILVUS_TOKEN"),
]


def typed_again(index: str, uri: str | None) -> str:
    """Return the options as they are typed in a next command, without user and password."""
    from common.index.milvus_server import shown

    return (f" --index {index}" if index != "faiss" else "") + (f" --uri {shown(uri)}" if uri is not None else "")
