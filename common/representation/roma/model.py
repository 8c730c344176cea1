"""The layer-cake: bottom blocks that read items, top blocks that read users, and the two losses of pre-training."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from common.errors import ConfigError
from common.representation.roma.adapters import AdaptedOutput, MixtureOfAdapters, ModalityLora, Route, Router
from common.representation.roma.batches import RomaBatch, WindowBatch
from common.representation.roma.config import RomaConfig
from common.representation.roma.item_inputs import ItemInputs
from common.representation.roma.plm import blocks_of

Stage = Literal["pretrain", "finetune", "saved"]


class RomaNet(nn.Module):
    """A BERT-like encoder cut in two.

    An item is [CLS] v_1..v_P w_1..w_T with v = W_v patch; the bottom blocks map it to h = h_[CLS]. A user is the h of
    the last items plus learnt positions; the top blocks, causal, map them to s at each item. L = V-MLM + lambda UIC
    (facts 2.2 [I]).

    Parameters
    ----------
    plm
        The encoder; taken over and changed: its blocks get adapters.
    mask_id
        Token id of [MASK].
    vision
        Width of a patch; None: no vision.
    patch_scale
        Patches are divided by it: their root mean square at fit.
    domains
        Number of domains.
    """

    def __init__(
        self, plm: nn.Module, config: RomaConfig, *, mask_id: int, vision: int | None, patch_scale: float, domains: int
    ) -> None:
        super().__init__()
        blocks = blocks_of(plm, config.plm)
        self.config, self.mask_id, self.patch_scale, self.domains = config, mask_id, patch_scale, domains
        self.cut = len(blocks) - config.top
        if self.cut < 1:
            raise ConfigError("no block is left for items", where="top", expected=f"1..{len(blocks) - 1}")
        self.route = Route()
        self.plm = plm
        words = self.words.weight
        self.dim = words.shape[1]
        self.vision = None if vision is None else nn.Linear(vision, self.dim)
        if self.vision is not None and vision is not None:
            nn.init.normal_(self.vision.weight, std=float(words.detach().std()) * vision**-0.5)  # as large as a word
            nn.init.zeros_(self.vision.bias)
        self.mlm_head = nn.Sequential(nn.Linear(self.dim, self.dim), nn.GELU(), nn.LayerNorm(self.dim))
        self.mlm_bias = nn.Parameter(torch.zeros(len(words)))
        self.positions = nn.Parameter(torch.randn(config.history, self.dim) * 0.02)
        self.item_head = nn.Linear(self.dim, config.output)
        self.user_head = nn.Linear(self.dim, config.output)
        self._add_adapters(blocks)

    def _add_adapters(self, blocks: nn.ModuleList) -> None:
        config = self.config
        for number, block in enumerate(blocks):
            if number >= self.cut:
                router = None
                if config.adapters == "mixture":
                    known = self.domains if config.router_domain else 0
                    router = Router(self.dim, config.experts, known, config.domain_dim)
                adapters = MixtureOfAdapters(self.dim, config.experts, config.bottleneck, router)
                block.output = AdaptedOutput(block.output, adapters, self.route)  # pyright: ignore[reportArgumentType]
            elif config.lora:
                attention: Any = block.attention.self  # pyright: ignore[reportAttributeAccessIssue]
                for name in ("query", "value"):
                    base = getattr(attention, name)
                    setattr(attention, name, ModalityLora(base, config.lora_rank, config.lora_alpha, self.route))

    @property
    def most_tokens(self) -> int:
        """The most tokens of an item: the language model's positions, less those it keeps for padding (RoBERTa)."""
        table: Any = self.plm.embeddings.position_embeddings  # pyright: ignore[reportAttributeAccessIssue]
        return table.num_embeddings - (0 if table.padding_idx is None else table.padding_idx + 1)

    @property
    def words(self) -> nn.Embedding:
        """The language model's word embeddings."""
        return self.plm.embeddings.word_embeddings  # pyright: ignore[reportAttributeAccessIssue, reportReturnType]

    def learn(self, stage: Stage) -> None:
        """Switch on the gradient of what a stage trains ("saved": of what any stage has trained), off the rest's.

        Pre-training "whole" trains the language model and the new parts (W_v, word head, positions, projections)
        with the adapters at zero; "peft" the adapters and the new parts. Fine-tuning trains LoRA, the mixture and its
        router alone, and those new parts that pre-training had no loss for.
        """
        config = self.config
        whole = config.pretrain is not None and config.pretrain_part == "whole"
        new = {"vision", "mlm_head", "mlm_bias", "positions", "item_head", "user_head"}
        done: set[str] = set()
        if config.pretrain is not None:
            done |= {"vision"} | ({"mlm_head", "mlm_bias"} if config.vmlm else set())
            done |= {"positions", "item_head", "user_head"} if config.uic else set()
        late = new - done - {"mlm_head", "mlm_bias"}
        adapters = self._adapter_names()
        for name, value in self.named_parameters():
            kind = name.split(".")[0]
            if name in adapters:
                lora = ".output." not in name
                learnt = not whole if stage == "pretrain" else stage == "saved" or config.finetune_items or not lora
            elif kind in new:
                learnt = stage == "saved" or (kind in done if stage == "pretrain" else kind in late)
            else:
                learnt = (whole and stage == "pretrain") or (stage == "saved" and (whole or config.scratch is not None))
            value.requires_grad_(learnt)

    def bottom_learns(self) -> bool:
        """Whether the h of items changes in the stage that `learn` was called for."""
        plm: Any = self.plm
        own: list[nn.Module] = [plm.embeddings, *plm.encoder.layer[: self.cut]]
        own += [] if self.vision is None else [self.vision]
        return any(value.requires_grad for module in own for value in module.parameters())

    def _adapter_names(self) -> set[str]:
        found: set[str] = set()
        for name, module in self.named_modules():
            if isinstance(module, MixtureOfAdapters):
                found |= {f"{name}.{own}" for own, _ in module.named_parameters()}
            elif isinstance(module, ModalityLora):
                found |= {f"{name}.down", f"{name}.up"}
        return found

    def read(self, inputs: ItemInputs, words: Tensor | None = None) -> Tensor:
        """Return the states of the bottom blocks, [B, 1 + P + T - 1, d]; `words` stand in for those of `inputs`."""
        embedded = self.words(inputs.words if words is None else words)
        real, vision = inputs.word_mask, torch.zeros_like(inputs.word_mask)
        if self.vision is not None and inputs.patches is not None and inputs.patch_mask is not None:
            patches = self.vision(inputs.patches / self.patch_scale)
            embedded = torch.cat([embedded[:, :1], patches, embedded[:, 1:]], dim=1)
            real = torch.cat([real[:, :1], inputs.patch_mask, real[:, 1:]], dim=1)
            between = torch.ones_like(inputs.patch_mask)
            vision = torch.cat([vision[:, :1], between, vision[:, 1:]], dim=1)
        self.route.vision = vision
        x: Tensor = self.plm.embeddings(inputs_embeds=embedded)  # pyright: ignore[reportCallIssue]
        return self._blocks(x, real[:, None, None], slice(None, self.cut))

    def follow(self, states: Tensor, mask: Tensor, domains: Tensor) -> Tensor:
        """Map the h of users' items [B, S, d] to s [B, S, d]: position t reads the items up to t.

        Parameters
        ----------
        mask
            bool [B, S], True = real; padding is at the end.
        domains
            The domain of each item, int64 [B, S].
        """
        length = states.shape[1]
        self.route.domains = domains
        causal = torch.ones(length, length, dtype=torch.bool, device=states.device).tril()
        allowed = (causal & mask[:, None]) | torch.eye(length, dtype=torch.bool, device=states.device)
        return self._blocks(states + self.positions[:length], allowed[:, None], slice(self.cut, None))

    def _blocks(self, x: Tensor, allowed: Tensor, which: slice) -> Tensor:
        bias = torch.zeros(allowed.shape, dtype=x.dtype, device=x.device)
        bias = bias.masked_fill(~allowed, torch.finfo(x.dtype).min)
        blocks: Any = self.plm.encoder.layer  # pyright: ignore[reportAttributeAccessIssue]
        for block in blocks[which]:
            x = block(x, attention_mask=bias)
        return x

    def loss(self, batch: RomaBatch) -> dict[str, Tensor]:
        """Return "loss" = V-MLM + lambda UIC and its parts."""
        parts: dict[str, Tensor] = {}
        if batch.items is not None:
            parts["vmlm"] = self._mask_loss(batch.items)
        if batch.windows is not None:
            parts["uic"] = self._contrast(batch.windows)
        weights = {"vmlm": 1.0, "uic": self.config.uic_weight}
        total = torch.stack([weights[name] * value for name, value in parts.items()]).sum()
        return {"loss": total, **parts}

    def word_logits(self, inputs: ItemInputs, hidden: Tensor) -> Tensor:
        """Return the logits [M, words] of the M words where `hidden` (bool [B, T]) is True; they read as [MASK]."""
        states = self.read(inputs, inputs.words.masked_fill(hidden, self.mask_id))
        of_words = torch.cat([states[:, :1], states[:, 1 + states.shape[1] - inputs.words.shape[1] :]], dim=1)
        return functional.linear(self.mlm_head(of_words[hidden]), self.words.weight, self.mlm_bias)

    def _mask_loss(self, inputs: ItemInputs) -> Tensor:
        """Cross-entropy of the hidden words: a share of each item's words, at least one. All become [MASK] [I]."""
        luck = torch.rand(inputs.words.shape).to(inputs.words.device).masked_fill(~inputs.maskable, 2.0)
        hidden = luck < self.config.mask_share
        hidden |= (luck == luck.amin(1, keepdim=True)) & inputs.maskable
        return functional.cross_entropy(self.word_logits(inputs, hidden), inputs.words[hidden])

    def _contrast(self, batch: WindowBatch) -> Tensor:
        """InfoNCE of s with the next item's h against all items of the batch, and against those of its domain."""
        h = self.item_states(batch)
        s = self.follow(h[batch.items], batch.mask, batch.domains[batch.items])
        user, target = self.user_vectors(s[batch.learn]), batch.targets[batch.learn]
        logits = user @ self.item_vectors(h).T / self.config.temperature
        everywhere = functional.cross_entropy(logits, target)
        if self.domains == 1:
            return everywhere
        other = batch.domains[target][:, None] != batch.domains
        return (everywhere + functional.cross_entropy(logits.masked_fill(other, float("-inf")), target)) / 2

    known: Tensor | None = None
    """The h of all items [N, d] where the bottom blocks are not trained any more."""

    def item_states(self, batch: WindowBatch) -> Tensor:
        """Return the h of a batch's items, [K, d]."""
        if batch.inputs is not None:
            return self.read(batch.inputs)[:, 0]
        assert self.known is not None  # noqa: S101 - batches without inputs are made when it is set
        return self.known[batch.rows]

    def item_vectors(self, states: Tensor) -> Tensor:
        """Project the h of items [..., d] to unit vectors [..., output]."""
        return functional.normalize(self.item_head(states), dim=-1)

    def user_vectors(self, states: Tensor) -> Tensor:
        """Project the s of users [..., d] to unit vectors [..., output]."""
        return functional.normalize(self.user_head(states), dim=-1)
