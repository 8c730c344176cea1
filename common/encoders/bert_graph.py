"""A BERT encoder as a graph of ONNX Runtime's fused operators, for one text without padding.

Exported graphs spend half of their time beside the products: every layer quantises its input three times, splits the
attention into a dozen operators and adds a mask that hides nothing. Here a layer is seven operators: one product for
query, key and value, attention, its output, sum and LayerNorm, product, GELU, product, sum and LayerNorm. Where only
the first token's state is asked for, the last layer computes no other. The weights stay as they are, to the bit.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from common.encoders.bert_weights import BertWeights, Layer, Linear, Norm, Table

Output = Literal["states", "first", "logits"]
VERSION = 1  # raise it when the vectors change

_OPSET = 23
_IR_VERSION = 11
_FUSED = "com.microsoft"  # ONNX Runtime's own operators


def bert_graph(weights: BertWeights, output: Output) -> bytes:
    """Return the serialised graph: input_ids and token_type_ids, int64 [1, T], to one output.

    Parameters
    ----------
    weights
        With a pooler and a classifier where `output` is "logits".
    output
        "states": float32 [1, T, D]; "first": the first token's, [1, 1, D]; "logits": [1, L].
    """
    return _Builder(weights).build(output)


class _Builder:
    def __init__(self, weights: BertWeights) -> None:
        from onnx import ModelProto, helper

        self._weights = weights
        opsets = [helper.make_opsetid("", _OPSET), helper.make_opsetid(_FUSED, 1)]
        self._model = ModelProto(ir_version=_IR_VERSION, opset_import=opsets)
        self._graph: Any = self._model.graph  # filled in place: the helpers' whole graphs copy every tensor twice
        self._graph.name = "bert"

    def build(self, output: Output) -> bytes:
        from onnx import TensorProto, helper

        weights = self._weights
        states = self._embeddings()
        for place, layer in enumerate(weights.layers, 1):
            first = output != "states" and place == len(weights.layers)
            states = self._layer(layer, states, first)
        shape = [1, 1 if output == "first" else "tokens", weights.norm.bias.size]
        if output == "logits":
            if weights.pooler is None or weights.classifier is None:
                raise ValueError("a graph without a pooler and a classifier has no logits")
            pooled = self._node("Tanh", [self._linear(weights.pooler, states)])
            logits = self._linear(weights.classifier, pooled)
            states = self._node("Squeeze", [logits, self._tensor(np.asarray([1]))])
            shape = [1, weights.classifier.bias.size]
        self._graph.node.append(helper.make_node("Identity", [states], ["output"]))
        inputs = ("input_ids", "token_type_ids")
        self._graph.input.extend(helper.make_tensor_value_info(n, TensorProto.INT64, [1, "tokens"]) for n in inputs)
        self._graph.output.append(helper.make_tensor_value_info("output", TensorProto.FLOAT, shape))
        return self._model.SerializeToString()

    def _embeddings(self) -> str:
        weights = self._weights
        sums = self._node("Add", [self._rows(weights.words, "input_ids"), self._rows(weights.types, "token_type_ids")])
        zero, one = self._tensor(np.asarray([0])), self._tensor(np.asarray([1]))
        length = self._node("Slice", [self._node("Shape", ["input_ids"]), one, self._tensor(np.asarray([2]))])
        positions = self._node("Slice", [self._tensor(weights.positions.rows()[None]), zero, length, one])
        return self._norm(weights.norm, sums, positions)

    def _rows(self, table: Table, ids: str) -> str:
        rows = self._node("Gather", [self._tensor(table.values), ids])
        if table.scale is None or table.zero_point is None:
            return rows
        return self._node("DequantizeLinear", [rows, self._tensor(table.scale), self._tensor(table.zero_point)])

    def _layer(self, layer: Layer, states: str, first: bool) -> str:
        """Append a layer; `first`: its output is the first token's state alone."""
        size = layer.query.bias.size
        if first:
            bounds = [self._tensor(np.asarray([i])) for i in (0, 1, 1)]
            asked = self._node("Slice", [states, *bounds])
            query = self._linear(layer.query, asked)
            key, value = self._split(self._linear(_joined(layer.key, layer.value), states), size, 2)
            states = asked
        else:
            joined = self._linear(_joined(layer.query, layer.key, layer.value), states)
            query, key, value = self._split(joined, size, 3)
        heads = self._weights.heads
        attended = self._node("Attention", [query, key, value], q_num_heads=heads, kv_num_heads=heads)
        states = self._norm(layer.attended_norm, states, self._linear(layer.attended, attended))
        inner = self._node("Gelu", [self._linear(layer.inner, states)])
        return self._norm(layer.outer_norm, states, self._linear(layer.outer, inner))

    def _split(self, states: str, size: int, parts: int) -> list[str]:
        sizes = self._tensor(np.full(parts, size, np.int64))
        return self._several("Split", [states, sizes], parts, axis=-1)

    def _norm(self, norm: Norm, left: str, right: str) -> str:
        """Append the LayerNorm of a sum; the fused SkipLayerNormalization takes seven times as long as the two."""
        inputs = [self._node("Add", [left, right]), self._tensor(norm.weight), self._tensor(norm.bias)]
        return self._node("LayerNormalization", inputs, axis=-1, epsilon=self._weights.epsilon)

    def _linear(self, linear: Linear, states: str) -> str:
        weight, bias = self._tensor(linear.weight), self._tensor(linear.bias)
        if linear.scale is None:
            return self._node("Add", [self._node("MatMul", [states, weight]), bias])
        inputs = [states, weight, self._tensor(linear.scale), "", bias]
        return self._node("DynamicQuantizeMatMul", inputs, fused=True)

    def _tensor(self, values: np.ndarray) -> str:
        from onnx import helper

        name = f"w{len(self._graph.initializer)}"
        kind = helper.np_dtype_to_tensor_dtype(values.dtype)
        self._graph.initializer.add(name=name, dims=values.shape, data_type=kind, raw_data=values.tobytes())
        return name

    def _node(self, kind: str, inputs: list[str], *, fused: bool = False, **attributes: Any) -> str:
        return self._several(kind, inputs, 1, fused=fused, **attributes)[0]

    def _several(
        self, kind: str, inputs: list[str], count: int, *, fused: bool = False, **attributes: Any
    ) -> list[str]:
        from onnx import helper

        outputs = [f"v{len(self._graph.node)}_{i}" for i in range(count)]
        domain = _FUSED if fused else ""
        self._graph.node.append(helper.make_node(kind, inputs, outputs, domain=domain, **attributes))
        return outputs


def _joined(*linears: Linear) -> Linear:
    """Return one product with the columns of several."""
    scales = [linear.scale for linear in linears if linear.scale is not None]
    return Linear(
        np.concatenate([linear.weight for linear in linears], axis=1),
        np.concatenate(scales) if scales else None,
        np.concatenate([linear.bias for linear in linears]),
    )
