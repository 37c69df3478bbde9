"""Options of the run that are defaults of its data backends, and of caches."""

from typing import Final

from trainer_core.config.simpletuner.verdicts import Table, honoured, not_built, superseded

DATA: Final[Table] = {
    "data_backend_config": honoured("path", None, "Path of the data backends, in a local run."),
    "resolution": honoured("float", 1024, "Default of the data backends.", above=0),
    "resolution_type": honoured(
        "text",
        "pixel_area",
        "pixel_area: edge whose square is the area; area: megapixels.",
        choices=("pixel_area", "area"),
        known=("pixel",),
    ),
    "minimum_image_size": honoured(
        "float", 0, "Smaller images are left out; default of the data backends.", at_least=0
    ),
    "maximum_image_size": honoured("float", None, "Default of the data backends.", above=0),
    "target_downsample_size": honoured("float", None, "Default of the data backends.", above=0),
    "aspect_bucket_rounding": honoured(
        "int", 2, "Decimals of the aspect ratio.", at_least=1, at_most=9
    ),
    "caption_strategy": honoured(
        "text",
        None,
        "Default of the data backends.",
        choices=("filename", "textfile", "instanceprompt", "instance_prompt"),
        known=("parquet", "csv", "huggingface", "webshart"),
    ),
    "instance_prompt": honoured("text", None, "Default of the data backends."),
    **superseded("aspect_bucket_alignment", "Sides are always multiples of 64 for HiDream.", "int"),
    **superseded(
        "vae_batch_size write_batch_size read_batch_size image_processing_batch_size "
        "text_encoder_batch_size delete_problematic_images delete_unwanted_images "
        "vae_cache_scan_behaviour vae_cache_ondemand vae_cache_disable "
        "vae_cache_clear_each_epoch preserve_data_backend_cache compress_disk_cache "
        "vae_enable_tiling vae_enable_slicing text_cache_ondemand text_cache_disable "
        "text_embed_full_cache aspect_bucket_disable_rebuild",
        "Images and captions are cached in shards that are named by their content; there is "
        "nothing to set, and no image is ever deleted.",
    ),
    **superseded("cache_dir cache_dir_vae cache_dir_text", "The cache keeps itself.", "text"),
    **superseded(
        "max_workers aspect_bucket_worker_count dataloader_prefetch dataloader_prefetch_qlen "
        "dataloader_num_workers aws_max_pool_connections metadata_update_interval "
        "skip_file_discovery enable_multiprocessing",
        "Shards are fetched ahead of the step; there is nothing to set.",
    ),
    **superseded("data_backend_sampling", "An epoch visits every image 1 + repeats times.", "text"),
    **superseded(
        "allow_dataset_oversubscription disable_bucket_pruning override_dataset_config",
        "Short buckets are topped up and nothing is pruned; a plan never changes its data.",
        "bool",
    ),
    **not_built(
        "prepend_instance_prompt only_instance_prompt disable_multiline_split",
        "Write the captions as you want them, or use instanceprompt.",
        False,
        type_="bool",
    ),
    **not_built("max_grounding_entities", "Leave it out.", 0),
    **not_built("max_upscale_threshold", "Leave it out."),
    **not_built("conditioning_multidataset_sampling", "Leave it out.", "random"),
    **not_built("enable_nsfw_check", "Leave it out.", False, type_="bool"),
}
