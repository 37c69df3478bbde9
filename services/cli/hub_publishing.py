"""Publishes a local run to the Hugging Face Hub: its checkpoints while it trains, then its result.

One thread uploads, with the user's own token. A checkpoint that still waits when a newer one is
written is left out. Nothing that goes wrong here ends the run.
"""

import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import structlog

from services.cli.hub_token import NOT_THERE, WAY_TO_ONE, hub_token
from services.results.card_pictures import MAX_PICTURES, CardPictures
from services.results.layout import keep_apart, lay_out, lay_out_checkpoint
from services.results.targets.hub import HubAccess, HubTarget
from services.results.targets.port import PublicationError, PublicationRepo, TargetDownError
from trainer_core.checkpoint.folders import read_manifest
from trainer_core.checkpoint.layout import MANIFEST_NAME
from trainer_core.config.plan import Plan
from trainer_core.errors import CheckpointError
from trainer_core.painting.contact_sheet import SHEET
from trainer_core.painting.picture_text import plan_digest_of
from trainer_core.process.events import Event, EventWriter
from trainer_core.progress import Reporter

_TRIES: Final = 3
"""With a result."""
_REPOSITORY: Final = "repository"
"""Folder in the output folder: the result as it is published."""
_SCRATCH: Final = ".publishing"


@contextmanager
def publishing_to_hub(
    plan: Plan, output_dir: Path, events: EventWriter, reporter: Reporter, *, pause_s: float = 5.0
) -> Iterator[None]:
    """A ``trainer_core.local.publishing.Publishing`` with the token of this machine's user.

    ``pause_s``: between tries with a result.
    """
    name = plan.operation.publication.hub_model_id
    if name is None:
        yield
        return
    from huggingface_hub.utils.tqdm import disable_progress_bars

    token = hub_token()
    if token is None:
        events.warn(
            "not_published",
            f"push_to_hub: {NOT_THERE}, so nothing is published to {name}. {WAY_TO_ONE}, then "
            f"start again; the result stays in {output_dir / 'result'}.",
        )
        yield
        return
    disable_progress_bars()
    endpoint = os.environ.get("HF_ENDPOINT") or None
    target = HubTarget(HubAccess(token=token, endpoint=endpoint, words="your token"))
    run = _Run(
        plan=plan,
        output_dir=output_dir,
        events=events,
        reporter=reporter,
        target=target,
        pause_s=pause_s,
    )
    if plan.operation.publication.checkpoints:
        events.listen("the publishing of checkpoints", run.note)
    with _without_log_lines():
        try:
            yield
        except BaseException:
            run.abandon()
            raise
        run.finish()


@contextmanager
def _without_log_lines() -> Iterator[None]:
    """Those of a service say nothing here that the warnings do not say."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    try:
        yield
    finally:
        structlog.configure(**before)


@dataclass(slots=True)
class _Run:
    """The publications of one run."""

    plan: Plan
    output_dir: Path
    events: EventWriter
    reporter: Reporter
    target: HubTarget
    pause_s: float
    is_finished: bool = False
    _uploads: "_NewestFirst" = field(init=False)

    def __post_init__(self) -> None:
        self._scratch.mkdir(parents=True, exist_ok=True)
        self.events.listen("the publishing of the result", self._note_end)
        self._uploads = _NewestFirst()

    @property
    def _scratch(self) -> Path:
        return self.output_dir / _SCRATCH

    def note(self, event: Event) -> None:
        """Keep the files of a checkpoint, and have it published."""
        self._tell()
        if event.name == "checkpoint":
            kept = self._scratch / f"step-{event.step}"
            _keep(self.output_dir / str(event.data["path"]), kept)
            self._uploads.put(lambda: self._publish_checkpoint(kept, event.step))

    def _note_end(self, event: Event) -> None:
        self.is_finished = self.is_finished or event.name == "finished"

    def finish(self) -> None:
        """Wait for the upload under way, then publish the result of a run that has one."""
        try:
            if self.is_finished:
                self._uploads.forget_waiting()
            self._uploads.wait()
            self._tell()
            if self.is_finished:
                self._publish_result()
        except KeyboardInterrupt:
            self.events.warn("not_published", "Interrupted: what was on its way is not published.")
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Start no upload any more; one that is under way ends with the process."""
        self._uploads.forget_waiting()
        shutil.rmtree(self._scratch, ignore_errors=True)

    def _tell(self) -> None:
        """Report what the thread has done. Only this thread writes events."""
        for outcome in self._uploads.outcomes():
            outcome()

    def _publish_checkpoint(self, kept: Path, step: int) -> Callable[[], None]:
        """In the thread; returns what is to be reported."""
        repo = kept.with_name(f"{kept.name}.repo")
        try:
            lay_out_checkpoint(kept, self.plan, repo)
            keep_apart(repo, f"checkpoint-{step}")
            location = self._publish(repo, f"Checkpoint at step {step}")
        except Exception as error:  # noqa: BLE001 - it must not end the training
            text = f"The checkpoint of step {step} is not on the Hub: {_in_words(error)}"
            return lambda: self.events.warn("not_published", text)
        finally:
            shutil.rmtree(kept, ignore_errors=True)
            shutil.rmtree(repo, ignore_errors=True)
        return lambda: self.reporter.log(f"{'published':<20} {location}, step {step}")

    def _publish_result(self) -> None:
        repo = self.output_dir / _REPOSITORY
        try:
            shutil.rmtree(repo, ignore_errors=True)
            lay_out(self.output_dir / "result", repo, self._pictures())
            location = self._publish_stubbornly(repo)
        except Exception as error:  # noqa: BLE001 - nor fail a run that has its result
            name = self.plan.operation.publication.hub_model_id
            self.events.warn(
                "not_published",
                f"The result is not on the Hub: {_in_words(error)} It is ready in {repo}; publish "
                f"it by: hf upload {name} {repo}",
            )
        else:
            self.reporter.log(f"{'published':<20} {location}")

    def _pictures(self) -> CardPictures | None:
        """The contact sheet of the run, and its pictures of the last step that has some."""
        pictures, sheet = self.plan.operation.pictures, self.output_dir / SHEET
        if pictures is None or not sheet.is_file():
            return None
        digest = self.plan.identity_digest()
        files = [
            file
            for file in sorted(sheet.parent.glob("step-*/*.png"))
            if not file.stem.endswith("-base") and plan_digest_of(file) == digest
        ]
        if not files:  # the sheet is of an earlier run in this folder
            return None
        # The name of a step has six digits, or more.
        newest = max((f.parent.name for f in files), key=lambda n: (len(n), n), default="")
        return CardPictures(
            sheet=sheet.read_bytes(),
            prompts={prompt.name: prompt.text for prompt in pictures.prompts},
            newest=[file for file in files if file.parent.name == newest][:MAX_PICTURES],
        )

    def _publish_stubbornly(self, repo: Path) -> str:
        for _ in range(_TRIES - 1):
            try:
                return self._publish(repo, "Result")
            except TargetDownError as error:
                self.reporter.log(f"{error} It is tried again.")
                time.sleep(self.pause_s)
        return self._publish(repo, "Result")

    def _publish(self, repo: Path, message: str) -> str:
        publication = self.plan.operation.publication
        assert publication.hub_model_id is not None
        to = PublicationRepo(name=publication.hub_model_id, private=publication.private)
        return self.target.publish(to, repo, message).location


def _in_words(error: Exception) -> str:
    is_told = isinstance(error, PublicationError | CheckpointError)
    return str(error) if is_told else f"{type(error).__name__}: {error}."


def _keep(checkpoint: Path, kept: Path) -> None:
    """Link the files of a checkpoint, which the run may delete before they are published."""
    shutil.rmtree(kept, ignore_errors=True)
    kept.mkdir(parents=True)
    for name in (*read_manifest(checkpoint).files, MANIFEST_NAME):
        try:
            (kept / name).hardlink_to(checkpoint / name)
        except OSError:  # the file system has no links
            shutil.copyfile(checkpoint / name, kept / name)


Work = Callable[[], Callable[[], None]]


class _NewestFirst:
    """A thread that does one piece of work at a time; of those that wait, only the newest."""

    def __init__(self) -> None:
        self._waiting: Work | None = None
        self._outcomes: list[Callable[[], None]] = []
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def put(self, work: Work) -> None:
        with self._changed:
            self._waiting = work
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="publish", daemon=True)
                self._thread.start()

    def forget_waiting(self) -> None:
        """Leave out what has not started."""
        with self._changed:
            self._waiting = None

    def outcomes(self) -> list[Callable[[], None]]:
        """What is to be reported, and was not yet."""
        with self._changed:
            found, self._outcomes = self._outcomes, []
        return found

    def wait(self) -> None:
        """Until everything is done."""
        thread = self._thread
        if thread is not None:
            thread.join()

    def _work(self) -> None:
        """What the thread does: it ends when nothing waits."""
        while True:
            with self._changed:
                work, self._waiting = self._waiting, None
                if work is None:
                    self._thread = None
                    return
            outcome = work()
            with self._changed:
                self._outcomes.append(outcome)
