"""One tenant's work leaves places for others, and survives the process that does it."""

import asyncio
import json
import os
import signal
from collections.abc import Iterator
from tempfile import TemporaryFile
from typing import BinaryIO

import pytest

from services.api.datasets.checked_list import files_of
from services.api.datasets.checker import Checker
from services.api.errors import RateLimitedError
from services.api.places import Places


def test_a_tenant_waits_for_its_own_places_only() -> None:
    async def run() -> None:
        places = Places(total=3, per_owner=2, wait_s=0.05)
        async with places.one_for("a"), places.one_for("a"):
            with pytest.raises(RateLimitedError):
                await places.one_for("a").__aenter__()
            async with places.one_for("b"):
                with pytest.raises(RateLimitedError):  # no place is left at all
                    await places.one_for("c").__aenter__()
            async with places.one_for("c"):
                pass
        async with places.one_for("a"), places.one_for("a"):
            pass

    asyncio.run(run())


def test_places_are_given_in_order() -> None:
    async def run() -> list[int]:
        places, order = Places(total=1, per_owner=1, wait_s=10), []

        async def work(number: int) -> None:
            async with places.one_for("a"):
                order.append(number)
                await asyncio.sleep(0)

        await asyncio.gather(*map(work, range(20)))
        return order

    assert asyncio.run(run()) == list(range(20))


@pytest.fixture
def files() -> Iterator[tuple[BinaryIO, BinaryIO]]:
    """A body with one file, and a place for its rows."""
    with TemporaryFile() as body, TemporaryFile() as rows:
        listed = [{"path": "a.jpg", "size_bytes": 1, "sha256": "0" * 64}]
        body.write(json.dumps({"name": "one", "files": listed}).encode())
        body.flush()
        yield body, rows


def test_a_list_whose_checker_dies_is_checked_by_the_next(
    files: tuple[BinaryIO, BinaryIO],
) -> None:
    checker, (is_dead, dies) = Checker(), os.pipe()
    first = os.fork()
    if first == 0:
        checker.receive()
        os._exit(1)
    second = os.fork()
    if second == 0:
        os.close(dies)
        os.read(is_dead, 1)
        checker.serve()
    os.close(dies)
    try:
        checked = checker.check(*files)
    finally:
        os.kill(second, signal.SIGKILL)
        statuses = [os.waitpid(pid, 0)[1] for pid in (first, second)]

    assert (checked.name, checked.size_bytes) == ("one", 1)
    assert [file.path for file in files_of(files[1])] == ["a.jpg"]
    assert os.waitstatus_to_exitcode(statuses[0]) == 1
