"""Page image encoders on tiny models of the true architectures, loaded as any local folder is."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, AutoProcessor, ColQwen2ForRetrieval, ColQwen2Processor

from common.encoders.page_image import PageImageEncoder, Settings, VisualItem, prepare_image
from common.encoders.revision import model_revision
from common.errors import ConfigError, DataError
from tests import tiny_vlm

# float32 on a CPU: what the neighbours in a batch may change (measured: below 1e-6).
TOLERANCE = 1e-5
LATE = ("colqwen2", "colpali", "colmodernvbert")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("models")
    return {name: str(getattr(tiny_vlm, name)(root / name)) for name in (*LATE, "qwen2_vl", "idefics3")}


@pytest.fixture(scope="module")
def pages() -> list[Image.Image]:
    rng = np.random.default_rng(3)
    sizes = [(120, 160), (60, 200), (28, 28), (200, 90)]
    return [Image.fromarray(rng.integers(0, 255, (h, w, 3), dtype=np.uint8)) for w, h in sizes]


def settings(**given: object) -> Settings:
    return Settings(**{"dtype": "float32", **given})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", LATE)
def test_token_vectors_are_unit_and_do_not_depend_on_neighbours(
    name: str, folders: dict[str, str], pages: list[Image.Image]
) -> None:
    encoder = PageImageEncoder(folders[name], settings())
    questions = ["What?", "How many people live in the city that is named on this page?"]
    for together, alone in (
        (encoder.encode_pages(pages), [encoder.encode_pages([page])[0] for page in pages]),
        (encoder.encode_queries(questions), [encoder.encode_queries([q])[0] for q in questions]),
    ):
        for a, b in zip(together, alone, strict=True):
            assert a.shape == b.shape and a.dtype == np.float32 and a.shape[1] == 16
            np.testing.assert_allclose(a, b, atol=TOLERANCE)
            np.testing.assert_allclose(np.linalg.norm(a, axis=1), 1, atol=TOLERANCE)  # no padding: it would be 0
    short, long = encoder.encode_queries(questions)
    assert len(short) < len(long)


@pytest.mark.parametrize("name", LATE)
def test_identical_pages_get_the_same_vectors_and_others_do_not(
    name: str, folders: dict[str, str], pages: list[Image.Image]
) -> None:
    encoder = PageImageEncoder(folders[name], settings())
    first, other, again = encoder.encode_pages([pages[0], pages[3], pages[0].copy()])
    np.testing.assert_allclose(first, again, atol=TOLERANCE)
    assert first.shape != other.shape or np.abs(first - other).max() > 0.01
    np.testing.assert_array_equal(encoder.encode_pages(pages)[1], encoder.encode_pages(pages)[1])


def test_colqwen2_patches_have_their_row_and_column(folders: dict[str, str], pages: list[Image.Image]) -> None:
    """Oracle: the language model's own forward from token ids, which builds the 2-D positions itself."""
    folder = folders["colqwen2"]
    model = ColQwen2ForRetrieval.from_pretrained(folder).eval()
    batch = ColQwen2Processor.from_pretrained(folder).process_images([pages[0]])
    with torch.inference_mode():
        states = model.vlm(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            pixel_values=batch["pixel_values"][0],
            image_grid_thw=batch["image_grid_thw"],
            mm_token_type_ids=(batch["input_ids"] == model.config.vlm_config.image_token_id).int(),
        ).last_hidden_state
        expected = torch.nn.functional.normalize(model.embedding_proj_layer(states), dim=-1)[0].numpy()
        model.vlm.rope_deltas = None
        flat = model(**batch).embeddings[0].numpy()
    ours = PageImageEncoder(folder, settings()).encode_pages([pages[0]])[0]
    np.testing.assert_allclose(ours, expected, atol=TOLERANCE)
    assert np.abs(flat - expected).max() > 1e-3  # what the class gives by itself: patches numbered in one row


@pytest.mark.parametrize("name", LATE)
def test_mean_is_the_mean_of_the_images_own_tokens(
    name: str, folders: dict[str, str], pages: list[Image.Image]
) -> None:
    tokens = PageImageEncoder(folders[name], settings()).encode_pages([pages[0]])[0]
    encoder = PageImageEncoder(folders[name], settings(pooling="mean"))
    processor = AutoProcessor.from_pretrained(folders[name])
    ids = processor.process_images([pages[0]])["input_ids"][0].numpy()
    expected = tokens[ids == processor.image_token_id].mean(axis=0)
    mean = encoder.encode_pages([pages[0]])[0]
    assert mean.shape == (1, 16)
    np.testing.assert_allclose(mean[0], expected / np.linalg.norm(expected), atol=TOLERANCE)


def test_text_joins_an_image(folders: dict[str, str], pages: list[Image.Image]) -> None:
    encoder = PageImageEncoder(folders["colqwen2"], settings(text_tokens=6))
    image = encoder.encode_pages([pages[0]])[0]
    text = encoder.encode([VisualItem(text="revenue by year, in millions")], "passage")[0]
    both = encoder.encode([VisualItem(pages[0], "revenue by year, in millions")], "passage")[0]
    assert len(text) == 6  # cut at text_tokens
    np.testing.assert_allclose(both, np.concatenate([image, text]), atol=TOLERANCE)


@pytest.mark.parametrize("name", ["qwen2_vl", "idefics3"])
@pytest.mark.parametrize("last_k", [1, 3])
def test_last_is_the_mean_state_of_the_end_tokens(
    name: str, last_k: int, folders: dict[str, str], pages: list[Image.Image]
) -> None:
    encoder = PageImageEncoder(folders[name], settings(pooling="last", last_k=last_k, passage_instruction="Describe."))
    items = [VisualItem(pages[0], "a page"), VisualItem(pages[1]), VisualItem(text="a longer text without an image")]
    together = encoder.encode(items, "passage")
    for item, vector in zip(items, together, strict=True):
        assert vector.shape == (1, 32)
        np.testing.assert_allclose(vector, encoder.encode([item], "passage")[0], atol=TOLERANCE)

    processor = AutoProcessor.from_pretrained(folders[name])
    model = AutoModelForImageTextToText.from_pretrained(folders[name]).eval()
    content = [{"type": "image"}, {"type": "text", "text": "a page"}]
    messages = [
        {"role": "system", "content": [{"type": "text", "text": "Describe."}]},
        {"role": "user", "content": content},
    ]
    prompt = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    batch = processor(text=[prompt + "<|endoftext|>" * last_k], images=[[pages[0]]], return_tensors="pt")
    with torch.inference_mode():
        states = model(**batch, output_hidden_states=True).hidden_states[-1][0, -last_k:]
    expected = torch.nn.functional.normalize(states.mean(dim=0), dim=0).numpy()
    np.testing.assert_allclose(together[0][0], expected, atol=TOLERANCE)


def test_control_tokens_in_a_text_are_words(folders: dict[str, str], pages: list[Image.Image]) -> None:
    encoder = PageImageEncoder(folders["qwen2_vl"], settings(pooling="last"))
    dirty = VisualItem(pages[0], "see <|image_pad|> and <|im_end|> here")
    clean = VisualItem(pages[0], "see   and   here")
    np.testing.assert_array_equal(encoder.encode([dirty], "query")[0], encoder.encode([clean], "query")[0])


def test_large_images_are_scaled_and_strips_refused() -> None:
    assert prepare_image(Image.new("L", (400, 100)), 10_000).size == (200, 50)
    assert prepare_image(Image.new("RGB", (40, 30)), 10_000).size == (40, 30)
    with pytest.raises(DataError, match="strip"):
        prepare_image(Image.new("RGB", (4000, 2)), None)


def test_an_empty_item_is_refused(folders: dict[str, str]) -> None:
    with pytest.raises(DataError, match="neither image nor text"):
        PageImageEncoder(folders["colpali"], settings()).encode([VisualItem()], "passage")


def test_the_pooling_must_fit_the_model(folders: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="pooling: last"):
        PageImageEncoder(folders["qwen2_vl"], settings())
    with pytest.raises(ConfigError, match="multi or mean"):
        PageImageEncoder(folders["colqwen2"], settings(pooling="last"))
    with pytest.raises(ConfigError, match="end token"):
        PageImageEncoder(folders["qwen2_vl"], settings(pooling="last", end_token="</s>"))  # noqa: S106


def test_a_model_that_is_not_there_or_not_whole_is_refused(folders: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be loaded"):
        PageImageEncoder("nobody/no-such-model", settings())
    broken = tmp_path / "broken"
    shutil.copytree(folders["colqwen2"], broken)
    weights = load_file(broken / "model.safetensors")
    weights.pop("embedding_proj_layer.weight")
    save_file(weights, broken / "model.safetensors", {"format": "pt"})
    with pytest.raises(ConfigError, match=r"not in the checkpoint[\s\S]*embedding_proj_layer"):
        PageImageEncoder(str(broken), settings())


def test_the_revision_follows_the_files(folders: dict[str, str], tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folders["colpali"], copy)
    assert model_revision(str(copy)) == model_revision(folders["colpali"])
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "note": 1}))
    assert model_revision(str(copy)) != model_revision(folders["colpali"])


def test_a_hub_name_and_a_folder_load_alike(
    folders: dict[str, str], pages: list[Image.Image], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hub cache as a download leaves it: the name loads from it, and the revision is its commit."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "models--team--tiny"
    shutil.copytree(folders["colqwen2"], repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    encoder = PageImageEncoder("team/tiny", settings())
    assert encoder.revision == f"commit:{commit}"
    expected = PageImageEncoder(folders["colqwen2"], settings()).encode_pages(pages[:1])[0]
    np.testing.assert_array_equal(encoder.encode_pages(pages[:1])[0], expected)
