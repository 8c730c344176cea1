"""UniEmbedding (CIKM 2024): fit, transform, and the views of users."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from common.errors import DataError
from common.representation.base import Representation, Say, device_of
from common.representation.inputs import Behaviour, Items
from common.representation.table import FeatureTable
from common.representation.uniembedding.adapter import DomainAdapter, UserView
from common.representation.uniembedding.batches import PairBatch, PairBatches
from common.representation.uniembedding.config import UniEmbeddingConfig
from common.representation.uniembedding.losses import cosines, info_nce, view_cosines
from common.representation.uniembedding.pooling import Pooled, check_domains, pool_items
from common.training.fit import FitResult, fit_model

CHUNK = 8192
"""Items embedded at once."""
MIN_VALIDATION = 20
"""Fewer held-out users than this tell nothing: then training runs all its epochs."""


class UniEmbedding(Representation):
    """One embedding an item for all domains: domain-aware adapter, user-view projection, two contrastive losses.

    e_i = LN(sum_m alpha_m(dom) A_{m,dom}(x_i^m)); the view of user u is LN(e_i (1 + g_u) + b_u) with g_u, b_u of the
    mean of the user's other items; L = intra_weight InfoNCE_intra(views of two items of a user in one domain) +
    inter_weight InfoNCE_inter(e of two items of a user in two domains). In a batch an item that the anchor's user
    ever had is no negative. All candidates are seen through the anchor's user's view, which is made of other items
    than the pair; the mean is given to it, not learnt through (`history_gradient`).

    After the abstract of UniEmbedding (CIKM 2024), whose full text was not at hand: sizes, equations and sampling are
    our own specification, and no figure of the paper is claimed.
    """

    kind: ClassVar[str] = "uniembedding"
    config_type = UniEmbeddingConfig
    config: UniEmbeddingConfig
    result: FitResult | None = None
    """What the last `fit` came to: learning curve, seconds."""

    def build(self, state: dict[str, Any]) -> None:
        """Make the networks: `state` has `dims` (width by modality) and `domains` (their names)."""
        config = self.config
        self.adapter = DomainAdapter(
            state["dims"],
            len(state["domains"]),
            dim=config.dim,
            hidden=config.hidden,
            rank=config.rank,
            domain_aware=config.domain_aware,
            gate=config.gate,
        )
        self.user_view = UserView(config.dim, config.hidden) if config.view else None

    def fit(
        self,
        items: Items,
        behaviour: Behaviour | None,
        *,
        seed: int,
        device: str = "cpu",
        folder: Path | None = None,
        say: Say = print,
    ) -> Self:
        """Learn from items of one or more domains and histories that may mix them; see `Representation.fit`.

        Raises
        ------
        DataError
            No histories, or none with a pair that a loss needs; a domain with fewer than two items; an item without
            any of the modalities; a modality that is not there.
        """
        if behaviour is None:
            raise DataError("UniEmbedding learns from histories", expected="behaviour", got="none")
        behaviour.check(len(items))
        names = tuple(sorted(items.modalities)) if self.config.modalities is None else self.config.modalities
        dims = {name: items.modality(name, self.kind).dim for name in names}
        encoders = {name: encoder for name, encoder in self.remember_encoders(items).items() if name in dims}
        self.state = {"dims": dims, "domains": list(items.domain_names), "encoders": encoders, "seed": seed}
        pooled = self._pool(items)
        check_domains(items)
        train, held = self._split(behaviour, seed)
        batches = self._batches(pooled, train, seed)
        _tell(items, behaviour, batches, say)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.build(self.state)
        self._standardise(pooled)
        self.to(device)
        check = None if held is None else self._evaluation(pooled, held, seed, say)
        self.result = fit_model(
            self,
            batches,
            self.config.fit,
            key=self._key(),
            evaluate=check,
            seed=seed,
            device=device,
            folder=folder,
            say=say,
        )
        return self

    def loss(self, batch: PairBatch) -> dict[str, Tensor]:
        """Return the losses "intra", "inter" and "loss", their weighted sum."""
        config = self.config
        e = self.adapter(batch.vectors, batch.present, batch.domains)
        anchors, total, losses = e[batch.anchor], e.new_zeros(()), {}
        if config.intra_weight:
            similar = self._intra(e, anchors, e[batch.intra], batch)
            losses["intra"] = info_nce(similar, batch.count_intra, batch.has_intra, config.temperature)
            total = total + config.intra_weight * losses["intra"]
        if config.inter_weight:
            similar = cosines(anchors, e[batch.inter])
            losses["inter"] = info_nce(similar, batch.count_inter, batch.has_inter, config.temperature)
            total = total + config.inter_weight * losses["inter"]
        return losses | {"loss": total}

    def transform(self, items: Items, behaviour: Behaviour | None = None) -> FeatureTable:
        """Return `embedding` float32 [N, d], e_i: it depends on the item alone, `behaviour` is not read.

        All rows have the norm sqrt(d), so that dot products rank as cosines do.

        Raises
        ------
        DataError
            Another encoder or width than at `fit`; an unknown domain; an item without any modality.
        """
        about = {
            "method": self.kind,
            "encoders": self.state.get("encoders", {}),
            "seed": self.state.get("seed"),
            "bytes_per_item": 4 * self.config.dim,
        }
        return FeatureTable(items.ids, {"embedding": self.embed(items)}, about)

    @torch.no_grad()
    def embed(self, items: Items) -> np.ndarray:
        """Return e float32 [N, d] of items; see `transform`."""
        pooled, device, was = self._pool(items), device_of(self), self.training
        self.eval()
        out = np.empty((len(items), self.config.dim), np.float32)
        for start in range(0, len(items), CHUNK):
            rows = np.arange(start, min(start + CHUNK, len(items)))
            vectors, present, domains = pooled.take(rows)
            vectors = {name: value.to(device) for name, value in vectors.items()}
            out[rows] = self.adapter(vectors, present.to(device), domains.to(device)).cpu().numpy()
        self.train(was)
        return out

    def gates(self) -> np.ndarray:
        """Return alpha float32 [domains, modalities] of an item that has all modalities (of `state["dims"]`)."""
        count, device = len(self.state["domains"]), device_of(self)
        present = torch.ones(count, len(self.state["dims"]), dtype=torch.bool, device=device)
        return self.adapter.weights(present, torch.arange(count, device=device)).detach().cpu().numpy()

    @torch.no_grad()
    def view(self, items: Items, behaviour: Behaviour) -> FeatureTable:
        """Return `scale` and `shift`, float32 [U, d] each, of users: u sees item i as LN(e_i * scale + shift).

        `common.representation.uniembedding.losses` has `see` and, for many items, `view_cosines`.

        Raises
        ------
        DataError
            The method was fitted without views; a user without history; what `transform` raises.
        """
        if self.user_view is None:
            raise DataError(
                "this UniEmbedding has no user views", where="view", got="view=false", todo="fit it with view=true"
            )
        behaviour.check(len(items))
        lengths = behaviour.lengths
        if (lengths == 0).any():
            user = behaviour.users[int((lengths == 0).argmax())]
            raise DataError(
                "a user without history has no view",
                where=f"user {user}",
                got=f"{int((lengths == 0).sum())} such users",
                todo="leave them out: the embeddings of `transform` serve them",
            )
        e = self.embed(items).astype(np.float64)
        means = np.add.reduceat(e[behaviour.items], behaviour.offsets[:-1]) if len(behaviour) else e[:0]
        means = torch.from_numpy((means / lengths[:, None]).astype(np.float32))
        scale, shift = self.user_view(means.to(device_of(self)))
        about = {"method": self.kind, "encoders": self.state["encoders"], "seed": self.state["seed"]}
        columns = {"scale": scale.cpu().numpy(), "shift": shift.cpu().numpy()}
        return FeatureTable(behaviour.users, columns, about | {"bytes_per_user": 8 * self.config.dim}, "user_id")

    def _key(self) -> dict[str, Any]:
        config = self.config.model_dump(mode="json", exclude={"fit"})
        return {"kind": self.kind, "config": config, "state": self.state}

    def _intra(self, e: Tensor, anchors: Tensor, partners: Tensor, batch: PairBatch) -> Tensor:
        if self.user_view is None:
            return cosines(anchors, partners)
        known = batch.context_mask[:, :, None]
        count = known.sum(1)
        given = e if self.config.history_gradient else e.detach()
        means = (given[batch.context] * known).sum(1) / count.clamp_min(1)
        scale, shift = self.user_view(means)
        some = count > 0  # a user with nothing but the pair sees items as they are
        return view_cosines(anchors, partners, torch.where(some, scale, 1.0), torch.where(some, shift, 0.0))

    def _pool(self, items: Items) -> Pooled:
        """Check items against `state` and return them as the adapter reads them."""
        self.check_encoders(items)
        return pool_items(items, self.state["dims"], self.state["domains"])

    def _standardise(self, items: Pooled) -> None:
        """Set each modality's mean and overall scale, from the items that have it."""
        for column, (name, adapter) in enumerate(zip(self.adapter.names, self.adapter.adapters, strict=True)):
            x = items.vectors[name][items.present[:, column]].astype(np.float64)
            if not len(x):
                raise DataError("no item has this modality", where=name, todo="leave it out of `modalities`")
            mean = x.mean(0)
            size = float(np.sqrt(np.square(x - mean).mean()))
            adapter.mean.copy_(torch.from_numpy(mean))  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue]
            adapter.scale.fill_(size if size > 0 else 1.0)  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue]

    def _batches(self, items: Pooled, behaviour: Behaviour, seed: int) -> PairBatches:
        config = self.config
        return PairBatches(
            items,
            behaviour,
            intra=config.intra_weight > 0,
            inter=config.inter_weight > 0,
            window=config.window,
            history=config.history,
            batch_size=config.batch_size,
            seed=seed,
        )

    def _split(self, behaviour: Behaviour, seed: int) -> tuple[Behaviour, Behaviour | None]:
        """Return the users to learn from, and those held out to stop early (None: too few to tell anything)."""
        count = int(len(behaviour) * self.config.validation)
        if count < MIN_VALIDATION:
            return behaviour, None
        order = np.random.default_rng([seed, 1]).permutation(len(behaviour))
        return behaviour.take(np.sort(order[count:])), behaviour.take(np.sort(order[:count]))

    def _evaluation(self, items: Pooled, behaviour: Behaviour, seed: int, say: Say) -> Any:
        """Return what gives the score on held-out users: minus their loss on pairs that are the same each time."""
        try:
            batches = self._batches(items, behaviour, seed)
        except DataError as error:  # they have no pair of some kind, which is no fault of the data as a whole
            say(f"{len(behaviour):,} held-out users tell nothing ({error.what}): all epochs are run")
            return None
        plan = list(batches.epoch(0))

        def evaluate(model: UniEmbedding) -> dict[str, float]:
            device = device_of(model)
            found = [model.loss(batches.make(rows).to(device)) for rows in plan]
            means = {name: float(np.mean([one[name].item() for one in found])) for name in found[0]}
            return {"score": -means.pop("loss"), **means}

        return evaluate


def _tell(items: Items, behaviour: Behaviour, batches: PairBatches, say: Say) -> None:
    """Say how much there is to learn from, and which domains have nothing."""
    domain = batches.items.domains[batches.item]
    say(
        f"{len(batches.anchors):,} anchors an epoch in {len(batches)} batches: {int(batches.can_intra.sum()):,} with a "
        f"partner in their domain, {int(batches.can_inter.sum()):,} with one in another"
    )
    if empty := int((behaviour.lengths == 0).sum()):
        say(f"{empty:,} users have no history and are not learnt from")
    for number in np.setdiff1d(np.arange(len(items.domain_names)), np.unique(domain[batches.anchors])):
        say(f"domain {items.domain_names[number]!r} is in no pair: its items get what other domains have learnt")
