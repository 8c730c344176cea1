"""BERT graphs in fused operators: the same model to rounding, and nothing else taken for one."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper
from safetensors.numpy import load_file, save_file

from common.encoders.bert_graph import Output, bert_graph
from common.encoders.bert_weights import BertWeights, Linear, read_bert
from common.encoders.onnx_export import export_once
from common.encoders.onnx_text import OnnxTextModel
from common.encoders.packaged import PACKAGED, Source, resolve
from common.encoders.text import build_text_encoder
from tests.common.tiny_models import write_sentence_transformer

GRAPHS = ["BAAI/bge-small-en-v1.5", "answerdotai/answerai-colbert-small-v1", "cross-encoder/ms-marco-MiniLM-L12-v2"]
IDS = [101, 2054, 2003, 1996, 3007, 1997, 2605, 102, 3000, 2003, 1996, 3007, 1998, 2922, 2103, 1997, 2605, 1012, 102]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny float32 export, with biases that are not all zero (the exporter joins equal tensors)."""
    folder = tmp_path_factory.mktemp("tiny")
    saved = write_sentence_transformer(folder)
    (weights,) = saved.rglob("*.safetensors")
    rng = np.random.default_rng(5)
    tensors = {name: value + 0.1 * rng.random(value.shape, np.float32) for name, value in load_file(weights).items()}
    save_file(tensors, weights, {"format": "pt"})
    source, _ = export_once(resolve(str(saved)), folder, "float32")
    return source.onnx_file()


def run(graph: bytes | str, ids: list[int], types: list[int] | None = None) -> np.ndarray:
    """Return the graph's first output for one text."""
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    row = np.asarray([ids], np.int64)
    feeds = {
        "input_ids": row,
        "attention_mask": np.ones_like(row),
        "token_type_ids": np.zeros_like(row) if types is None else np.asarray([types], np.int64),
    }
    return np.asarray(session.run(None, {i.name: feeds[i.name] for i in session.get_inputs()})[0])


def read(path: Path) -> BertWeights:
    weights = read_bert(path)
    assert weights is not None
    return weights


def in_float(weights: BertWeights) -> BertWeights:
    """Return the same int8 weights as float32 ones: the products then round nothing."""

    def floated(linear: Linear) -> Linear:
        assert linear.scale is not None
        return Linear((linear.weight * linear.scale).astype(np.float32), None, linear.bias)

    names = ("query", "key", "value", "attended", "inner", "outer")
    layers = tuple(replace(layer, **{n: floated(getattr(layer, n)) for n in names}) for layer in weights.layers)
    heads = {n: floated(linear) for n in ("pooler", "classifier") if (linear := getattr(weights, n)) is not None}
    return replace(weights, layers=layers, **heads)


def test_float_states_are_the_exported_graph_s(exported: Path) -> None:
    weights = read(exported)
    assert (len(weights.layers), weights.heads, weights.pooler) == (2, 2, None)
    assert weights.epsilon == pytest.approx(1e-12)
    for ids in ([2, 3], [2, *range(5, 60), 3]):
        types = [i % 2 for i in range(len(ids))]
        expected = run(str(exported), ids, types)
        found = run(bert_graph(weights, "states"), ids, types)
        np.testing.assert_allclose(found, expected, atol=2e-5)
        np.testing.assert_allclose(run(bert_graph(weights, "first"), ids, types), expected[:, :1], atol=2e-5)


@pytest.mark.parametrize("model", GRAPHS)
def test_a_packaged_graph_s_states_are_as_near_to_the_unrounded_ones(model: str) -> None:
    """Quantised products differ by rounding in every layer: each is compared with products that round nothing."""
    path = resolve(model).onnx_file()
    weights = read(path)
    assert (len(weights.layers), weights.heads) == (12, 12)
    output: Output = "logits" if weights.classifier else "states"
    types = [0] * 8 + [1] * 11
    unrounded, fused, given = (
        run(graph, IDS, types)[0]
        for graph in (bert_graph(in_float(weights), output), bert_graph(weights, output), str(path))
    )
    if output == "logits":
        assert abs(fused - unrounded) < 0.3 and abs(given - unrounded) < 0.3 and abs(fused) > 1
        return

    def distance(states: np.ndarray) -> float:
        cosines = (states * unrounded).sum(1) / np.linalg.norm(states, axis=1) / np.linalg.norm(unrounded, axis=1)
        return float((1 - cosines).mean())

    assert distance(fused) < 0.01 and distance(fused) < 1.3 * distance(given)


def test_weights_are_the_exported_ones_to_the_bit() -> None:
    path = resolve(GRAPHS[1]).onnx_file()
    graph = onnx.load_from_string(bert_graph(read(path), "states")).graph
    ours = {numpy_helper.to_array(t).tobytes() for t in graph.initializer}
    theirs = [t for t in onnx.load(str(path)).graph.initializer if t.name.endswith("_quantized") and len(t.dims) == 2]
    alone = [t for t in theirs if t.dims[0] == 1536 or t.dims[1] == 1536]
    assert len(alone) == 24 and {numpy_helper.to_array(t).tobytes() for t in alone} <= ours


Change = Callable[[Any], None]


def _other_scale(graph: Any) -> None:
    for node in graph.node:
        if node.op_type == "Softmax":
            scaled = _maker(graph, _maker(graph, node.input[0]).input[0])
            constant = _maker(graph, scaled.input[1])
            constant.attribute[0].t.CopyFrom(numpy_helper.from_array(np.asarray(0.5, np.float32)))


def _maker(graph: Any, name: str) -> Any:
    return next(node for node in graph.node if name in node.output)


def _other_activation(graph: Any) -> None:
    next(node for node in graph.node if node.op_type == "Erf").op_type = "Tanh"


def _one_more_product(graph: Any) -> None:
    last, width = graph.output[0].name, 32
    graph.initializer.append(numpy_helper.from_array(np.eye(width, dtype=np.float32), "more"))
    graph.node.append(onnx.helper.make_node("MatMul", [last, "more"], ["projected"]))
    graph.output[0].name = "projected"


def _counted_positions(graph: Any) -> None:
    graph.node.append(onnx.helper.make_node("CumSum", ["input_ids", "input_ids"], ["places"]))


def _one_input_more(graph: Any) -> None:
    graph.input.append(onnx.helper.make_tensor_value_info("pixels", onnx.TensorProto.FLOAT, [1]))


@pytest.mark.parametrize(
    "change", [_other_scale, _other_activation, _one_more_product, _counted_positions, _one_input_more]
)
def test_another_model_is_not_read(exported: Path, tmp_path: Path, change: Change) -> None:
    model = onnx.load(str(exported))
    change(model.graph)
    onnx.save(model, str(tmp_path / "model.onnx"))
    assert read_bert(tmp_path / "model.onnx") is None


def test_a_graph_that_is_not_read_runs_as_it_is(exported: Path, tmp_path: Path) -> None:
    model = onnx.load(str(exported))
    _one_more_product(model.graph)
    onnx.save(model, str(tmp_path / "model.onnx"))
    shutil.copy(exported.with_name("tokenizer.json"), tmp_path)
    as_it_is = OnnxTextModel(Source("x", tmp_path, "onnx"), 64, 2, "states")
    fused = OnnxTextModel(Source("x", exported.parent, "onnx"), 64, 2, "states")
    assert (as_it_is.engine, fused.engine) == ("graph as it is", "bert graph 1")
    for (_, one), (_, other) in zip(as_it_is.run(["the cat", "a dog"]), fused.run(["the cat", "a dog"]), strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5)


def test_no_bytes_are_not_a_bert(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"\x00 no graph")
    assert read_bert(tmp_path / "model.onnx") is None
    assert read_bert(tmp_path / "absent.onnx") is None


def test_the_engine_is_part_of_the_vectors_key(monkeypatch: pytest.MonkeyPatch) -> None:
    assert GRAPHS[0] in PACKAGED
    fused = build_text_encoder(GRAPHS[0])
    monkeypatch.setattr("common.encoders.onnx_text.read_bert", lambda path: None)
    as_it_is = build_text_encoder(GRAPHS[0])
    assert fused.revision == as_it_is.revision and fused.preprocessing != as_it_is.preprocessing
    texts = ["Paris is the capital of France.", "Bread needs flour, water, salt and yeast."]
    both = [e.encode(texts, role="passage", batch_size=1) for e in (fused, as_it_is)]
    assert (both[0] * both[1]).sum(axis=1).min() > 0.99 and np.abs(both[0] - both[1]).max() > 0


def test_more_threads_than_texts_and_texts_than_in_flight() -> None:
    texts = [f"word {i} and {'more ' * (i % 7)}" for i in range(70)]
    one, many = (build_text_encoder(GRAPHS[0], threads=n) for n in (1, 3))
    expected = one.encode(texts, role="passage", batch_size=1)
    np.testing.assert_array_equal(many.encode(texts, role="passage", batch_size=1), expected)
    np.testing.assert_array_equal(many.encode(texts[:1], role="passage", batch_size=1), expected[:1])
