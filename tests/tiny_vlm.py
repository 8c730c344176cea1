"""Tiny vision-language models with the true architectures: built from a config, saved, loaded like any folder.

Weights are random (seeded); only the plumbing and the arithmetic can be checked with them, never quality.
"""

from pathlib import Path

import torch
from tokenizers import pre_tokenizers
from transformers import (
    CLIPImageProcessor,
    ColModernVBertConfig,
    ColModernVBertForRetrieval,
    ColModernVBertProcessor,
    ColPaliConfig,
    ColPaliForRetrieval,
    ColPaliProcessor,
    ColQwen2Config,
    ColQwen2ForRetrieval,
    ColQwen2Processor,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3ImageProcessor,
    Idefics3Processor,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2Tokenizer,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
    SiglipImageProcessor,
)

QWEN_SPECIAL = ["<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
QWEN_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['content'] is string %}{{ m['content'] }}{% else %}{% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ c['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
IDEFICS_TEMPLATE = (
    "<|im_start|>{% for m in messages %}{{ m['role'] }}:"
    "{% for c in m['content'] %}{% if c['type'] == 'image' %}<image>{% else %}{{ c['text'] }}{% endif %}{% endfor %}"
    "<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)


def tokenizer(special: list[str], **extra: str) -> Qwen2Tokenizer:
    """A byte-level tokenizer with whole-word tokens for yes and no, as real vocabularies have them."""
    vocab = {"<|endoftext|>": 0}
    for letter in sorted(pre_tokenizers.ByteLevel.alphabet()):
        vocab[letter] = len(vocab)
    merges = [("e", "s"), ("y", "es"), ("Y", "es"), ("n", "o"), ("N", "o"), ("Ġ", "yes"), ("Ġ", "no")]
    for left, right in merges:
        vocab.setdefault(left + right, len(vocab))
    made = Qwen2Tokenizer(vocab=vocab, merges=merges, **extra)
    made.add_special_tokens({"additional_special_tokens": special})
    return made


def text_config(vocab: int, **extra: object) -> dict[str, object]:
    """The language model's shape: 2 layers of 32."""
    return {
        "vocab_size": vocab,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "pad_token_id": 0,
        **extra,
    }


def qwen2_vl_config(tok: Qwen2Tokenizer) -> Qwen2VLConfig:
    ids = tok.convert_tokens_to_ids
    return Qwen2VLConfig(
        text_config=text_config(
            len(tok), rope_parameters={"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
        ),
        vision_config={
            "depth": 1, "embed_dim": 32, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 2,
            "patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2, "in_channels": 3,
        },
        image_token_id=ids("<|image_pad|>"),
        video_token_id=ids("<|video_pad|>"),
        vision_start_token_id=ids("<|vision_start|>"),
        vision_end_token_id=ids("<|vision_end|>"),
    )  # fmt: skip


def spread(model: torch.nn.Module, seed: int) -> torch.nn.Module:
    """Draw all weights anew with a spread that makes outputs differ visibly from item to item."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in sorted(model.named_parameters()):
            if weight.ndim > 1:
                weight.copy_(torch.randn(weight.shape, generator=generator) * (0.5 if "embed" in name else 0.2))
    return model.eval()


def colqwen2(folder: Path, seed: int = 0) -> Path:
    tok = tokenizer(QWEN_SPECIAL)
    model = ColQwen2ForRetrieval(ColQwen2Config(vlm_config=qwen2_vl_config(tok), embedding_dim=16))
    spread(model, seed).save_pretrained(folder)
    images = Qwen2VLImageProcessor(min_pixels=28 * 28, max_pixels=28 * 28 * 16)
    ColQwen2Processor(images, tok).save_pretrained(folder)
    return folder


def qwen2_vl(folder: Path, seed: int = 0) -> Path:
    tok = tokenizer(QWEN_SPECIAL)
    model = Qwen2VLForConditionalGeneration(qwen2_vl_config(tok))
    spread(model, seed).save_pretrained(folder)
    images = Qwen2VLImageProcessor(min_pixels=28 * 28, max_pixels=28 * 28 * 16)
    Qwen2VLProcessor(images, tok, Qwen2VLVideoProcessor(), chat_template=QWEN_TEMPLATE).save_pretrained(folder)
    return folder


def colpali(folder: Path, seed: int = 0) -> Path:
    tok = tokenizer(["<image>", "<bos>"], bos_token="<bos>")  # noqa: S106
    images = SiglipImageProcessor(size={"height": 28, "width": 28})
    images.image_seq_length = 4
    processor = ColPaliProcessor(images, tok)
    vlm = {
        "model_type": "paligemma",
        "text_config": text_config(len(tok), model_type="gemma", head_dim=8),
        "vision_config": {
            "model_type": "siglip_vision_model", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1,
            "num_attention_heads": 2, "image_size": 28, "patch_size": 14, "projection_dim": 32,
        },
        "image_token_index": tok.convert_tokens_to_ids("<image>"), "projection_dim": 32, "hidden_size": 32,
    }  # fmt: skip
    model = ColPaliForRetrieval(ColPaliConfig(vlm_config=vlm, embedding_dim=16))
    spread(model, seed).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def colmodernvbert(folder: Path, seed: int = 0) -> Path:
    names = ["<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>", "<|begin_of_text|>"]
    tok = tokenizer(names + [f"<row_{i + 1}_col_{j + 1}>" for i in range(6) for j in range(6)])
    images = Idefics3ImageProcessor(
        do_image_splitting=False, size={"longest_edge": 56}, max_image_size={"longest_edge": 56}
    )
    processor = ColModernVBertProcessor(images, tok, image_seq_len=4)
    vlm = {
        "model_type": "modernvbert",
        "text_config": {
            "model_type": "modernbert", "vocab_size": len(tok), "hidden_size": 32, "intermediate_size": 64,
            "num_hidden_layers": 2, "num_attention_heads": 4, "pad_token_id": 0, "bos_token_id": 0,
            "eos_token_id": 0, "cls_token_id": 0, "sep_token_id": 0,
        },
        "vision_config": {
            "model_type": "siglip_vision_model", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1,
            "num_attention_heads": 2, "image_size": 56, "patch_size": 14,
        },
        "pixel_shuffle_factor": 2, "image_token_id": tok.convert_tokens_to_ids("<image>"),
    }  # fmt: skip
    model = ColModernVBertForRetrieval(ColModernVBertConfig(vlm_config=vlm, embedding_dim=16))
    spread(model, seed).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def idefics3(folder: Path, seed: int = 0) -> Path:
    names = ["<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>", "<|im_start|>"]
    tok = tokenizer(names + [f"<row_{i + 1}_col_{j + 1}>" for i in range(6) for j in range(6)])
    edge = {"longest_edge": 56}
    images = Idefics3ImageProcessor(do_image_splitting=False, size=edge, max_image_size=edge)
    processor = Idefics3Processor(images, tok, image_seq_len=4, chat_template=IDEFICS_TEMPLATE)
    config = Idefics3Config(
        text_config=text_config(len(tok), model_type="llama"),
        vision_config={
            "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
            "image_size": 56, "patch_size": 14,
        },
        scale_factor=2, image_token_id=tok.convert_tokens_to_ids("<image>"), pad_token_id=0,
    )  # fmt: skip
    spread(Idefics3ForConditionalGeneration(config), seed).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def qwen2_5_vl(folder: Path, seed: int = 0) -> Path:
    tok = tokenizer(QWEN_SPECIAL)
    ids = tok.convert_tokens_to_ids
    config = Qwen2_5_VLConfig(
        text_config=text_config(
            len(tok), rope_parameters={"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
        ),
        vision_config={
            "depth": 2, "hidden_size": 32, "out_hidden_size": 32, "intermediate_size": 64, "num_heads": 2,
            "patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2, "in_channels": 3,
            "fullatt_block_indexes": [1], "window_size": 56,
        },
        image_token_id=ids("<|image_pad|>"),
        video_token_id=ids("<|video_pad|>"),
        vision_start_token_id=ids("<|vision_start|>"),
        vision_end_token_id=ids("<|vision_end|>"),
    )  # fmt: skip
    spread(Qwen2_5_VLForConditionalGeneration(config), seed).save_pretrained(folder)
    images = Qwen2VLImageProcessor(min_pixels=28 * 28, max_pixels=28 * 28 * 16)
    processor = Qwen2_5_VLProcessor(images, tok, Qwen2VLVideoProcessor(), chat_template=QWEN_TEMPLATE)
    processor.save_pretrained(folder)
    return folder


def llava(folder: Path, seed: int = 0) -> Path:
    """LLaVA: a fixed number of tokens an image, a CLIP tower, a Llama decoder."""
    tok = tokenizer(["<image>", "<end_of_utterance>", "<|im_start|>"])
    config = LlavaConfig(
        text_config=text_config(len(tok), model_type="llama"),
        vision_config={
            "model_type": "clip_vision_model", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
            "num_attention_heads": 2, "image_size": 56, "patch_size": 14, "projection_dim": 32,
        },
        image_token_index=tok.convert_tokens_to_ids("<image>"),
    )  # fmt: skip
    spread(LlavaForConditionalGeneration(config), seed).save_pretrained(folder)
    edge = {"height": 56, "width": 56}
    images = CLIPImageProcessor(size=edge, crop_size=edge)
    processor = LlavaProcessor(
        images, tok, patch_size=14, vision_feature_select_strategy="default", num_additional_image_tokens=1,
        chat_template=IDEFICS_TEMPLATE,
    )  # fmt: skip
    processor.save_pretrained(folder)
    return folder
