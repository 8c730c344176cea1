"""Learned fusion: LightGBM LambdaMART over all routes' scores, ranks and query features.

Fitted with folds by document: each fold's model has never seen the documents that it holds out. A document
of the training set is scored by the one model that held it out, any other document by the mean of all
models, so that no question is ever scored by a model trained on its document.

Source: Burges, "From RankNet to LambdaRank to LambdaMART: An Overview", MSR-TR-2010-82, 2010.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

import numpy as np

from common.atomic import atomic_folder
from common.errors import ConfigError, DataError
from common.hashing import digest
from track1_mdr.config import Coverage
from track1_mdr.datasets.tables import Passages, Queries, Scored, TaskTables
from track1_mdr.fusion.features import FeatureBuilder
from track1_mdr.fusion.pool import Pool, RouteScores

if TYPE_CHECKING:
    import lightgbm as lgb

MODEL_FOLDER = Path(__file__).parent / "models"
PARAMETERS: dict[str, Any] = {
    "objective": "lambdarank",
    "num_leaves": 7,
    "learning_rate": 0.05,
    "min_data_in_leaf": 60,
    "feature_fraction": 0.5,
    "bagging_fraction": 0.7,
    "bagging_freq": 1,
    "bagging_by_query": True,
    "lambda_l2": 10.0,
    "lambdarank_truncation_level": 10,
    "deterministic": True,
    "force_row_wise": True,
    "num_threads": 1,
    "verbose": -1,
}
"""Small trees, strong shrinkage, monotone in the evidence: there are hundreds of questions, not millions."""
ROUNDS = 200


def find_model(name: str) -> Path:
    """Return the folder of a fitted fusion: a path, or a name in `models/` beside this file."""
    for folder in (MODEL_FOLDER / name, Path(name)):
        if (folder / "fusion.json").is_file():
            return folder
    known = sorted(path.parent.name for path in MODEL_FOLDER.glob("*/fusion.json"))
    raise ConfigError(
        f"no fitted fusion {name!r}",
        expected=f"a folder with fusion.json, or one of: {', '.join(known) or 'none shipped'}",
        todo="fit one: python -m track1_mdr fit --help",
    )


def document_key(name: str) -> str:
    """Return how a document is named in a fitted model: by digest, so that no data is shipped with it."""
    return digest("document", name)[:16]


def assign_folds(documents: Sequence[str], folds: int, seed: int) -> dict[str, int]:
    """Assign each distinct document to one of `folds` folds of nearly equal size, shuffled by `seed`."""
    names = sorted(set(documents))
    if len(names) < folds:
        raise DataError(
            "too few documents to hold any out", expected=f"at least {folds} documents with gold", got=len(names)
        )
    order = np.random.default_rng(seed).permutation(len(names))
    return {names[place]: number % folds for number, place in enumerate(order)}


@dataclass(frozen=True)
class LearnedFusion:
    """A fitted fusion: one booster per fold, and which fold held out which document.

    Attributes
    ----------
    boosters
        One LightGBM model per fold.
    coverage
        The routes it was fitted on, in order, and what the scores of each mean.
    held_out
        `document_key` -> the fold whose model has not seen the document.
    provenance
        Data, parameters and out-of-fold figures of the fit, for the reader.
    """

    boosters: tuple[lgb.Booster, ...]
    coverage: Mapping[str, Coverage]
    held_out: Mapping[str, int]
    provenance: Mapping[str, Any]

    @classmethod
    def fit(
        cls,
        scores: RouteScores,
        tables: TaskTables,
        *,
        coverage: Mapping[str, Coverage],
        folds: int,
        seed: int,
        provenance: Mapping[str, Any],
    ) -> LearnedFusion:
        """Fit on the queries whose gold is known; the others are not looked at.

        Raises
        ------
        DataError
            Fewer documents with gold than folds.
        """
        gold = tables.gold_rows()
        known = {query: rows for query, rows in enumerate(gold) if rows is not None}
        documents = tables.queries.table["doc_name"].to_list()
        fold_of = assign_folds([documents[query] for query in known], folds, seed)
        builder = FeatureBuilder.of(tables.queries, tables.passages, coverage)
        parts: list[tuple[int, np.ndarray, np.ndarray]] = []
        for query, rows in known.items():
            pool = Pool.of(scores, query)
            if not len(pool.rows):  # no route says anything: there is nothing to order
                continue
            parts.append((fold_of[documents[query]], builder.build(pool, query), np.isin(pool.rows, rows)))
        names, monotone = builder.names(list(scores)), builder.monotone(list(scores))
        boosters = tuple(
            _train([part for part in parts if part[0] != fold], names, monotone, seed + fold) for fold in range(folds)
        )
        held_out = {document_key(name): fold for name, fold in sorted(fold_of.items())}
        facts = {"questions": len(known), "documents": len(fold_of), "folds": folds, "seed": seed, "rounds": ROUNDS}
        return cls(
            boosters,
            {route: coverage[route] for route in scores},
            held_out,
            {**facts, "parameters": PARAMETERS, **provenance},
        )

    def check_routes(self, routes: Iterable[str]) -> None:
        """Raise `ConfigError` unless these are the routes of the fit, in order."""
        given = tuple(routes)
        if given != tuple(self.coverage):
            raise ConfigError(
                "the learned fusion was fitted on other routes",
                expected=", ".join(self.coverage),
                got=", ".join(given),
                todo="fit it again for these routes: python -m track1_mdr fit --help; or use fusion type zscore",
            )

    def fuse(self, scores: RouteScores, queries: Queries, passages: Passages) -> list[Scored]:
        """Return one ranking per query.

        Raises
        ------
        ConfigError
            The routes differ from those of the fit: its features would mean something else.
        """
        self.check_routes(scores)
        builder = FeatureBuilder.of(queries, passages, self.coverage)
        results: list[Scored] = []
        for query, document in enumerate(queries.table["doc_name"]):
            pool = Pool.of(scores, query)
            if not len(pool.rows):
                results.append(Scored.empty())
                continue
            features = builder.build(pool, query)
            fold = self.held_out.get(document_key(document))
            chosen = self.boosters if fold is None else (self.boosters[fold],)
            predicted = np.mean([np.asarray(booster.predict(features, num_threads=1)) for booster in chosen], axis=0)
            results.append(Scored(pool.rows, np.asarray(predicted, dtype=np.float32)))
        return results

    def importance(self) -> dict[str, float]:
        """Return each feature's share of the total gain over all boosters, largest first."""
        names = self.boosters[0].feature_name()
        gain = np.sum([booster.feature_importance("gain") for booster in self.boosters], axis=0)
        shares = dict(zip(names, (gain / max(gain.sum(), 1e-12)).tolist(), strict=True))
        return dict(sorted(shares.items(), key=lambda item: -item[1]))

    def save(self, folder: Path) -> None:
        """Write `fusion.json` and one LightGBM text model per fold: all readable, nothing pickled."""
        texts = [booster.model_to_string() for booster in self.boosters]
        record = {
            "routes": dict(self.coverage),
            "features": self.boosters[0].feature_name(),
            "importance": {name: round(share, 4) for name, share in list(self.importance().items())[:15]},
            "provenance": self.provenance,
            "held_out": self.held_out,
            "sha256": [_checksum(text) for text in texts],
        }
        with atomic_folder(folder) as temporary:
            for fold, text in enumerate(texts):
                (temporary / f"fold{fold}.txt").write_text(text, encoding="utf-8")
            (temporary / "fusion.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> LearnedFusion:
        """Read a folder that `save` wrote; raise `DataError` when it is damaged."""
        import lightgbm as lgb

        try:
            record = json.loads((folder / "fusion.json").read_text(encoding="utf-8"))
            held_out = {str(key): int(fold) for key, fold in record["held_out"].items()}
            texts = [_read_checked(folder / f"fold{fold}.txt", wanted) for fold, wanted in enumerate(record["sha256"])]
            if not texts or not all(0 <= fold < len(texts) for fold in held_out.values()):
                raise ValueError(f"held_out names other folds than the {len(texts)} that are there")
            boosters = tuple(lgb.Booster(model_str=text) for text in texts)
            return cls(boosters, _read_coverage(record["routes"]), held_out, record["provenance"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError, lgb.basic.LightGBMError) as error:
            raise DataError(
                "the fitted fusion cannot be read",
                where=folder,
                expected="fusion.json and one fold*.txt per fold, as `fit` writes them",
                got=f"{type(error).__name__}: {error}",
                todo="fit it again: python -m track1_mdr fit --help",
            ) from error


def _read_coverage(routes: Mapping[str, str]) -> dict[str, Coverage]:
    known = get_args(Coverage)
    wrong = [scale for scale in routes.values() if scale not in known]
    if wrong:
        raise ValueError(f"a route's scale is {wrong[0]!r}, not one of {', '.join(known)}")
    return {route: cast("Coverage", scale) for route, scale in routes.items()}


def _checksum(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def _read_checked(path: Path, wanted: str) -> str:
    """Return a model's text; LightGBM ends the whole process on one that is cut short, so that it is checked first."""
    text = path.read_text(encoding="utf-8")
    if _checksum(text) != wanted:
        raise ValueError(f"{path.name} is not the file that was written (SHA-256 differs)")
    return text


def _train(
    parts: Sequence[tuple[int, np.ndarray, np.ndarray]], names: list[str], monotone: list[int], seed: int
) -> lgb.Booster:
    import lightgbm as lgb

    data = lgb.Dataset(
        np.vstack([features for _, features, _ in parts]),
        np.concatenate([labels for _, _, labels in parts]).astype(np.int32),
        group=[len(labels) for _, _, labels in parts],
        feature_name=names,
    )
    parameters = {**PARAMETERS, "monotone_constraints": monotone, "seed": seed}
    return lgb.train(parameters, data, ROUNDS)
