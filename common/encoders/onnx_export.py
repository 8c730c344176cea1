"""sentence-transformers models as ONNX graphs, exported once into the cache and run by `onnx_text`.

Layout of one export (one model, revision, precision and version of this module)::

    <cache>/onnx/<model>-<identity>/
        model.onnx         token states, float32 or int8
        tokenizer.json
        export.json        pooling, token limit, own prompts, and where the graph comes from

Loading an export needs neither torch nor sentence-transformers: only making it does.
"""

from __future__ import annotations

import json
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock

from common.atomic import atomic_folder, write_text
from common.encoders.loading import quiet_unless_terminal
from common.encoders.packaged import Pooling, Source, unavailable
from common.errors import ConfigError
from common.hashing import digest

ExportPrecision = Literal["float32", "int8"]

_VERSION = 1  # of the exporter: raise it when its graphs change
_OPSET = 17
_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


@dataclass(frozen=True)
class Export:
    """What a graph's vectors depend on besides the graph.

    Attributes
    ----------
    pooling
        How token states become one vector.
    max_tokens
        The model's own limit; None where it states none.
    prompts
        The model's own prompts by name.
    """

    model: str
    revision: str
    precision: ExportPrecision
    pooling: Pooling
    max_tokens: int | None
    prompts: dict[str, str]


def export_once(source: Source, cache: Path, precision: ExportPrecision) -> tuple[Source, Export]:
    """Return the exported graph of a sentence-transformers model, made first where the cache lacks it.

    Parameters
    ----------
    source
        A model for torch: a local folder or a hub name.
    cache
        Processes that share it export once: the others wait.
    precision
        "int8": the weights of products and embeddings per channel (8 bits), activations scaled at run time.

    Raises
    ------
    ConfigError
        The model cannot be loaded, or is more than a transformer with cls or mean pooling.
    """
    revision = Source(source.model, source.folder, "torch").revision()
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(source.model).name).strip("-.")[-60:]
    folder = cache / "onnx" / f"{name or 'model'}-{digest(revision, precision, _VERSION)[:16]}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(folder.name + ".lock")):
        if not (folder / "export.json").is_file():
            with atomic_folder(folder) as temporary:
                _export(source, revision, temporary, precision)
    stated = Export(**json.loads((folder / "export.json").read_text(encoding="utf-8")))
    return Source(source.model, folder, "onnx", stated.pooling), stated


def _export(source: Source, revision: str, folder: Path, precision: ExportPrecision) -> None:
    from sentence_transformers import SentenceTransformer

    eager = {"attn_implementation": "eager"}  # the fused attention is traced into more operators
    try:
        with quiet_unless_terminal():
            model: Any = SentenceTransformer(source.target, device="cpu", model_kwargs=eager)
    except (OSError, ValueError) as error:
        raise unavailable(source.model, error) from None
    pooling = _pooling(source, list(model))
    model.tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))
    with _quiet():
        _trace(model[0].model.eval(), model.tokenizer(["a few words"], return_tensors="pt"), folder / "model.onnx")
        if precision == "int8":
            _quantise(folder / "model.onnx")
    stated = Export(source.model, revision, precision, pooling, model.max_seq_length, own_prompts(model))
    write_text(folder / "export.json", json.dumps(asdict(stated), indent=1, ensure_ascii=False) + "\n")


def own_prompts(model: Any) -> dict[str, str]:
    """Return a sentence-transformers model's prompts by name; its default one for both roles where it has one."""
    default = model.prompts.get(model.default_prompt_name or "")
    general = {"query": default, "document": default} if default else {}
    return general | {name: text for name, text in model.prompts.items() if text}


def _pooling(source: Source, modules: list[Any]) -> Pooling:
    """Return the pooling; raise `ConfigError` for a model that the graph and a pooling would not reproduce."""
    from transformers import PreTrainedTokenizerFast

    names = [type(module).__name__ for module in modules]
    mode = getattr(modules[1], "pooling_mode", None) if len(modules) > 1 else None
    fits = (
        names in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"])
        and modules[1].include_prompt
        and isinstance(modules[0].tokenizer, PreTrainedTokenizerFast)
    )
    if fits and mode == "cls":
        return "cls"
    if fits and mode == "mean":
        return "mean"
    raise ConfigError(
        f"{source.model!r} cannot be exported to ONNX",
        expected="a transformer with a fast tokenizer, cls or mean pooling over the whole text, and no more layers",
        got=f"{', '.join(names)}; pooling {mode}",
        todo="set backend: torch",
    )


def _trace(body: Any, example: Any, path: Path) -> None:
    import torch

    names = [name for name in _INPUTS if name in example]

    class States(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = body

        def forward(self, *inputs: Any) -> Any:
            return self.body(**dict(zip(names, inputs, strict=True))).last_hidden_state

    with torch.no_grad():
        torch.onnx.export(
            States(),
            tuple(example[name] for name in names),
            str(path),
            input_names=names,
            output_names=["states"],
            dynamic_axes={name: {0: "texts", 1: "tokens"} for name in [*names, "states"]},
            opset_version=_OPSET,
            dynamo=False,  # the other exporter needs a package more, and its graphs are no faster
        )


def _quantise(path: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    whole = path.with_name("float32.onnx")
    path.replace(whole)
    quantize_dynamic(whole, path, per_channel=True, reduce_range=False, weight_type=QuantType.QInt8)
    whole.unlink()


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporters' advice to their developers off the screen."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        root.setLevel(level)
