"""Keys of data backends that do nothing here, or whose work is done by something else."""

from typing import Final

from pydantic import JsonValue

from trainer_core.config.simpletuner.reading import option_name
from trainer_core.config.simpletuner.sources import SOURCE_KEYS
from trainer_core.config.simpletuner.verdicts import Option, Table

OTHER_BACKEND_KEYS: Final = Table()

OTHER_BACKEND_KEYS.handled(
    "cache_dir cache_dir_vae text_embeds image_embeds default skip_file_discovery "
    "preserve_data_backend_cache vae_cache_ondemand vae_cache_disable "
    "metadata_update_interval hash_filenames vae_batch_size write_batch_size "
    "text_encoder_batch_size bucket_report cache_file_suffix "
    "disable_vae_cache image_processing_batch_size max_workers read_batch_size text_cache_disable "
    "text_cache_ondemand text_embed_cache vae_cache_scan_behaviour vaecache num_proc "
    "max_pool_connections process_queue_size shorten_filenames compress_cache",
    "Each image and caption is cached by itself, named by its content; there is nothing to set.",
)
OTHER_BACKEND_KEYS.handled(
    "vae_cache_clear_each_epoch clear_cache_each_epoch",
    "The cache is kept: an image has the same crop in every epoch, also where it is cut at random; "
    "with crops_per_image it has several, which are used in turn.",
)
OTHER_BACKEND_KEYS.handled(
    "scan_for_errors", "Every image is read and checked before the first step."
)
OTHER_BACKEND_KEYS.handled(
    "delete_unwanted_images delete_problematic_images delete_nsfw_images",
    "No image is ever deleted.",
)
OTHER_BACKEND_KEYS.no_effect(
    "disable_validation", "Pictures are made from prompts, not from the images of a dataset."
)
OTHER_BACKEND_KEYS.removed("ignore_epochs config_version")
OTHER_BACKEND_KEYS.no_effect(
    "_i2v_autoconditioning_attached _s2v_audio_autoinjected _wan_i2v_autoconditioning_attached "
    "auto_generated conditioning_config config data_backend data_generator "
    "metadata_clone_source_id sampler train_dataloader train_dataset",
    "SimpleTuner notes it for itself.",
)
OTHER_BACKEND_KEYS.no_effect(
    "video controlnet audio audio_column audio_data_backend audio_sample_rate audio_samples fps "
    "frames_per_video bucket_strategy lyrics_filename_format s2v_data s2v_datasets sample_rate "
    "sample_size conditioning_image_embeds conditioning_image_embed_batch_size "
    "conditioning_image_embed_cache cache_dir_conditioning_image_embeds distillation_cache "
    "distillation_type",
    "It belongs to another model family.",
)
OTHER_BACKEND_KEYS.no_effect(
    "memory_filesystem_path memory_filesystem_size memory_filesystem_sudo",
    "It belongs to caches in memory (type memory); the cache keeps itself.",
)
OTHER_BACKEND_KEYS.handled(
    "aws_max_pool_connections auto_load buffer_size csv_cache_dir csv_hash_filenames "
    "csv_shorten_filenames parallel_downloads shard_cache_gb streaming shuffle "
    "webshart_optimise_captions webshart_optimize_captions",
    "Pictures from elsewhere are fetched once and kept as files; there is nothing to set.",
)
OTHER_BACKEND_KEYS.handled(
    "csv", "SimpleTuner reads the folder of its downloads there; they are kept by themselves here."
)
OTHER_BACKEND_KEYS.no_effect(
    "data_files", "SimpleTuner has no such key: split and dataset_config choose files of a dataset."
)
OTHER_BACKEND_KEYS.no_effect("video_column", "It belongs to another kind of data.")
OTHER_BACKEND_KEYS.not_built(
    "split_composite_images", "Grids of pictures are not cut: bring single pictures.", False,
    type_="bool",
)  # fmt: skip
OTHER_BACKEND_KEYS.no_effect(
    "composite_image_column", "It belongs to split_composite_images, which is not built."
)
OTHER_BACKEND_KEYS.refused("ssl_no_verify", "Certificates are always checked: leave it out.")


def is_secret(written: str) -> bool:
    """Whether the value of a key is a credential, which has no effect over HTTP."""
    row = SOURCE_KEYS.get(option_name(written))
    return isinstance(row, Option) and row.is_secret


def without_credentials(value: JsonValue) -> JsonValue:
    """A data backend as it may be stored: without credentials, also in blocks such as ``aws``."""
    if isinstance(value, list):
        return [without_credentials(each) for each in value]
    if not isinstance(value, dict):
        return value
    return {key: without_credentials(each) for key, each in value.items() if not is_secret(key)}
