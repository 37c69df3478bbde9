"""Options of the run for data backends and caches. None of them changes the plan."""

from typing import Final

from trainer_core.config.simpletuner.verdicts import Table

CACHE: Final = Table()

CACHE.path("data_backend_config", "Path of the data backends, in a local run.")
CACHE.handled(
    "vae_batch_size write_batch_size read_batch_size image_processing_batch_size "
    "text_encoder_batch_size delete_problematic_images delete_unwanted_images "
    "vae_cache_scan_behaviour vae_cache_ondemand vae_cache_disable "
    "preserve_data_backend_cache compress_disk_cache "
    "vae_enable_tiling vae_enable_slicing text_cache_ondemand text_cache_disable "
    "text_embed_full_cache aspect_bucket_disable_rebuild vae_cache_preprocess",
    "Each image and caption is cached by itself, named by its content; there is nothing "
    "to set, and no image is ever deleted.",
)
CACHE.handled(
    "vae_cache_clear_each_epoch",
    "The cache is kept; crops_per_image of a data backend gives an image several random crops.",
)
CACHE.handled("cache_dir cache_dir_vae cache_dir_text", "The cache keeps itself.")
CACHE.handled(
    "max_workers aspect_bucket_worker_count dataloader_prefetch dataloader_prefetch_qlen "
    "dataloader_num_workers aws_max_pool_connections metadata_update_interval "
    "skip_file_discovery enable_multiprocessing dataloader_prefetch_device_threshold_mb",
    "The cache is read ahead of the step; there is nothing to set.",
)
CACHE.handled(
    "allow_dataset_oversubscription disable_bucket_pruning override_dataset_config",
    "Short buckets are topped up and nothing is pruned; a plan never changes its data.",
)
CACHE.no_effect("max_grounding_entities", "Boxes are not trained.")
CACHE.no_effect("conditioning_multidataset_sampling", "Masks are the only conditioning here.")
CACHE.not_built("enable_nsfw_check", "Leave it out.", False, type_="bool")
CACHE.handled("delete_nsfw_images", "No image is ever deleted.")
