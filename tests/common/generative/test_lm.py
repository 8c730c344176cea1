"""The language-model core: text and codes in one vocabulary, decoding against whole forward passes, LoRA, files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from common.errors import ConfigError, DataError
from common.generative.lm import decoding as decoding_module
from common.generative.lm.config import LmConfig, LoraConfig, ScratchConfig
from common.generative.lm.decoding import Branches, Decoding
from common.generative.lm.examples import Example, fit_history, pack
from common.generative.lm.generator import LmGenerator
from common.generative.lm.loading import from_json, train_tokenizer
from common.generative.lm.model import LanguageModel, load_language_model, rebuild
from common.tokenizers.semantic_ids import SemanticIdMap

TEXTS = ["the red fox", "the blue whale sings", "a red whale", "Año nuevo: 東京 ☂"]
SCRATCH = ScratchConfig(dim=16, layers=2, heads=2, feedforward=32, context=64, vocabulary=300)


def tiny(codes: int = 12) -> LanguageModel:
    torch.manual_seed(3)
    return load_language_model(LmConfig(scratch=SCRATCH), codes, TEXTS).eval()


class Asked(LmGenerator):
    """Answers prompts that are given as token ids."""

    kind = "asked"

    def prompts(self, batch: list[list[int]]) -> list[list[int]]:
        return batch

    def settings(self) -> dict[str, Any]:
        return {"lm": self.lm.settings()}

    @classmethod
    def build(cls, settings: dict[str, Any], id_map: SemanticIdMap) -> Asked:
        return cls(rebuild(settings["lm"]), id_map)


def catalogue() -> SemanticIdMap:
    sids = np.array([[0, 0, 1], [0, 1, 0], [1, 0, 0], [1, 2, 1], [2, 2, 0], [2, 2, 1], [0, 1, 1]], np.int32)
    return SemanticIdMap.from_sids(sids, (3, 3, 2), version="small")


def asked(lm: LanguageModel | None = None) -> Asked:
    ids = catalogue()
    return Asked(lm or tiny(9 + 3), ids).eval()


def saved_model(folder: Path, *, eos: bool = True, kind: str = "llama") -> Path:
    """Write a tiny causal language model and its tokenizer as transformers does."""
    import transformers as hf

    tokenizer = from_json(train_tokenizer(TEXTS, 300))
    if not eos:
        tokenizer.eos_token = None
    assert tokenizer.pad_token_id is None  # as of many language models
    tokenizer.save_pretrained(folder)
    torch.manual_seed(5)
    size: dict[str, Any] = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    size |= {"vocab_size": len(tokenizer), "max_position_embeddings": 64}
    if kind == "llama":
        model: Any = hf.LlamaForCausalLM(hf.LlamaConfig(num_key_value_heads=1, **size))
    elif kind == "gpt2":
        model = hf.GPT2LMHeadModel(
            hf.GPT2Config(vocab_size=len(tokenizer), n_positions=64, n_embd=16, n_layer=2, n_head=2)
        )
    elif kind == "mistral":  # a window over the last tokens: a cache that forgets
        model = hf.MistralForCausalLM(hf.MistralConfig(num_key_value_heads=1, sliding_window=32, **size))
    else:
        model = hf.GraniteForCausalLM(hf.GraniteConfig(num_key_value_heads=1, logits_scaling=8.0, **size))
    model.save_pretrained(folder)
    return folder


def test_any_text_is_read_and_written_back_and_the_vocabulary_is_the_same_each_time() -> None:
    text = train_tokenizer(TEXTS, 300)
    assert text == train_tokenizer(TEXTS, 300)
    lm = tiny()
    for one in (*TEXTS, "never seen: ß∂ƒ\n  two spaces"):
        assert lm.text([*lm.tokenize(one), lm.end, 5]) == one
    assert len(lm.tokenize("the red")) < len(b"the red")
    with pytest.raises(DataError, match="no text"):
        train_tokenizer(["", ""], 300)


def test_codes_follow_the_text_tokens_and_have_weights_of_their_own() -> None:
    lm = tiny(codes=4)
    ids = torch.tensor([[1, lm.text_size, 2, lm.text_size + 3]])
    given = lm.embed(ids)
    words = lm.body.get_input_embeddings().weight
    torch.testing.assert_close(given[0], torch.stack([words[1], lm.codes.weight[0], words[2], lm.codes.weight[3]]))
    states = torch.randn(5, lm.dim)
    logits = lm.logits(states)
    assert logits.shape == (5, lm.text_size + 4)
    torch.testing.assert_close(logits[:, lm.text_size :], states @ lm.codes.weight.T)
    torch.testing.assert_close(lm.code_logits(states, 1, 3), logits[:, lm.text_size + 1 : lm.text_size + 3])


def test_the_smaller_a_model_from_scratch_the_larger_its_first_weights() -> None:
    for dim in (16, 64):
        torch.manual_seed(0)
        lm = load_language_model(LmConfig(scratch=SCRATCH.model_copy(update={"dim": dim})), 4, TEXTS)
        drawn = [weight for weight in lm.body.parameters() if weight.ndim == 2]
        for weight in drawn:
            assert float(weight.detach().std()) == pytest.approx(0.5 * dim**-0.5, rel=0.15)
        assert len(drawn) > 10


def whole(lm: LanguageModel, ids: list[int]) -> Tensor:
    """The oracle: the last state of a sequence read alone, without a cache."""
    out = lm.body.base_model(inputs_embeds=lm.embed(torch.tensor([ids])), use_cache=False)
    return out.last_hidden_state[0, -1]


@pytest.mark.parametrize("kind", ["scratch", "llama", "gpt2"])
@torch.no_grad()
def test_decoding_with_a_cache_is_reading_each_sequence_alone(kind: str, tmp_path: Path) -> None:
    name = kind if kind == "scratch" else str(saved_model(tmp_path, kind=kind))
    torch.manual_seed(0)
    lm = load_language_model(LmConfig(name=name, scratch=SCRATCH), 6, TEXTS).eval()
    code = lm.text_size
    prompts = [[1, 2, code + 3, 4], [7], [5, 6]]
    decoding = Decoding.start(lm, prompts)
    rows = prompts
    for parents, tokens in (
        ([0, 0, 2, 1], [code, 3, code + 5, 8]),
        ([3, 3, 0], [code + 1, 9, 2]),
        ([0, 1, 2], [1, 2, 3]),
    ):
        rows = [[*rows[parent], token] for parent, token in zip(parents, tokens, strict=True)]
        decoding.advance(torch.tensor(parents), torch.tensor(tokens))
        torch.testing.assert_close(decoding.states, torch.stack([whole(lm, row) for row in rows]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["scratch", "llama", "gpt2", "mistral"])
@pytest.mark.parametrize("widest", [0, 1, 32])
@torch.no_grad()
def test_hypotheses_behind_one_prompt_are_sequences_read_alone(
    kind: str, widest: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoding_module, "WIDEST", widest)  # 0: copied at once; 1: on the way; 32: never here
    name = kind if kind == "scratch" else str(saved_model(tmp_path, kind=kind))
    torch.manual_seed(0)
    lm = load_language_model(LmConfig(name=name, scratch=SCRATCH), 6, TEXTS).eval()
    code = lm.text_size
    prompts = [[1, 2, code + 3, 4], [7], [5, 6]]
    branches, rows = Branches(lm, prompts), prompts
    assert (branches._alone is None) == (kind != "mistral")
    for query, parents, tokens in (
        ([0, 0, 2], [0, 0, 2], [code, 3, code + 5]),  # the second prompt has no hypothesis any more
        ([0, 0, 0, 2, 2], [1, 0, 1, 2, 2], [code + 1, 9, 2, code + 4, 3]),
        ([0, 2, 2], [2, 4, 3], [1, 2, code + 2]),
    ):
        rows = [[*rows[parent], token] for parent, token in zip(parents, tokens, strict=True)]
        branches.advance(torch.tensor(query), torch.tensor(parents), torch.tensor(tokens))
        torch.testing.assert_close(branches.states, torch.stack([whole(lm, row) for row in rows]), rtol=1e-4, atol=1e-5)
    assert (branches._alone is None) == (kind != "mistral" and widest == 32)


@torch.no_grad()
def test_a_full_beam_is_every_item_by_its_probability_over_the_catalogue() -> None:
    model = asked()
    prompts = [[1, 2, 3], [4, 4, 4, 4, 4, 4]]
    found = model.generate(prompts, model.trie(), beam=50, top_k=7)
    sids = model.id_map.sids
    for query, prompt in enumerate(prompts):
        wanted = []
        for sid in sids.tolist():
            ids, total = list(prompt), 0.0
            for level, code in enumerate(sid):
                start = model.vocabulary.offset(level)
                logits = whole(model.lm, ids) @ model.lm.codes.weight[start : start + model.vocabulary.sizes[level]].T
                next_codes = sorted({int(s[level]) for s in sids if s[:level].tolist() == sid[:level]})
                total += float(torch.log_softmax(logits[next_codes], 0)[next_codes.index(code)])
                ids.append(model.lm.text_size + start + code)
            wanted.append(total)
        order = sorted(range(7), key=lambda item: -wanted[item])
        assert found.items[query].tolist() == order
        np.testing.assert_allclose(found.scores[query].numpy(), [wanted[item] for item in order], atol=1e-4)
        scores = model.score([prompt], np.arange(7)[None])
        np.testing.assert_allclose(scores[0].numpy(), wanted, atol=1e-4)


def test_the_loss_is_that_of_the_told_tokens_alone_whatever_stands_beside() -> None:
    lm = tiny()
    one, two = Example([1, 2, 3], [4, lm.text_size + 1]), Example([9] * 10, [lm.text_size + 11, 5, lm.end])

    def loss(*examples: Example) -> Tensor:
        batch = pack(examples, lm.context)
        return lm.told_loss(lm.states(lm.embed(batch.ids), batch.mask), batch)

    alone = []
    for prompt, target in (one, two):
        for place, token in enumerate(target):
            logits = lm.logits(whole(lm, [*prompt, *target[:place]]))
            alone.append(-torch.log_softmax(logits, 0)[token])
    torch.testing.assert_close(loss(one, two), torch.stack(alone).mean(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(loss(one), torch.stack(alone[:2]).mean(), rtol=1e-4, atol=1e-5)


def test_an_attention_mask_of_one_s_own_hides_what_it_says() -> None:
    lm = tiny()
    ids = torch.tensor([[1, 2, 3, 4], [1, 9, 3, 4]])  # they differ at place 1
    mask = torch.ones(2, 4, dtype=torch.bool)
    causal = torch.ones(4, 4, dtype=torch.bool).tril()
    with torch.no_grad():
        first, second = lm.states(lm.embed(ids), mask, causal.expand(2, 4, 4))
        torch.testing.assert_close(first, lm.states(lm.embed(ids), mask)[0], rtol=1e-4, atol=1e-5)
        assert not torch.allclose(first[3], second[3])
        hidden = causal.clone()
        hidden[2:, 1] = False
        first, second = lm.states(lm.embed(ids), mask, hidden.expand(2, 4, 4))
        torch.testing.assert_close(first[2:], second[2:])


@pytest.mark.parametrize("tune", ["lora", "codes"])
def test_only_adapters_and_codes_learn_and_only_they_are_saved(tune: str, tmp_path: Path) -> None:
    config = LmConfig.model_validate({"name": str(saved_model(tmp_path / "base")), "tune": tune, "lora": {"rank": 2}})
    model = Asked(load_language_model(config, 12, TEXTS), catalogue())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    learnt = {name for name, value in model.named_parameters() if value.requires_grad}
    assert learnt == {name for name in before if "lora_" in name or name == "lm.codes.weight"}
    assert ("lm.codes.weight" in learnt) and (len(learnt) > 1) == (tune == "lora")
    batch = pack([Example([1, 2], [3, model.lm.text_size + 2])], 64)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    for _ in range(2):  # the first step moves only one of an adapter's two maps
        optimizer.zero_grad()
        model.lm.told_loss(model.lm.states(model.lm.embed(batch.ids), batch.mask), batch).backward()
        optimizer.step()
    after = model.state_dict()
    assert {name for name in before if not torch.equal(before[name], after[name])} == learnt
    model.save(tmp_path / "saved")
    assert (tmp_path / "saved" / "model.safetensors").stat().st_size < 12_000
    again = Asked.load(tmp_path / "saved", catalogue())
    for name, value in again.state_dict().items():
        assert torch.equal(value, after[name]), name


def test_a_saved_model_is_not_put_on_other_weights(tmp_path: Path) -> None:
    base = saved_model(tmp_path / "base")
    model = Asked(
        load_language_model(LmConfig(name=str(base), tune="lora", lora=LoraConfig(rank=2)), 12, TEXTS), catalogue()
    )
    model.save(tmp_path / "saved")
    from transformers import LlamaForCausalLM

    changed = LlamaForCausalLM.from_pretrained(base)
    with torch.no_grad():
        next(changed.parameters()).add_(0.01)
    changed.save_pretrained(base)
    with pytest.raises(DataError, match="other weights now"):
        Asked.load(tmp_path / "saved", catalogue())


def test_a_model_from_scratch_comes_back_byte_for_byte(tmp_path: Path) -> None:
    model = asked()
    model.save(tmp_path / "one")
    again = Asked.load(tmp_path / "one", catalogue())
    again.save(tmp_path / "two")
    for name in ("model.json", "model.safetensors"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert again.lm.tokenize("the red whale") == model.lm.tokenize("the red whale")


def test_a_small_model_learns_to_write_texts_of_different_length() -> None:
    lm = tiny().train()
    examples = [Example([lm.text_size + code], [*lm.tokenize(text), lm.end]) for code, text in enumerate(TEXTS)]
    batch = pack(examples, lm.context)
    optimizer = torch.optim.AdamW(lm.parameters(), lr=1e-2)
    for _ in range(150):
        optimizer.zero_grad()
        lm.told_loss(lm.states(lm.embed(batch.ids), batch.mask), batch).backward()
        optimizer.step()
    assert lm.eval().write([one.prompt for one in examples], 40) == TEXTS
    short = lm.write([[1, 2, lm.text_size + 1], [lm.text_size]], 2)  # cut, and beside a longer prompt
    assert short[1] == lm.text(examples[0].target[:2])


def test_a_tokenizer_without_an_end_token_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no end token"):
        load_language_model(LmConfig(name=str(saved_model(tmp_path, eos=False))), 3, TEXTS)


def test_a_model_that_scales_its_logits_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="more than one linear map"):
        load_language_model(LmConfig(name=str(saved_model(tmp_path, kind="granite"))), 3, TEXTS)


def test_no_such_model_is_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ConfigError, match="cannot be loaded"):
        load_language_model(LmConfig(name=str(tmp_path)), 3, TEXTS)


def test_scratch_is_trained_whole() -> None:
    with pytest.raises(ValueError, match="tune must be full"):
        LmConfig(tune="lora")


def test_what_does_not_fit_is_one_error() -> None:
    with pytest.raises(DataError, match="longer than the model reads"):
        pack([Example([1] * 60, [2] * 5)], 64)
    with pytest.raises(DataError, match="without a prompt or a target"):
        pack([Example([1], [])], 64)
    with pytest.raises(DataError, match="longer than the model reads"):
        tiny().write([[1] * 60], 5)
    assert fit_history([1], [[2, 2], [3], [4, 4]], [9], 7) == [1, 2, 2, 3, 4, 4, 9]
    assert fit_history([1], [[2, 2], [3], [4, 4]], [9], 3) == [1, 9]  # the newest does not fit: none older either
    with pytest.raises(DataError, match="longer than the model reads"):
        fit_history([1, 1], [], [9], 2)
