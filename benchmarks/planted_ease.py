"""EASE on planted items: what the frozen language model can tell, a probe on Z, clicks, retrieval; with controls.

Items have eight attributes. The description names four: the image's tokens show two of these, and four tokens of
what no description tells; text tokens show the other two.
A tiny language model learns the grammar (tags in any order, then the sentence; or the sentence alone), and is then
frozen. All figures are of items that EASE never saw.

    python -m benchmarks.planted_ease --seeds 3
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from torch import Tensor

from common.metrics.ctr import auc
from common.planted import Planted, PlantedConfig, plant
from common.representation.ease import Ease, EaseConfig
from common.representation.ease.adapter import SemanticAdapter, pool
from common.representation.ease.batches import ClickRows
from common.representation.ease.language_model import FrozenLanguageModel, LanguageModelConfig
from common.representation.ease.training import fit_adapter, make_stage
from common.representation.inputs import Items, Tokens

NAMES = ("colour", "shape", "size", "style")
PLANT = PlantedConfig(
    items=700, attributes=8, values=8, image=(0, 1, 4, 5, 6, 7), text=(2, 3), behaviour=(0, 1), image_tokens=6, dim=8,
    synonyms=1, users=150, rows=30000, skew=0.2,
)  # fmt: skip
SMALL = replace(PLANT, items=200, values=4, users=40, rows=4000)
"""For tests of seconds."""
QUIET: dict[str, Any] = {"say": lambda _: None}


@dataclass(frozen=True)
class World:
    """Planted items with tokens and descriptions, and the language model that knows the grammar."""

    planted: Planted
    items: Items
    language_model: FrozenLanguageModel

    @property
    def known(self) -> int:
        """Number of items that EASE and the rankers learn from, four of five; the others are cold."""
        return len(self.items) * 4 // 5

    @property
    def train(self) -> np.ndarray:
        """Rows to learn from."""
        return np.arange(self.known)

    @property
    def cold(self) -> np.ndarray:
        """Rows that nothing has learnt from."""
        return np.arange(self.known, len(self.items))


def describe(words: Sequence[str]) -> str:
    """Return the description of an item whose attributes have these words."""
    return " ".join(f"{name} {word}" for name, word in zip(NAMES, words, strict=True))


def make_world(seed: int, folder: Path, config: PlantedConfig = PLANT, steps: int = 600) -> World:
    """Return the planted world; same seed, same bytes."""
    planted = plant(config, seed)
    rng = np.random.default_rng([seed, 90])
    words = planted.words[np.arange(4), planted.attributes[:, :4], 0]
    book = rng.normal(size=(4, config.values, config.dim))
    told = book[[2, 3], planted.attributes[:, [2, 3]]]
    text = (told + config.noise * rng.normal(size=told.shape)).astype(np.float32)
    modalities = {
        "image": Tokens(planted.tokens, np.ones(planted.tokens.shape[:2], bool), "planted image encoder"),
        "text": Tokens(text, np.ones(text.shape[:2], bool), "planted text encoder"),
    }
    items = Items(np.arange(len(planted)) + 1, [describe(row) for row in words.tolist()], modalities)
    return World(planted, items, tiny_language_model(planted.words[:4, :, 0], folder, seed, steps))


def tiny_language_model(words: np.ndarray, folder: Path, seed: int, steps: int) -> FrozenLanguageModel:
    """Train a two-layer Llama on the grammar of `words` [A, V], save it to `folder`, load it frozen.

    Half of the lines are the sentence alone, half have its words as tags before it, in a random order: like a real
    language model, this one has learnt to make use of what stands before the text.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = _tokenizer([*NAMES, *words.reshape(-1).tolist()], folder)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=64, bos_token_id=None, eos_token_id=tokenizer.eos_token_id, pad_token_id=0,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    rng = np.random.default_rng([seed, 91])
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(steps):
        values = rng.integers(0, words.shape[1], (64, len(words)))
        rows = words[np.arange(len(words)), values]
        tagged = step % 2 == 0
        lines = [f"{' '.join(rng.permutation(row))} {describe(row)}" if tagged else describe(row) for row in rows]
        ids = torch.tensor(tokenizer([f"{line} </s>" for line in lines])["input_ids"])
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * (1 - step / steps)
    model.save_pretrained(folder)
    return FrozenLanguageModel.load(LanguageModelConfig(name=str(folder)))


def _tokenizer(words: list[str], folder: Path) -> Any:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: number for number, word in enumerate(["<pad>", "</s>", "<unk>", *words])}
    raw = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))  # noqa: S106 - a token of text
    raw.pre_tokenizer = WhitespaceSplit()  # pyright: ignore[reportAttributeAccessIssue]
    made = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        unk_token="<unk>",  # noqa: S106
        pad_token="<pad>",  # noqa: S106
        eos_token="</s>",  # noqa: S106
    )
    made.save_pretrained(folder)
    return made


def settings(**changes: Any) -> EaseConfig:
    """Return EASE's settings for the planted data."""
    base: dict[str, Any] = {
        "qformer": {"queries": 8, "width": 32, "layers": 2, "heads": 4},
        "adapter": "none",
        "batch_size": 16,
    }
    fit = {"epochs": 24, "learning_rate": 4e-3, "schedule": {"type": "cosine", "warmup_steps": 20}}
    return EaseConfig.model_validate({**base, "fit": {**fit, "figure": "score", "patience": 24}, **changes})


def shuffled(items: Items, name: str, seed: int) -> Items:
    """Return the items with one modality's tokens dealt out at random: the placebo."""
    order = np.random.default_rng([seed, 92]).permutation(len(items))
    return replace(items, modalities={**items.modalities, name: items.modalities[name].take(order)})


def fit_ease(world: World, items: Items, config: EaseConfig, seed: int, **options: Any) -> Ease:
    """Fit EASE on the training items of `items`."""
    return Ease(config).fit(
        items.take(world.train), None, seed=seed, decoder=world.language_model, **{**QUIET, **options}
    )


def word_accuracy(world: World, items: Items, ease: Ease) -> np.ndarray:
    """Return the share of cold items whose word the language model tells, teacher-forced, float [4 attributes]."""
    part = items.take(world.cold)
    ids, told = (torch.from_numpy(one) for one in world.language_model.tokenize(part.texts))
    found = world.language_model.predict(ease.prompts(part), ids, told)
    return (found == ids)[:, 1:8:2].float().mean(0).numpy()


def probe(world: World, features: np.ndarray) -> float:
    """Return the accuracy of logistic regressions from features [N, D] to the attributes of cold items, their mean."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    x = StandardScaler().fit(features[world.train]).transform(features)
    right = []
    for values in world.planted.attributes[:, :4].T:
        model = LogisticRegression(max_iter=300).fit(x[world.train], values[world.train])
        right.append(model.score(x[world.cold], values[world.cold]))
    return float(np.mean(right))


def click_auc(world: World, features: np.ndarray, seed: int, *, adapter: bool = True) -> float:
    """Return the AUC on clicks of cold items, of the click model over features [N, D] trained on the others."""
    x = torch.from_numpy((features - features.mean(0)) / (features.std(0) + 1e-6)).float()
    log = world.planted.clicks
    old = log.items < world.known
    clicks = ClickRows(log.users[old], log.items[old], log.label[old])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        linear = SemanticAdapter(x.shape[1]) if adapter else None
    model = make_stage(x, world.planted.config.users, linear, seed)
    fit_adapter(model, clicks, settings().semantic, key={}, seed=seed, **QUIET)
    with torch.no_grad():
        odds = model(torch.from_numpy(log.users[~old]), torch.from_numpy(log.items[~old]))
    return auc(log.label[~old], odds.numpy())


def oracle_auc(world: World) -> float:
    """Return the AUC of the true log-odds on the same clicks."""
    log = world.planted.clicks
    cold = log.items >= world.known
    return auc(log.label[cold], log.log_odds[cold])


def teacher_vectors(world: World, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return vectors [N, 24] of a planted text encoder for the descriptions, and for queries that ask for an item."""
    rng = np.random.default_rng([seed, 93])
    book = rng.normal(size=(4, world.planted.config.values, 24))
    clean = book[np.arange(4), world.planted.attributes[:, :4]].sum(1)
    return tuple((clean + 0.3 * rng.normal(size=clean.shape)).astype(np.float32) for _ in range(2))  # pyright: ignore[reportReturnType]


def recall(world: World, ease: Ease, items: Items, queries: np.ndarray, k: int = 1) -> float:
    """Return Recall@k of finding each cold item among the cold ones by its query."""
    vectors = ease.transform(items.take(world.cold)).columns["embedding"]
    score = queries[world.cold] @ vectors.T
    own = score[np.arange(len(score)), np.arange(len(score))]
    return float(((score > own[:, None]).sum(1) < k).mean())


def flat(ease: Ease, items: Items) -> np.ndarray:
    """Return Z of all items as one vector each."""
    z: Tensor = ease.tokens(items)
    return pool(z, "flatten").numpy()


def arms(seed: int) -> dict[str, float]:
    """Return every figure of one seed."""
    with tempfile.TemporaryDirectory() as folder:
        world = make_world(seed, Path(folder))
    items, placebo = world.items, shuffled(world.items, "image", seed)
    before = world.language_model.digest()
    raw = np.concatenate([tokens.mean() for tokens in items.modalities.values()], 1)
    out: dict[str, float] = {}
    runs = {
        "ease": (items, {}),
        "shuffled images": (placebo, {}),
        "no LM loss (untrained)": (items, {"lm_weight": 0}),
        "frozen queries": (items, {"qformer": {**settings().qformer.model_dump(), "train_queries": False}}),
        "mean pooling, no Q-Former": (items, {"qformer": {**settings().qformer.model_dump(), "type": "mean"}}),
        "image only": (items, {"modalities": ("image",)}),
        "text only": (items, {"modalities": ("text",)}),
    }
    for name, (data, changes) in runs.items():
        ease = fit_ease(world, data, settings(**changes), seed)
        if ease.to_prompt is not None:
            told = word_accuracy(world, data, ease)
            out[f"words: {name}"], out[f"words of the image: {name}"] = float(told.mean()), float(told[:2].mean())
        z = flat(ease, data)
        out[f"probe: {name}"], out[f"AUC: {name}"] = probe(world, z), click_auc(world, z, seed)
        if name == "ease":
            out["AUC: ease, no adapter"] = click_auc(world, z, seed, adapter=False)
    out["probe: raw mean tokens"], out["AUC: raw mean tokens"] = probe(world, raw), click_auc(world, raw, seed)
    out["AUC: no Z (text tokens only)"] = click_auc(world, items.modalities["text"].mean(), seed)
    out["AUC: oracle"] = oracle_auc(world)
    out |= retrieval_arms(world, items, placebo, seed)
    out["language model unchanged"] = float(before == world.language_model.digest())
    return out


def retrieval_arms(world: World, items: Items, placebo: Items, seed: int) -> dict[str, float]:
    """Return Recall@1 among cold items of the retrieval head, its placebo, and the teacher's own vectors."""
    target, queries = teacher_vectors(world, seed)
    own = (queries[world.cold] @ target[world.cold].T).argmax(1) == np.arange(len(world.cold))
    out = {"recall@1: teacher on the descriptions": float(own.mean()), "recall@1: chance": 1 / len(world.cold)}
    for name, data, weight in (
        ("distilled", items, 0.0),
        ("distilled and LM loss", items, 1.0),
        ("distilled, shuffled images", placebo, 0.0),
    ):
        config = settings(adapter="retrieval", lm_weight=weight)
        ease = fit_ease(world, data, config, seed, target=target[world.train], teacher="planted")
        out[f"recall@1: {name}"] = recall(world, ease, data, queries)
    return out


WANTED = {
    "words: ease": ">= 0.9",
    "words: shuffled images": "<= ease - 0.3",
    "probe: ease": ">= 0.9, above raw mean tokens",
    "AUC: ease": ">= no Z + 0.05",
    "language model unchanged": "= 1",
}


def main(seeds: Annotated[int, typer.Option(help="number of seeds, from 0")] = 3) -> None:
    """Print the table of arms, mean and standard deviation over seeds."""
    torch.set_num_threads(1)
    started = time.process_time()
    rows: list[dict[str, float]] = []
    for seed in range(seeds):
        rows.append(arms(seed))
        typer.echo(f"seed {seed}: {time.process_time() - started:,.0f} s of CPU so far", err=True)
    typer.echo(f"{'arm':<44}{'mean':>8}{'sd':>8}  wanted")
    for name in sorted(rows[0]):
        values = [row[name] for row in rows]
        typer.echo(f"{name:<44}{np.mean(values):>8.3f}{np.std(values):>8.3f}  {WANTED.get(name, '')}".rstrip())
    typer.echo(f"{seeds} seeds, {time.process_time() - started:,.0f} s of CPU")


if __name__ == "__main__":
    typer.run(main)
