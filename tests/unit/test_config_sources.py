"""Backends whose pictures are elsewhere: what their keys mean, and what the plan keeps of them."""

from typing import Any

import pytest

from tests.unit.config_examples import SMALL_CONFIG, import_small, notices_of, problems_of
from trainer_core.config.simpletuner.importer import Imported
from trainer_core.config.simpletuner.local_backends import as_local, sources_of
from trainer_core.config.simpletuner.source_types import (
    BucketSource,
    CaptionColumns,
    CsvSource,
    FolderSource,
    HubSource,
    PictureSource,
    RowFilter,
    TarSource,
)

CSV = {"id": "list", "type": "csv", "csv_file": "list.csv"}
HUB = {"id": "hub", "type": "huggingface", "dataset_name": "someone/cats"}
BUCKET = {
    "id": "bucket",
    "type": "aws",
    "aws_bucket_name": "pictures",
    "aws_data_prefix": "cats/",
    "aws_endpoint_url": "http://localhost:7480",
    "aws_access_key_id": "AKIAEXAMPLE",
    "aws_secret_access_key": "not-for-eyes",
}
TARS = {"id": "tars", "type": "webshart", "source": "someone/shards"}
TABLE = {
    "id": "table",
    "type": "local",
    "instance_data_dir": "pics",
    "caption_strategy": "parquet",
    "parquet": {"path": "t.parquet", "filename_column": "id", "caption_column": ["a", "b"]},
}


def local(*backends: dict[str, Any], **config: Any) -> Imported:
    return import_small({"output_dir": "out", **config}, backends=list(backends), source="local")


def source_of(backend: dict[str, Any]) -> PictureSource:
    (source,) = local(backend).sources.values()
    return source


def test_keys_of_a_list() -> None:
    assert source_of(CSV) == PictureSource(
        place=CsvSource(file="list.csv", url_column="url", caption_column="caption"),
        wants_captions=True,
    )
    columns = {"csv_url_column": "link", "csv_caption_column": "text", "source_max_rows": "5"}
    found = source_of({**CSV, **columns, "source_max_file_mb": 2})
    assert found.place == CsvSource(file="list.csv", url_column="link", caption_column="text")
    assert (found.max_rows, found.max_file_bytes) == (5, 2 << 20)


@pytest.mark.parametrize("in_block", [False, True])
def test_keys_of_a_dataset_of_the_hub(in_block: bool) -> None:
    keys = {
        "dataset_name": "someone/cats",
        "split": "test",
        "revision": "v1",
        "dataset_config": "large",
        "image_column": "Image",
        "caption_column": ["short", "long.text"],
        "fallback_caption_column": "tags",
    }
    filters = {
        "filter_func": {
            "collection": "photo",
            "quality_thresholds": {"clip_score": 0.3},
            "quality_column": "quality",
            "min_width": "512",
        },
        "cache_dir": "x",
        "streaming": True,
    }
    backend: dict[str, Any] = {"id": "hub", "type": "huggingface"}
    backend |= {"huggingface": keys | filters} if in_block else {**keys, "huggingface": filters}
    assert source_of(backend).place == HubSource(
        dataset="someone/cats",
        revision="v1",
        split="test",
        config="large",
        image_column="Image",
        captions=CaptionColumns(columns=("short", "long.text"), fallback=("tags", "description")),
        rows=RowFilter(
            collections=("photo",),
            quality_column="quality",
            thresholds={"clip_score": 0.3},
            min_width=512,
        ),
    )


def test_keys_of_tables() -> None:
    table = source_of(TABLE)
    assert table.place == FolderSource(folder="pics")
    assert table.table is not None
    assert table.table.captions.columns == ("a", "b")
    assert not table.table.has_suffixes


@pytest.mark.parametrize("in_block", [False, True])
@pytest.mark.parametrize("prefix", ["cats/", "cats", "/cats/", None])
def test_keys_of_a_bucket(in_block: bool, prefix: str | None) -> None:
    keys = {key: value for key, value in BUCKET.items() if key.startswith("aws_")}
    keys |= {"aws_region_name": "eu-1", "aws_data_prefix": prefix, "aws_session_token": "t"}
    backend: dict[str, Any] = {"id": "bucket", "type": "aws", "caption_strategy": "textfile"}
    backend |= {"aws": keys} if in_block else keys
    found = source_of(backend)
    assert found == PictureSource(
        place=BucketSource(
            bucket="pictures",
            prefix="cats/" if prefix else "",
            endpoint="http://localhost:7480",
            region="eu-1",
            access_key="AKIAEXAMPLE",
            secret_key="not-for-eyes",
            session_token="t",
        ),
        wants_captions=True,
    )
    assert not {"not-for-eyes", "AKIAEXAMPLE"} & set(repr(found).split("'"))


def test_captions_of_a_bucket_are_those_of_files() -> None:
    plain = {"id": "b", "type": "aws", "aws_bucket_name": "pictures", "instance_data_dir": "/in"}
    found = source_of(plain)
    assert isinstance(found.place, BucketSource)
    assert (found.place.prefix, found.place.endpoint, found.place.access_key) == ("in/", None, None)
    assert not found.wants_captions
    assert local(plain).plan.identity.backends[0].caption_strategy == "filename"
    table = {**plain, "caption_strategy": "parquet", "parquet": TABLE["parquet"]}
    assert source_of(table).table == source_of(TABLE).table
    assert local(table).plan.identity.backends[0].caption_strategy == "textfile"
    for backend, strategy in ((plain, None), (table, "textfile")):
        (sent,) = as_local([backend], local(backend).sources)
        assert isinstance(sent, dict)
        assert sent.get("caption_strategy") == strategy
        assert "aws_bucket_name" not in sent


@pytest.mark.parametrize("in_block", [False, True])
def test_keys_of_tar_files(in_block: bool) -> None:
    keys = {
        "source": "someone/shards",
        "metadata": "someone/metadata",
        "subfolder": "/data/",
        "max_file_size": "1000",
        "hf_token": "not-for-eyes",
    }
    caches = {"cache_dir": "c", "shard_cache_gb": 25, "parallel_downloads": 4}
    backend: dict[str, Any] = {
        "id": "tars",
        "type": "webshart",
        "caption_strategy": "webshart",
        "metadata_backend": "webshart",
        "webshart_optimize_captions": True,
    }
    backend |= {"webshart": keys | caches} if in_block else {**keys, "webshart": caches}
    found = source_of(backend)
    assert found.place == TarSource(
        source="someone/shards",
        metadata="someone/metadata",
        subfolder="data",
        has_first_dots=False,
        are_whole_texts=False,
        max_file_bytes=1000,
        token="not-for-eyes",
    )
    assert found.wants_captions
    assert "not-for-eyes" not in repr(found)
    (sent,) = as_local([backend], local(backend).sources)
    assert sent == {
        "id": "tars",
        "type": "local",
        "caption_strategy": "textfile",
        "webshart_optimize_captions": True,
    }


def test_texts_in_tar_files_may_be_whole_captions() -> None:
    one = local({**TARS, "type": "webdataset", "disable_multiline_split": True})
    assert one.sources["tars"].place == TarSource(
        source="someone/shards",
        metadata=None,
        subfolder="",
        has_first_dots=True,
        are_whole_texts=True,
        max_file_bytes=None,
    )
    assert not one.plan.identity.backends[0].disable_multiline_split
    prompt = {**TARS, "caption_strategy": "instanceprompt", "instance_prompt": "a cat"}
    assert not source_of(prompt).wants_captions


def test_the_plan_is_that_of_the_files_once_they_are_there() -> None:
    """So a run goes on where its pictures were pushed or copied, and no secret is in a plan."""
    for backend in (CSV, HUB, TABLE, TARS, {**BUCKET, "caption_strategy": "textfile"}):
        elsewhere = local(backend)
        files = local(
            {"id": backend["id"], "instance_data_dir": "pics", "caption_strategy": "textfile"}
        )
        assert elsewhere.plan.identity == files.plan.identity
        assert "not-for-eyes" not in elsewhere.plan.model_dump_json()
        (sent,) = as_local([backend], elsewhere.sources)
        over_http = import_small(backends=[sent]).plan
        assert over_http.identity.backends == elsewhere.plan.identity.backends
    names = {**HUB, "caption_strategy": "instanceprompt", "instance_prompt": "a cat"}
    assert not source_of(names).wants_captions
    assert local(names).plan.identity.backends[0].instance_prompt == "a cat"


@pytest.mark.parametrize("backend", [CSV, HUB, BUCKET, TARS, TABLE])
def test_the_service_names_the_way_to_push_them(backend: dict[str, Any]) -> None:
    (problem,) = problems_of({}, backends=[backend])
    at = "parquet" if backend is TABLE else "type"
    assert problem == (f"/data_backends/0/{at}", "not_implemented")


def test_masks_come_from_elsewhere_too() -> None:
    masks = {**HUB, "id": "masks", "dataset_type": "conditioning", "conditioning_type": "mask"}
    found = local({**HUB, "conditioning_data": "masks"}, masks)
    assert not found.sources["masks"].wants_captions
    assert found.sources["hub"].wants_captions


@pytest.mark.parametrize(
    ("backend", "at", "code"),
    [
        ({"id": "a", "type": "csv"}, "csv_file", "missing"),
        ({"id": "a", "type": "huggingface"}, "dataset_name", "missing"),
        ({**HUB, "caption_strategy": "textfile"}, "caption_strategy", "conflict"),
        ({**CSV, "caption_strategy": "filename"}, "caption_strategy", "conflict"),
        ({**TABLE, "caption_strategy": "csv"}, "caption_strategy", "conflict"),
        ({**HUB, "huggingface": {"capton_column": "x"}}, "huggingface/capton_column",
         "unknown_option"),
        ({**HUB, "huggingface": [1]}, "huggingface", "bad_value"),
        ({**HUB, "caption_column": [1]}, "caption_column", "bad_value"),
        ({**HUB, "huggingface": {"filter_func": {"quality_thresholds": {"a": "high"}}}},
         "huggingface/filter_func/quality_thresholds", "bad_value"),
        ({**HUB, "huggingface": {"composite_image_config": {"enabled": True}}},
         "huggingface/composite_image_config", "not_implemented"),
        ({**TABLE, "parquet": {"path": "t"}}, "parquet/filename_column", "missing"),
        ({**TABLE, "parquet": None}, "parquet", "missing"),
        ({**HUB, "hf_token": {"a": "not-for-eyes"}}, "hf_token", "bad_value"),
        ({**CSV, "source_max_rows": 0}, "source_max_rows", "bad_value"),
        ({**HUB, "type": "ftp"}, "type", "bad_value"),
        ({"id": "a", "type": "aws"}, "aws_bucket_name", "missing"),
        ({**BUCKET, "aws_bucket_name": "s3://pictures/cats"}, "aws_bucket_name", "bad_value"),
        ({**BUCKET, "aws_endpoint_url": "localhost:9000"}, "aws_endpoint_url", "bad_value"),
        ({**BUCKET, "aws_endpoint_url": "https://a:not-for-eyes@b"}, "aws_endpoint_url",
         "bad_value"),
        ({**BUCKET, "aws_access_key_id": None}, "aws_access_key_id", "missing"),
        ({**BUCKET, "aws_secret_access_key": ""}, "aws_secret_access_key", "missing"),
        ({**BUCKET, "aws_secret_access_key": ["not-for-eyes"]}, "aws_secret_access_key",
         "bad_value"),
        ({**BUCKET, "aws": {"aws_bucket": "not-for-eyes"}}, "aws/aws_bucket", "unknown_option"),
        ({**BUCKET, "caption_strategy": "csv"}, "caption_strategy", "conflict"),
        ({"id": "a", "type": "webshart"}, "source", "missing"),
        ({**TARS, "caption_strategy": "textfile"}, "caption_strategy", "conflict"),
        ({**TARS, "webshart": {"sauce": 1}}, "webshart/sauce", "unknown_option"),
        ({**TARS, "webshart": {"caption_key": "long"}}, "webshart/caption_key", "not_implemented"),
        ({**TARS, "max_file_size": 0}, "max_file_size", "bad_value"),
    ],
)  # fmt: skip
def test_a_wrong_key_is_pointed_at(backend: dict[str, Any], at: str, code: str) -> None:
    problems = problems_of({"output_dir": "out"}, backends=[backend], source="local")
    assert (f"/data_backends/0/{at}", code) in problems
    told = problems_of({"output_dir": "out"}, backends=[backend], source="local", messages=True)
    assert not any("not-for-eyes" in message for _, message in told)


def test_keys_of_another_type_have_no_effect() -> None:
    backend = {**CSV, "dataset_name": "a/b", "aws_secret_access_key": "not-for-eyes"}
    told = notices_of({"output_dir": "out"}, backends=[backend], source="local")
    assert "dataset_name (list): has no effect with type csv." in told
    assert not any("not-for-eyes" in text for text in told)


def test_sources_are_found_without_a_plan() -> None:
    found = sources_of(SMALL_CONFIG, [CSV, {"id": "x"}, HUB, {"id": "t", "type": "csv"}])
    assert list(found) == ["list", "hub"]
