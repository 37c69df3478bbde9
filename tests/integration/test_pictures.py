"""Pictures while it trains: which are made, and that training does not notice.

The runs train a LoRA with dropout and a running mean, in this process.
"""

import hashlib
import json
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, get_args

import numpy as np
import pytest
import torch
from diffusers import HiDreamImageTransformer2DModel
from PIL import Image
from torch.nn.modules.module import register_module_forward_pre_hook

from tests.support.jobs import train
from tests.support.painting_runs import PICTURES, Trained, job_of, run
from tests.support.pictures import png_text
from tests.support.previews import tiny_autoencoder, with_previews
from tests.support.small_jobs import named
from trainer_core.base_models.describe import read_base_model
from trainer_core.checkpoint.folders import read_manifest
from trainer_core.checkpoint.layout import adapter_files
from trainer_core.config.plan import Sampler
from trainer_core.engine.pictures import make_pictures, report_training
from trainer_core.engine.setup import load_run
from trainer_core.engine.state import TrainingState, open_run
from trainer_core.engine.throughput import Throughput
from trainer_core.hidream.samplers import Taken, load_sampler
from trainer_core.hidream.vae import decode
from trainer_core.local.contact_sheet import write_contact_sheet
from trainer_core.painting.generate import generate
from trainer_core.painting.network import NetworkTransformer
from trainer_core.painting.options import ImageRequest, PaintingOptions, SamplingOptions
from trainer_core.painting.sampling import AfterStep, sample_image
from trainer_core.process.control import Control
from trainer_core.process.events import Event, EventWriter
from trainer_core.validation.previews import linear_decoder

NO_OPTIONS: Final = PaintingOptions(
    negative_prompt="blurry",
    width_px=None,
    height_px=None,
    steps=2,
    guidance=2.0,
    seed=5,
    multiplier=1.0,
    precision="int8-quanto",
    text_encoder_precision="no_change",
    compute="fp32",
    device="cpu",
)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shards")


@pytest.fixture(scope="module")
def painted(tiny_folder: Path, shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return run(job_of(tiny_folder, shards, tmp_path_factory.mktemp("painted"), **PICTURES))


def test_pictures_are_made_of_each_kind_of_weights(painted: Trained) -> None:
    pictures = painted.pictures()

    name = "validation-{}-5{}.png"
    expected = [f"samples/step-000000/{name.format(size, '-base')}" for size in ("64x32", "32x32")]
    for step in (2, 4):
        for kind in ("", "-ema"):
            for size in ("64x32", "32x32"):
                expected.append(f"samples/step-{step:06d}/{name.format(size, kind)}")
    assert [each["path"] for each in pictures] == expected
    for each in pictures:
        file = painted.folder / each["path"]
        assert each["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
        assert each["size_bytes"] == file.stat().st_size
        with Image.open(file) as image:
            text = png_text(image)
            assert image.size == (each["width_px"], each["height_px"])
        assert (text["prompt"], text["negative_prompt"]) == ("a red boat on a lake", "blurry")
        assert (text["weights"], text["step"]) == (each["weights"], str(each["step"]))
        assert (text["sampler"], text["sampler_steps"], text["shift"]) == ("euler", "2", "3.0")
    of_2 = adapter_files(read_manifest(painted.folder / "checkpoints/step-00000002"))
    live = painted.folder / pictures[2]["path"]
    with Image.open(live) as image:
        wanted = of_2["live/pytorch_lora_weights.safetensors"].sha256
        assert png_text(image)["adapter_sha256"] == wanted
    names = [each["event"] for each in painted.events if each["event"] != "stage"]
    assert names.index("checkpoint") < names.index("sample", names.index("step"))


def test_training_is_the_same_with_and_without(
    painted: Trained, tiny_folder: Path, shards: Path, tmp_path: Path
) -> None:
    plain = run(job_of(tiny_folder, shards, tmp_path))

    assert plain.pictures() == []
    losses = [[each["loss"] for each in named(r.events, "step")] for r in (plain, painted)]
    assert losses[0] == losses[1]
    assert plain.state_of(2) == painted.state_of(2)
    assert plain.state_of(4) == painted.state_of(4)


@pytest.mark.parametrize(
    ("kind", "adapter"),
    [("", "live/pytorch_lora_weights.safetensors"), ("-ema", "pytorch_lora_weights.safetensors")],
)
def test_generate_makes_the_same_picture_of_the_checkpoint(
    kind: str, adapter: str, painted: Trained, tiny_folder: Path, tmp_path: Path
) -> None:
    file = painted.folder / "checkpoints/step-00000004" / adapter
    options = replace(NO_OPTIONS, width_px=64, height_px=32)
    request = ImageRequest(prompt="a red boat on a lake", file=tmp_path / "own.png")
    generate(tiny_folder, file, [request], options, lambda _: None)

    made = painted.folder / f"samples/step-000004/validation-64x32-5{kind}.png"
    own, picture = (np.asarray(Image.open(each)) for each in (request.file, made))
    assert np.array_equal(own, picture)
    base = painted.folder / "samples/step-000000/validation-64x32-5-base.png"
    assert not np.array_equal(np.asarray(Image.open(base)), picture)


def test_a_network_samples_as_its_transformer_does(
    tiny_folder: Path, shards: Path, tmp_path: Path
) -> None:
    """As on a GPU, where the blocks that a run trains with sample too."""
    job = job_of(tiny_folder, shards, tmp_path, **PICTURES)
    loaded = load_run(job, Control(None))
    network, prompts = loaded.network, job.index.prompts
    for parameter in network.trained.values():  # so that the adapter acts
        torch.nn.init.normal_(parameter, std=0.02)
    texts = [loaded.batches.text(prompts[text]) for text in ("a red boat on a lake", "blurry")]
    options = SamplingOptions(width_px=64, height_px=32, steps=2, guidance=2.0, seed=5)

    def sampled(
        transformer: torch.nn.Module, sampler: Sampler, after_step: AfterStep = lambda *_: None
    ) -> Any:
        scheduler = load_sampler(tiny_folder, sampler, 2.0)
        image = sample_image(
            transformer, loaded.vae, scheduler, *texts, options=options, after_step=after_step
        )
        return np.asarray(image, dtype=np.int64)

    estimates: list[torch.Tensor] = []
    colours = linear_decoder(loaded.vae, torch.device("cpu"))

    def previewed(number: int, taken: Taken) -> None:
        estimates.append(taken.clean())
        assert colours(estimates[-1]).shape == (3, 4, 8)
        assert number == (len(estimates) - 1) % options.steps + 1

    before = torch.get_rng_state()
    for sampler in get_args(Sampler):
        own = sampled(network.transformer, sampler)
        assert np.abs(sampled(NetworkTransformer(network), sampler) - own).max() <= 1
        assert np.array_equal(sampled(network.transformer, sampler, previewed), own)
        shown = (decode(loaded.vae, estimates[-1])[0] / 2 + 0.5).clamp(0, 1).movedim(0, -1) * 255
        assert np.abs(shown.numpy() - own).max() <= 1  # at its last step it is the picture
        with network.adapter.switch.off():  # type: ignore[union-attr]
            assert not np.array_equal(sampled(network.transformer, sampler), own)
    assert torch.equal(torch.get_rng_state(), before)
    assert network.transformer.training


def _previews_in(folder: Path) -> list[Path]:
    """With drafts of them."""
    return list((folder / "samples").glob("*preview*"))


def test_a_stop_leaves_pictures_to_the_resumed_run(
    painted: Trained, tiny_folder: Path, shards: Path, tmp_path: Path
) -> None:
    """Each picture is made once; a contact sheet may be made of them.

    Previews change neither pictures nor training. What a killed process left of one goes.
    """
    channels = read_base_model(tiny_folder).transformer_config["in_channels"]
    tiny_autoencoder(channels).save_pretrained(tmp_path / "tiny")
    job = with_previews(job_of(tiny_folder, shards, tmp_path, **PICTURES), tmp_path / "tiny")
    seen = []
    shown: list[tuple[str, int, tuple[int, int]]] = []

    def second_picture_of_step_2(event: Event) -> bool:
        if event.name == "preview":
            with Image.open(tmp_path / event.data["path"]) as image:
                image.load()
                text = png_text(image)
                shown.append((text["picture"], int(text["sampler_step"]), image.size))
        if event.name == "sample" and event.step == 2:
            seen.append(event)
        return len(seen) == 2

    stopped = run(job, stop_at=second_picture_of_step_2)
    assert not stopped.is_finished
    assert len(stopped.pictures()) == 4
    assert not _previews_in(tmp_path)
    for left in ("preview.png", ".preview.png.123.tmp"):
        (tmp_path / "samples" / left).write_bytes(b"half a picture")
    checkpoint = tmp_path / "checkpoints/step-00000002"
    finished = run(job.model_copy(update={"resume_from": str(checkpoint)}))

    assert finished.is_finished
    assert [e["path"] for e in finished.pictures()] == [e["path"] for e in painted.pictures()]
    digests = [[e["sha256"] for e in each.pictures()] for each in (finished, painted)]
    assert digests[0] == digests[1]
    assert finished.state_of(4) == painted.state_of(4)
    previews = named(finished.events, "preview")
    told = [(each["picture"], each["sampler_step"]) for each in previews]
    assert told == [(each["path"], step) for each in painted.pictures() for step in (1, 2)]
    sizes = [(each["width_px"], each["height_px"]) for each in previews]
    assert shown == [(*of, size) for of, size in zip(told, sizes, strict=True)][: len(shown)]
    assert (len(shown), set(sizes)) == (8, {(64, 32), (32, 32)})
    assert named(finished.events, "warning") == []
    assert not _previews_in(tmp_path)
    write_contact_sheet(job.plan, tmp_path)
    with Image.open(tmp_path / "samples/contact-sheet.png") as sheet:
        contents = json.loads(png_text(sheet)["Description"])
    assert contents["rows"] == ["base", *(f"step {n}{e}" for n in (2, 4) for e in ("", " ema"))]
    assert contents["columns"] == ["validation 64x32", "validation 32x32"]


def test_what_a_supervisor_has_stored_is_not_made_again_after_a_kill(
    tiny_folder: Path, shards: Path, tmp_path: Path
) -> None:
    """The process dies after a picture's file, before its event; the next has an empty folder."""
    plain = {**PICTURES, "use_ema": False, "ema_decay": None, "max_train_steps": 3}
    folders = tmp_path / "first", tmp_path / "second"
    killed, resumed = (job_of(tiny_folder, shards, f / "output", **plain) for f in folders)
    env = {"REVERIE_ENV": "test", "FAULT_AT": "picture.before_event@4=kill"}
    status, events = train(killed.model_dump(mode="json"), folders[0], env)
    assert status == -signal.SIGKILL
    stored = [each["path"] for each in named(events, "sample")]
    name = "samples/step-000002/validation-{}-5.png"
    assert stored[2:] == [name.format("64x32")]

    job = resumed.model_copy(
        update={
            "resume_from": str(folders[0] / "output/checkpoints/step-00000002"),
            "pictures_made": tuple(stored),
        }
    )
    status, events = train(job.model_dump(mode="json"), folders[1])
    assert status == 0
    made = [each["path"] for each in named(events, "sample") if "sha256" in each]
    assert made == [name.format("32x32")]
    first, second = (folder / "output" / made[0] for folder in folders)
    assert first.read_bytes() == second.read_bytes()


@contextmanager
def too_little_memory(is_missing: Callable[[int], bool]) -> Iterator[None]:
    """Each forward of the sampling may find no memory: ``is_missing`` gets its number, from 1."""
    count = 0

    def hook(module: torch.nn.Module, _: Any) -> None:
        nonlocal count
        if isinstance(module, HiDreamImageTransformer2DModel):
            count += 1
            if is_missing(count):
                raise torch.OutOfMemoryError("no memory")

    handle = register_module_forward_pre_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def test_where_memory_is_missing_a_picture_is_tried_again_and_then_left_out(
    painted: Trained, tiny_folder: Path, shards: Path, tmp_path: Path
) -> None:
    """A forward of step 0 fails once; those of the last three pictures fail in both tries."""
    job = job_of(tiny_folder, shards, tmp_path, **PICTURES, max_train_steps=2)
    with too_little_memory(lambda number: number == 2 or 9 <= number <= 14):
        done = run(job)

    assert done.is_finished
    made = done.pictures()
    assert [each["step"] for each in made] == [0, 0, 2]
    for each, wanted in zip(made, painted.pictures(), strict=False):
        assert (each["path"], each["sha256"]) == (wanted["path"], wanted["sha256"])
    warnings = named(done.events, "warning")
    (told,) = (each["message"] for each in warnings if each["code"] == "picture_memory")
    assert told.startswith("3 of 4 pictures after step 2 are left out")
    assert "32x32 px needs more memory" in told
    assert done.state_of(2) == painted.state_of(2)


def test_the_contact_sheet_takes_time_of_the_pictures(
    tiny_folder: Path, shards: Path, tmp_path: Path
) -> None:
    """What a local run makes it with is a listener; this one takes 50 ms at least."""
    job = job_of(tiny_folder, shards, tmp_path, **PICTURES)
    with EventWriter(tmp_path / "events.jsonl") as events:
        run_ = open_run(job, load_run(job, Control(None)), events, Control(None))
        state = TrainingState(throughput=Throughput(run_.last_step))
        events.listen("the contact sheet", lambda _: time.sleep(0.05))
        report_training(run_, state)

    assert state.pictures.spent_s >= 0.05


def test_a_preview_that_fails_is_told_once(tiny_folder: Path, shards: Path, tmp_path: Path) -> None:
    (tmp_path / "samples/preview.png").mkdir(parents=True)
    job = with_previews(job_of(tiny_folder, shards, tmp_path, **PICTURES))
    loaded = load_run(job, Control(None))
    with EventWriter(tmp_path / "events.jsonl") as events:
        run = open_run(job, loaded, events, Control(None))
        make_pictures(run, TrainingState(throughput=Throughput(run.last_step)))

    found = Trained(tmp_path, is_finished=False)
    assert len(found.pictures()) == 4
    (warning,) = named(found.events, "warning")
    assert warning["code"] == "preview_failed"
    first = found.pictures()[0]["path"]
    assert warning["message"].startswith(f"no more previews: one of {first} could not be made (")
    assert named(found.events, "preview") == []
