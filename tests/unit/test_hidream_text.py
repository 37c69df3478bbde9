from pathlib import Path

import pytest
import torch
from diffusers import HiDreamImagePipeline

from trainer_core.hidream.loading import TextEncoders, load_text_encoders
from trainer_core.hidream.testing.tokenizers import t5_tokenizer
from trainer_core.hidream.text import TextEmbeddings, encode_texts

PROMPTS = ["a cat on a mat", "", "日本語の猫 🐈 naïve", "word " * 300, "A second, other caption."]


@pytest.fixture(scope="module", params=[torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return request.param


@pytest.fixture(scope="module")
def encoders(tiny_folder: Path, dtype: torch.dtype) -> TextEncoders:
    return load_text_encoders(tiny_folder, dtype)


@pytest.fixture(scope="module")
def pipeline(tiny_folder: Path, dtype: torch.dtype) -> HiDreamImagePipeline:
    return HiDreamImagePipeline.from_pretrained(tiny_folder, dtype=dtype, local_files_only=True)


@pytest.mark.parametrize("texts", [PROMPTS, *([prompt] for prompt in PROMPTS)])
def test_embeddings_equal_the_stock_pipelines_bit_for_bit(
    encoders: TextEncoders, pipeline: HiDreamImagePipeline, texts: list[str]
) -> None:
    with torch.no_grad():
        t5, _, llama, _, pooled, _ = pipeline.encode_prompt(
            texts, do_classifier_free_guidance=False
        )

    ours = encode_texts(encoders, texts)

    assert torch.equal(ours.t5, t5)
    assert torch.equal(ours.llama.transpose(0, 1), llama)
    assert torch.equal(ours.pooled, pooled)


def test_shapes_are_batch_first_with_the_distinct_layers(encoders: TextEncoders) -> None:
    ours = encode_texts(encoders, PROMPTS)

    assert ours.t5.shape == (5, 128, 48)
    assert ours.llama.shape == (5, 3, 128, 64)
    assert ours.pooled.shape == (5, 64)


def test_rows_go_through_tensors_and_come_together_again(encoders: TextEncoders) -> None:
    whole = encode_texts(encoders, PROMPTS[:2])

    parts = [TextEmbeddings.from_tensors(whole.row(i).tensors()) for i in range(2)]

    again = TextEmbeddings.concatenate(parts).tensors()
    assert all(torch.equal(again[name], tensor) for name, tensor in whole.tensors().items())


def test_embeddings_of_different_batches_are_refused() -> None:
    with pytest.raises(ValueError, match="different batch"):
        TextEmbeddings(torch.zeros(2, 4, 3), torch.zeros(1, 2, 4, 3), torch.zeros(2, 5))


def test_t5_does_not_drop_out(tiny_folder: Path) -> None:
    """In train mode, in which a model may come, every call would give other embeddings."""
    encoders = load_text_encoders(tiny_folder, torch.float32)

    first, again = (encode_texts(encoders, ["a cat"]).t5 for _ in range(2))
    encoders.t5.module.train()
    dropped = encode_texts(encoders, ["a cat"]).t5

    assert torch.equal(first, again)
    assert not torch.equal(first, dropped)


def test_t5_tokens_come_from_the_folders_own_pieces(tiny_folder: Path) -> None:
    """The class takes no vocabulary file: it would fall back to an empty one, and say nothing."""
    loaded = load_text_encoders(tiny_folder, torch.float32).t5.tokenizer
    made = t5_tokenizer()

    assert loaded("a Cat? 猫").input_ids == made("a Cat? 猫").input_ids
    assert len(set(loaded("abc").input_ids)) == len("abc") + 2  # the word's start and the end


def test_the_stock_encoder_returns_t5_before_llama_before_pooled(
    pipeline: HiDreamImagePipeline,
) -> None:
    """Positives and negatives alternate; SimpleTuner's script unpacks them in another order."""
    with torch.no_grad():
        given = pipeline.encode_prompt(["a"], negative_prompt=[""])

    shapes = [tuple(each.shape) for each in given]
    assert shapes == [(1, 128, 48)] * 2 + [(3, 1, 128, 64)] * 2 + [(1, 64)] * 2
