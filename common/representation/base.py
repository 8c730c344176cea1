"""The contract of a representation method: fit, transform, save, load; one folder a method, tied to its encoders.

A method is an `nn.Module`; what is frozen in it (a language model, an encoder) has `requires_grad` off, is not saved,
and is loaded by name again.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from common.atomic import atomic_folder
from common.config import Config
from common.errors import DataError
from common.hashing import file_digest
from common.representation.inputs import Behaviour, Items
from common.representation.table import FeatureTable
from common.training.fit import FitConfig
from common.training.fit_state import learnt_state, restore
from common.training.schedule import ScheduleConfig
from common.training.tensors import distinct

FORMAT = "mirc-representation-1"
Say = Callable[[str], object]


class MethodConfig(Config):
    """What the configurations of all methods have in common."""

    fit: FitConfig = FitConfig(
        epochs=10, schedule=ScheduleConfig(type="cosine", warmup_steps=50), figure="score", patience=3
    )
    batch_size: int = Field(default=256, ge=2)


class Representation(nn.Module):
    """A method over frozen encoder outputs. A subclass sets `kind` and `config_type` and gives `fit`, `transform`.

    Attributes
    ----------
    config
        Its settings.
    state
        JSON values that belong to the fitted method: dimensions, domains, and `encoders`, the name and revision of
        the encoder of each modality it was fitted on.
    """

    kind: ClassVar[str] = ""
    config_type: ClassVar[type[MethodConfig]] = MethodConfig

    def __init__(self, config: MethodConfig) -> None:
        super().__init__()
        self.config = config
        self.state: dict[str, Any] = {}

    def build(self, state: dict[str, Any]) -> None:
        """Make the modules that `state` describes, untrained: what `fit` and `load` call first."""
        raise NotImplementedError

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
        """Learn from items and, where the method reads them, histories.

        Shows progress, keeps its state in `folder` and goes on from there after an interruption; on a CPU the same
        seed gives the same weights.

        Raises
        ------
        DataError
            A modality, text or history that the method needs is missing; too few items.
        """
        raise NotImplementedError

    def transform(self, items: Items, behaviour: Behaviour | None = None) -> FeatureTable:
        """Return the features of items; they may be other items than those of `fit`.

        Raises
        ------
        DataError
            The items come from another encoder than those of `fit`.
        """
        raise NotImplementedError

    def remember_encoders(self, items: Items) -> dict[str, str]:
        """Return the encoder of each modality, for `state["encoders"]`."""
        return {name: tokens.encoder for name, tokens in items.modalities.items()}

    def check_encoders(self, items: Items) -> None:
        """Raise `DataError` where a modality comes from another encoder than at `fit`; the method checks widths."""
        for name, wanted in self.state.get("encoders", {}).items():
            if name in items.modalities and (got := items.modalities[name].encoder) != wanted:
                raise DataError(
                    f"the {self.kind} adapter was fitted on the {name} outputs of another encoder",
                    where=name,
                    expected=wanted,
                    got=got,
                    todo="encode the items with that encoder, or fit the method again on this one's outputs",
                )

    def save(self, folder: Path) -> None:
        """Write method.json and method.safetensors to `folder`, whole or not at all. Frozen weights are not written."""
        with atomic_folder(folder) as temporary:
            path = temporary / "method.safetensors"
            save_file(distinct(learnt_state(self)), path)
            header = {
                "format": FORMAT,
                "kind": self.kind,
                "config": self.config.model_dump(mode="json"),
                "state": self.state,
                "sha256": file_digest(path),
            }
            (temporary / "method.json").write_text(json.dumps(header, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Return the method saved in `folder`.

        Raises
        ------
        DataError
            None there, of another kind, damaged, or changed since.
        """
        header = read_header(folder)
        if header["kind"] != cls.kind:
            raise DataError(
                "a method of another kind", where=folder / "method.json", expected=cls.kind, got=header["kind"]
            )
        path = folder / "method.safetensors"
        try:
            if file_digest(path) != header["sha256"]:
                raise DataError("the file is not the one that was saved", where=path, todo="fit the method again")
            made = cls(cls.config_type.model_validate(header["config"]))
            made.state = header["state"]
            made.build(made.state)
            restore(made, load_file(path))
        except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise DataError(
                "the saved method is damaged", where=path, got=str(error).splitlines()[0], todo="fit it again"
            ) from None
        return made.eval()


def read_header(folder: Path) -> dict[str, Any]:
    """Return method.json of a saved method; raise `DataError` if there is none."""
    path = folder / "method.json"
    try:
        header = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError("no saved method here", where=path, got=str(error), todo="fit it first") from None
    found = header.get("format") if isinstance(header, dict) else type(header).__name__
    if found != FORMAT or not {"kind", "config", "state", "sha256"} <= header.keys():
        raise DataError("not a method of this program", where=path, expected=FORMAT, got=found, todo="fit it again")
    return header


def device_of(model: nn.Module) -> torch.device:
    """Return where a model's weights are; the CPU for one without any."""
    return next((p.device for p in model.parameters()), torch.device("cpu"))
