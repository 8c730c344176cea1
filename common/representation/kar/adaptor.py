"""KAR's hybrid-expert adaptor: from frozen knowledge vectors to the few numbers that a ranker reads.

For the view t (user, item): g_t = softmax(W_t k_t) over the shared experts and those dedicated to t;
a_t = sum_m g_tm E_m(k_t), each expert an MLP with a ReLU after each layer. All a_t side by side join the ranker's
input, and the ranker's loss trains the adaptor. The vectors k_t are constants: no gradient leaves towards an encoder.

Source: Xi et al., "Towards Open-World Recommendation with Knowledge Augmentation from Large Language Models", RecSys
2024; structure and defaults (2 shared, 5 dedicated, units 128 and 32) as in the authors' public code. Ours are: the
scaling of the input, the map to one width where views differ in width, and the switches. No published figure is
claimed to be reproduced.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from common.config import Config
from common.errors import ConfigError, DataError

Width = Annotated[int, Field(ge=1)]


class AdaptorConfig(Config):
    """Sizes of the adaptor, and its ablations: shared=0, dedicated=0 (one gate over the shared), gate=False."""

    shared: int = Field(default=2, ge=0, description="experts that all views use; 0 = none")
    dedicated: int = Field(default=5, ge=0, description="experts of each view alone; 0 = none")
    units: list[Width] = Field(default=[128, 32], min_length=1, description="layers of an expert; the last is a view's")
    gate: bool = Field(default=True, description="False: the mean of the experts")
    rescale: bool = Field(default=True, description="scale each input vector to a root mean square of 1")
    width: int | None = Field(
        default=None, ge=1, description="of the experts' input where views differ in width; None: the least of them"
    )


class HybridExpertAdaptor(nn.Module):
    """Shared and dedicated experts with a gate for each view.

    Shared experts read one width. Views of different widths are each mapped to it by a linear map of their own;
    without shared experts, or with equal widths, there is no such map.

    Parameters
    ----------
    dims
        Width of each view's vectors, by the view's name.

    Attributes
    ----------
    dim
        Width of what `forward` returns: number of views · units[-1].

    Raises
    ------
    ConfigError
        No view, no expert at all, a name that is no identifier, or a width below 1.
    """

    def __init__(self, dims: Mapping[str, int], config: AdaptorConfig | None = None) -> None:
        super().__init__()
        config = config or AdaptorConfig()
        _check(dims, config)
        self.config, self.dims = config, dict(dims)
        self.out = config.units[-1]
        self.dim = len(dims) * self.out
        common = config.shared > 0 and len(set(dims.values())) > 1
        least = config.width or min(dims.values())
        self.project, self.gate, self.dedicated = nn.ModuleDict(), nn.ModuleDict(), nn.ModuleDict()
        for name, dim in dims.items():
            self.register_buffer(f"mean_{_key(name)}", torch.zeros(dim))
            width = least if common else dim
            if common:
                self.project[_key(name)] = nn.Linear(dim, width, bias=False)
            if config.gate:
                self.gate[_key(name)] = nn.Linear(width, config.shared + config.dedicated, bias=False)
            self.dedicated[_key(name)] = _experts(config.dedicated, width, config.units)
        self.shared = _experts(config.shared, least if common else next(iter(dims.values())), config.units)

    def forward(self, views: Mapping[str, Tensor]) -> Tensor:
        """Return all views' vectors side by side, [B, dim], in the order of `dims`.

        Parameters
        ----------
        views
            Vectors [B, D_view] of every view.

        Raises
        ------
        DataError
            A view is missing, or has another width.
        """
        missing = [name for name in self.dims if name not in views]
        if missing:
            raise DataError("the adaptor lacks a view", expected=", ".join(self.dims), got=", ".join(views))
        return torch.cat([self.view(name, views[name]) for name in self.dims], dim=-1)

    def view(self, name: str, k: Tensor) -> Tensor:
        """Return one view's vectors [B, units[-1]] for knowledge vectors k [B, D]: what serving computes once."""
        x = self._input(name, k)
        experts = torch.stack([expert(x) for expert in [*self.shared, *self._dedicated(name)]], dim=1)
        return (self._gates(name, x)[:, :, None] * experts).sum(1)

    def gates(self, name: str, k: Tensor) -> Tensor:
        """Return each expert's share, [B, shared + dedicated], shared ones first; rows sum to 1."""
        return self._gates(name, self._input(name, k))

    def calibrate(self, name: str, k: Tensor) -> None:
        """Subtract from now on the mean of k [N, D], the vectors of a view's known users or items; saved as a buffer.

        Ours, for vectors of texts that say much the same, such as filled templates: on the planted texts
        of `benchmarks.planted_kar` (mean cosine of users .94) the warm AUC was .520 without, .733 with it (seed 0).
        """
        self._check(name, k)
        if not len(k) or not bool(torch.isfinite(k).all()):
            raise DataError("vectors to calibrate by must be finite, at least one", where=f"view {name}")
        self.get_buffer(f"mean_{_key(name)}").copy_(k.detach().float().mean(0))

    def _gates(self, name: str, x: Tensor) -> Tensor:
        if not self.config.gate:
            count = self.config.shared + self.config.dedicated
            return x.new_full((len(x), count), 1 / count)
        return self.gate[_key(name)](x).softmax(-1)

    def _dedicated(self, name: str) -> nn.ModuleList:
        found = self.dedicated[_key(name)]
        assert isinstance(found, nn.ModuleList)  # noqa: S101 - for the type: nothing else is put there
        return found

    def _check(self, name: str, k: Tensor) -> None:
        if name not in self.dims or k.ndim != 2 or k.shape[1] != self.dims[name]:
            raise DataError(
                "knowledge vectors of another view or width than the adaptor was made for",
                where=f"view {name}",
                expected=", ".join(f"{view} [B, {dim}]" for view, dim in self.dims.items()),
                got=list(k.shape),
                todo="encode with the same encoder as before, or train the ranker again",
            )

    def _input(self, name: str, k: Tensor) -> Tensor:
        self._check(name, k)
        x = k.detach() - self.get_buffer(f"mean_{_key(name)}")
        if self.config.rescale:  # encoders return unit vectors: entries of 1/sqrt(D) would hardly move an expert
            x = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-12)
        return self.project[_key(name)](x) if _key(name) in self.project else x


def precompute(adaptor: HybridExpertAdaptor, view: str, k: np.ndarray, batch_size: int = 4096) -> np.ndarray:
    """Return a view's vectors for all users or items, float32 [N, units[-1]]: the table that serving looks up.

    Equal to `adaptor.view` row by row, up to the rounding that another batch size makes.

    Parameters
    ----------
    k
        Knowledge vectors float32 [N, D].

    Raises
    ------
    DataError
        Another view or width, or a vector that is not finite.
    """
    if not np.isfinite(k).all():
        row = int((~np.isfinite(k).all(-1)).argmax())
        raise DataError("a knowledge vector is not finite", where=f"view {view}, row {row}", got="NaN or infinity")
    device = next(adaptor.parameters()).device
    parts = [np.empty((0, adaptor.out), np.float32)]
    with torch.inference_mode():
        for start in range(0, len(k), batch_size):
            rows = torch.from_numpy(np.ascontiguousarray(k[start : start + batch_size], np.float32)).to(device)
            parts.append(adaptor.view(view, rows).float().cpu().numpy())
    return np.concatenate(parts)


def _experts(count: int, width: int, units: list[int]) -> nn.ModuleList:
    def mlp() -> nn.Sequential:
        layers: list[nn.Module] = []
        for before, after in zip([width, *units], units, strict=False):
            layers += [nn.Linear(before, after), nn.ReLU()]
        return nn.Sequential(*layers)

    return nn.ModuleList([mlp() for _ in range(count)])


def _key(name: str) -> str:
    """Return the name of a view's modules: a ModuleDict refuses names of its own methods, as "items"."""
    return f"of_{name}"


def _check(dims: Mapping[str, int], config: AdaptorConfig) -> None:
    if not dims or any(not name.isidentifier() or dim < 1 for name, dim in dims.items()):
        raise ConfigError(
            "the adaptor needs a name and a width for each view", expected="e.g. {user: 384, item: 384}", got=dict(dims)
        )
    if config.shared + config.dedicated == 0:
        raise ConfigError(
            "the adaptor has no expert", where="adaptor", expected="shared or dedicated above 0", got="0 and 0"
        )
