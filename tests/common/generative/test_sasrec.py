"""SASRec: causality, full softmax, files, learning on a planted chain beside a shuffled control."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from common.errors import DataError
from common.generative.baselines import SasRecRetrieval
from common.generative.evaluate import evaluate
from common.generative.sasrec import SasRec, SasRecConfig
from common.generative.sequences import Split, from_lists, leave_one_out, whole
from common.generative.tiger_batches import TigerBatch
from common.generative.training import FitConfig, fit_generator
from common.planted import ClusterChain
from common.tokenizers.semantic_ids import SemanticIdMap

CONFIG = SasRecConfig(dim=16, heads=2, feedforward=32, encoder_layers=2, dropout=0.0, max_items=6)


def sasrec(items: int = 12, seed: int = 0) -> SasRec:
    torch.manual_seed(seed)
    model = SasRec(CONFIG, SemanticIdMap.atomic(items))
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    return model.eval()


def test_a_state_sees_only_what_came_before() -> None:
    model, items = sasrec(), torch.tensor([[1, 2, 3, 4]])
    states = model.states(items)
    other = model.states(torch.tensor([[1, 2, 9, 9]]))
    torch.testing.assert_close(states[:, :3], other[:, :3])
    assert not torch.allclose(states[:, 3], other[:, 3])


def test_the_loss_is_the_mean_over_targets_of_one_history_at_a_time() -> None:
    model = sasrec()
    data = from_lists([np.array([3, 1, 4, 1, 5]), np.array([9, 2])], 12)
    batches = model.batches(data.items, data.offsets, seed=0)
    (rows,) = batches.epoch(0)
    loss = model.loss(batches.make(rows))["loss"]
    losses = []
    for one in (np.array([3, 1, 4, 1, 5]), np.array([9, 2])):
        for at in range(1, len(one)):
            logits = model.last_states(TigerBatch.of([one[:at]])) @ model.items.weight.T
            losses.append(functional.cross_entropy(logits, torch.tensor([int(one[at])])))
    torch.testing.assert_close(loss, torch.stack(losses).mean())


def test_padding_and_long_or_empty_histories() -> None:
    model = sasrec()
    asked = [np.array([1, 2, 3]), np.array([], int), np.arange(9)]
    together = model.last_states(TigerBatch.of(asked))
    for row, one in enumerate(asked):
        torch.testing.assert_close(together[row], model.last_states(TigerBatch.of([one]))[0])
    torch.testing.assert_close(together[2], model.last_states(TigerBatch.of([np.arange(9)[-6:]]))[0])


def test_dense_retrieval_is_the_generator_s_ranking() -> None:
    model = sasrec()
    histories = whole(from_lists([np.array([1, 2, 3]), np.array([5])], 12))
    items, _ = SasRecRetrieval(model).recommend(histories, 12)
    found = model.generate(TigerBatch.of(list(histories)), model.trie(), beam=12, top_k=12)
    assert (items == found.items.numpy()).all()
    torch.testing.assert_close(found.scores.exp().sum(1), torch.ones(2))


def test_save_and_load(tmp_path: Path) -> None:
    model, ids = sasrec(), SemanticIdMap.atomic(12)
    model.save(tmp_path / "model")
    back = SasRec.load(tmp_path / "model", ids)
    histories = whole(from_lists([np.array([1, 2, 3])], 12))
    assert back.user_vectors(histories).tobytes() == model.user_vectors(histories).tobytes()
    with pytest.raises(DataError, match="another version"):
        SasRec.load(tmp_path / "model", SemanticIdMap.atomic(13))


def chain_split() -> tuple[Split, float]:
    chain = ClusterChain(np.arange(40) // 4, stay=0.9, seed=0)
    data = from_lists(chain.sequences(300, 8, 0), 40)
    return leave_one_out(data), chain.recall(5)


def trained(split: Split, seed: int = 0) -> tuple[float, bytes]:
    torch.manual_seed(seed)
    model = SasRec(CONFIG, SemanticIdMap.atomic(40))
    batches = model.batches(split.train.items, split.train.offsets, seed=seed, batch_size=128)
    fit_generator(model, batches, FitConfig(epochs=15, learning_rate=5e-3), seed=seed)
    recall = evaluate(SasRecRetrieval(model), split.test, ks=(5,)).figures["Recall@5"].mean
    return recall, model.items.weight.detach().numpy().tobytes()


def test_it_learns_the_chain_and_from_shuffled_items_nothing() -> None:
    torch.set_num_threads(1)
    split, best = chain_split()
    recall, weights = trained(split)
    assert recall > 0.9 * best
    assert trained(split)[1] == weights  # the same seed, the same bytes
    mixed = np.random.default_rng(0).permutation(split.train.items)
    placebo, _ = trained(replace(split, train=replace(split.train, items=mixed)))
    assert placebo < 0.4 * best
