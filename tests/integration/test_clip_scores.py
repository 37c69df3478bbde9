"""CLIP scores of the pictures that a run makes while it trains: what tells them, and no more."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer

from tests.support.clip_reference import cosines, training_pictures
from tests.support.hub import HubServer
from tests.support.painting_runs import PICTURES, Trained, job_of, run
from tests.support.pictures import png_text
from tests.support.small_jobs import named
from tests.support.tiny_clip import write_tiny_clip
from trainer_core.base_models.clip import clip_digest
from trainer_core.process.event_texts import lines_of
from trainer_core.process.events import Event
from trainer_core.process.job import Job, MadeScore

SCORED: dict[str, Any] = {
    **PICTURES,
    "ema_validation": "ema_only",
    "user_prompt_library": None,
    "num_validation_images": 2,
    "validation_resolution": "32",
    "validation_num_inference_steps": 1,
}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shards")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_clip(tmp_path_factory.mktemp("clip"))


def scored_job(tiny: Path, shards: Path, folder: Path, clip: Path | None) -> Job:
    job = job_of(tiny, shards, folder, **SCORED)
    return job.model_copy(update={"clip_dir": None if clip is None else str(clip)})


@pytest.fixture(scope="module")
def scored(
    tiny_folder: Path, shards: Path, clip: Path, tmp_path_factory: pytest.TempPathFactory
) -> Trained:
    return run(scored_job(tiny_folder, shards, tmp_path_factory.mktemp("scored"), clip))


def means(trained: Trained) -> list[dict[str, Any]]:
    return [each for each in named(trained.events, "eval") if each["name"] == "clip"]


def test_each_picture_has_the_score_that_transformers_computes(scored: Trained, clip: Path) -> None:
    model = CLIPModel.from_pretrained(clip).eval()
    tokens = CLIPTokenizer.from_pretrained(clip)("a red boat on a lake", return_tensors="pt")
    pictures = scored.pictures()

    assert len(pictures) == 6
    for each in pictures:
        with Image.open(scored.folder / each["path"]) as image:
            pixels = CLIPImageProcessor.from_pretrained(clip)(images=image, return_tensors="pt")
            fact = png_text(image)["clip_score"]
        with torch.no_grad():
            found = model(**tokens, pixel_values=pixels["pixel_values"])
        wanted = (found.image_embeds @ found.text_embeds.T).item()
        assert each["clip_score"] == pytest.approx(wanted, abs=2e-6)
        assert float(fact) == each["clip_score"]
    for mean in means(scored):
        of_step = [each["clip_score"] for each in pictures if each["step"] == mean["step"]]
        assert mean["mean"] == pytest.approx(sum(of_step) / 2)
        assert (mean["min"], mean["max"], mean["pictures"]) == (min(of_step), max(of_step), 2)
    assert [(each["step"], each["weights"]) for each in means(scored)] == [
        (0, "base"),
        (2, "ema"),
        (4, "ema"),
    ]
    first = pictures[0]
    event = Event(name="sample", step=0, data=first, seq=1, t_s=0.0)
    assert f"CLIP score {first['clip_score']:.4f}" in lines_of(event)[0]


def test_each_picture_has_the_cosine_to_the_nearest_training_picture(
    scored: Trained, tiny_folder: Path, shards: Path, clip: Path, tmp_path: Path
) -> None:
    training = training_pictures(scored_job(tiny_folder, shards, tmp_path, clip))
    pictures = scored.pictures()

    assert len(training) == 2
    for each in pictures:
        found = cosines(clip, scored.folder / each["path"], training)
        assert each["similarity"] == pytest.approx(found.max().item(), abs=2e-6)
        assert found.max() - found.min() > 1e-4  # otherwise any of the two would do
        with Image.open(scored.folder / each["path"]) as image:
            assert float(png_text(image)["similarity"]) == each["similarity"]
    for mean in means(scored):
        of_step = [each["similarity"] for each in pictures if each["step"] == mean["step"]]
        assert mean["similarity_mean"] == pytest.approx(sum(of_step) / 2)
        assert (mean["similarity_min"], mean["similarity_max"]) == (min(of_step), max(of_step))


def test_training_and_pictures_are_the_same_without(
    scored: Trained, tiny_folder: Path, shards: Path, tmp_path: Path
) -> None:
    plain = run(scored_job(tiny_folder, shards, tmp_path, None))

    assert means(plain) == []
    assert plain.state_of(4) == scored.state_of(4)
    for each in plain.pictures():
        assert not {"clip_score", "similarity"} & set(each)
        images = [Image.open(r.folder / each["path"]).tobytes() for r in (plain, scored)]
        assert images[0] == images[1]


def test_a_model_that_cannot_be_loaded_is_told_once_and_fails_no_run(
    tiny_folder: Path, shards: Path, clip: Path, tmp_path: Path
) -> None:
    broken = shutil.copytree(clip, tmp_path / "clip")
    (broken / "model.safetensors").write_bytes(b"\x00" * 100)

    trained = run(scored_job(tiny_folder, shards, tmp_path / "run", broken))

    assert trained.is_finished
    assert len(trained.pictures()) == 6
    assert means(trained) == []
    warnings = list(named(trained.events, "warning"))
    assert [each["code"] for each in warnings] == ["no_clip_score"]
    assert warnings[0]["message"].startswith("No picture is scored from step 0 on: the CLIP model")


def test_a_resumed_run_counts_the_pictures_that_it_finds(
    scored: Trained, tiny_folder: Path, shards: Path, clip: Path, tmp_path: Path
) -> None:
    job = scored_job(tiny_folder, shards, tmp_path, clip)
    stopped = run(job, stop_at=lambda event: event.name == "sample" and event.step == 2)
    assert [each["pictures"] for each in means(stopped)] == [2, 1]
    checkpoint = str(tmp_path / "checkpoints/step-00000002")
    finished = run(job.model_copy(update={"resume_from": checkpoint}))

    again = [each for each in means(finished) if each["step"] == 2][-1]
    (wanted,) = [each for each in means(scored) if each["step"] == 2]
    assert again["pictures"] == 2
    assert {**again, "seq": 0, "t_s": 0} == {**wanted, "seq": 0, "t_s": 0}
    assert finished.state_of(4) == scored.state_of(4)


def test_the_scores_of_pictures_that_a_supervisor_has_count(
    scored: Trained, tiny_folder: Path, shards: Path, clip: Path, tmp_path: Path
) -> None:
    first, other = (scored_job(tiny_folder, shards, tmp_path / n, clip) for n in ("one", "two"))
    stopped = run(first, stop_at=lambda event: event.name == "sample" and event.step == 2)
    (stored,) = [each for each in stopped.pictures() if each["step"] == 2]
    score = MadeScore.model_validate({name: stored[name] for name in MadeScore.model_fields})
    known = {
        "resume_from": str(tmp_path / "one/checkpoints/step-00000002"),
        "pictures_made": (stored["path"],),
        "scores_made": {stored["path"]: score},
    }

    finished = run(other.model_copy(update=known))

    assert stored["path"] not in {each["path"] for each in finished.pictures()}
    (again,) = [each for each in means(finished) if each["step"] == 2]
    (wanted,) = [each for each in means(scored) if each["step"] == 2]
    for name in ("pictures", "mean", "similarity_mean"):
        assert again[name] == wanted[name]


def test_a_picture_with_a_score_of_another_model_is_made_again(
    scored: Trained, tiny_folder: Path, shards: Path, clip: Path, tmp_path: Path
) -> None:
    other = write_tiny_clip(tmp_path / "other", seed=1)
    job = scored_job(tiny_folder, shards, tmp_path / "run", other)
    stopped = run(job, stop_at=lambda event: event.name == "sample" and event.step == 2)
    made = [each for each in stopped.pictures() if each["step"] == 2]
    assert len(made) == 1
    checkpoint = str(tmp_path / "run/checkpoints/step-00000002")

    finished = run(job.model_copy(update={"resume_from": checkpoint, "clip_dir": str(clip)}))

    again = [each for each in means(finished) if each["step"] == 2][-1]
    (wanted,) = [each for each in means(scored) if each["step"] == 2]
    assert (again["pictures"], again["mean"]) == (2, wanted["mean"]) != (2, made[0]["clip_score"])
    with Image.open(tmp_path / "run" / made[0]["path"]) as image:
        assert png_text(image)["clip_model_digest"] == clip_digest(clip)


_FETCH = """
import sys
from pathlib import Path
from trainer_core.base_models.clip import find_clip
from trainer_core.progress import SilentReporter
print(find_clip("someone/clip", {"REVERIE_HOME": sys.argv[1]}, ())(SilentReporter()))
"""


def test_a_repository_of_the_hub_is_fetched_without_pickles(
    hub_server: HubServer, tmp_path: Path
) -> None:
    published = write_tiny_clip(tmp_path / "published")
    (published / "pytorch_model.bin").write_bytes(b"pickle")
    hub_server.add_model("someone/clip", published)
    hub = {"HF_ENDPOINT": hub_server.url, "HF_HOME": str(tmp_path / "hub")}

    done = subprocess.run(
        [sys.executable, "-c", _FETCH, str(tmp_path / "home")],
        env={**os.environ, **hub},
        capture_output=True,
        text=True,
        check=True,
    )

    folder = Path(done.stdout.strip())
    names = {file.name for file in published.iterdir()} - {"pytorch_model.bin"}
    assert {file.name for file in folder.iterdir()} == names
