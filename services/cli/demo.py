"""``make demo``: the tiny model trained on real photographs through the whole service, over HTTP.

The exit code is 0 only if the run succeeded and was published. The last line of output is a JSON
object; the files that it names are kept.
"""

import json
import os
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from rich.console import Console

from services.cli.demo_report import cached_entries, fixed_losses, loss_drop, newest_checkpoint
from services.cli.documents import read_documents
from services.cli.watch import watch_run
from services.client.client import Client
from services.client.errors import ClientError
from services.client.publication_shapes import Publication
from services.client.push import push_folder
from services.client.run_output_shapes import Event
from services.client.shapes import RunRequest
from services.embedded.errors import EmbeddedError
from services.embedded.service import EmbeddedService

EXAMPLES = Path(__file__).parents[2] / "examples"
_PUBLICATION_DEADLINE_S = 120.0


class DemoFailedError(Exception):
    """The run or its publication failed; the message gives the reason."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """The last line of output. Losses are means over 64 samples (fixed validation loss)."""

    run: str
    status: str
    steps: int
    loss_before: float
    loss_after: float
    loss_drop_pct: float
    loss_drop_sigma: float
    """The paired mean difference over its standard error."""
    cached_images: int
    cached_captions: int
    """Only captions of the photographs, without the prompts of the sample image."""
    checkpoint: str
    publication: str
    seconds: float
    """From the start of the demo until the service is stopped."""


def main() -> int:
    """Run the demo; 0 on success, 1 on any failure, with the problem and the logs named."""
    started_s = time.monotonic()
    console = Console(stderr=True)
    home = demo_home()
    console.print(f"the demo's home is {home}", highlight=False, soft_wrap=True)
    service = EmbeddedService(
        home, report=lambda text: console.print(f"up: {text}", highlight=False)
    )
    try:
        console.print("starting PostgreSQL, Valkey, the API and the workers …")
        with service:
            facts = train(service, console)
        seconds = round(time.monotonic() - started_s, 1)
        line = json.dumps(asdict(Report(**facts, seconds=seconds)))
    except (DemoFailedError, ClientError, EmbeddedError, ValueError, FileNotFoundError) as error:
        console.print(f"the demo failed: {error}", markup=False, highlight=False, soft_wrap=True)
        console.print(f"logs: {service.home.logs}", highlight=False, soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        console.print("interrupted")
        return 130
    sys.stderr.flush()
    sys.stdout.write(line + "\n")
    return 0


def demo_home() -> Path:
    """REVERIE_HOME, or a new folder. It is kept: the last line of output names files in it."""
    if named := os.environ.get("REVERIE_HOME"):
        return Path(named)
    folder = Path(tempfile.mkdtemp(prefix="reverie-demo-"))
    folder.chmod(0o711)  # under root the servers run as another user, who must be able to enter
    return folder / "home"


def train(service: EmbeddedService, console: Console) -> dict[str, Any]:
    """Push, submit, follow and publish; all fields of the report but ``seconds``.

    Raises:
        DemoFailedError: the run or its publication did not succeed.
    """
    photos = EXAMPLES / "photos"
    documents = read_documents(EXAMPLES / "demo", {}, EXAMPLES.parent, {})
    with Client(service.url, service.api_key) as client:
        console.print("uploading the photographs …")
        datasets = {
            "photos": push_folder(client, photos / "train")["id"],
            "held-out": push_folder(client, photos / "held_out")["id"],
        }
        request = cast("RunRequest", {**documents.body, "datasets": datasets})
        run_id = client.submit_run(request)["id"]
        run = watch_run(client, run_id, console)
        if run["status"] != "succeeded":
            raise DemoFailedError(f"the run is {run['status']}: {run['status_reason']}")
        publication = wait_published(client, run_id)
        before, after = fixed_losses(all_events(client, run_id))
        prompts = prompts_of(client.get_plan(run_id))
    drop = loss_drop(before, after)
    objects = service.home.objects
    return {
        "run": run_id,
        "status": run["status"],
        "steps": run["step"],
        "loss_before": round(drop.before, 6),
        "loss_after": round(drop.after, 6),
        "loss_drop_pct": round(drop.drop_pct, 2),
        "loss_drop_sigma": round(drop.drop_sigma, 2),
        "cached_images": cached_entries(objects, "mean"),
        "cached_captions": cached_entries(objects, "pooled") - len(prompts),
        "checkpoint": str(newest_checkpoint(objects, run_id)),
        "publication": publication,
    }


def prompts_of(plan: dict[str, Any]) -> set[str]:
    """The texts that are cached for pictures and not for a photograph."""
    operation = plan["operation"]
    pictures = operation.get("pictures") or {"prompts": []}
    own = {prompt["text"] for prompt in pictures["prompts"]}
    return {"", operation["sample_prompt"], operation["sample_negative_prompt"], *own}


def wait_published(client: Client, run_id: str) -> str:
    """The folder of the run's publication, once it is complete."""
    end_s = time.monotonic() + _PUBLICATION_DEADLINE_S
    while time.monotonic() < end_s:
        found: list[Publication] = client.list_publications(run_id=run_id).data
        if found and found[0]["status"] == "succeeded":
            return str(found[0]["location"])
        if found and found[0]["status"] == "failed":
            raise DemoFailedError(f"the publication failed: {found[0]['error']}")
        time.sleep(0.3)
    raise DemoFailedError(f"no publication after {_PUBLICATION_DEADLINE_S:g} s")


def all_events(client: Client, run_id: str) -> list[Event]:
    """All events of the run, oldest first."""
    found: list[Event] = []
    while True:
        page = client.list_events(run_id, limit=100, after=found[-1].id if found else 0)
        found += page.data
        if not page.has_more:
            return found


if __name__ == "__main__":
    sys.exit(main())
