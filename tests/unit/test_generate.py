"""`reverie generate` and `reverie merge`, on the tiny model, through their commands."""

import gc
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import LlamaForCausalLM, T5EncoderModel
from typer.testing import CliRunner, Result

from services.cli.connection import Invocation
from services.cli.program import app
from tests.support.adapters import EXAMPLES
from trainer_core.errors import AdapterFileError, BaseModelError, DocumentError, OutputError
from trainer_core.file_names import safe_names
from trainer_core.hidream.loading import load_transformer
from trainer_core.painting.generate import generate
from trainer_core.painting.options import ImageRequest, PaintingOptions
from trainer_core.painting.prompts import requests_of_library


@pytest.fixture(scope="module")
def adapter(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = load_transformer(tiny_folder, torch.float32)
    return EXAMPLES["lokr-mixed"](model).write(tmp_path_factory.mktemp("generate") / "adapter")


def reverie(*arguments: str | Path, env: dict[str, str] | None = None) -> Result:
    """The command in this process; its exceptions reach the test."""
    return CliRunner().invoke(
        app, [str(a) for a in arguments], obj=Invocation(env={}), env=env, catch_exceptions=False
    )


def pixels(file: Path) -> Any:
    with Image.open(file) as image:
        return np.asarray(image.convert("RGB"), dtype=np.float64)


SMALL = ("--width", "64", "--height", "32", "--steps", "2", "--guidance", "1.5", "--device", "cpu")


def paint(base: Path, output: Path, *more: str | Path, prompt: str = "a cat") -> Any:
    result = reverie(
        "generate", "--base", base, "--prompt", prompt, "--output", output, *SMALL, *more
    )
    assert result.exit_code == 0, result.output
    return pixels(output)


@pytest.fixture(scope="module")
def of_base(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The base model's own picture of a cat."""
    return paint(tiny_folder, tmp_path_factory.mktemp("pictures") / "base.png")


@pytest.fixture(scope="module")
def with_adapter(tiny_folder: Path, adapter: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    file = tmp_path_factory.mktemp("pictures") / "on.png"
    return paint(tiny_folder, file, "--adapter", adapter)


def test_the_adapter_changes_the_image_and_strength_0_does_not(
    tiny_folder: Path, adapter: Path, of_base: Any, with_adapter: Any, tmp_path: Path
) -> None:
    off = paint(tiny_folder, tmp_path / "off.png", "--adapter", adapter, "--multiplier", "0")
    half = paint(tiny_folder, tmp_path / "half.png", "--adapter", adapter, "--multiplier", "0.5")

    assert of_base.shape == (32, 64, 3)
    assert np.array_equal(off, of_base)
    assert np.abs(with_adapter - of_base).mean() > 1
    assert np.abs(half - of_base).mean() > 0.2
    assert np.abs(half - with_adapter).mean() > 0.2


@pytest.mark.parametrize(
    "option",
    [("--seed", "7"), ("--negative-prompt", "blurry, low quality"), ("--guidance-rescale", "1")],
)
def test_an_option_of_the_sampling_changes_the_image(
    option: tuple[str, str], tiny_folder: Path, of_base: Any, tmp_path: Path
) -> None:
    assert not np.array_equal(paint(tiny_folder, tmp_path / "other.png", *option), of_base)


def test_the_adapter_acts_on_quantised_weights(
    tiny_folder: Path, adapter: Path, of_base: Any, with_adapter: Any, tmp_path: Path
) -> None:
    int8 = ("--precision", "int8-quanto", "--text-encoder-precision", "int8-quanto")
    on = paint(tiny_folder, tmp_path / "on.png", "--adapter", adapter, *int8)

    effect = np.abs(with_adapter - of_base).mean()
    assert 0 < np.abs(on - with_adapter).mean() < 0.5 * effect


def test_a_prompt_library_gives_one_image_per_prompt(
    tiny_folder: Path, of_base: Any, tmp_path: Path
) -> None:
    library = tmp_path / "library.json"
    library.write_text('{"anime_<token>": "a portrait", "../up/Üb er": "a cat", /* so */}')

    result = reverie(
        "generate",
        "--base",
        tiny_folder,
        "--prompts",
        library,
        "--output",
        tmp_path / "out",
        *SMALL,
    )

    assert result.exit_code == 0, result.output
    names = ["___up_Üb_er.png", "anime__token_.png"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names
    cat, portrait = (pixels(tmp_path / "out" / name) for name in names)
    assert np.array_equal(cat, of_base)
    assert not np.array_equal(portrait, of_base)


def test_a_library_may_hold_objects_as_the_importer_takes_them(tmp_path: Path) -> None:
    library = tmp_path / "library.json"
    library.write_text('{"a": {"prompt": "a cat", "adapter_strength": 1}, "b": "a dog"}')

    pictures = requests_of_library(library, tmp_path)

    assert [(each.prompt, each.file.name) for each in pictures] == [
        ("a cat", "a.png"),
        ("a dog", "b.png"),
    ]
    library.write_text('{"a": {"text": "a cat"}}')
    with pytest.raises(DocumentError, match="the prompt of 'a' has to be text"):
        requests_of_library(library, tmp_path)


@pytest.mark.parametrize(
    ("nicknames", "names"),
    [
        (["a", "A", "a"], ["a", "A-2", "a-3"]),
        (["..", "/", ""], ["__", "_", "_-2"]),
        (["x" * 300, "猫 1"], ["x" * 80, "猫_1"]),
        (["a.png", "CON\0"], ["a_png", "CON_"]),
    ],
)
def test_nicknames_become_safe_file_names(nicknames: list[str], names: list[str]) -> None:
    assert safe_names(nicknames) == names


def test_encoders_are_released_before_the_transformer_is_loaded(
    tiny_folder: Path, tmp_path: Path
) -> None:
    """Only then does memory have to hold the larger of the two, not both."""
    seen: dict[str, int] = {}

    def encoders() -> int:
        return sum(type(o) in (LlamaForCausalLM, T5EncoderModel) for o in gc.get_objects())

    def log(text: str) -> None:
        seen[text.partition(" ")[0]] = encoders()

    gc.collect()
    before = encoders()
    options = PaintingOptions(
        negative_prompt="", width_px=32, height_px=None, steps=1, guidance=1.0, seed=1,
        multiplier=1.0, precision="no_change", text_encoder_precision="no_change", device="cpu",
    )  # fmt: skip
    picture = ImageRequest(prompt="a cat", file=tmp_path / "cat.png")
    generate(tiny_folder, None, [picture], options, log)

    assert seen == {"encoding": before, "loading": before, "generating": before}
    assert pixels(tmp_path / "cat.png").shape == (32, 32, 3)


def test_what_cannot_work_is_refused_before_anything_is_loaded(
    tiny_folder: Path, tmp_path: Path
) -> None:
    ask = ("generate", "--prompt", "a cat", "--output", tmp_path / "cat.png", "--device", "cpu")
    of_tiny = (*ask, "--base", tiny_folder)

    with pytest.raises(OutputError, match="multiples of 16"):
        reverie(*of_tiny, "--width", "40")
    with pytest.raises(OutputError, match="more than this base model takes: at most the area"):
        reverie(*of_tiny, "--width", "4096")
    with pytest.raises(AdapterFileError, match=r"none\.safetensors"):
        reverie(*of_tiny, "--adapter", tmp_path / "none.safetensors")
    (tmp_path / "half" / "transformer").mkdir(parents=True)
    with pytest.raises(BaseModelError, match=r"config\.json cannot be read"):
        reverie(*ask, "--base", tmp_path / "half")
    with pytest.raises(AdapterFileError, match="multiplier nan is not finite"):
        reverie(*of_tiny, "--multiplier", "nan")
    with pytest.raises(BaseModelError, match=r"there is no base model \.\./nothere"):
        reverie(*ask, "--base", "../nothere", "--parts-from", tiny_folder)
    (tmp_path / "half" / "d.png").mkdir()
    (tmp_path / "half" / "file").touch()
    for place, words in (("d.png", "is a folder"), ("file/a.png", "file is a file")):
        with pytest.raises(OutputError, match=words):
            reverie(*of_tiny, "--output", tmp_path / "half" / place)
    both = reverie(*of_tiny, "--prompts", tmp_path / "library.json")
    assert both.exit_code == 2
    assert "either --prompt or --prompts" in both.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["half"]


def test_merge_writes_the_folder_and_reports_what_is_lost(
    tiny_folder: Path, tiny_models_dir: Path, adapter: Path, tmp_path: Path
) -> None:
    """The base model by its name in the operator's folder."""
    result = reverie(
        "merge", "--base", "hidream-tiny", "--adapter", adapter, "--output", tmp_path / "merged",
        env={"REVERIE_MODELS_DIR": str(tiny_models_dir)},
    )  # fmt: skip

    assert result.exit_code == 0, result.output
    assert "merged 9 modules; the cast to bf16 took" in result.output
    assert str(tmp_path / "merged" / "transformer") in result.output
    assert json.loads((tmp_path / "merged" / "merge.json").read_text())["dtype"] == "bfloat16"
    merged = load_transformer(tmp_path / "merged", torch.bfloat16)
    assert dict(merged.config)["num_layers"] == 2
