"""RQ-VAE: the loss against its equation, gradients against their definitions, quality on planted vectors."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from common.errors import ConfigError, DataError, UserError
from common.planted import additive_vectors, isotropic_vectors
from common.tokenizers import load_quantizer
from common.tokenizers.base import Quantizer
from common.tokenizers.collisions import collision_report
from common.tokenizers.rq_vae import RQVAE
from common.tokenizers.rq_vae_model import ResidualVAE, Shape, balanced_codes
from common.tokenizers.rq_vae_training import Trainer
from common.tokenizers.semantic_ids import SemanticIdMap
from common.tokenizers.sinkhorn import last_level, sinkhorn
from tests.processes import one_thread as one_thread

SIZES = (16, 16, 16)
SMALL: dict[str, Any] = {
    "codebook_sizes": SIZES,
    "hidden": (128,),
    "latent_dim": 32,
    "steps": 350,
    "warmup_steps": 200,
    "batch_size": 256,
    "learning_rate": 3e-3,
    "evaluate_every": 100,
}
TINY: dict[str, Any] = SMALL | {
    "codebook_sizes": (8, 4),
    "hidden": (16,),
    "latent_dim": 8,
    "steps": 40,
    "warmup_steps": 10,
}
TINY |= {"batch_size": 64, "evaluate_every": 20}


@pytest.fixture(scope="module")
def plant() -> np.ndarray:
    return additive_vectors(4000, 32, 3, 16, 0.05, 0)[0]


@pytest.fixture(scope="module")
def fitted(plant) -> RQVAE:
    return RQVAE(**SMALL).fit(plant, seed=0)


def errors(quantizer: Quantizer) -> list[float]:
    return [level["relative_error"] for level in quantizer.metrics["levels"]]


def dead(quantizer: Quantizer) -> int:
    return sum(level["dead"] for level in quantizer.metrics["levels"])


def network(**changes: Any) -> ResidualVAE:
    shape: dict[str, Any] = {
        "dim": 6, "hidden": (5,), "latent_dim": 4, "codebook_sizes": (3, 5), "commitment": 0.25, "decay": 0.9,
        "gradient": "straight_through", "update": "gradient", "dead_below": 0.0, "revived_at": 0.0, "sinkhorn": 0.0,
    }  # fmt: skip
    torch.manual_seed(0)
    return ResidualVAE(Shape(**(shape | changes)))


# -- the network


@pytest.mark.parametrize("update", ["gradient", "ema"])
def test_the_loss_is_the_papers(update) -> None:
    model, x = network(update=update), torch.randn(7, 6, generator=torch.Generator().manual_seed(1))
    losses, used = model.loss(x)
    z = model.encoder(x).detach().numpy()
    left, total, expected = z.copy(), np.zeros_like(z), 0.0
    for (_, codes), table in zip(used, model.tables(), strict=True):
        table = table.detach().numpy()
        nearest = ((left[:, None] - table) ** 2).sum(2).argmin(1)
        assert (codes.numpy() == nearest).all()
        squared = ((left - table[nearest]) ** 2).sum(1).mean()
        expected += (1.25 if update == "gradient" else 0.25) * squared
        left, total = left - table[nearest], total + table[nearest]
    decoded = model.decoder(torch.from_numpy(total)).detach().numpy()
    expected += ((x.numpy() - decoded) ** 2).sum(1).mean()
    assert losses["loss"].item() == pytest.approx(expected, rel=1e-5)


def test_straight_through_and_rotation_give_their_gradients() -> None:
    generator = torch.Generator().manual_seed(2)
    quantized, weight = (torch.randn(9, 4, generator=generator).double() for _ in range(2))
    for gradient in ("straight_through", "rotation"):
        z = torch.randn(9, 4, generator=torch.Generator().manual_seed(3)).double().requires_grad_()
        out = network(gradient=gradient)._through(z, quantized)
        np.testing.assert_allclose(out.detach(), quantized, atol=1e-5)
        (out * weight).sum().backward()
        assert z.grad is not None
        if gradient == "straight_through":
            np.testing.assert_allclose(z.grad, weight)
            continue
        for row in range(9):  # the rotation in the plane of z and q, times |q| / |z|
            a, b = (v / v.norm() for v in (z.detach()[row], quantized[row]))
            both = (a + b) / (a + b).norm()
            turn = torch.eye(4).double() - 2 * torch.outer(both, both) + 2 * torch.outer(b, a)
            turn *= quantized[row].norm() / z.detach()[row].norm()
            np.testing.assert_allclose(z.grad[row], turn.T @ weight[row], atol=1e-6)


def test_codebook_and_encoder_learn_from_their_own_terms() -> None:
    x = torch.randn(50, 6, generator=torch.Generator().manual_seed(1))
    model = network()
    losses, used = model.loss(x)
    losses["loss"].backward()
    book = model.books()[0].embed
    left, codes = used[0]
    table = model.tables()[0].detach()
    expected = torch.zeros_like(table)
    expected.index_add_(0, codes, 2 * (table[codes] - left) / len(x))
    np.testing.assert_allclose(book.grad[0], expected, atol=1e-6)  # of |sg[r] - q|^2 alone
    model = network(update="ema")
    model.loss(x)[0]["loss"].backward()
    assert all(book.embed.grad is None for book in model.books())
    assert all(weight.grad is not None for weight in model.encoder.parameters())


def test_running_means_move_codes_to_the_mean_of_what_they_stand_for() -> None:
    model, x = network(update="ema"), torch.randn(50, 6, generator=torch.Generator().manual_seed(1))
    table, counts = torch.randn(3, 4, generator=torch.Generator().manual_seed(4)), torch.tensor([10.0, 20.0, 30.0])
    model.set_table(0, table, counts)
    _, used = model.loss(x)
    left, codes = used[0]
    model.train()
    model.after_step(used)
    members = torch.nn.functional.one_hot(codes, 3).float()
    mass = 0.9 * counts + 0.1 * members.sum(0)
    sums = 0.9 * table * counts[:, None] + 0.1 * members.T @ left
    np.testing.assert_allclose(model.tables()[0], sums / mass[:, None], atol=1e-5)


@pytest.mark.parametrize("update", ["gradient", "ema"])
def test_a_dead_code_is_moved_onto_a_residual(update) -> None:
    x = torch.randn(200, 6, generator=torch.Generator().manual_seed(1))
    for threshold, moved in ((0.0, False), (2.0, True)):
        model = network(update=update, dead_below=3 * threshold, revived_at=30.0)
        table = torch.cat([torch.randn(2, 4, generator=torch.Generator().manual_seed(5)), torch.full((1, 4), 1e3)])
        model.set_table(0, table, torch.tensor([10.0, 10.0, 0.5]))
        _, used = model.loss(x)
        model.after_step(used)
        far = model.tables()[0].detach()[2]
        assert (far.norm() < 1e2) == moved
        if moved:
            assert (torch.cdist(far[None], used[0][0]) < 1e-6).any()
            assert model.books()[0].get_buffer("cluster_size")[0, 2] == 10.0


def test_balanced_codes_are_those_of_the_transport_plan() -> None:
    distances = torch.rand(60, 6, generator=torch.Generator().manual_seed(1))
    distances[:, 0] *= 0.2  # everybody's nearest
    codes = balanced_codes(distances, 0.05, 200)
    plan = sinkhorn(distances.double().numpy()[None], np.ones((1, 60, 6), dtype=bool), epsilon=0.05, iterations=200)[0]
    assert (codes.numpy() == plan.argmax(axis=1)).mean() > 0.98
    counts = torch.bincount(codes, minlength=6)
    assert counts.max() <= 14 and torch.bincount(distances.argmin(1), minlength=6).max() > 30
    for distances in (torch.zeros(4, 3), torch.tensor([[0.0, 1e9], [1e9, 0.0]])):
        assert (balanced_codes(distances, 1e-4) >= 0).all()
    assert balanced_codes(distances, 1e-4).tolist() == [0, 1]


def test_the_last_level_is_spread_in_training_only() -> None:
    model, x = network(sinkhorn=0.01), torch.randn(60, 6, generator=torch.Generator().manual_seed(1))
    table = torch.cat([torch.zeros(1, 4), 5 + torch.rand(4, 4, generator=torch.Generator().manual_seed(6))])
    model.set_table(1, table, torch.ones(5))
    assert torch.bincount(model.train().loss(x)[1][1][1], minlength=5).max() <= 20
    assert (model.eval().loss(x)[1][1][1] == 0).all()
    assert (model.train().loss(x)[1][0][1] == model.eval().loss(x)[1][0][1]).all()


# -- quality


def random_codebook_error(x: np.ndarray) -> float:
    """Residual codes with codebooks of sampled residuals."""
    rng, left = np.random.default_rng(0), x - x.mean(axis=0)
    for size in SIZES:
        table = left[rng.choice(len(left), size, replace=False)]
        left = left - table[((left[:, None] - table) ** 2).sum(2).argmin(1)]
    return float(np.square(left).sum() / np.square(x - x.mean(axis=0)).sum())


def test_on_the_additive_plant(plant, fitted) -> None:
    first, second, third = errors(fitted)
    assert first > 1.5 * second and second > 1.5 * third
    assert third <= 0.05  # facts, section 3
    assert third < random_codebook_error(plant) / 2
    assert dead(fitted) == 0
    assert all(level["perplexity"] >= 0.5 * level["size"] for level in fitted.metrics["levels"])
    report = collision_report(fitted.encode(plant), SIZES)
    assert report.unique_fraction >= 0.85 * report.expected_fraction


def test_structure_and_not_capacity_is_what_it_uses(plant) -> None:
    settings = SMALL | {"hidden": (64,), "steps": 100, "warmup_steps": 60, "evaluate_every": 50}
    assert errors(RQVAE(**settings).fit(isotropic_vectors(4000, 32, seed=0), seed=0))[-1] > 0.5
    rng = np.random.default_rng(1)  # each column by itself is as before
    shuffled = np.stack([rng.permutation(column) for column in plant.T], axis=1)
    assert errors(RQVAE(**settings).fit(shuffled, seed=0))[-1] > 0.5
    assert errors(RQVAE(**settings).fit(plant, seed=0))[-1] < 0.15


@pytest.mark.parametrize("gradient", ["straight_through", "rotation"])
@pytest.mark.parametrize("update", ["gradient", "ema"])
def test_every_estimator_trains_encoder_and_codebooks(plant, gradient, update) -> None:
    settings = SMALL | {
        "hidden": (64,),
        "gradient": gradient,
        "update": update,
        "steps": 120,
        "warmup_steps": 0,
        "evaluate_every": 40,
    }
    quantizer = RQVAE(**settings).fit(plant, seed=0)
    still = RQVAE(**(settings | {"steps": 1})).fit(plant, seed=0)
    assert errors(quantizer)[-1] < 0.35 < 0.8 < errors(still)[-1]


def test_reset_keeps_every_code_alive_and_without_it_some_die(plant) -> None:
    settings = SMALL | {"codebook_sizes": (64,), "hidden": (32,), "latent_dim": 16, "warmup_steps": 0, "decay": 0.9}
    settings |= {"learning_rate": 1e-2, "update": "gradient", "steps": 200}
    assert dead(RQVAE(**(settings | {"dead_codes": 0.0})).fit(plant, seed=0)) > 0
    assert dead(RQVAE(**(settings | {"dead_codes": 0.1})).fit(plant, seed=0)) == 0


def test_sinkhorn_parts_colliding_items_in_the_latent_space(plant, fitted) -> None:
    x = plant[:300]
    codes = fitted.encode(x)
    distances = last_level(fitted, x, codes)(np.arange(300))
    assert distances.shape == (300, 16) and (distances.argmin(axis=1) == codes[:, 2]).all()
    before = collision_report(codes, SIZES)
    ids = SemanticIdMap.from_codes(codes, SIZES, dedup="sinkhorn", quantizer=fitted, x=x)
    assert before.colliding > 0 and len(np.unique(ids.sids, axis=0)) == 300
    assert (ids.sids[:, :2] == codes[:, :2]).all()


# -- the contract


def test_save_and_load_give_the_same_bytes_and_codes(plant, fitted, tmp_path: Path) -> None:
    fitted.save(tmp_path / "a")
    back = load_quantizer(tmp_path / "a")
    assert isinstance(back, RQVAE) and back.version == fitted.version and back.settings() == fitted.settings()
    assert (back.encode(plant[:500]) == fitted.encode(plant[:500])).all()
    codes = fitted.encode(plant[:50])
    assert (back.decode(codes) == fitted.decode(codes)).all()
    assert (fitted.embed(codes[:, :2], 2) == fitted.embed(codes, 2)).all()
    back.save(tmp_path / "b")
    for name in ("quantizer.json", "quantizer.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_tampered_files_are_refused(fitted, tmp_path: Path) -> None:
    fitted.save(tmp_path / "q")
    path = tmp_path / "q" / "quantizer.json"
    header = json.loads(path.read_text())
    path.write_text(json.dumps({**header, "settings": {**header["settings"], "latent_dim": 16}}))
    with pytest.raises(DataError, match="damaged"):
        load_quantizer(tmp_path / "q")
    data = tmp_path / "q" / "quantizer.safetensors"
    path.write_text(json.dumps(header))
    data.write_bytes(data.read_bytes()[:-4] + b"\x00\x00\x00\x00")
    with pytest.raises(DataError, match="not the one that was saved"):
        load_quantizer(tmp_path / "q")


def test_codes_depend_on_neither_batch_nor_order(plant, fitted) -> None:
    codes, order = fitted.encode(plant), np.random.default_rng(0).permutation(len(plant))
    assert (fitted.encode(plant[order]) == codes[order]).all()
    for start, stop in ((0, 1), (5, 6), (7, 40), (1023, 1025), (3000, 4000)):
        assert (fitted.encode(plant[start:stop]) == codes[start:stop]).all()
        assert (fitted.latents(plant[start:stop]) == fitted.latents(plant)[start:stop]).all()
        assert (fitted.decode(codes[start:stop]) == fitted.decode(codes)[start:stop]).all()


def test_a_seed_decides_every_byte(plant) -> None:
    x = plant[:300]
    one, two, three = (RQVAE(**TINY).fit(x, seed=seed) for seed in (1, 1, 2))
    assert one.version == two.version != three.version
    assert (one.encode(x) == two.encode(x)).all()
    before = torch.get_rng_state()
    RQVAE(**TINY).fit(x, seed=1)
    assert torch.equal(before, torch.get_rng_state())  # the caller's random state is left alone


def test_training_on_a_sample_reads_memory_maps(plant, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", plant)
    x = np.load(tmp_path / "x.npy", mmap_mode="r")
    quantizer = RQVAE(**TINY, sample=200).fit(x, seed=0)
    assert quantizer.metrics["rows"] == 200
    assert quantizer.encode(x).shape == (4000, 2)


@pytest.mark.parametrize("at", [5, 27])
def test_an_interrupted_training_ends_with_the_same_bytes(at, plant, tmp_path: Path, monkeypatch) -> None:
    x, folder = plant[:300], tmp_path / "state"
    whole = RQVAE(**TINY).fit(x, seed=3)
    step = Trainer._step

    def pressed(self: Trainer, quantize: bool) -> None:
        step(self, quantize)
        if self.progress.step == at:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Trainer, "_step", pressed)
    with pytest.raises(KeyboardInterrupt):
        RQVAE(**TINY).fit(x, seed=3, folder=folder)
    monkeypatch.setattr(Trainer, "_step", step)
    with pytest.raises(ConfigError, match="seed"):
        RQVAE(**TINY).fit(x, seed=4, folder=folder)
    assert RQVAE(**TINY).fit(x, seed=3, folder=folder).version == whole.version
    assert not folder.exists()


def test_early_stopping_keeps_the_best_weights(plant) -> None:
    x = plant[:400]
    settings = TINY | {"steps": 400, "evaluate_every": 5, "patience": 2, "learning_rate": 0.3, "validation": 0.25}
    training = RQVAE(**settings).fit(x, seed=0).metrics["training"]
    assert training["stopped"] == "patience" and training["step"] < 400
    best = min(training["evaluations"], key=lambda evaluation: evaluation["error"])
    assert training["best_step"] == best["step"] == training["step"] - 10


# -- bad input


def test_bad_vectors(plant, fitted) -> None:
    bad = plant[:100].copy()
    bad[17, 3] = np.nan
    same = np.ones((50, 8), np.float32)
    for x, fault in (
        (bad, "row 17"),
        (plant[:7], "fewer vectors than codes"),
        (same, "all vectors are the same"),
        (np.repeat(plant[:3], 20, axis=0), "fewer different"),
        (plant[0], "another shape"),
    ):
        with pytest.raises(DataError, match=fault):
            RQVAE(**TINY).fit(x, seed=0)
    with pytest.raises(DataError, match="another width"):
        fitted.encode(plant[:, :31])
    with pytest.raises(DataError, match="row 17"):
        fitted.encode(bad)
    with pytest.raises(DataError, match=r"outside its codebook[\s\S]*level 1"):
        fitted.decode(np.asarray([[0, 16, 0]]))
    with pytest.raises(ConfigError, match="no codebooks yet"):
        RQVAE(**TINY).encode(plant)
    assert fitted.encode(plant[:0]).shape == (0, 3)


@pytest.mark.parametrize(
    "setting",
    [
        *({"codebook_sizes": ()}, {"hidden": (0,)}, {"latent_dim": 0}, {"steps": 0}, {"gradient": "gumbel"}),
        *({"update": "sgd"}, {"decay": 1.0}, {"dead_codes": -0.1}, {"learning_rate": float("nan")}, {"validation": 1}),
    ],
)
def test_bad_settings(setting) -> None:
    with pytest.raises(ConfigError, match=next(iter(setting))):
        RQVAE(**setting)


def test_a_loss_that_is_not_finite_says_what_to_change(plant) -> None:
    with pytest.raises(UserError, match="learning_rate"):
        RQVAE(**(TINY | {"learning_rate": 1e30, "update": "gradient"})).fit(plant[:300], seed=0)
