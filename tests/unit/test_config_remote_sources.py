"""Which data backends the service fetches itself."""

from typing import Any

import pytest

from trainer_core.config.simpletuner.remote_sources import (
    list_address,
    list_suffix,
    remote_source,
)
from trainer_core.config.simpletuner.source_types import HubSource
from trainer_core.config.simpletuner.sources import IMPORTED

HUB = {"type": "huggingface", "dataset_name": "someone/cats"}


def problems(backend: dict[str, Any], *, with_list: bool = False) -> dict[str, str]:
    found = remote_source(backend, with_list=with_list)
    assert (found.source is None) == bool(found.problems)
    return {each.pointer: each.message for each in found.problems}


def test_a_dataset_of_the_hub_with_the_keys_of_a_run() -> None:
    backend = {"id": "cats", "--crop": "true", "resolution": 512, "revision": "v1", **HUB}
    source = remote_source(backend, with_list=False).source
    assert source is not None
    assert isinstance(source.place, HubSource)
    assert (source.place.dataset, source.place.revision) == ("someone/cats", "v1")
    assert source.wants_captions


def test_masks_come_without_captions() -> None:
    backend = {**HUB, "dataset_type": "conditioning", "conditioning_type": "mask", "crop": False}
    source = remote_source(backend, with_list=False).source
    assert source is not None
    assert not source.wants_captions


def test_lists_at_addresses_and_beside_the_backend() -> None:
    at = remote_source(
        {"type": "csv", "csv_file": "https://example.org/a.TSV?x=1"}, with_list=False
    ).source
    assert at is not None
    assert (list_address(at), list_suffix(at)) == ("https://example.org/a.TSV?x=1", ".tsv")
    sent = remote_source({"type": "csv", "csv_file": "/home/ada/list.csv"}, with_list=True).source
    assert sent is not None
    assert (list_address(sent), list_suffix(sent)) == (None, ".csv")
    assert "as csv" in problems({"type": "csv", "csv_file": "/home/ada/list.csv"})["/csv_file"]
    assert "only type csv" in problems(HUB, with_list=True)["/type"]


@pytest.mark.parametrize("key", ["hf_token", "--hf_token", "auth_token"])
def test_secrets_are_not_taken(key: str) -> None:
    (message,) = problems({**HUB, key: "hf_not-for-eyes"}).values()
    assert "not-for-eyes" not in message
    assert "reverie datasets push" in message


def test_passwords_in_addresses_are_not_taken() -> None:
    at = "https://ada:not-for-eyes@example.org/a"
    tars = {"type": "webshart", "source": "a/b"}
    for option, backend in (
        ("csv_file", {"type": "csv", "csv_file": at}),
        ("source", {**tars, "source": at}),
        ("metadata", {**tars, "metadata": at}),
    ):
        message = problems(backend)[f"/{option}"]
        assert message.startswith(f"{option} has a user or a password")
        assert "not-for-eyes" not in message
    assert not problems({"type": "csv", "csv_file": "https://example.org/a@b?c=d@e"})


@pytest.mark.parametrize("block", ["aws", "webshart", "huggingface"])
def test_secrets_in_blocks_of_other_types_are_not_taken_either(block: str) -> None:
    keys = {"aws_secret_access_key": "hf_not-for-eyes", "--hf_token": "hf_not-for-eyes"}
    found = problems({**HUB, block: keys})
    assert {f"/{block}/aws_secret_access_key", f"/{block}/--hf_token"} == set(found)
    assert not any("not-for-eyes" in message for message in found.values())


@pytest.mark.parametrize(
    "backend",
    [
        {"type": "local", "instance_data_dir": "photos"},
        {
            "type": "local",
            "instance_data_dir": "photos",
            "caption_strategy": "parquet",
            "parquet": {"path": "t.parquet", "filename_column": "id", "caption_column": "text"},
        },
        {"type": "aws", "aws_bucket_name": "photos", "aws_data_prefix": "cats/"},
    ],
)
def test_other_types_are_refused(backend: dict[str, Any]) -> None:
    assert backend["type"] not in IMPORTED
    assert problems(backend)


def test_each_key_is_checked_by_the_table_of_backends() -> None:
    wrong = {**HUB, "datasett": 1, "resolution": "wide", "disabled": True}
    assert set(problems(wrong)) == {"/datasett", "/resolution"}


def test_tar_files_at_addresses_and_on_the_hub() -> None:
    tars = {"type": "webshart", "source": "https://example.org/{00..11}.tar"}
    for more in ({}, {"metadata": "someone/captions"}, {"type": "webdataset", "source": "a/b"}):
        found = remote_source({**tars, **more}, with_list=False)
        assert found.source is not None, found.problems
    assert "has to be an address" in problems({**tars, "source": "/home/ada/tars"})["/source"]
    assert "has to be an address" in problems({**tars, "metadata": "captions"})["/metadata"]
