"""What every kind of quantizer does: same seed same bytes, codes of a row alone, files that cannot be changed."""

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from common.errors import ConfigError, DataError, UserError
from common.hashing import file_digest
from common.planted import additive_vectors
from common.tokenizers import QUANTIZERS, load_quantizer, quantizer_class
from common.tokenizers.balanced_tree import BalancedKMeansTree
from common.tokenizers.base import Quantizer, read_header
from common.tokenizers.faiss_codes import ProductQuantizer, ResidualQuantizer
from common.tokenizers.quality import level_quality
from common.tokenizers.rq_kmeans import RQKMeans
from common.tokenizers.slot_kmeans import SlotKMeans
from common.tokenizers.vq import VQ

ROWS, DIM = 600, 16


def rq_vae() -> Quantizer:
    return quantizer_class("rq_vae")(
        codebook_sizes=(8, 8), hidden=(16,), latent_dim=8, steps=60, warmup_steps=40, batch_size=128, evaluate_every=10
    )  # pyright: ignore[reportCallIssue]


MAKERS: dict[str, Callable[[], Quantizer]] = {
    "rq_kmeans": lambda: RQKMeans((8, 4, 8)),
    "rq_kmeans, beam": lambda: RQKMeans((8, 4, 8), beam_size=4),
    "rq_kmeans, normalized": lambda: RQKMeans((8, 4, 8), normalize=True),
    "rq_vae": rq_vae,
    "vq": lambda: VQ(8, epochs=2, batch_size=200),
    "product": lambda: ProductQuantizer((8, 8, 8, 8)),
    "residual": lambda: ResidualQuantizer((8, 4, 8), beam_size=2),
    "balanced_tree": lambda: BalancedKMeansTree((8, 10, 8)),
    "slot_kmeans": lambda: SlotKMeans((8, 4), components=3),
}
EXACT = {name: make for name, make in MAKERS.items() if name != "rq_vae"}  # an encoder's products are batched


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    return additive_vectors(ROWS, DIM, 2, 8, seed=0)[0]


@pytest.fixture(scope="module")
def fitted(x: np.ndarray) -> dict[str, Quantizer]:
    torch.set_num_threads(1)
    return {name: make().fit(x, seed=1) for name, make in MAKERS.items()}


def test_all_kinds_are_here() -> None:
    assert {make().kind for make in MAKERS.values()} == set(QUANTIZERS)
    assert {kind: quantizer_class(kind).kind for kind in QUANTIZERS} == {kind: kind for kind in QUANTIZERS}


@pytest.mark.parametrize("name", MAKERS)
def test_codes_and_vectors_have_their_shapes(name: str, x: np.ndarray, fitted: dict[str, Quantizer]) -> None:
    quantizer = fitted[name]
    codes = quantizer.encode(x)
    assert codes.dtype == np.int32 and codes.shape == (ROWS, quantizer.levels)
    assert (codes >= 0).all() and (codes.max(axis=0) < quantizer.codebook_sizes).all()
    assert quantizer.decode(codes).dtype == np.float32 and quantizer.decode(codes).shape == x.shape
    assert np.array_equal(quantizer.embed(codes, quantizer.levels), quantizer.decode(codes))
    assert quantizer.encode(x[:0]).shape == (0, quantizer.levels)
    errors = [level.relative_error for level in level_quality(quantizer, x)]
    assert errors[-1] < 1 and errors[-1] == min(errors)
    if name not in ("residual", "rq_kmeans, beam"):  # a beam's first codes serve the whole, not the prefix
        assert errors == sorted(set(errors), reverse=True)


@pytest.mark.parametrize("name", EXACT)
def test_a_code_depends_on_its_row_alone(name: str, x: np.ndarray, fitted: dict[str, Quantizer]) -> None:
    quantizer = fitted[name]
    codes = quantizer.encode(x)
    order = np.random.default_rng(0).permutation(ROWS)
    assert np.array_equal(quantizer.encode(x[order]), codes[order])
    for size in (1, 7, 250):
        parts = [quantizer.encode(x[start : start + size]) for start in range(0, 250, size)]
        assert np.array_equal(np.concatenate(parts)[:250], codes[:250])


@pytest.mark.parametrize("name", MAKERS)
def test_same_seed_same_files_and_another_seed_another_version(
    name: str, x: np.ndarray, fitted: dict[str, Quantizer], tmp_path: Path
) -> None:
    first, again = fitted[name], MAKERS[name]().fit(x.copy(), seed=1)
    first.save(tmp_path / "first")
    again.save(tmp_path / "again")
    loaded = load_quantizer(tmp_path / "first")
    loaded.save(tmp_path / "loaded")
    for file in ("quantizer.json", "quantizer.safetensors"):
        found = {(tmp_path / folder / file).read_bytes() for folder in ("first", "again", "loaded")}
        assert len(found) == 1
    assert type(loaded) is type(first) and loaded.version == first.version and loaded.dim == DIM
    codes = first.encode(x)
    assert np.array_equal(loaded.encode(x), codes)
    assert loaded.decode(codes).tobytes() == first.decode(codes).tobytes()
    assert MAKERS[name]().fit(x, seed=2).version != first.version
    assert not list(tmp_path.glob(".partial*"))


@pytest.mark.parametrize("name", MAKERS)
def test_settings_make_an_unfitted_twin(name: str, fitted: dict[str, Quantizer], x: np.ndarray) -> None:
    settings = fitted[name].settings()
    assert json.loads(json.dumps(settings)) == settings
    twin = type(fitted[name])(**settings)
    assert twin.settings() == settings and twin.codebook_sizes == fitted[name].codebook_sizes
    for use in (
        lambda: twin.encode(x),
        lambda: twin.decode(np.zeros((1, twin.levels), int)),
        lambda: twin.save(Path()),
    ):
        with pytest.raises(ConfigError, match="no codebooks yet"):
            use()


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (lambda x: x[:3], "fewer vectors than codes|too few|fewer"),
        (lambda x: x[:1], "fewer"),
        (lambda x: x[:0], "fewer"),
        (lambda x: np.repeat(x[:1], ROWS, axis=0), "fewer different vectors than codes|alike|different"),
        (lambda x: np.where(np.arange(ROWS)[:, None] == 77, np.nan, x).astype(np.float32), "not finite"),
        (lambda x: np.where(np.arange(ROWS)[:, None] == 77, np.inf, x).astype(np.float32), "not finite"),
        (lambda x: x[:, 0], "another shape"),
        (lambda x: x.astype(np.int64), "another shape"),
        (lambda x: x[:, :0], "another shape"),
    ],
)
def test_bad_vectors_are_refused_by_fit(
    name: str, bad: Callable[[np.ndarray], np.ndarray], message: str, x: np.ndarray
) -> None:
    quantizer = MAKERS[name]()
    with pytest.raises(DataError, match=message) as caught:
        quantizer.fit(bad(x), seed=0)
    assert "not finite" not in message or caught.value.where == "row 77"
    assert not quantizer.version


@pytest.mark.parametrize("name", MAKERS)
def test_bad_vectors_and_codes_are_refused_after_the_fit(
    name: str, x: np.ndarray, fitted: dict[str, Quantizer]
) -> None:
    quantizer = fitted[name]
    with pytest.raises(DataError, match="another width"):
        quantizer.encode(x[:, :-1])
    spoilt = x.copy()
    spoilt[5, 2] = np.nan
    with pytest.raises(DataError, match="not finite"):
        quantizer.encode(spoilt)
    codes = quantizer.encode(x[:3])
    for wrong in (-1, quantizer.codebook_sizes[-1]):
        outside = codes.copy()
        outside[1, -1] = wrong
        with pytest.raises(DataError, match="outside its codebook") as caught:
            quantizer.decode(outside)
        assert caught.value.where == f"row 1, level {quantizer.levels - 1}"
    for shape in (codes[:, :-1], codes[0], codes.astype(float)):
        with pytest.raises(DataError, match="another shape"):
            quantizer.decode(shape)
    for upto in (0, quantizer.levels + 1):
        with pytest.raises(ConfigError, match="no such level"):
            quantizer.embed(codes, upto)


def _edit(folder: Path, change: Callable[[dict], object]) -> None:  # pyright: ignore[reportMissingTypeArgument]
    header = json.loads((folder / "quantizer.json").read_text())
    change(header)
    (folder / "quantizer.json").write_text(json.dumps(header))


def _cut(folder: Path) -> None:
    path = folder / "quantizer.safetensors"
    path.write_bytes(path.read_bytes()[:-5])


def _flip(folder: Path, *, resign: bool) -> None:
    path = folder / "quantizer.safetensors"
    data = bytearray(path.read_bytes())
    data[-2] ^= 1
    path.write_bytes(bytes(data))
    if resign:
        _edit(folder, lambda header: header.update(sha256=file_digest(path)))


def _garbage(folder: Path) -> None:
    (folder / "quantizer.safetensors").write_bytes(b"no tensors at all")
    _edit(folder, lambda header: header.update(sha256=file_digest(folder / "quantizer.safetensors")))


DAMAGE: dict[str, Callable[[Path], object]] = {
    "truncated": _cut,
    "a bit flipped": lambda folder: _flip(folder, resign=False),
    "a bit flipped and the hash made anew": lambda folder: _flip(folder, resign=True),
    "no tensors": _garbage,
    "no file": lambda folder: (folder / "quantizer.safetensors").unlink(),
    "no header": lambda folder: (folder / "quantizer.json").unlink(),
    "half a header": lambda folder: (folder / "quantizer.json").write_text('{"format": '),
    "another program's header": lambda folder: (folder / "quantizer.json").write_text("[1]"),
    "another format": lambda folder: _edit(folder, lambda h: h.update(format="mirc-quantizer-0")),
    "an unknown kind": lambda folder: _edit(folder, lambda h: h.update(kind="lsq")),
    "a list of kinds": lambda folder: _edit(folder, lambda h: h.update(kind=["vq"])),
    "another kind": lambda folder: _edit(folder, lambda h: h.update(kind="vq" if h["kind"] != "vq" else "product")),
    "another width": lambda folder: _edit(folder, lambda h: h.update(dim=DIM + 1)),
    "no settings": lambda folder: _edit(folder, lambda h: h.pop("settings")),
    "no version": lambda folder: _edit(folder, lambda h: h.pop("version")),
    "another version": lambda folder: _edit(folder, lambda h: h.update(version="0" * 16)),
    "an unknown setting": lambda folder: _edit(folder, lambda h: h["settings"].update(colour=1)),
    "other settings": lambda folder: _edit(folder, _settings),
}


def _settings(header: dict) -> None:  # pyright: ignore[reportMissingTypeArgument]
    name = next(key for key in ("iterations", "steps", "epochs") if key in header["settings"])
    header["settings"][name] += 1


@pytest.mark.parametrize("name", MAKERS)
def test_a_changed_file_is_never_read(name: str, fitted: dict[str, Quantizer], tmp_path: Path) -> None:
    for number, (damage, spoil) in enumerate(DAMAGE.items()):
        folder = tmp_path / str(number)
        fitted[name].save(folder)
        load_quantizer(folder)
        spoil(folder)
        with pytest.raises(UserError) as caught:
            load_quantizer(folder)
        assert "\n" in caught.value.block() and caught.value.what, damage


def test_a_failed_fit_leaves_the_saved_one_alone(tmp_path: Path, x: np.ndarray) -> None:
    quantizer = RQKMeans((4,)).fit(x, seed=0)
    quantizer.save(tmp_path / "q")
    before = (tmp_path / "q" / "quantizer.safetensors").read_bytes()
    other = RQKMeans((4, 4))
    with pytest.raises(DataError):
        other.fit(x[:2], seed=0)
    with pytest.raises(ConfigError):
        other.save(tmp_path / "q")
    assert (tmp_path / "q" / "quantizer.safetensors").read_bytes() == before


@pytest.mark.parametrize("name", ["rq_kmeans", "product", "slot_kmeans", "vq"])
def test_a_memory_mapped_array_is_read_in_parts(name: str, tmp_path: Path) -> None:
    """96 MiB of vectors, of which a fit and an encoding hold less than half at any time."""
    rows, dim = 1_500_000, 16
    vectors = np.memmap(tmp_path / "x.f32", np.float32, "w+", shape=(rows, dim))
    block = additive_vectors(100_000, dim, 2, 8, seed=0)[0]
    for start in range(0, rows, len(block)):
        vectors[start : start + len(block)] = block
    vectors.flush()
    makers = {"rq_kmeans": lambda: RQKMeans((8, 8)), "product": lambda: ProductQuantizer((8, 8))}
    makers |= {"slot_kmeans": lambda: SlotKMeans((8, 8)), "vq": lambda: VQ(8, epochs=1)}
    tracemalloc.start()
    try:
        quantizer = makers[name]().fit(vectors, seed=0)
        codes = quantizer.encode(vectors)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < vectors.nbytes / 2
    assert np.array_equal(codes[-1000:], quantizer.encode(block[-1000:]))


class Halves(Quantizer):
    """The least that a kind gives: what is learnt is named, and settings are attributes."""

    kind, learnt = "halves", ("middle",)
    middle: np.ndarray

    def __init__(self, levels: int = 2) -> None:
        self.codebook_sizes, self.metrics = (2,) * levels, {}

    def fit(self, x: np.ndarray, *, seed: int) -> "Halves":
        self.middle = x.mean(axis=0)[: self.levels]
        return self._ready(x.shape[1], "", {})

    def _encode(self, x: np.ndarray) -> np.ndarray:
        return (x[:, : self.levels] > self.middle).astype(np.int32)

    def _embed(self, codes: np.ndarray, upto: int) -> np.ndarray:
        return np.zeros((len(codes), self.dim), np.float32)


def test_a_kind_that_names_what_it_learns_is_saved_and_read(x: np.ndarray, tmp_path: Path) -> None:
    one = Halves(levels=3).fit(x, seed=0)
    assert one.settings() == {"levels": 3}
    one.save(tmp_path / "q")
    again = Halves.read(read_header(tmp_path / "q"), tmp_path / "q")
    assert again.version == one.version and np.array_equal(again.encode(x), one.encode(x))
    for bad in (np.full(3, np.nan, np.float32), np.zeros(3, np.int32)):
        one.middle = bad
        one.save(tmp_path / "bad")
        with pytest.raises(DataError, match="finite floats"):
            Halves.read(read_header(tmp_path / "bad"), tmp_path / "bad")
