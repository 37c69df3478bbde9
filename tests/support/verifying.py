"""Verification in this process, and its result without looking at the files."""

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from services.cache_builder.verify import RULES, Verifier
from services.domain.errors import Problem
from services.objects.port import ObjectStore
from services.processes.request_child import RequestChild
from services.store import verification
from services.store.database import Connection, Database
from services.store.datasets import FileFacts
from services.workers.health import WorkerHealth
from services.workers.scratch import Scratch


@pytest.fixture(scope="module")
def inspector() -> Iterator[RequestChild]:
    """The decoder of a cache builder."""
    command = (sys.executable, "-m", "trainer_core", "inspect")
    with RequestChild(command, env=os.environ) as child:
        yield child


@contextlib.contextmanager
def open_verifier(
    database: Database,
    objects: ObjectStore,
    inspector: RequestChild,
    folder: Path,
    *,
    rules: int = RULES,
) -> Iterator[Verifier]:
    """Of a builder with its files in ``folder``; each ring verifies one batch."""
    with (
        Scratch(folder / "scratch", "wrk") as scratch,
        WorkerHealth(
            scratch,
            objects,
            scratch_bytes=1,
            models_dir=folder,
            needs_gpu=False,
            program=(),
            on_change=lambda: None,
        ) as health,
    ):
        yield Verifier(
            database=database,
            objects=objects,
            inspector=inspector,
            scratch=scratch,
            health=health,
            slice_s=0,
            rules=rules,
        )


def end_verification(
    conn: Connection,
    tenant_id: str,
    dataset_id: str,
    *,
    facts: Sequence[FileFacts] = (),
    problems: Sequence[Problem] = (),
    left_out: Sequence[Problem] = (),
) -> None:
    """End it as a builder would that found this: ready, or rejected where there are problems."""
    work = verification.take(conn, tenant_id, dataset_id)
    assert work is not None
    files = list(verification.next_files(conn, work, rules=RULES))
    recorded = verification.record(
        conn, work, files, facts, problems, rules=RULES, left_out=left_out
    )
    assert recorded is not None
    assert verification.finish(conn, recorded) is not None
