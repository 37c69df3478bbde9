"""A training process without training: it writes events and behaves as its first argument says.

``python trainer_supervisor_child.py BEHAVIOUR train --job … --events … --control … --supervisor …``
"""

import argparse
import contextlib
import hashlib
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trainer_core.process.failure import failure_as_json, failure_of
from trainer_core.process.supervision import parse_supervisor, start_watch

STEPS = 10
INTERVAL = 2
STEP_S = 0.05
SLOW_STEP_S = 0.5
"""Of the behaviour ``slow``."""
ENDLESS = {"endless", "unsaved", "slow", "talk", "talk-unsaved"}
UNSAVED = {"unsaved", "only-result", "slow", "talk-unsaved"}
FLOOD_LINES = 1_000_000
"""Of 100 bytes each."""


class Training:
    def __init__(self, behaviour: str, args: argparse.Namespace) -> None:
        self.behaviour = behaviour
        self.job = json.loads(args.job.read_text())
        self.events, self.control = args.events, args.control
        self.output = Path(self.job["output_dir"])
        self.seq = 0
        self.started_s = time.monotonic()

    def emit(self, event: str, step: int, **data: Any) -> None:
        self.seq += 1
        t_s = time.monotonic() - self.started_s
        line = json.dumps(
            {"v": 1, "seq": self.seq, "event": event, "step": step, "t_s": t_s, **data}
        )
        with self.events.open("a") as file:
            half = len(line) // 2
            file.write(line[:half])
            file.flush()  # a reader may see a torn line
            file.write(line[half:] + "\n")

    def folder(self, name: str, kind: str, step: int) -> dict[str, Any]:
        folder = self.output / name
        folder.mkdir(parents=True)
        body = f"state after {step}".encode()
        (folder / "state.bin").write_bytes(body)
        sha256 = hashlib.sha256(body).hexdigest()
        files = {"state.bin": {"size_bytes": len(body), "sha256": sha256}}
        manifest = json.dumps({"version": 1, "kind": kind, "step": step, "files": files}).encode()
        (folder / "manifest.json").write_bytes(manifest)
        digest = hashlib.sha256(manifest).hexdigest()
        size_bytes = len(body) + len(manifest)
        return {"path": str(folder), "manifest_sha256": digest, "size_bytes": size_bytes}

    def checkpoint(self, step: int) -> None:
        name = f"checkpoints/step-{step:08d}"
        if not (self.output / name).exists():
            self.emit("checkpoint", step, **self.folder(name, "checkpoint", step))

    def sample(self, step: int) -> None:
        """A picture of the step, before its checkpoint."""
        sys.path.insert(0, str(Path(__file__).parents[2]))  # it is started by its path
        from tests.support.run_samples import png, sample_event, write_sample

        body = png((step, 0, 0))
        event = sample_event(step, body)
        write_sample(self.output, event, body)
        self.emit(event.type, step, **event.data)

    def preview(self, step: int) -> None:
        """A preview of a picture that is sampled for ever, which a stop ends."""
        sys.path.insert(0, str(Path(__file__).parents[2]))  # it is started by its path
        from tests.support.run_samples import png, preview_event

        body = png((step, 0, 0))
        self.emit("stage", step, stage="sampling")
        (self.output / "samples").mkdir()
        (self.output / "samples/preview.png").write_bytes(body)
        event = preview_event(step, body, path="samples/preview.png")
        self.emit(event.type, step, **event.data)
        while self.requested() != "stop":
            time.sleep(0.02)

    def wait_until_stored(self) -> None:
        limit = self.job["waiting_checkpoints"]
        while len(list(self.output.glob("checkpoints/step-*"))) >= limit:
            if self.requested() == "stop":
                return
            time.sleep(0.02)

    def requested(self) -> str:
        return self.control.read_text() if self.control.exists() else "run"

    def first_step(self) -> int:
        if self.job["resume_from"] is None:
            return 0
        return int(
            json.loads((Path(self.job["resume_from"]) / "manifest.json").read_text())["step"]
        )

    def run(self) -> int:
        step = self.first_step()
        start = self.job["start_from"]
        files = None if start is None else {p.name: p.read_text() for p in Path(start).iterdir()}
        self.emit("stage", step, stage="training", environment=dict(os.environ), start=files)
        while step < STEPS or self.behaviour in ENDLESS:
            if self.requested() == "pause":
                self.emit("stage", step, stage="paused")
                while self.requested() == "pause":
                    time.sleep(0.02)
                self.emit("stage", step, stage="training")
            if self.requested() == "stop":
                self.checkpoint(step)
                self.emit("stopped", step)
                return 75
            step += 1
            time.sleep(SLOW_STEP_S if self.behaviour == "slow" else STEP_S)
            self.emit("step", step, loss=1.0 / step)
            if self.behaviour in {"talk", "talk-unsaved", "last-words"}:
                print(f"line of step {step} é", flush=True)
            if step % INTERVAL == 0 and self.behaviour == "paint":
                self.sample(step)
            if step % INTERVAL == 0 and self.behaviour not in UNSAVED:
                self.checkpoint(step)
                self.wait_until_stored()
            if step == 5:
                self.at_step_5()
        self.emit("finished", step, **self.folder("result", "result", step))
        return 0

    @contextlib.contextmanager
    def failing(self) -> Iterator[None]:
        """An error ends the training as it does in ``trainer_core``."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - as in trainer_core
            self.emit("failed", 5, **failure_as_json(failure_of(error)))
            sys.exit(1)

    def at_step_5(self) -> None:
        match self.behaviour:
            case "die":
                os.kill(os.getpid(), signal.SIGKILL)
            case "last-words":
                # Without a line feed, and at once dead.
                os.write(1, b"Traceback (most recent call last): rv_" + b"s" * 40)
                os.kill(os.getpid(), signal.SIGKILL)
            case "preview":
                self.preview(5)
            case "flood":
                line = b"%07d " + b"x" * 91 + b"\n"
                for number in range(0, FLOOD_LINES, 1000):
                    os.write(1, b"".join(line % (number + each) for each in range(1000)))
            case "chatter":
                while True:
                    self.emit("warning", 5, code="tired", message="no step today")
                    time.sleep(0.1)
            case "hang":
                time.sleep(600)
            case "babble":
                with self.events.open("a") as file:
                    file.write("x" * (5 << 20))  # no line is so long
                time.sleep(600)
            case "babble-late":
                time.sleep(1.5)  # by then the lease is another's
                with self.events.open("a") as file:
                    file.write("x" * (5 << 20))
                time.sleep(600)
            case "fill":
                with (self.output / "ballast").open("wb") as file, self.failing():
                    while True:
                        file.write(bytes(1 << 20))
            case "open-files":
                with self.failing(), contextlib.ExitStack() as opened:
                    while True:
                        opened.enter_context(Path(__file__).open())
            case "use-memory":
                ballast = []
                while True:  # until the kernel kills it
                    ballast.append(b"x" * (8 << 20))
            case "use-gpu-memory":
                import torch

                with self.failing():
                    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
            case "fail":
                failure = {"category": "user", "message": "loss is nan", "retryable": False}
                self.emit("failed", 5, code="non_finite_loss", **failure)
                sys.exit(1)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("behaviour")
    parser.add_argument("train")
    for name in ("--job", "--events", "--control"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--supervisor")
    args = parser.parse_args()
    start_watch(*parse_supervisor(args.supervisor))
    print("libraries print what they like", flush=True)
    return Training(args.behaviour, args).run()


if __name__ == "__main__":
    sys.exit(main())
