"""The CLIP score of a picture against transformers, called directly."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer

from tests.support.tiny_clip import MAX_TOKENS, write_tiny_clip
from trainer_core.base_models.clip import check_clip_folder, find_clip
from trainer_core.errors import BaseModelError
from trainer_core.progress import SilentReporter
from trainer_core.validation.clip_score import BadClipModelError, ClipScorer

TEXTS = ("a red boat on a lake", "", "ein Boot, groß", "a boat " * 60)
SIZES = ((64, 64), (97, 33), (20, 61), (24, 24))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def scorer(folder: Path) -> ClipScorer:
    return ClipScorer(folder)


def picture(width_px: int, height_px: int) -> Image.Image:
    pixels = np.random.default_rng(width_px).integers(0, 256, (height_px, width_px, 3))
    return Image.fromarray(pixels.astype(np.uint8))


def direct(folder: Path, image: Image.Image, text: str) -> float:
    """With transformers alone; a text of more tokens than the model takes is cut there."""
    model = CLIPModel.from_pretrained(folder).eval()
    tokens = CLIPTokenizer.from_pretrained(folder)(
        text, truncation=True, max_length=MAX_TOKENS, return_tensors="pt"
    )
    assert tokens["input_ids"].shape[1] <= MAX_TOKENS
    pixels = CLIPImageProcessor.from_pretrained(folder)(images=image, return_tensors="pt")
    with torch.no_grad():
        found = model(**tokens, pixel_values=pixels["pixel_values"])
    return torch.nn.functional.cosine_similarity(found.image_embeds, found.text_embeds).item()


def test_the_score_is_what_transformers_computes(folder: Path, scorer: ClipScorer) -> None:
    scores = []
    for text in TEXTS:
        for size in SIZES:
            image = picture(*size)
            scores.append(scorer.score(scorer.embed(image), text))
            assert scores[-1] == pytest.approx(direct(folder, image, text), abs=1e-6)
    assert max(scores) - min(scores) > 0.05  # otherwise any number would do


def test_a_picture_with_alpha_or_grey_is_scored_as_rgb(folder: Path, scorer: ClipScorer) -> None:
    grey = picture(40, 40).convert("L")

    score = scorer.score(scorer.embed(grey), "a")
    assert score == pytest.approx(direct(folder, grey.convert("RGB"), "a"))


def test_random_state_and_modes_stay_as_they_are(folder: Path) -> None:
    torch.manual_seed(3)
    before = torch.random.get_rng_state()

    scorer = ClipScorer(folder)
    scorer.score(scorer.embed(picture(30, 30)), "a boat")

    assert torch.equal(before, torch.random.get_rng_state())
    assert torch.is_grad_enabled()
    assert torch.get_default_dtype() == torch.float32


def test_weights_that_lack_a_part_are_refused(folder: Path, tmp_path: Path) -> None:
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = load_file(tmp_path / "model.safetensors")
    del weights["visual_projection.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})

    with pytest.raises(
        BadClipModelError, match=r"lacks 1 of its weights.*visual_projection.weight"
    ):
        ClipScorer(tmp_path)


@pytest.mark.parametrize(
    ("missing", "told"),
    [
        ("config.json", "config.json"),
        ("model.safetensors", "no weights in safetensors"),
        ("preprocessor_config.json", "preprocessor_config.json"),
        ("tokenizer.json", "no tokenizer"),
    ],
)
def test_a_folder_that_lacks_a_file_is_told_before_training(
    folder: Path, tmp_path: Path, missing: str, told: str
) -> None:
    for file in folder.iterdir():
        if file.name != missing:
            (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "pytorch_model.bin").write_bytes(b"a pickle")

    check_clip_folder(folder)
    with pytest.raises(BaseModelError, match=told):
        check_clip_folder(tmp_path)


def test_a_model_of_another_kind_is_told(folder: Path, tmp_path: Path) -> None:
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "config.json").write_text('{"model_type": "siglip"}')

    with pytest.raises(BaseModelError, match=r"is no CLIP model.*siglip"):
        check_clip_folder(tmp_path)


def test_a_model_is_found_beside_the_config_and_a_missing_one_is_told(
    folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models/clip").symlink_to(folder)

    obtain = find_clip("models/clip", {}, (tmp_path / "config", tmp_path))
    assert obtain(SilentReporter()) == tmp_path / "models/clip"
    with pytest.raises(BaseModelError, match=r"there is no CLIP model \./models/other; these"):
        find_clip("./models/other", {}, (tmp_path,))
