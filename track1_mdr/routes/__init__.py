"""Retrieval routes behind one contract (`base.Route`), built by the `type` of their configuration."""

from __future__ import annotations

from common.own_code import load_class, own_module
from track1_mdr.config import MyRouteConfig, RouteConfig
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
    """Return the route that `config.type` names; of one's own, `config.file` says which."""
    module, name = ROUTES[config.type]
    if isinstance(config, MyRouteConfig):
        module = own_module("track1_mdr", config.file)
    return load_class(module, name)(config, environment)
