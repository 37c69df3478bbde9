"""Keys of data backends that SimpleTuner documents and that change no data here: each is told.

What the other keys do to pictures, captions and their order is tested where it is done.
"""

from typing import Any

import pytest

from tests.unit.config_examples import import_small, notices_of, problems_of
from trainer_core.config.simpletuner.backends import BACKEND_OPTIONS
from trainer_core.config.simpletuner.other_backend_keys import without_credentials
from trainer_core.config.simpletuner.source_types import HubSource
from trainer_core.config.simpletuner.verdicts import Option

CATS: dict[str, Any] = {"id": "cats", "caption_strategy": "filename"}
WITHOUT_EFFECT: dict[str, Any] = {
    "cache_dir_vae": "cache/vae",
    "cache_dir": "cache/text",
    "text_embeds": "texts",
    "image_embeds": "latents",
    "default": True,
    "vae_batch_size": 8,
    "write_batch_size": 64,
    "text_encoder_batch_size": 4,
    "preserve_data_backend_cache": True,
    "skip_file_discovery": "vae,aspect,metadata,text",
    "vae_cache_clear_each_epoch": True,
    "vae_cache_ondemand": True,
    "vae_cache_disable": True,
    "metadata_update_interval": 60,
    "delete_unwanted_images": True,
    "delete_problematic_images": True,
    "delete_nsfw_images": True,
    "hash_filenames": False,
    "scan_for_errors": True,
    "bucket_report": True,
    "disable_validation": True,
    "csv_cache_dir": "cache/csv",
    "csv": {"csv_cache_dir": "cache/csv"},
    "data_files": "*.parquet",
    "composite_image_column": "image",
    "webshart_optimize_captions": True,
    "memory_filesystem_path": "/dev/shm/reverie",
    "memory_filesystem_size": "8G",
    "memory_filesystem_sudo": True,
    "aws_max_pool_connections": 16,
    "video": {"num_frames": 9},
}
NOT_BUILT: dict[str, tuple[Any, Any]] = {
    "conditioning": ([{"type": "canny"}], []),
    "grounding": ({"enabled": True}, None),
    "slider_strength": (0.5, 0),
    "timestep_sampling_offset": (-0.5, 0.0),
    "enable_nsfw_check": (True, False),
    "caption_file_extensions": (["md"], []),
    "split_composite_images": (True, "false"),
}
"""Key → a value that asks for something, and one that does not."""


def backend_with(**keys: Any) -> list[dict[str, Any]]:
    return [{**CATS, **keys}]


@pytest.mark.parametrize("key", WITHOUT_EFFECT)
def test_what_changes_nothing_is_told_and_changes_nothing(key: str) -> None:
    backends = backend_with(**{key: WITHOUT_EFFECT[key]})
    told = notices_of(backends=backends)
    assert any(text.startswith(f"{key} (cats)") for text in told) or key == "hash_filenames"
    plain = import_small(backends=backend_with()).plan
    assert import_small(backends=backends).plan.identity_digest() == plain.identity_digest()
    assert not isinstance(BACKEND_OPTIONS[key], Option)


@pytest.mark.parametrize("key", NOT_BUILT)
def test_what_is_not_built_is_an_error_unless_it_asks_for_nothing(key: str) -> None:
    asking, neutral = NOT_BUILT[key]
    (problem,) = problems_of(backends=backend_with(**{key: asking}))
    assert problem == (f"/data_backends/0/{key}", "not_implemented")
    import_small(backends=backend_with(**{key: neutral}))


def test_every_key_that_is_not_built_or_refused_is_named_here_or_below() -> None:
    closed = {
        name for name, row in BACKEND_OPTIONS.items() if row.kind in ("not_implemented", "refused")
    }
    assert closed == {*NOT_BUILT, "grounding_data", "ssl_no_verify"}
    (problem,) = problems_of(backends=backend_with(ssl_no_verify=True))
    assert problem == ("/data_backends/0/ssl_no_verify", "refused")


@pytest.mark.parametrize(
    "option",
    ["allow_dataset_oversubscription", "disable_bucket_pruning", "override_dataset_config"],
)
def test_small_buckets_are_filled_whatever_the_run_says(option: str) -> None:
    told = notices_of({option: True})
    assert any(text.startswith(f"{option}: Short buckets are topped up") for text in told)


@pytest.mark.parametrize("kind", ["video", "audio", "caption", "conditioning_image_embeds"])
def test_other_kinds_of_data_are_named_as_not_built(kind: str) -> None:
    (problem,) = problems_of(backends=[CATS, {"id": "b", "dataset_type": kind}])
    assert problem == ("/data_backends/1/dataset_type", "not_implemented")


def test_a_cache_in_memory_is_not_needed_and_pictures_there_are_not_built() -> None:
    cache = {"id": "t", "dataset_type": "text_embeds", "type": "memory", "cache_dir": "c"}
    plan = import_small(backends=[CATS, cache]).plan
    assert [each.id for each in plan.identity.backends] == ["cats"]
    (problem,) = problems_of(backends=[{**CATS, "type": "memory"}], messages=True)
    assert problem[0] == "/data_backends/0/type"
    assert problem[1].startswith("type: memory is not built in this version; the nearest that is:")


def test_the_older_name_of_the_folder_and_keys_of_tables() -> None:
    table = {
        "path": "t.parquet",
        "filename_column": "id",
        "caption_column": "text",
        "fallback_caption_column": "tags",
        "identifier_includes_extension": True,
        "width_column": "w",
        "height_column": "h",
        "bbox_column": "boxes",
    }
    backend = {"id": "cats", "instance_data_root": "pics", "caption_strategy": "parquet"}
    config = {"output_dir": "out"}
    found = import_small(config, backends=[{**backend, "parquet": table}], source="local")
    read = found.sources["cats"].table
    assert read is not None
    assert (read.has_suffixes, read.captions.fallback) == (True, ("tags",))
    told = [notice.text for notice in found.notices]
    for key in ("width_column", "bbox_column"):
        assert any(text.startswith(f"{key} (cats)") for text in told), told


@pytest.mark.parametrize("block", [None, {"filter_func": {"min_width": 64}}])
def test_rows_of_the_hub_are_filtered_by_the_block_or_by_the_backend(block: Any) -> None:
    backend = {"id": "hub", "type": "huggingface", "dataset_name": "someone/cats"}
    backend |= {"filter_func": {"min_width": 512}} | ({"huggingface": block} if block else {})
    found = import_small({"output_dir": "out"}, backends=[backend], source="local")
    place = found.sources["hub"].place
    assert isinstance(place, HubSource)
    assert place.rows.min_width == (64 if block else 512)


def test_credentials_are_taken_out_of_what_is_stored_also_in_blocks() -> None:
    secret = {"aws_secret_access_key": "not-for-eyes", "--hf_token": "not-for-eyes"}
    backend: dict[str, Any] = {**CATS, **secret, "aws": {**secret, "aws_bucket_name": "b"}}
    backend |= {"webshart": {"hf_token": "not-for-eyes", "source": "s"}, "list": [secret]}
    assert without_credentials(backend) == {
        **CATS,
        "aws": {"aws_bucket_name": "b"},
        "webshart": {"source": "s"},
        "list": [{}],
    }
