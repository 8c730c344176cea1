"""`embed` and `tokenize`: what is made of the items before a ranker is trained."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from common.engine.choose import AddressOption, EngineOption, WorkersOption, open_engine
from track2_mmctr.options import CacheOption, DataOption, DebugOption, SetOption


@dataclass(frozen=True)
class ItemsPlace:
    """What the two commands take from the top.

    Attributes
    ----------
    data_root, cache_folder
        From an option to a folder.
    default_out
        From a name and a data root to the file that is written.
    api_key
        The key of an endpoint that `kar` asks.
    reported, say
        Turn errors into one block; print a line.
    """

    data_root: Callable[[Path | None], Path]
    cache_folder: Callable[[Path | None], Path]
    default_out: Callable[[str, Path], Path]
    api_key: Callable[[], str | None]
    reported: Callable[[bool], AbstractContextManager[None]]
    say: Callable[[str], None]


def add_items(app: typer.Typer, place: ItemsPlace) -> None:
    """Add the commands to the command line."""

    @app.command()
    def embed(
        method: Annotated[
            str,
            typer.Option(
                "--method",
                "-m",
                help="joint_pca, pca_concat, whitening, weighted_sum, contrastive, text, image; kar, ease, roma, "
                "uniembedding, uist",
            ),
        ] = "pca_concat",
        data: DataOption = None,
        out: Annotated[Path | None, typer.Option("--out", help="[default: data/embeddings/<method>.parquet]")] = None,
        overrides: SetOption = None,
        cache: CacheOption = None,
        device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps")] = "auto",
        engine: EngineOption = "local",
        ray_address: AddressOption = None,
        workers: WorkersOption = None,
        debug: DebugOption = False,
    ) -> None:
        """Encode titles and covers and fuse them into 128-d item embeddings, in the layout of item_info.parquet.

        ease, roma and uniembedding learn such an embedding; kar writes knowledge vectors of items and users, uist
        semantic tokens of both, and each prints how a ranker reads them. Their own settings: --set method.NAME=VALUE.
        An endpoint that kar asks gets the key in MIRC_API_KEY.

        Example: python -m track2_mmctr embed --method pca_concat --data data/sample --out data/embeddings/mine.parquet
        """
        from track2_mmctr.app import embed_to

        with place.reported(debug):
            root, kept = place.data_root(data), place.cache_folder(cache)
            target = out or place.default_out(method, root)
            with open_engine(engine, ray_address, workers, processes=False) as chosen:
                embed_to(method, overrides or [], root, target, kept, device, place.say, place.api_key(), chosen)

    @app.command()
    def tokenize(
        data: DataOption = None,
        out: Annotated[
            Path | None, typer.Option("--out", help="[default: data/embeddings/semantic_ids.parquet]")
        ] = None,
        embedding: Annotated[
            str, typer.Option("--embedding", help="official = item_emb_d128 of item_info; or a parquet of `embed`")
        ] = "official",
        overrides: SetOption = None,
        quantizer: Annotated[
            Path | None, typer.Option("--quantizer", help="Folder to save the fitted quantizer in as well")
        ] = None,
        engine: EngineOption = "local",
        ray_address: AddressOption = None,
        workers: WorkersOption = None,
        debug: DebugOption = False,
    ) -> None:
        """Fit a quantizer on the items' embedding and write their semantic IDs, a feature of every ranker.

        Settings: kind, codebook_sizes, dedup, rank_codes, seed, quantizer.NAME (the quantizer's own arguments).

        Example: python -m track2_mmctr tokenize --data data/sample --set codebook_sizes=[16,16,16]
        """
        from track2_mmctr.app import tokenize_to

        with place.reported(debug):
            root = place.data_root(data)
            target = out or place.default_out("semantic_ids", root)
            source = "auto" if embedding == "official" else embedding
            with open_engine(engine, ray_address, workers, processes=False) as chosen:
                tokenize_to(overrides or [], root, source, target, quantizer, place.say, chosen)
