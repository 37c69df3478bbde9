"""Tokens are counted as the encoders' tokenizers count them, or estimated and marked as such."""

import functools
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer_core.data.cut_captions import cut_captions, prompt_warnings
from trainer_core.data.token_counts import count_tokens, estimated_tokens

PARTS = ("tokenizer", "tokenizer_2", "tokenizer_3", "tokenizer_4")
WORDS = "a quiet harbour at dawn"
LONG = " ".join(["a grey heron waits"] * 12)
"""Longer than 128 tokens for the tiny model, which has a token for each character."""


@pytest.fixture(scope="module")
def tokenizers(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tokenizers of the tiny model, without the model."""
    folder = tmp_path_factory.mktemp("tokenizers")
    for part in PARTS:
        shutil.copytree(tiny_folder / part, folder / part)
    return folder


@functools.cache
def loaded(folder: Path, part: str) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder / part)


def counted_by_transformers(folder: Path, text: str) -> tuple[int, bool]:
    """The most tokens of an encoder, and whether ``hidream.text`` cuts the text for one."""
    most, is_cut = 0, False
    for part in PARTS:
        tokenizer = loaded(folder, part)
        tokens = len(tokenizer([text])["input_ids"][0])
        limit = 128 if part in PARTS[:2] else min(128, tokenizer.model_max_length)
        most, is_cut = max(most, tokens), is_cut or tokens > limit
    return most, is_cut


TEXTS = [
    LONG,
    WORDS * 4,
    "x" * 126,
    "x" * 127,
    "Ein Café am Ufer, 猫と本、" * 5,
    "it's  spaced \t oddly\n" * 8,
    "the end <|endoftext|> of </s> a text, and <unk> more of it, which goes on for a while",
]


@pytest.mark.parametrize("text", TEXTS)
def test_a_count_is_that_of_transformers(tokenizers: Path, text: str) -> None:
    counts = count_tokens([WORDS, text], tokenizers)

    assert counts.is_exact
    assert (counts.tokens[1], counts.is_cut[1]) == counted_by_transformers(tokenizers, text)
    assert counts.is_cut[0] is False


def test_the_shortest_limit_counts(tokenizers: Path, tmp_path: Path) -> None:
    shutil.copytree(tokenizers, tmp_path / "base")
    file = tmp_path / "base" / "tokenizer_3" / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "model_max_length": 80}))

    assert count_tokens(["x" * 90], tokenizers).is_cut == [False]
    assert count_tokens(["x" * 90], tmp_path / "base").is_cut == [True]


@pytest.fixture(scope="module")
def published(tokenizers: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As HiDream-I1 is published: CLIP's tokenizers are ``vocab.json`` and ``merges.txt``."""
    from tokenizers.pre_tokenizers import ByteLevel

    base = tmp_path_factory.mktemp("published")
    letters = sorted(ByteLevel.alphabet())
    merges = [("t", "h"), ("th", "e</w>"), ("c", "a"), ("ca", "t</w>"), ("1", "2</w>")]
    words = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(m) for m in merges)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    for part in PARTS[:2]:
        folder = base / part
        folder.mkdir()
        (folder / "vocab.json").write_text(json.dumps({word: n for n, word in enumerate(words)}))
        lines = ["#version: 0.2", *(" ".join(merge) for merge in merges)]
        (folder / "merges.txt").write_text("\n".join(lines) + "\n")
        config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 248}
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    for part in PARTS[2:]:
        (base / part).symlink_to(tokenizers / part)
    return base


@settings(deadline=None, max_examples=100)
@given(st.text(max_size=90))
def test_clip_is_built_from_its_older_files(published: Path, end: str) -> None:
    text = f"12 the cat's <|endoftext|> and \xc0 THE {end}" + " 12 34" * 10
    clip = loaded(published, "tokenizer")

    counts = count_tokens([text, "the cat " * 50], published)

    assert counts.is_exact
    assert (counts.tokens[0], counts.is_cut[0]) == counted_by_transformers(published, text)
    assert len(clip(["the cat " * 50])["input_ids"][0]) == 102  # it merges


@pytest.mark.parametrize("harm", ["missing", "broken", "no model", "no limit"])
def test_without_usable_tokenizers_it_is_an_estimate(
    tokenizers: Path, tmp_path: Path, harm: str
) -> None:
    shutil.copytree(tokenizers, tmp_path / "base")
    match harm:
        case "missing":
            shutil.rmtree(tmp_path / "base" / "tokenizer_4")
        case "broken":
            (tmp_path / "base" / "tokenizer_2" / "tokenizer.json").write_text("{")
        case "no limit":
            (tmp_path / "base" / "tokenizer_3" / "tokenizer_config.json").write_text("[]")
    counts = count_tokens([LONG, WORDS], None if harm == "no model" else tmp_path / "base")

    assert not counts.is_exact
    assert counts.tokens == [estimated_tokens(LONG), estimated_tokens(WORDS)]


@pytest.mark.parametrize(
    ("text", "tokens"),
    [  # counted with the tokenizers of CLIP-L, T5 v1.1 XXL and Llama 3
        ("A photo-realistic image of a cat", 10),
        ("An astronaut in an orange suit smiles in front of a flag and a model of a space shuttle",
         22),
        ("猫がソファーの上で寝ています。窓から光が差し込んでいます。", 55),
    ],
)  # fmt: skip
def test_an_estimate_is_about_right(text: str, tokens: int) -> None:
    assert abs(estimated_tokens(text) - tokens) <= 0.25 * tokens


def test_cut_captions_are_counted_and_their_images_named(tokenizers: Path) -> None:
    images = [("a.png", [LONG, WORDS]), ("b.png", [WORDS]), ("c.png", [LONG])]

    exact, estimate = cut_captions(images, tokenizers), cut_captions(images, None)

    assert exact.warning() == (
        "2 of 4 captions are longer than the 128 tokens that the text encoders take, and the rest "
        f"of each is cut off (the longest has {exact.longest_tokens}): a.png, c.png."
    )
    assert exact.longest_tokens > 200
    for number, part in enumerate(PARTS, 1):
        tokens = len(loaded(tokenizers, part)([LONG])["input_ids"][0])
        assert exact.by_encoder[f"text_encoder_{number}"] == (2, 2 * (tokens - 128))
    assert estimate.by_encoder == {}
    assert estimate.warning() is None  # 48 words are not long for a model with words
    assert cut_captions([("d.png", ["a grey heron " * 100])], None).warning() == (
        "1 of 1 captions is probably longer than the 128 tokens that the text encoders take, and "
        "the rest of it is cut off (the longest has about 312; estimated, because there is no "
        "tokenizer here): d.png."
    )


def test_a_prompt_that_is_cut_is_told_without_its_text(tokenizers: Path) -> None:
    (warning,) = prompt_warnings([("The prompt", LONG), ("Another", WORDS)], tokenizers)

    assert warning.startswith("The prompt has 2")
    assert "heron" not in warning
