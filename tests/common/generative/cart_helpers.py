"""Small CART models with weights large enough that everything matters."""

from typing import Any

import numpy as np
import torch

from common.generative.cart import Cart, CartConfig
from common.generative.cart_queries import build_words
from common.planted import Planted, PlantedConfig, plant
from common.tokenizers.semantic_ids import SemanticIdMap

IDS = SemanticIdMap.random(30, (4, 4, 4), seed=3)
TEXTS = ["red cat", "a blue dog sat on the mat", "green", "the red mat of a cat ?"]
SMALL: dict[str, Any] = {"dim": 16, "heads": 2, "feedforward": 24, "encoder_layers": 2, "decoder_layers": 2}


def cart(seed: int = 0, ids: SemanticIdMap = IDS, *, std: float = 0.3, **options: Any) -> Cart:
    """An untrained model in evaluation mode, over the words of TEXTS unless another encoder is named."""
    torch.manual_seed(seed)
    config = CartConfig.model_validate(SMALL | {"dropout": 0.0} | options)
    known = {"words": build_words(TEXTS, config.encoder)} if config.encoder.model == "words" else {}
    model = Cart(config, ids, known)
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=std)
    return model.eval()


def captions(items: int, values: int, seed: int = 0) -> Planted:
    """Planted items that differ in what a caption tells: every modality sees all three attributes."""
    every = (0, 1, 2)
    config = PlantedConfig(
        items=items,
        attributes=3,
        values=values,
        image=every,
        text=every,
        behaviour=every,
        captions=3,
        rows=1,
        users=1,
    )
    return plant(config, seed)


def recall(found: torch.Tensor, k: int = 1) -> float:
    """R@k where query i is answered by item i."""
    return float((found.numpy()[:, :k] == np.arange(len(found))[:, None]).any(1).mean())
