"""The weights of a BERT encoder, read out of an ONNX graph that was exported from one.

Exporters leave biases and LayerNorms under the model's own parameter names and rename the matrices. A matrix is found
by its bias: the bias is added to the product with it. Only what is recognised to the last operator is read; a graph
with another activation, other positions or more layers is not.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

_OPERATORS = frozenset(
    [
        "Add",
        "And",
        "Cast",
        "Concat",
        "Constant",
        "ConstantOfShape",
        "DequantizeLinear",
        "Div",
        "DynamicQuantizeLinear",
        "Equal",
        "Erf",
        "Expand",
        "Flatten",
        "Gather",
        "GreaterOrEqual",
        "LayerNormalization",
        "MatMul",
        "MatMulInteger",
        "Mul",
        "Pow",
        "Range",
        "ReduceMean",
        "Reshape",
        "Shape",
        "Slice",
        "Softmax",
        "Sqrt",
        "Sub",
        "Tanh",
        "Transpose",
        "Unsqueeze",
        "Where",
    ]
)
_FIRST_BIAS = re.compile(r"(.*)encoder\.layer\.0\.attention\.self\.query\.bias")
_INPUTS = {"input_ids", "attention_mask", "token_type_ids"}


@dataclass(frozen=True)
class Table:
    """Embeddings by row: `values` [N, D] float32, or 8 bits with one `scale` and `zero_point`."""

    values: np.ndarray
    scale: np.ndarray | None = None
    zero_point: np.ndarray | None = None

    def rows(self) -> np.ndarray:
        """Return the embeddings, float32 [N, D]."""
        if self.scale is None or self.zero_point is None:
            return self.values
        return ((self.values.astype(np.int32) - self.zero_point.astype(np.int32)) * self.scale).astype(np.float32)


@dataclass(frozen=True)
class Linear:
    """y = x W + b: `weight` [K, N] float32, or int8 with `scale` float32 [N]; `bias` float32 [N]."""

    weight: np.ndarray
    scale: np.ndarray | None
    bias: np.ndarray


@dataclass(frozen=True)
class Norm:
    """A LayerNorm's `weight` and `bias`, float32 [D]."""

    weight: np.ndarray
    bias: np.ndarray


@dataclass(frozen=True)
class Layer:
    """One layer: attention and its output, the feed-forward part, and the LayerNorm after each."""

    query: Linear
    key: Linear
    value: Linear
    attended: Linear
    attended_norm: Norm
    inner: Linear
    outer: Linear
    outer_norm: Norm

    def linears(self) -> tuple[Linear, ...]:
        """Return the six products."""
        return self.query, self.key, self.value, self.attended, self.inner, self.outer


@dataclass(frozen=True)
class BertWeights:
    """A BERT encoder with the exact GELU and learned positions from 0.

    `pooler` and `classifier` are those of a sequence classifier, None where the graph has none.
    """

    words: Table
    positions: Table
    types: Table
    norm: Norm
    layers: tuple[Layer, ...]
    heads: int
    epsilon: float
    pooler: Linear | None
    classifier: Linear | None


class _UnknownError(Exception):
    """The graph is something else than a BERT encoder as it is known here."""


def read_bert(path: Path) -> BertWeights | None:
    """Return the weights in a graph, or None where it is not a BERT encoder to the last operator."""
    import onnx
    from google.protobuf.message import DecodeError

    try:
        return _Reader(onnx.load(str(path)).graph).read()
    except (_UnknownError, KeyError, ValueError, OSError, DecodeError):
        return None


def _require(fact: bool) -> None:
    if not fact:
        raise _UnknownError


class _Reader:
    def __init__(self, graph: Any) -> None:
        self._tensors = {tensor.name: tensor for tensor in graph.initializer}
        self._nodes: list[Any] = list(graph.node)
        self._made = {name: node for node in self._nodes for name in node.output}
        self._users: dict[str, list[Any]] = {}
        for node in self._nodes:
            for name in node.input:
                self._users.setdefault(name, []).append(node)
        _require({i.name for i in graph.input} - set(self._tensors) <= _INPUTS)

    def read(self) -> BertWeights:
        counts = Counter(node.op_type for node in self._nodes)
        found = [match for name in self._tensors if (match := _FIRST_BIAS.fullmatch(name))]
        _require(len(found) == 1 and set(counts) <= _OPERATORS)
        prefix, count = found[0][1], counts["Softmax"]
        layers = tuple(self._layer(f"{prefix}encoder.layer.{i}.") for i in range(count))
        pooler, classifier = self._linear_if(f"{prefix}pooler.dense"), self._linear_if("classifier")
        products = counts["MatMul"] + counts["MatMulInteger"] - 2 * count  # two of attention's own a layer
        _require(products == 6 * count + (pooler is not None) + (classifier is not None))
        _require(counts["Erf"] == count and counts["Tanh"] == (pooler is not None))
        _require(len({linear.scale is None for layer in layers for linear in layer.linears()}) == 1)
        words, positions, types = (
            self._table(f"{prefix}embeddings.{name}_embeddings.weight") for name in ("word", "position", "token_type")
        )
        norm = self._norm(f"{prefix}embeddings.LayerNorm")
        heads = self._heads(f"{prefix}encoder.layer.0.attention.self.query.bias", layers[0].query.bias.size)
        _require(all(self._scaled(n, norm.bias.size // heads) for n in self._nodes if n.op_type == "Softmax"))
        return BertWeights(words, positions, types, norm, layers, heads, self._epsilon(), pooler, classifier)

    def _layer(self, prefix: str) -> Layer:
        return Layer(
            self._linear(f"{prefix}attention.self.query"),
            self._linear(f"{prefix}attention.self.key"),
            self._linear(f"{prefix}attention.self.value"),
            self._linear(f"{prefix}attention.output.dense"),
            self._norm(f"{prefix}attention.output.LayerNorm"),
            self._linear(f"{prefix}intermediate.dense"),
            self._linear(f"{prefix}output.dense"),
            self._norm(f"{prefix}output.LayerNorm"),
        )

    def _array(self, name: str) -> np.ndarray:
        from onnx import numpy_helper

        return numpy_helper.to_array(self._tensors[name])

    def _norm(self, name: str) -> Norm:
        return Norm(self._array(f"{name}.weight"), self._array(f"{name}.bias"))

    def _table(self, name: str) -> Table:
        if name in self._tensors:
            return Table(self._array(name))
        return Table(*(self._array(f"{name}_{part}") for part in ("quantized", "scale", "zero_point")))

    def _linear_if(self, name: str) -> Linear | None:
        return self._linear(name) if f"{name}.bias" in self._tensors else None

    def _linear(self, name: str) -> Linear:
        """Return the product that this bias is added to: MatMul, or MatMulInteger times the product of both scales."""
        bias = self._array(f"{name}.bias")
        (add,) = self._users[f"{name}.bias"]
        _require(add.op_type == "Add")
        (product,) = (self._made[i] for i in add.input if i != f"{name}.bias")
        if product.op_type == "MatMul":
            return Linear(self._array(product.input[1]), None, bias)
        _require(product.op_type == "Mul")
        cast, scales = sorted((self._made[i] for i in product.input), key=lambda node: node.op_type)
        _require(cast.op_type == "Cast" and scales.op_type == "Mul")
        integer = self._made[cast.input[0]]
        _require(integer.op_type == "MatMulInteger")
        (scale,) = (self._array(i) for i in scales.input if i in self._tensors)
        weight = self._array(integer.input[1])
        _require(weight.dtype == np.int8 and not self._array(integer.input[3]).any())
        return Linear(weight, np.broadcast_to(scale, bias.shape).astype(np.float32), bias)

    def _constants(self, node: Any) -> Iterator[np.ndarray]:
        """Yield a node's constant inputs, as arrays."""
        from onnx import numpy_helper

        for name in node.input:
            if name in self._tensors:
                yield self._array(name)
            elif name in self._made and self._made[name].op_type == "Constant":
                yield numpy_helper.to_array(self._made[name].attribute[0].t)

    def _heads(self, bias: str, width: int) -> int:
        """Return the number of heads: the query's states are reshaped to [..., heads, width / heads]."""
        (reshape,) = (n for n in self._users[self._users[bias][0].output[0]] if n.op_type == "Reshape")
        shape = next(self._constants(reshape), None)
        size = int(shape[-1] if shape is not None else list(self._constants(self._made[reshape.input[1]]))[-1][-1])
        _require(size > 0 and width % size == 0)
        return width // size

    def _scaled(self, softmax: Any, size: int) -> bool:
        """Whether a head's scores are q k / sqrt(size): scaled after the product, or both factors before it."""
        node = self._made[softmax.input[0]]
        if node.op_type == "Add":  # of the mask
            node = self._made[node.input[0]]
        factor = next(self._constants(node), None)
        if node.op_type != "MatMul" and factor is not None:
            return np.isclose(float(factor), size ** (0.5 if node.op_type == "Div" else -0.5))
        before = [self._made[name] for name in node.input]
        return node.op_type == "MatMul" and all(
            n.op_type == "Mul" and "Sqrt" in {self._made[i].op_type for i in n.input if i in self._made} for n in before
        )

    def _epsilon(self) -> float:
        """Return the one epsilon of all LayerNorms: an attribute, or added to the variance under the root."""
        norms = [node for node in self._nodes if node.op_type == "LayerNormalization"]
        found = {attribute.f for node in norms for attribute in node.attribute if attribute.name == "epsilon"}
        for root in (node for node in self._nodes if node.op_type == "Sqrt"):
            added = self._made.get(root.input[0])
            if added is not None and added.op_type == "Add":
                found |= {float(value) for value in self._constants(added)}
        _require(len(found) == 1)
        return found.pop()
