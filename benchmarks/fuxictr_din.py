"""The organisers' DIN out of FuxiCTR's own layers, on padded rectangles: the peer of `rankers/din.py`.

The model is built from FuxiCTR 2.3.10's `FeatureEmbedding`, `DIN_Attention` and `MLP_Block` and trained by its
`BaseModel.train_step`, in the arrangement of the organisers' baseline (8,611,842 parameters at full size).
"""

from __future__ import annotations

import tempfile
from collections import OrderedDict
from typing import Any

import torch
from fuxictr.features import FeatureMap
from fuxictr.pytorch.layers import MLP_Block
from fuxictr.pytorch.layers.attentions import DIN_Attention
from fuxictr.pytorch.layers.embeddings import FeatureEmbedding
from fuxictr.pytorch.models import BaseModel
from torch import Tensor

from track2_mmctr.batches import Batch
from track2_mmctr.config import DinConfig
from track2_mmctr.datasets.tables import LEVELS, ItemTable
from track2_mmctr.rankers.din import Din


def feature_map(items: ItemTable) -> FeatureMap:
    """Return the organisers' features: levels of the target as user side, id, tags and vector as item side."""
    made = FeatureMap("microlens", tempfile.gettempdir())
    assert items.embedding is not None
    categorical = {"source": "", "type": "categorical", "padding_idx": 0, "vocab_size": LEVELS}
    made.features = OrderedDict(
        likes_level=dict(categorical),
        views_level=dict(categorical),
        item_id=categorical | {"source": "item", "vocab_size": len(items)},
        item_tags={
            "source": "item",
            "type": "sequence",
            "padding_idx": 0,
            "vocab_size": items.tag_vocabulary,
            "max_len": items.tags.shape[1],
            "feature_encoder": "layers.MaskedAveragePooling()",
        },
        item_emb_d128={"source": "item", "type": "embedding", "embedding_dim": items.embedding.shape[1]},
    )
    made.labels = ["label"]
    return made


class FuxiDin(BaseModel):
    """DIN of the organisers' baseline: 64-d embeddings, attention 512-256, tower 1024-512-256."""

    def __init__(self, items: ItemTable, config: DinConfig, dim: int = 64, learning_rate: float = 1e-3) -> None:
        features = feature_map(items)
        super().__init__(
            features,
            model_id="DIN",
            embedding_regularizer=1e-6,
            net_regularizer=0,
            verbose=0,
            model_root=tempfile.gettempdir(),
            metrics=["AUC"],
        )
        assert items.embedding is not None
        item_dim = 2 * dim + items.embedding.shape[1]
        self.embedding_layer = FeatureEmbedding(features, dim)
        self.attention_layers = DIN_Attention(
            item_dim,
            attention_units=list(config.attention_units),
            dropout_rate=config.attention_dropout,  # pyright: ignore[reportArgumentType]
        )
        self.dnn = MLP_Block(
            input_dim=2 * dim + 2 * item_dim,
            output_dim=1,
            hidden_units=list(config.hidden_units),
            hidden_activations="ReLU",
            output_activation=self.output_activation,
            dropout_rates=config.net_dropout,
            batch_norm=config.batch_norm,
        )
        self.compile("adam", "binary_crossentropy", learning_rate)
        self.reset_parameters()
        self.max_norm, self._max_gradient_norm = 10.0, 10.0

    def forward(self, inputs: dict[str, Any]) -> dict[str, Tensor]:
        """Return {"y_pred": probabilities [B, 1]} of side features [B], item features [B (L + 1)], mask [B, L]."""
        rows = len(inputs["mask"])
        side = self.embedding_layer(
            {k: inputs[k] for k in ("likes_level", "views_level")}, feature_source="", flatten_emb=True
        )
        names = ("item_id", "item_tags", "item_emb_d128")
        vectors = self.embedding_layer({k: inputs[k] for k in names}, flatten_emb=True).view(
            rows, -1, self.attention_layers.embedding_dim
        )
        target, history = vectors[:, -1], vectors[:, :-1]
        interest = self.attention_layers(target, history, inputs["mask"])
        return {"y_pred": self.dnn(torch.cat([side, target, interest], dim=-1))}

    def copy_weights_to(self, din: Din) -> None:
        """Copy every weight, and the running statistics of batch norm, into our DIN."""
        tables = self.embedding_layer.embedding_layer.embedding_layers
        encoders = self.embedding_layer.embedding_layer.feature_encoders
        encoder = din.encoder
        assert encoder.ids and encoder.tags and encoder.likes and encoder.views and encoder.projection
        pairs = [
            (tables["item_id"], encoder.ids),
            (tables["item_tags"], encoder.tags),
            (tables["likes_level"], encoder.likes),
            (tables["views_level"], encoder.views),
            (encoders["item_emb_d128"], encoder.projection),
            (self.dnn.mlp, din.head),
        ]
        for theirs, ours in pairs:
            own = list(theirs.state_dict().values())
            ours.load_state_dict(dict(zip(ours.state_dict(), own, strict=False)))
        attention = self.attention_layers.attention_layer.mlp
        linear = [layer for layer in attention if isinstance(layer, torch.nn.Linear)]
        mine = [layer for layer in din.attention.modules() if isinstance(layer, torch.nn.Linear)]
        for theirs, ours in zip(linear, mine, strict=True):
            ours.load_state_dict(theirs.state_dict())


def padded_inputs(batch: Batch, items: ItemTable, width: int) -> dict[str, Any]:
    """Return the peer's inputs of a batch: `width` history columns, padded on the left, and the target."""
    ids, mask = batch.padded
    columns = torch.zeros(len(batch), width + 1, dtype=torch.int64)
    real = torch.zeros(len(batch), width, dtype=torch.int64)
    columns[:, width - ids.shape[1] : width] = ids
    real[:, width - ids.shape[1] :] = mask
    columns[:, -1] = batch.items[batch.target]
    flat = columns.reshape(-1).numpy()
    assert items.embedding is not None
    return {
        "likes_level": batch.levels[:, 0],
        "views_level": batch.levels[:, 1],
        "item_id": torch.from_numpy(flat),
        "item_tags": torch.from_numpy(items.tags[flat]),
        "item_emb_d128": torch.from_numpy(items.embedding[flat]),
        "mask": real,
        "label": batch.label,
    }
