"""The main job over HTTP: photographs in, an adapter out, on each object store and each backend."""

import hashlib
import io
import json
import math
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from lycoris import create_lycoris_from_weights
from PIL import Image
from safetensors.torch import load

from tests.support.command_line import environment, reverie
from tests.support.fleet import Fleet
from tests.support.forked_training import ALL_SAMPLES
from tests.support.hub import USER, HubServer
from tests.support.service import SMALL_PX, push_photos, run_request
from tests.support.staged import commands, make_stages, small
from tests.support.tenant import Tenant
from tests.support.tiny_clip import write_tiny_clip
from trainer_core.export.origin import ADAPTER_NAME
from trainer_core.local.export import export_checkpoint
from trainer_core.progress import SilentReporter

CLIP = "someone/clip"
"""Among the models of the operator."""
PICTURES = {
    "validation_step_interval": 15,
    "validation_preview": True,
    "evaluation_type": "clip",
    "pretrained_evaluation_model_name_or_path": CLIP,
}


@pytest.fixture(scope="module")
def fleet(fleet_of: Callable[..., Fleet], models_dir: Path) -> Iterator[Fleet]:
    fleet = fleet_of()
    fleet.start_all(trainers=1)
    write_tiny_clip(models_dir / CLIP)
    yield fleet
    shutil.rmtree(models_dir / CLIP.split("/", maxsplit=1)[0])


def replace_trainer(fleet: Fleet, **env: str) -> None:
    fleet.signal("trainer-1", signal.SIGTERM)
    fleet.wait("trainer-1")
    fleet.start("trainer-1", **env)


@pytest.fixture
def all_samples(fleet: Fleet) -> Iterator[None]:
    """A trainer whose runs measure all 64 evaluation samples."""
    replace_trainer(fleet, **{ALL_SAMPLES: "1"})
    yield
    replace_trainer(fleet)


@pytest.fixture(scope="module")
def datasets(tenant: Tenant) -> dict[str, str]:
    return push_photos(tenant)


def probes(tenant: Tenant, run_id: str) -> tuple[list[float], list[float]]:
    """The fixed validation loss of each sample, before and after the training."""
    measured = [e["data"] for e in tenant.events(run_id, "eval")]
    first, last = [each["losses"] for each in measured if each["name"] == "probe"]
    return first, last


def adapter(tenant: Tenant, run_id: str) -> dict[str, list[object]]:
    """The numbers of a run's result by the tensor's name; as floats, because -0 + 0 is 0."""
    files = tenant.get(f"/v1/runs/{run_id}/result")["files"]
    (url,) = [file["url"] for file in files if file["path"] == ADAPTER_NAME]
    tensors = load(httpx.get(url).raise_for_status().content)
    return {name: tensor.tolist() for name, tensor in tensors.items()}


def render(folder: Path, adapter: Path | None, multiplier: float) -> np.ndarray:
    """A 64-px float image of the stock pipeline, with the adapter patched on if one is given."""
    from diffusers import HiDreamImagePipeline

    pipe = HiDreamImagePipeline.from_pretrained(folder, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    pipe.transformer.eval()
    pipe.default_sample_size = SMALL_PX // 8
    if adapter is not None:
        network, _ = create_lycoris_from_weights(multiplier, str(adapter), pipe.transformer)
        network.apply_to()
        network.eval()
    images = pipe(
        "a photograph of a cat",
        height=SMALL_PX,
        width=SMALL_PX,
        num_inference_steps=2,
        guidance_scale=1.0,
        generator=torch.Generator().manual_seed(0),
        output_type="np",
    ).images
    return np.asarray(images[0], dtype=np.float64)


def exported(tenant: Tenant, run_id: str, folder: Path) -> bytes:
    """The adapter file that `reverie export` makes of the downloaded checkpoint of step 30."""
    (folder / "checkpoint").mkdir()
    of_step = f"/v1/runs/{run_id}/artifacts?folder=checkpoints/step-00000030"
    for file in tenant.get(of_step)["data"]:
        body = httpx.get(file["url"]).raise_for_status().content
        (folder / "checkpoint" / Path(file["path"]).name).write_bytes(body)
    written = export_checkpoint(
        folder / "checkpoint",
        step=None,
        weights=None,
        base=None,
        output=folder / "adapter.safetensors",
        overwrite=False,
        env={},
        reporter=SilentReporter(),
    )
    return written.path.read_bytes()


def check_pictures(tenant: Tenant, run_id: str) -> None:
    """Those that the run made while it trained are listed, stored and told; its result has one."""
    in_result, *listed = tenant.get(f"/v1/runs/{run_id}/samples")["data"]
    assert in_result["path"] == "result/samples/0.png"
    assert [(each["step"], each["weights"]) for each in listed] == [
        (30, "trained"),
        (15, "trained"),
        (0, "base"),
    ]
    told = {each["data"].get("path"): each["data"] for each in tenant.events(run_id, "sample")}
    for each in listed:
        body = httpx.get(each["url"]).raise_for_status().content
        assert hashlib.sha256(body).hexdigest() == each["sha256"] == told[each["path"]]["sha256"]
        with Image.open(io.BytesIO(body)) as picture:
            assert picture.size == (each["width_px"], each["height_px"]) == (SMALL_PX, SMALL_PX)
            assert picture.info["prompt"] == each["prompt"]
            assert float(picture.info["clip_score"]) == told[each["path"]]["clip_score"]
    assert len({each["sha256"] for each in listed}) == len(listed)
    scores = tenant.get(f"/v1/runs/{run_id}/metrics")["clip_scores"]
    in_order = [told[each["path"]] for each in listed[::-1]]
    assert [
        (each["step"], each["weights"], each["mean"], each["similarity_mean"]) for each in scores
    ] == [
        (row["step"], each["weights"], each["clip_score"], each["similarity"])
        for row, each in zip(listed[::-1], in_order, strict=True)
    ]


@pytest.mark.usefixtures("all_samples")
def test_a_run_goes_all_the_way_and_learns(
    tenant: Tenant, datasets: dict[str, str], models_dir: Path, tmp_path: Path
) -> None:
    run_id = tenant.submit(run_request(datasets, **PICTURES))

    run = tenant.wait_over(run_id, deadline_s=240)
    publication = tenant.wait_published(run_id)

    assert run["status"] == "succeeded", run["status_reason"]
    before, after = probes(tenant, run_id)
    assert len(before) == len(after) == 64
    drops = [a - b for a, b in zip(before, after, strict=True)]
    mean = sum(drops) / 64
    sigma = math.sqrt(sum((d - mean) ** 2 for d in drops) / 63 / 64)
    assert mean / sigma >= 3
    steps = [e["step"] for e in tenant.events(run_id, "step")]
    assert steps == sorted(set(steps))
    assert tenant.get(f"/v1/runs/{run_id}/checkpoints")["data"][0]["step"] == 30
    assert publication["status"] == "succeeded", publication["error"]
    log = "".join(each["text"] for each in tenant.get(f"/v1/runs/{run_id}/logs?tail=50")["data"])
    assert "step 30: checkpoint saved\n" in log
    assert log.endswith(f"finished after step {run['step']}\n")
    check_pictures(tenant, run_id)
    folder = Path(publication["location"])
    card = (folder / "README.md").read_text()
    assert card.startswith("---\n")
    assert "lokr" in card.lower()
    with Image.open(folder / "samples" / "0.png") as sample:
        assert sample.size == (SMALL_PX, SMALL_PX)
        assert len(sample.convert("RGB").getcolors(1 << 20) or []) > 100  # not a blank picture
    base = render(models_dir / "hidream-tiny", None, 0)
    adapter = folder / "pytorch_lora_weights.safetensors"
    assert exported(tenant, run_id, tmp_path) == adapter.read_bytes()
    artifact = f"/v1/runs/{run_id}/artifacts/checkpoints/step-00000030/{ADAPTER_NAME}"
    of_step = tenant.http.get(artifact, follow_redirects=True).raise_for_status()
    assert of_step.content == adapter.read_bytes()
    moved = render(models_dir / "hidream-tiny", adapter, 1.0)
    unmoved = render(models_dir / "hidream-tiny", adapter, 0.0)
    assert np.abs(moved - base).mean() >= 1e-3
    assert np.abs(unmoved - base).max() == 0


def test_the_same_photos_are_cached_once(tenant: Tenant, datasets: dict[str, str]) -> None:
    epoch = {"max_train_steps": 0, "num_train_epochs": 1}
    batches = {"train_batch_size": 2, "gradient_accumulation_steps": 4}
    request = run_request(datasets, **epoch, **batches, seed=7)
    foretold = tenant.post("/v1/runs:validate", request)
    run_id = tenant.submit(request)

    run = tenant.wait_over(run_id)

    assert run["status"] == "succeeded", run["status_reason"]
    photos = [each for each in foretold["data"]["buckets"] if each["role"] == "train"]
    steps = math.ceil(sum(math.ceil(each["samples_per_epoch"] / 2) for each in photos) / 4)
    assert foretold["max_steps"] == run["max_steps"] == run["step"] == steps > 1
    assert [e["step"] for e in tenant.events(run_id, "step")] == list(range(1, steps + 1))
    stages = [e["data"].get("stage") for e in tenant.events(run_id, "run.running")]
    assert "caching" not in stages


@pytest.mark.deep
@pytest.mark.parametrize(("steps", "second_px"), [(2, SMALL_PX), (60, 128)])
def test_a_second_stage_starts_where_the_first_one_ended(
    steps: int,
    second_px: int,
    *,
    fleet: Fleet,
    tenant: Tenant,
    datasets: dict[str, str],
    tmp_path: Path,
) -> None:
    """By the documented commands. What was encoded for one run is not encoded again."""
    make_stages(tmp_path)
    chosen = [f"--dataset={backend}={each}" for backend, each in datasets.items()]
    first, second = (
        small(each, steps, first_px=SMALL_PX, second_px=second_px)
        for each in commands("runs", "submit")
    )

    def submitted(words: list[str]) -> str:
        api_key = tenant.http.headers["Authorization"].removeprefix("Bearer ")
        ended = reverie([*words, *chosen, "--json"], environment(fleet.url, api_key), tmp_path)
        assert ended.returncode == 0, ended.stderr
        run_id = str(json.loads(ended.stdout)["id"])
        run = tenant.wait_over(run_id, deadline_s=480)
        assert run["status"] == "succeeded", run["status_reason"]
        return run_id

    earlier = submitted(first)
    later = submitted([word.replace("run_…", earlier) for word in second])

    assert [each["step"] for each in tenant.events(later, "step")] == list(range(1, steps + 1))
    assert adapter(tenant, later) != adapter(tenant, earlier)
    if second_px == SMALL_PX:
        at_first = [later]
    else:
        assert probes(tenant, later)[0] != probes(tenant, earlier)[1]
        # A learning rate that is 0 in fp32 shows the tensors as they are before the first step.
        at_rest = ["--set", "max_train_steps=1", "--set", "learning_rate=1e-50"]
        starts = earlier, f"{earlier}/checkpoints/step-{steps:08d}"
        at_first = [submitted([*first, "--set", f"init_lora={each}", *at_rest]) for each in starts]
        assert all(adapter(tenant, each) == adapter(tenant, earlier) for each in at_first)
    for run_id in at_first:
        assert probes(tenant, run_id)[0] == probes(tenant, earlier)[1] != probes(tenant, earlier)[0]
        stages = [each["data"].get("stage") for each in tenant.events(run_id, "run.running")]
        assert "caching" not in stages


def test_what_was_trained_foretells_the_next_run(tenant: Tenant, datasets: dict[str, str]) -> None:
    found = tenant.post("/v1/runs:validate", run_request(datasets, max_train_steps=10, seed=8))

    assert found["is_valid"]
    cache = found["data"]["cache"]
    assert cache["num_stored"] == cache["num_shards"] > 0
    assert cache["num_entries_stored"] == cache["num_entries"] > cache["num_shards"]
    assert found["encoding_s"] == {"p50": 0, "p90": 0}
    photos = [each for each in found["data"]["buckets"] if each["backend"] == "photos"]
    listed = next(each for each in found["data"]["backends"] if each["backend"] == "photos")
    assert sum(each["num_images"] for each in photos) == listed["num_images"]
    estimate = found["estimate"]
    assert estimate["basis"]["likeness"] == "same"
    assert 0 < estimate["charged_s"]["p50"] < estimate["seconds"]["p50"] < 300
    assert estimate["seconds"]["p50"] < estimate["seconds"]["p90"]


def test_sse_replays_without_gap_or_duplicate(tenant: Tenant, datasets: dict[str, str]) -> None:
    run_id = tenant.submit(run_request(datasets, max_train_steps=4))
    seen: list[int] = []
    last_id: str | None = None
    while not seen or last_id is not None:
        headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": last_id} if last_id else {})
        with tenant.http.stream(
            "GET", f"/v1/runs/{run_id}/events", headers=headers, timeout=180
        ) as stream:
            if stream.status_code == 204:
                break
            for count, line in enumerate(stream.iter_lines()):
                if line.startswith("id:"):
                    last_id = line.removeprefix("id:").strip()
                    seen.append(int(last_id))
                if count > 12:
                    break  # hang up in mid-stream, as a browser does, and come back
    assert seen == list(range(1, len(seen) + 1))
    assert seen == [int(e["id"]) for e in tenant.events(run_id)]


def test_a_canceled_run_stops_and_publishes_nothing(
    tenant: Tenant, datasets: dict[str, str]
) -> None:
    run_id = tenant.submit(run_request(datasets, max_train_steps=5000))
    tenant.wait_for(run_id, lambda run: run["step"] >= 2, deadline_s=120, what="two steps")

    tenant.post(f"/v1/runs/{run_id}:cancel", {})

    run = tenant.wait_over(run_id, deadline_s=60)
    assert run["status"] == "canceled"
    assert tenant.get(f"/v1/publications?run_id={run_id}")["data"] == []


def test_a_full_rank_run_goes_through_the_same_queue(
    tenant: Tenant, datasets: dict[str, str]
) -> None:
    request = run_request(
        datasets,
        model_type="full",
        base_model_precision="no_change",
        mixed_precision="no",
        grad_clip_method="norm",
        max_grad_norm=1.0,
        learning_rate=1e-4,
        max_train_steps=4,
        checkpoint_step_interval=2,
        deepspeed_config={"zero_optimization": {"stage": 2}, "gradient_clipping": 1.0},
    )
    for only_lora in ("lora_type", "lycoris_config"):
        request["config"].pop(only_lora)
    del request["lycoris_config"]

    run_id = tenant.submit(request)
    run = tenant.wait_over(run_id, deadline_s=240)

    assert run["status"] == "succeeded", run["status_reason"]
    assert run["step"] == 4
    assert tenant.get(f"/v1/runs/{run_id}/plan")["operation"]["zero_stage"] == 2
    folder = Path(tenant.wait_published(run_id)["location"])
    assert (folder / "transformer" / "config.json").exists()
    assert json.loads((folder / "transformer" / "config.json").read_text())["num_layers"] == 2


def test_a_named_repository_on_the_hub_gets_the_result(
    fleet: Fleet, tenant: Tenant, datasets: dict[str, str], hub_server: HubServer
) -> None:
    for name in ("results", "trainer-1"):
        fleet.signal(name, signal.SIGTERM)
        fleet.wait(name)
    # As in production: a fork would show the environment of its server.
    fleet.start("trainer-1", fresh=True)
    hub = {"HF_TOKEN": hub_server.token, "HF_ENDPOINT": hub_server.url, "HF_HUB_DISABLE_XET": "1"}
    fleet.start("results-hub", **hub)

    repository = f"{USER}/photographs"
    request = run_request(datasets, max_train_steps=2, checkpoint_step_interval=1, seed=9)
    hub_options = {"hub_model_id": repository, "push_checkpoints_to_hub": "true"}
    request["config"] |= {"push_to_hub": "true", **hub_options}
    run_id = tenant.submit(request)
    assert tenant.wait_over(run_id)["status"] == "succeeded"
    publication = tenant.wait_published(run_id)

    assert publication["status"] == "succeeded", publication["error"]
    assert publication["target"]["kind"] == "hub"
    published = hub_server.repos[repository].files
    assert {"README.md", "pytorch_lora_weights.safetensors", "samples/0.png"} <= set(published)
    assert hub_server.repos[repository].commits[-1].summary == f"Result of {run_id} at step 2"
    own = tenant.get(f"/v1/publications?run_id={run_id}")["data"]
    assert [each["checkpoint_step"] for each in reversed(own)] == [1, 2, None]
    # The Hub may be slower than the tiny model; then a newer one takes the place of what waits.
    for each in own:
        is_there = f"checkpoint-{each['checkpoint_step']}/README.md" in published
        assert each["is_automatic"]
        assert is_there == (each["status"] == "succeeded" and each["checkpoint_step"] is not None)
    environment = Path(f"/proc/{fleet.processes['trainer-1'].pid}/environ").read_bytes()
    assert hub_server.token.encode() not in environment
    fleet.signal("results-hub", signal.SIGTERM)
    fleet.start("results")
