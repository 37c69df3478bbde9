"""The verdict on every key of a data backend (``multidatabackend.json``)."""

from typing import Final

from trainer_core.config.simpletuner.verdicts import (
    Table,
    alias,
    honoured,
    not_built,
    refused,
    superseded,
)

_IMAGES: Final[Table] = {
    "id": honoured("text", None, "Its name, unique in the list."),
    "type": honoured(
        "text",
        "local",
        "Images come as files.",
        choices=("local",),
        known=("aws", "csv", "huggingface", "webshart", "memory"),
    ),
    "dataset_type": honoured(
        "text",
        "image",
        "image is trained on, eval is held out to measure, conditioning holds masks; text_embeds "
        "and image_embeds are not needed.",
        choices=("image", "eval", "conditioning", "text_embeds", "image_embeds"),
        known=("video", "audio", "caption", "conditioning_image_embeds"),
    ),
    "conditioning_type": honoured(
        "text",
        None,
        "Of conditioning: mask takes the red channel, segmentation all that is not black.",
        choices=("mask", "segmentation"),
        known=("controlnet", "reference_strict", "reference_loose"),
    ),
    "conditioning_data": honoured(
        "any", None, "Id of the backend that holds this one's masks, by the same file names."
    ),
    "is_regularisation_data": honoured(
        "bool", False, "The adapter learns to leave these images as the base model has them."
    ),
    "disabled": honoured("bool", False, "Leave the backend out."),
    "instance_data_dir": honoured("path", None, "Folder of the images, in a local run."),
    "resolution": honoured("float", None, "Size that the buckets aim at.", above=0),
    "resolution_type": honoured(
        "text",
        None,
        "pixel_area: edge whose square is the area; area: megapixels.",
        choices=("pixel_area", "area"),
        known=("pixel",),
    ),
    "crop": honoured("bool", False, "Cut the image instead of scaling it to its bucket."),
    "crop_style": honoured(
        "text",
        "center",
        "Where the cut lies; SimpleTuner's default, random, is not built, so say center.",
        choices=("center",),
        known=("random", "corner", "face"),
    ),
    "crop_aspect": honoured(
        "text",
        "square",
        "Shape of the cut.",
        choices=("square", "preserve"),
        known=("closest", "random"),
    ),
    "minimum_image_size": honoured("float", None, "Smaller images are left out.", at_least=0),
    "maximum_image_size": honoured(
        "float", None, "Larger images are scaled to target_downsample_size before a cut.", above=0
    ),
    "target_downsample_size": honoured("float", None, "See maximum_image_size.", above=0),
    "caption_strategy": honoured(
        "text",
        None,
        "Where captions come from.",
        choices=("filename", "textfile", "instanceprompt", "instance_prompt"),
        known=("parquet", "csv", "huggingface", "webshart"),
    ),
    "instance_prompt": honoured("text", None, "The caption of every image, with instanceprompt."),
    "repeats": honoured("int", 0, "Further visits of each image in an epoch.", at_least=0),
    "train_batch_size": honoured("int", None, "Only that of the run.", at_least=1),
    "source_dataset_id": honoured(
        "text", None, "Of masks: the backend that names them in its conditioning_data."
    ),
    "metadata_backend": honoured(
        "text",
        "discovery",
        "Every image is read once and measured.",
        choices=("discovery",),
        known=("parquet", "huggingface", "webshart"),
    ),
}

_OTHERS: Final[Table] = {
    **superseded(
        "cache_dir cache_dir_vae text_embeds image_embeds default skip_file_discovery "
        "preserve_data_backend_cache vae_cache_clear_each_epoch vae_cache_ondemand "
        "vae_cache_disable metadata_update_interval hash_filenames vae_batch_size "
        "write_batch_size text_encoder_batch_size bucket_report",
        "Images and captions are cached in shards that are named by their content; there is "
        "nothing to set.",
    ),
    **superseded("aspect_bucket_alignment", "Sides are always multiples of 64 for HiDream."),
    **not_built("probability", "Use repeats to weigh data; leave it out.", 1, type_="float"),
    **not_built(
        "maximum_aspect_ratio crop_aspect_buckets max_upscale_threshold max_num_samples "
        "caption_shuffle caption_filter_list parquet csv huggingface webshart conditioning "
        "controlnet video end_epoch end_step",
        "Leave it out.",
    ),
    **not_built("minimum_aspect_ratio slider_strength", "Leave it out.", 0),
    **not_built(
        "prepend_instance_prompt only_instance_prompt disable_multiline_split",
        "Write the captions as you want them, or use instanceprompt.",
        False,
        type_="bool",
    ),
    **not_built("start_epoch", "Every backend starts at once.", 0, 1),
    **not_built("start_step", "Every backend starts at once.", 0),
    **not_built("timestep_sampling_offset", "Leave it out.", 0, type_="float"),
    **not_built(
        "dataset_name caption_column image_column csv_file csv_caption_column csv_cache_dir "
        "source metadata memory_filesystem_path memory_filesystem_size memory_filesystem_sudo "
        "webshart_optimize_captions",
        "Bring the images as files, with type local.",
    ),
    **refused(
        "aws_bucket_name aws_endpoint_url aws_region_name aws_access_key_id "
        "aws_secret_access_key aws_data_prefix",
        "Credentials and buckets of others are not taken; upload the images.",
    ),
    **refused(
        "delete_unwanted_images delete_problematic_images delete_nsfw_images",
        "No image is ever deleted.",
        False,
    ),
    **not_built("enable_nsfw_check", "Leave it out.", False, type_="bool"),
}

BACKEND_OPTIONS: Final[Table] = {
    **_IMAGES,
    **_OTHERS,
    "disable": alias("disabled", _IMAGES["disabled"]),
    "is_regularization_data": alias("is_regularisation_data", _IMAGES["is_regularisation_data"]),
}
"""Key of a data backend → verdict."""
