"""Configurations as people publish them: what is accepted, what is refused, and in which words."""

from typing import Any, Final

import pytest

from trainer_core.base_models.known import PUBLISHED
from trainer_core.config.plan.problems import PlanError, texts_of
from trainer_core.config.simpletuner.importer import Imported, import_run

BASE: Final = PUBLISHED.as_base("HiDream-ai/HiDream-I1-Full")
QUICK_START: Final[dict[str, Any]] = {
    "model_type": "lora",
    "model_family": "hidream",
    "lora_type": "lycoris",
    "lycoris_config": "config/lycoris_config.json",
    "data_backend_config": "config/multidatabackend.json",
    "output_dir": "output/cats",
    "resume_from_checkpoint": "latest",
    "seed": 7,
    "max_train_steps": 3000,
    "num_train_epochs": 0,
    "train_batch_size": 1,
    "vae_batch_size": 1,
    "learning_rate": "5e-5",
    "lr_scheduler": "constant_with_warmup",
    "lr_warmup_steps": 50,
    "optimizer": "optimi-lion",
    "max_grad_norm": 0.01,
    "grad_clip_method": "value",
    "mixed_precision": "bf16",
    "gradient_checkpointing": "true",
    "base_model_precision": "int8-quanto",
    "text_encoder_3_precision": "int8-quanto",
    "text_encoder_4_precision": "int8-quanto",
    "offload_during_startup": True,
    "resolution": 1024,
    "resolution_type": "pixel_area",
    "minimum_image_size": 0,
    "aspect_bucket_rounding": 2,
    "caption_dropout_probability": 0.0,
    "checkpoint_step_interval": 250,
    "checkpoints_total_limit": 3,
    "report_to": "tensorboard",
    "tracker_run_name": "cats",
    "disable_benchmark": False,
    "eval_steps_interval": 100,
    "num_eval_images": 1,
    "validation_prompt": "a photograph of a cat",
    "validation_step_interval": 100,
    "validation_resolution": "1024x1024",
    "validation_seed": 7,
    "validation_num_inference_steps": "20",
    "validation_guidance": 3.0,
    "validation_guidance_rescale": "0.0",
    "validation_torch_compile": "false",
}
"""The options of the quick-start for HiDream."""
LOKR: Final[dict[str, Any]] = {
    "algo": "lokr",
    "multiplier": 1.0,
    "linear_dim": 16384,
    "linear_alpha": 1,
    "full_matrix": True,
    "use_scalar": True,
    "factor": 16,
    "apply_preset": {
        "target_module": ["Attention"],
        "module_algo_map": {"Attention": {"factor": 16}},
    },
}
CATS: Final[dict[str, Any]] = {
    "id": "cats",
    "type": "local",
    "instance_data_dir": "datasets/cats",
    "caption_strategy": "textfile",
    "crop": False,
    "resolution": 1024,
    "resolution_type": "pixel_area",
    "repeats": 10,
}
TEXT_CACHE: Final[dict[str, Any]] = {
    "id": "text",
    "type": "local",
    "dataset_type": "text_embeds",
    "default": True,
    "cache_dir": "cache/text",
}


def imported(
    config: dict[str, Any] | None = None,
    *,
    backend: dict[str, Any] | None = None,
    backends: list[Any] | None = None,
    lycoris: dict[str, Any] | None = None,
    without: tuple[str, ...] = (),
    prompts: dict[str, Any] | None = None,
    source: str = "local",
) -> Imported:
    """The quick-start's files with changes."""
    options = {**QUICK_START, **(config or {})}
    return import_run(
        config={name: value for name, value in options.items() if name not in without},
        lycoris_config=LOKR if lycoris is None else lycoris,
        data_backends=backends or [{**CATS, **(backend or {})}, TEXT_CACHE],
        prompt_library=prompts,
        base_models={BASE.name: BASE},
        source="http" if source == "http" else "local",
    )


def refusals(*args: Any, **kwargs: Any) -> dict[str, str]:
    """Pointer → message of everything that is refused."""
    with pytest.raises(PlanError) as caught:
        imported(*args, **kwargs)
    return {each.pointer: each.message for each in caught.value.problems}


def lines(found: Imported, effect: Any = None) -> list[str]:
    return [
        text
        for group in ("differs", "no_effect", "handled")
        if effect in (None, group)
        for text in texts_of(found.notices, group)
    ]


def test_the_quick_start_draws_few_lines() -> None:
    found = imported()

    told = "no dataset has dataset_type eval: images that are trained on are measured."
    assert lines(found, "differs") == [
        f"eval_steps_interval: {told}",
    ]
    # And one line with a count for each of the two other groups.
    assert len(lines(found)) <= 12


def test_a_line_names_all_data_backends_and_the_name_that_was_written() -> None:
    dogs = {**CATS, "id": "dogs", "--crop_aspect": "preserve"}
    found = imported(backends=[{**CATS, "crop_aspect": "preserve"}, dogs])

    assert "crop_aspect (cats, dogs): has no effect without crop." in lines(found, "no_effect")
    older = imported({"checkpointing_steps": 250}, without=("validation_step_interval",))
    assert older.plan.operation.pictures is None
    older = imported({"validation_steps": 50}, without=("validation_step_interval",))
    assert older.plan.operation.pictures.step_interval == 50


ACCEPTED: Final[dict[str, dict[str, Any]]] = {
    "steps of prodigy on another optimizer": {"config": {"prodigy_steps": 100_000}},
    "a text cache on S3": {
        "backends": [
            CATS,
            {
                **TEXT_CACHE,
                "type": "aws",
                "aws_bucket_name": "b",
                "aws_endpoint_url": "https://example.invalid",
                "aws_access_key_id": "k",
                "aws_secret_access_key": "s",
                "cache_dir": "",
            },
        ]
    },
    "aspects of crops without a crop": {
        "backend": {"crop_aspect": "random", "crop_aspect_buckets": [0.5, 1.0, 1.5]}
    },
    "half a pair of size limits": {
        "backend": {"crop": True, "crop_style": "center", "target_downsample_size": 1024}
    },
    "the older name of discovery": {"backend": {"metadata_backend": "json"}},
    "keys that only caches have": {
        "backend": {
            "cache_file_suffix": "square",
            "ignore_epochs": False,
            "scan_for_errors": False,
            "vae_cache_scan_behaviour": "recreate",
            "disable_validation": False,
            "text_cache_ondemand": False,
            "text_cache_disable": False,
        }
    },
    "another optimizer": {"config": {"optimizer": "optimi-adamw"}},
    "two processes": {
        "config": {"num_processes": 2, "train_batch_size": 4, "gradient_accumulation_steps": 2}
    },
    "blocks to swap": {"config": {"musubi_blocks_to_swap": 24}},
    "offload to host memory": {"config": {"ramtorch": True, "enable_group_offload": "true"}},
    "a compiler": {"config": {"dynamo_backend": "inductor", "fuse_qkv_projections": True}},
    "older names of the shift": {
        "config": {"flux_schedule_shift": 1.5, "flow_matching_sigmoid_scale": 1.0}
    },
    "no preset": {"lycoris": {"algo": "lokr", "linear_dim": 1_000_000, "factor": 16}},
    "longer captions than HiDream takes": {"config": {"tokenizer_max_length": 256}},
    "options that no SimpleTuner has": {
        "config": {"validation_torch_compile": "true", "weighting_scheme": "sigma_sqrt"}
    },
}


TOLD_OF_NOTHING_NEW: Final = frozenset(
    {
        "another optimizer",
        "a text cache on S3",
        "the older name of discovery",
        "older names of the shift",
    }
)


@pytest.mark.parametrize("name", ACCEPTED)
def test_what_changes_nothing_is_accepted_and_told(name: str) -> None:
    changed = imported(**ACCEPTED[name])

    told = set(lines(changed)) - set(lines(imported()))
    assert told or name in TOLD_OF_NOTHING_NEW
    assert all(": " in line and line.endswith(".") for line in told)


NO_LONGER: Final = (
    "validation_torch_compile, weighting_scheme: No longer exists in SimpleTuner; has no effect."
)
NO_PRESET: Final = (
    "apply_preset: is not given: all 1128 linear layers are adapted, with the experts, the "
    'embedders and the output head. "apply_preset": "attn" adapts the attention alone.'
)
TWO_PROCESSES: Final = (
    "num_processes: a step has 16 samples, shared among 2 GPUs; where there are fewer, each "
    "accumulates more of its batches."
)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"config": {"prodigy_steps": 9}}, "prodigy_steps: has no effect on optimi-lion."),
        (
            ACCEPTED["half a pair of size limits"],
            "target_downsample_size (cats): has no effect without maximum_image_size.",
        ),
        (ACCEPTED["options that no SimpleTuner has"], NO_LONGER),
        (ACCEPTED["no preset"], NO_PRESET),
        (ACCEPTED["two processes"], TWO_PROCESSES),
    ],
)
def test_the_words_of_a_notice(changes: dict[str, Any], line: str) -> None:
    assert line in lines(imported(**changes))


REFUSED: Final[tuple[tuple[dict[str, Any], dict[str, str]], ...]] = (
    (
        {"config": {"optimizer": "bnb-adamw8bit", "adam_beta2": 0.95}},
        {
            "/config/optimizer": "optimizer: bnb-adamw8bit is not built in this version; the "
            "nearest that is: torch-adamw."
        },
    ),
    (
        {"config": {"base_model_precision": "nf4-bnb", "quantize_via": "pipeline"}},
        {
            "/config/base_model_precision": "base_model_precision: nf4-bnb is not built in this "
            "version; the nearest that is: int8-quanto."
        },
    ),
    (
        {"lycoris": {"algo": "loha", "linear_dim": 32, "linear_alpha": 16}},
        {
            "/lycoris_config/algo": "algo: loha is not built in this version; the nearest that is: "
            "lokr."
        },
    ),
    (
        {
            "config": {
                "lora_type": "standard",
                "peft_lora_target_modules": '["to_q","to_k","to_v","to_out.0"]',
            }
        },
        {
            "/config/peft_lora_target_modules": "to_out.0 is no linear layer of this base model. "
            "Did you mean to_out?"
        },
    ),
    (
        {
            "backend": {
                "type": "memory",
                "memory_filesystem_size": "512G",
                "metadata_backend": "huggingface",
                "caption_strategy": "huggingface",
                "crop_style": "random",
                "crop": True,
                "resolution_type": "pixel",
                "instance_data_dir": None,
            }
        },
        {
            "/data_backends/0/type": "type: memory is not built in this version; the nearest "
            "that is: local, with the images as files."
        },
    ),
    (
        {
            "backends": [
                {**CATS, "conditioning_data": ["masks"]},
                {
                    **CATS,
                    "id": "masks",
                    "dataset_type": "conditioning",
                    "conditioning_type": "reference_strict",
                },
            ]
        },
        {
            "/data_backends/1/conditioning_type": "conditioning_type: reference_strict is not "
            "built in this version; built: mask or segmentation."
        },
    ),
    (
        {"config": {"use_prodigy_optimizer": True}},
        {
            "/config/use_prodigy_optimizer": "use_prodigy_optimizer is refused. Name the optimizer "
            "in optimizer."
        },
    ),
)


@pytest.mark.parametrize(("changes", "expected"), REFUSED)
def test_nothing_is_derived_from_a_refused_value(
    changes: dict[str, Any], expected: dict[str, str]
) -> None:
    assert refusals(**changes) == expected


def test_the_first_prompt_of_the_library_is_the_sample_s() -> None:
    found = imported(without=("validation_prompt",), prompts={"one": "a <token> cat", "two": "b"})

    assert found.plan.operation.sample_prompt == "a <token> cat"
    assert [each.name for each in found.plan.operation.pictures.prompts] == ["one", "two"]


def test_a_path_over_http_is_told_as_taken_care_of() -> None:
    found = imported(source="http")

    assert found.plan.operation.output_dir is None
    told = [line for line in lines(found, "handled") if "is a path" in line]
    assert len(told) == 2  # one for config.json, one for the data backend
    assert "output_dir" in told[0]
