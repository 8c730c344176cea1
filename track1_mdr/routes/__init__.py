"""Retrieval routes behind one contract (`base.Route`), built by the `type` of their configuration."""

from __future__ import annotations

import importlib

from track1_mdr.config import RouteConfig
from track1_mdr.routes.base import Environment, Route

# Imported when used: a lexical run never loads torch.
ROUTES: dict[str, tuple[str, str]] = {
    "bm25": ("track1_mdr.routes.bm25", "Bm25Route"),
    "reference": ("track1_mdr.routes.reference", "ReferenceRoute"),
    "dense_text": ("track1_mdr.routes.dense_text", "DenseTextRoute"),
    "colbert": ("track1_mdr.routes.colbert", "ColbertRoute"),
    "layout": ("track1_mdr.routes.layout", "LayoutRoute"),
    "image": ("track1_mdr.routes.image", "ImageRoute"),
    "page_image_late_interaction": ("track1_mdr.routes.page_image", "PageImageRoute"),
    "subfigure": ("track1_mdr.routes.subfigure", "SubfigureRoute"),
    "cart": ("track1_mdr.routes.cart", "CartRoute"),
    "ease": ("track1_mdr.routes.ease", "EaseRoute"),
    "my_route": ("track1_mdr.my_route", "MyRoute"),
}


def build_route(config: RouteConfig, environment: Environment) -> Route:
    """Return the route that `config.type` names."""
    module, name = ROUTES[config.type]
    return getattr(importlib.import_module(module), name)(config, environment)
