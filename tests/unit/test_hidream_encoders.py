"""The order in which parts of a base model are loaded, and what stays loaded."""

import gc
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import JsonValue

from trainer_core.base_models.describe import read_base_model
from trainer_core.errors import BaseModelError
from trainer_core.hidream import encoders
from trainer_core.hidream.encoders import LoadedEncoders
from trainer_core.hidream.parts import ModelParts, Part, PartName

FOUR = tuple(f"text_encoder_{number}" for number in (1, 2, 3, 4))
PLAIN: Mapping[str, JsonValue] = {"compute": "fp32"}
EIGHT_BITS: Mapping[str, JsonValue] = {"compute": "fp32", "text_encoder_3": "int8-quanto"}
IMAGE = torch.zeros(1, 3, 8, 8)


class Weights:
    """Stands for the weights of a part."""


class Stand:
    """Parts that note what they were asked for, and which of them are still in memory."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.most_at_once = 0
        self._alive: weakref.WeakSet[Weights] = weakref.WeakSet()

    def check(self, encoder: Mapping[str, JsonValue]) -> None:
        self.log.append("check")

    def load(self, name: PartName, encoder: Mapping[str, JsonValue]) -> Part:
        weights = Weights()
        weights.cycle = weights  # type: ignore[attr-defined]  # as torch's modules have them
        self._alive.add(weights)
        self.most_at_once = max(self.most_at_once, len(self._alive))
        self.log.append(f"load {name}")

        def part(content: Any, kept: Weights = weights) -> tuple[torch.Tensor, ...]:
            self.log.append(f"{name} {content}" if isinstance(content, str) else name)
            value = float(len(str(content)) + int(name[-1])) if name != "vae" else 0.0
            return (torch.full((1, 2), value),) * (2 if name == "vae" else 1)

        return part

    def alive(self) -> int:
        return len(self._alive)


@pytest.fixture(autouse=True)
def no_other_collection() -> Any:
    """Otherwise a part could be freed by chance."""
    gc.disable()
    yield
    gc.enable()


def test_one_at_a_time_each_encoder_gets_all_captions_before_the_next_is_loaded() -> None:
    parts = Stand()
    found = LoadedEncoders(parts, keeps_all=False)

    found.latents(PLAIN, IMAGE)
    made = list(found.texts(PLAIN, ["a", "bb"]))
    found.free()

    assert parts.log == [
        *("load vae", "vae"),
        *(line for n in FOUR for line in (f"load {n}", f"{n} a", f"{n} bb")),
    ]
    assert parts.most_at_once == 1
    assert parts.alive() == 0
    assert [each["pooled"].tolist() for each in made] == [[[2, 2, 3, 3]], [[3, 3, 4, 4]]]
    assert [each["t5"].tolist() for each in made] == [[[4, 4]], [[5, 5]]]
    assert [each["llama"].tolist() for each in made] == [[[5, 5]], [[6, 6]]]


def test_embeddings_come_as_soon_as_the_last_encoder_made_them() -> None:
    parts = Stand()

    embeddings = LoadedEncoders(parts, keeps_all=False).texts(PLAIN, ["a", "bb"])

    next(embeddings)
    assert parts.log[-1] == "text_encoder_4 a"


def test_more_captions_than_may_wait_go_in_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoders, "TEXTS_AT_ONCE", 2)
    parts = Stand()

    made = list(LoadedEncoders(parts, keeps_all=False).texts(PLAIN, ["a", "bb", "ccc"]))

    assert [each["llama"][0, 0].item() for each in made] == [5, 6, 7]
    assert parts.log.count("load text_encoder_1") == 2
    assert parts.log.index("text_encoder_4 bb") < parts.log.index("text_encoder_1 ccc")


def test_kept_parts_are_loaded_once_and_captions_come_one_by_one() -> None:
    parts = Stand()
    found = LoadedEncoders(parts, keeps_all=True)

    found.latents(PLAIN, IMAGE)
    embeddings = found.texts(PLAIN, ["a", "bb"])
    next(embeddings)
    assert [f"{name} a" in parts.log for name in FOUR] == [True] * 4
    assert not any("bb" in line for line in parts.log)
    list(embeddings)
    list(found.texts(PLAIN, ["ccc"]))
    found.latents(PLAIN, IMAGE)

    assert sum(line.startswith("load") for line in parts.log) == parts.alive() == 5


def test_a_part_of_another_precision_replaces_the_kept_one() -> None:
    parts = Stand()
    found = LoadedEncoders(parts, keeps_all=True)

    list(found.texts(PLAIN, ["a"]))
    parts.log.clear()
    list(found.texts(EIGHT_BITS, ["a"]))

    assert [line for line in parts.log if "load" in line] == ["load text_encoder_3"]
    assert parts.most_at_once == parts.alive() == 4


@pytest.mark.parametrize("keeps_all", [True, False])
def test_a_stop_comes_before_the_next_content(keeps_all: bool) -> None:
    left = 3

    def stop() -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt

    parts = Stand()
    found = LoadedEncoders(parts, keeps_all=keeps_all, before_each=stop)

    with pytest.raises(KeyboardInterrupt):
        list(found.texts(PLAIN, ["a", "bb", "ccc", "dddd"]))
    assert sum(line.startswith("text_encoder") for line in parts.log) == 3


@pytest.mark.parametrize("compute", ["fp32", "bf16"])
def test_both_ways_of_loading_give_the_same_bits(tiny_folder: Path, compute: str) -> None:
    base = read_base_model(tiny_folder)
    encoder: dict[str, JsonValue] = {
        "base_digest": base.digest,
        "compute": compute,
        "text_encoder_4": "int8-quanto",
    }
    texts = ["a cat on a mat", "", "日本語の猫 🐈 naïve", "word " * 300]
    image = torch.rand(1, 3, 64, 128, generator=torch.Generator().manual_seed(1)) * 2 - 1

    def made(keeps_all: bool, order: Callable[[Any], Any]) -> dict[str, Any]:
        found = LoadedEncoders(ModelParts(base, torch.device("cpu")), keeps_all=keeps_all)
        asked = list(order(texts))
        return {"image": found.latents(encoder, image)} | dict(
            zip(asked, found.texts(encoder, asked), strict=True)
        )

    one, other = made(True, list), made(False, reversed)

    for content, tensors in one.items():
        assert tensors.keys() == other[content].keys()
        for name, tensor in tensors.items():
            assert tensor.dtype is other[content][name].dtype
            assert torch.equal(tensor, other[content][name])
    assert one["a cat on a mat"]["llama"].dtype is getattr(
        torch, {"fp32": "float32", "bf16": "bfloat16"}[compute]
    )


@pytest.mark.parametrize(
    ("encoder", "words"),
    [
        ({"base_digest": "0" * 64}, "the entries were planned for 0000"),
        ({"max_tokens": 256}, "captions have 128 tokens in this version, not 256"),
    ],
)
def test_an_encoding_of_other_parts_is_refused(
    tiny_folder: Path, encoder: dict[str, JsonValue], words: str
) -> None:
    base = read_base_model(tiny_folder)
    found = LoadedEncoders(ModelParts(base, torch.device("cpu")), keeps_all=True)

    with pytest.raises(BaseModelError, match=words):
        found.check({"base_digest": base.digest, "max_tokens": 128} | encoder)


@pytest.mark.parametrize(
    ("encoder", "words"),
    [
        ({"compute": "fp16"}, "compute type 'fp16' is not one of"),
        ({"compute": "fp32", "text_encoder_1": "nf4"}, "text_encoder_1 is 'nf4', not one of"),
    ],
)
def test_types_that_are_not_known_are_refused(
    tiny_folder: Path, encoder: dict[str, JsonValue], words: str
) -> None:
    found = LoadedEncoders(
        ModelParts(read_base_model(tiny_folder), torch.device("cpu")), keeps_all=True
    )

    with pytest.raises(BaseModelError, match=words):
        next(found.texts(encoder, ["a"]))
