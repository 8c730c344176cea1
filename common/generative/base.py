"""What a generative retriever is: a loss to train, answers by constrained decoding, files tied to an ID map."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from common.atomic import atomic_folder
from common.errors import DataError
from common.generative.beam import BeamResult, StepFn, constrained_beam_search, score_items
from common.generative.trie import PrefixTrie
from common.generative.vocabulary import Vocabulary
from common.hashing import file_digest
from common.training.fit import evaluating
from common.training.tensors import distinct

if TYPE_CHECKING:
    from common.tokenizers.semantic_ids import SemanticIdMap

FORMAT = "mirc-generator-1"
GENERATORS: dict[str, type[GenerativeRetriever]] = {}
"""Model classes by `kind`; a class enters it when its module is imported."""
KINDS: dict[str, str] = {
    "tiger": "common.generative.tiger",
    "sasrec": "common.generative.sasrec",
    "cart": "common.generative.cart",
    "eager": "common.generative.eager.system",
    "eager_llm": "common.generative.eager_llm.system",
    "store": "common.generative.store.system",
}
"""The module that brings each kind's class."""


class GenerativeRetriever(nn.Module):
    """Generates the semantic IDs of items; a subclass sets `kind` and gives `loss`, `begin` and `settings`.

    Parameters
    ----------
    id_map
        The IDs of the catalogue; item row i is `id_map.sids[i]`.
    """

    kind: ClassVar[str] = ""

    def __init__(self, id_map: SemanticIdMap) -> None:
        super().__init__()
        self.id_map = id_map
        self.vocabulary = Vocabulary(tuple(int(size) for size in id_map.sizes))
        tokens = torch.from_numpy(self.vocabulary.tokens(id_map.sids))
        self.register_buffer("item_tokens", tokens, persistent=False)
        self.item_tokens: Tensor
        self._trie: PrefixTrie | None = None

    def __init_subclass__(cls, **known: Any) -> None:
        super().__init_subclass__(**known)
        if cls.kind:
            GENERATORS[cls.kind] = cls

    def loss(self, batch: Any) -> dict[str, Tensor]:
        """Return the losses of a training batch, scalars; "loss" is the one to minimise."""
        raise NotImplementedError

    def begin(self, batch: Any) -> tuple[StepFn, int]:
        """Encode the queries of a batch; return the decoder's step function and the number of queries."""
        raise NotImplementedError

    def settings(self) -> dict[str, Any]:
        """Return the constructor's arguments but `id_map`, as JSON values: what `load` calls it with."""
        raise NotImplementedError

    @classmethod
    def build(cls, settings: dict[str, Any], id_map: SemanticIdMap) -> Self:
        """Return an untrained model of `settings()`."""
        raise NotImplementedError

    def kept(self) -> dict[str, Tensor]:
        """Return the weights that `save` writes: all of them."""
        return self.state_dict()

    def take(self, weights: dict[str, Tensor]) -> None:
        """Put the weights of `kept` in place; raise KeyError or RuntimeError where they do not fit."""
        self.load_state_dict(weights)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.item_tokens.device

    def trie(self) -> PrefixTrie:
        """Return the trie of the whole catalogue."""
        if self._trie is None:
            self._trie = PrefixTrie.from_sids(self.id_map.sids, self.vocabulary.sizes)
        return self._trie

    @torch.no_grad()
    def generate(self, batch: Any, trie: PrefixTrie, *, beam: int, top_k: int) -> BeamResult:
        """Return each query's best items of `trie` by constrained beam search, without dropout."""
        with evaluating(self):
            step, queries = self.begin(batch)
            return constrained_beam_search(step, trie, queries=queries, beam=beam, top_k=top_k, device=str(self.device))

    @torch.no_grad()
    def score(self, batch: Any, items: np.ndarray | Tensor, trie: PrefixTrie | None = None) -> Tensor:
        """Return the exact log-probability [B, K] of item rows int64 [B, K] among those of `trie` (None = all).

        It is what `generate` gives as the scores of these items.
        """
        with evaluating(self):
            step, _ = self.begin(batch)
            rows = torch.as_tensor(items, dtype=torch.int64, device=self.device)
            return score_items(step, self.trie() if trie is None else trie, rows)

    def save(self, folder: Path) -> None:
        """Write model.json and model.safetensors to `folder`, whole or not at all."""
        with atomic_folder(folder) as temporary:
            path = temporary / "model.safetensors"
            save_file(distinct(self.kept()), path)
            header = {
                "format": FORMAT,
                "kind": self.kind,
                "ids": self.id_map.version,
                "sizes": list(self.vocabulary.sizes),
                "settings": self.settings(),
                "sha256": file_digest(path),
            }
            (temporary / "model.json").write_text(json.dumps(header, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path, id_map: SemanticIdMap) -> Self:
        """Return the model saved in `folder`.

        `id_map` is the one that it was trained with, or one extended from it: the new items can be generated
        through the codes that they share with known ones.

        Raises
        ------
        DataError
            No model here, a damaged one, one of another kind, or IDs of another version.
        """
        header = read_header(folder)
        if header.get("kind") != cls.kind:
            raise DataError(
                "a model of another kind", where=folder / "model.json", expected=cls.kind, got=header.get("kind")
            )
        if header["ids"] not in id_map.versions or tuple(header["sizes"]) != tuple(id_map.sizes):
            raise DataError(
                "the model was trained with semantic IDs of another version: its codes mean other items",
                where=folder,
                expected=f"IDs of version {header['ids']}",
                got=f"{id_map.version} (made of {', '.join(id_map.versions)})",
                todo="load the IDs that the model was trained with, or train it again with these",
            )
        path = folder / "model.safetensors"
        try:
            if file_digest(path) != header["sha256"]:
                raise DataError("the model's file is not the one that was saved", where=path, todo=_again())
            model = cls.build(header["settings"], id_map)
            model.take(load_file(path))
        except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise DataError("the model is damaged", where=path, got=str(error).splitlines()[0], todo=_again()) from None
        return model.eval()


def load_generator(folder: Path, id_map: SemanticIdMap) -> GenerativeRetriever:
    """Return the model in `folder`, whichever of the known kinds it is; see `GenerativeRetriever.load`."""
    kind = read_header(folder).get("kind")
    if kind in KINDS and kind not in GENERATORS:
        importlib.import_module(KINDS[kind])  # it enters GENERATORS
    if kind not in GENERATORS:
        known = ", ".join(sorted(GENERATORS.keys() | KINDS.keys()))
        raise DataError("a model of an unknown kind", where=folder / "model.json", expected=known, got=kind)
    return GENERATORS[kind].load(folder, id_map)


def read_header(folder: Path) -> dict[str, Any]:
    """Return model.json of a saved model; raise `DataError` if there is none."""
    path = folder / "model.json"
    try:
        header = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError("no saved model here", where=path, got=str(error), todo=_again()) from None
    found = header.get("format") if isinstance(header, dict) else type(header).__name__
    if found != FORMAT or not {"kind", "ids", "sizes", "settings", "sha256"} <= header.keys():
        raise DataError("not a model of this program", where=path, expected=FORMAT, got=found, todo=_again())
    return header


def _again() -> str:
    return "train it again: python -m common.generative train ..."
