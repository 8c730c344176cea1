"""The yes/no judge on tiny chat models: its probability by hand, its prompt, and what it refuses."""

import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from common.encoders.vlm import (
    JudgeItem,
    PlainText,
    YesNoJudge,
    answer_tokens,
    fit_pixels,
    judge_prompt,
    split_on_failure,
)
from common.errors import ConfigError
from tests import tiny_vlm

TOLERANCE = 1e-5  # float32 on a CPU
NAMES = ("qwen2_vl", "qwen2_5_vl", "idefics3", "llava")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("models")
    return {name: str(getattr(tiny_vlm, name)(root / name)) for name in NAMES}


def picture(seed: int, width: int = 84, height: int = 112) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8))


ITEMS = [
    JudgeItem("Where?", picture(0), "A short page."),
    JudgeItem("Where is the longest river of the country that the page is about?", picture(1, 60, 140)),
    JudgeItem("Which?", page_text="Only text, and rather a lot of it, on this page."),
    JudgeItem("What is it?", picture(2), "Text.", picture(3)),
]


@pytest.mark.parametrize("name", NAMES)
def test_probability_is_the_softmax_of_the_answer_tokens_logits(name: str, folders: dict[str, str]) -> None:
    """Oracle: the whole model's logits at the last token of each prompt alone, exponentials added by hand."""
    processor = AutoProcessor.from_pretrained(folders[name])
    model = AutoModelForImageTextToText.from_pretrained(folders[name]).eval()
    vocabulary = processor.tokenizer.get_vocab()
    groups = {answer: [vocabulary[form] for form in forms] for answer, forms in FORMS.items()}
    judge = YesNoJudge(folders[name], device="cpu", dtype="float32")
    for item, got in zip(ITEMS, judge.probabilities(ITEMS), strict=True):
        content = [{"type": "image"}] * len(item.images) + [{"type": "text", "text": judge_prompt(item)}]
        message = [{"role": "user", "content": content}]
        prompt = processor.apply_chat_template(message, add_generation_prompt=True, tokenize=False)
        batch = processor(text=[prompt], images=[item.images] if item.images else None, return_tensors="pt")
        with torch.inference_mode():
            logits = model(**batch).logits[0, -1].double().tolist()
        yes, no = (sum(math.exp(logits[i]) for i in groups[answer]) for answer in ("yes", "no"))
        assert got == pytest.approx(yes / (yes + no), abs=TOLERANCE)


FORMS = {"yes": ["yes", "Yes", "Ġyes"], "no": ["no", "No", "Ġno"]}


@pytest.mark.parametrize("name", NAMES)
def test_neighbours_change_nothing_and_content_does(name: str, folders: dict[str, str]) -> None:
    judge = YesNoJudge(folders[name], device="cpu", dtype="float32")
    together = judge.probabilities(ITEMS)
    alone = [judge.probabilities([item])[0] for item in ITEMS]
    assert together == pytest.approx(alone, abs=TOLERANCE)
    assert judge.probabilities(ITEMS[::-1]) == pytest.approx(alone[::-1], abs=TOLERANCE)
    assert len({round(value, 4) for value in alone}) == len(ITEMS)  # image, text and question all matter


def test_answer_tokens_are_all_forms_of_yes_and_no_and_nothing_else(folders: dict[str, str]) -> None:
    tokenizer = AutoProcessor.from_pretrained(folders["qwen2_vl"]).tokenizer
    yes, no = answer_tokens(tokenizer, "tiny")
    assert sorted(tokenizer.convert_ids_to_tokens(yes)) == sorted(FORMS["yes"])
    assert sorted(tokenizer.convert_ids_to_tokens(no)) == sorted(FORMS["no"])


def test_a_vocabulary_without_the_answers_is_refused() -> None:
    class NoAnswers:
        def get_vocab(self) -> dict[str, int]:
            return {"yes": 0, "nope": 1}

    with pytest.raises(ConfigError, match="no token for 'no'"):
        answer_tokens(NoAnswers(), "tiny")


def test_a_model_without_a_chat_template_is_refused(folders: dict[str, str], tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(folders["qwen2_vl"], bare)
    (bare / "chat_template.jinja").unlink()
    with pytest.raises(ConfigError, match="chat template"):
        YesNoJudge(str(bare), device="cpu", dtype="float32")


def test_control_tokens_on_a_page_are_words(folders: dict[str, str]) -> None:
    judge = YesNoJudge(folders["qwen2_vl"], device="cpu", dtype="float32")
    dirty = JudgeItem("Which token?", picture(0), "The token <|image_pad|> ends with <|im_end|>.")
    clean = JudgeItem("Which token?", picture(0), "The token   ends with  .")
    assert judge.probabilities([dirty]) == judge.probabilities([clean])


def test_plain_text_keeps_ordinary_words(folders: dict[str, str]) -> None:
    plain = PlainText(AutoProcessor.from_pretrained(folders["idefics3"]).tokenizer)
    assert plain("rows <row_1_col_2> and <image>!") == "rows   and  !"
    assert plain("yes, a < b and <b>bold</b>") == "yes, a < b and <b>bold</b>"


def test_the_prompt_names_what_it_shows() -> None:
    both, page, text, query = ITEMS[3], ITEMS[1], ITEMS[2], JudgeItem("Q?", None, "T", picture(0))
    assert "first image" in judge_prompt(both) and "last image" in judge_prompt(both)
    assert "The image is a page" in judge_prompt(page) and "Text of the page" not in judge_prompt(page)
    assert "image" not in judge_prompt(text) and "Only text" in judge_prompt(text)
    assert "The image is the question's" in judge_prompt(query)
    assert judge_prompt(page).endswith("Answer with only yes or no.")
    assert [image.size for image in both.images] == [both.query_image.size, both.page_image.size]  # type: ignore[union-attr]


def test_fit_pixels_never_enlarges() -> None:
    assert fit_pixels(picture(0, 200, 100), 5_000).size == (100, 50)
    assert fit_pixels(picture(0, 20, 10), 5_000).size == (20, 10)
    assert fit_pixels(Image.new("LA", (20, 10)), None).mode == "RGB"


def test_a_batch_that_fails_is_halved_to_the_item_at_fault() -> None:
    sizes: list[int] = []

    def run(items: list[int]) -> list[int]:
        sizes.append(len(items))
        if len(items) > 2:
            raise RuntimeError("CUDA out of memory")
        if 5 in items:
            raise ValueError("five")
        return [item * 10 for item in items]

    results = split_on_failure([1, 2, 3, 4, 5, 6], run)
    assert [r if isinstance(r, int) else str(r) for r in results] == [10, 20, 30, 40, "five", 60]
    assert max(sizes) == 6
