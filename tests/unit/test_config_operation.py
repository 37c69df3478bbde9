"""Options of precision, adapters, resuming and reporting, in the service and in a local run."""

from typing import Any

import pytest

from tests.unit.config_examples import import_small, notices_of, problems_of, texts
from trainer_core.config.plan import LoraAdapter
from trainer_core.config.plan.problems import texts_of
from trainer_core.config.simpletuner.options import OPTIONS

FULL = {"model_type": "full", "lora_type": None}
CATS = [{"id": "cats", "caption_strategy": "filename", "instance_data_dir": "cats"}]


def local(config: dict[str, Any]) -> Any:
    return import_small(config, backends=CATS, source="local").plan.operation


def test_every_encoder_may_be_quantised_and_where_is_reported() -> None:
    written = {f"text_encoder_{n}_precision": "int8-quanto" for n in (1, 2, 3, 4)}
    plan = import_small({**written, "quantize_via": "cpu"}).plan

    precision = plan.identity.precision
    encoders = (
        precision.text_encoder_1,
        precision.text_encoder_2,
        precision.text_encoder_3,
        precision.text_encoder_4,
    )
    assert encoders == ("int8-quanto",) * 4
    assert precision.base == "no_change"
    assert plan.operation.quantize_via == "cpu"
    assert import_small({}).plan.operation.quantize_via == "accelerator"
    assert any("quantize_via" in w for w in notices_of({"quantize_via": "cpu"}))
    assert import_small({"quantize_via": "pipeline"}).plan.operation.quantize_via == "cpu"


def test_a_local_run_resumes_from_anywhere_and_the_service_from_its_own() -> None:
    assert local({}).resume_from == "latest"
    assert local({"resume_from_checkpoint": "none"}).resume_from == ""
    assert local({"resume_from_checkpoint": ""}).resume_from == ""
    assert local({"resume_from_checkpoint": "/x/step-5"}).resume_from == "/x/step-5"
    assert problems_of({"resume_from_checkpoint": "/x/step-5"}) == [
        ("/config/resume_from_checkpoint", "refused")
    ]


def test_trackers_are_for_local_runs() -> None:
    written = {"report_to": "tensorboard, wandb", "tracker_project_name": "cats"}

    here, usual = local(written), local({})

    assert here.report_to == ("tensorboard", "wandb")
    assert (here.tracker_project_name, here.tracker_run_name) == ("cats", "")
    assert (usual.report_to, usual.tracker_project_name) == ((), "reverie")
    imported = import_small(written)  # over HTTP
    assert imported.plan.operation.report_to == ("wandb",)
    assert [w for w in texts(imported) if "report_to" in w] == [
        "report_to: tensorboard is for local runs; the service has its own metrics and events."
    ]
    assert local({"report_to": "wandb,swanlab"}).report_to == ("wandb",)
    assert any(
        "report_to: swanlab is not built" in w for w in notices_of({"report_to": "wandb,swanlab"})
    )
    assert problems_of({"report_to": "wandb,wandd"}) == [("/config/report_to", "bad_value")]
    assert problems_of({"tracker_run_name": "../up"}) == [("/config/tracker_run_name", "bad_value")]


def test_the_fourth_encoder_has_a_source_of_its_own_in_a_local_run() -> None:
    name = "pretrained_text_encoder_4_model_name_or_path"

    assert local({name: "owner/llama"}).text_encoder_4_source == "owner/llama"
    assert local({}).text_encoder_4_source is None
    assert problems_of({name: "owner/llama"}) == [(f"/config/{name}", "refused")]


def test_blocks_are_recomputed_at_an_interval() -> None:
    interval = {"gradient_checkpointing_interval": "2"}

    assert local(interval).gradient_checkpointing_interval == 2
    assert problems_of({"gradient_checkpointing_interval": 0}) == [
        ("/config/gradient_checkpointing_interval", "bad_value")
    ]
    off = {**interval, "gradient_checkpointing": "false"}
    assert any("gradient_checkpointing_interval: has no effect" in w for w in notices_of(off))


def test_lora_is_the_default_adapter_and_says_what_it_leaves() -> None:
    plan = import_small({"lora_type": None}).plan

    adapter = plan.identity.adapter
    assert plan.identity.model_type == "lora"
    assert isinstance(adapter, LoraAdapter)
    assert (adapter.rank, adapter.alpha, adapter.dropout, adapter.init) == (16, 16, 0.1, "default")
    assert any("lycoris_config: has no effect" in w for w in notices_of({"lora_type": None}))
    written = {"lora_type": "standard", "lora_rank": 4, "lora_alpha": 2.5, "lora_dropout": 0}
    other = import_small({**written, "lora_init_type": "gaussian"}).plan.identity.adapter
    assert isinstance(other, LoraAdapter)
    assert (other.rank, other.alpha, other.dropout, other.init) == (4, 2.5, 0, "gaussian")


@pytest.mark.parametrize(
    ("written", "idle"),
    [
        ({"lora_rank": 8}, "lora_rank: has no effect with lora_type lycoris"),
        ({**FULL, "lora_type": "lycoris"}, "lora_type: has no effect with model_type full"),
        ({"model_flavour": "dev"}, "model_flavour: has no effect"),
        ({"lora_type": "standard", "init_lokr_norm": 1}, "init_lokr_norm: has no effect with lora"),
        ({"zero_stage": 2}, "zero_stage: has no effect on an adapter"),
        ({"use_dora": True}, "use_dora: has no effect with lora_type lycoris"),
        ({"tokenizer_max_length": 256}, "tokenizer_max_length: is 128 for HiDream"),
        ({"i_know_what_i_am_doing": True}, "i_know_what_i_am_doing: "),
        ({"validation_prompt": "a <token> cat"}, "<token>"),
    ],
)
def test_what_is_written_for_nothing_is_said(written: dict[str, Any], idle: str) -> None:
    assert any(idle in warning for warning in notices_of(written))


@pytest.mark.parametrize(
    ("written", "pointer", "code"),
    [
        ({"lora_format": "comfyui"}, "/config/lora_format", "not_implemented"),
        ({"lora_init_type": "pissa"}, "/config/lora_init_type", "not_implemented"),
        ({"lora_dropout": 1}, "/config/lora_dropout", "bad_value"),
        ({"lora_type": "standard", "use_dora": True}, "/config/use_dora", "refused"),
        (
            {"lora_type": "standard", "slider_lora_target": True},
            "/config/slider_lora_target",
            "not_implemented",
        ),
        ({"tokenizer_max_length": 77}, "/config/tokenizer_max_length", "not_implemented"),
        (
            {"tokenizer_max_length": 256, "i_know_what_i_am_doing": True},
            "/config/tokenizer_max_length",
            "not_implemented",
        ),
    ],
)
def test_what_no_adapter_takes_is_refused(written: dict[str, Any], pointer: str, code: str) -> None:
    assert (pointer, code) in problems_of(written)


def test_a_prompt_of_the_library_is_pointed_at() -> None:
    library: dict[str, Any] = {"a/b": 5, "object": {"prompt": "x", "more": 1}, "bad": {"text": "x"}}

    assert problems_of({}, prompt_library=library) == [
        ("/prompt_library/a~1b", "bad_value"),
        ("/prompt_library/bad/prompt", "bad_value"),
    ]


@pytest.mark.parametrize(
    "name", sorted(n for n, v in OPTIONS.items() if v.type == "bool" and v.kind == "honoured")
)
def test_a_quoted_false_is_false(name: str) -> None:
    quoted = import_small({name: "false", "seed": 1}).plan
    plain = import_small({name: False, "seed": 1}).plan

    assert quoted == plain


def test_options_that_only_observe_the_run_are_accepted_and_share_lines() -> None:
    plain = import_small({"seed": 1})
    imported = import_small(
        {
            "seed": 1,
            "validation_using_datasets": True,
            "validation_prompt_library": True,
            "evaluation_type": "clip",
            "num_eval_images": 4,
            "webhook_config": {"webhook_type": "raw"},
            "validation_multigpu": "batch-parallel",
        }
    )

    assert imported.plan == plain.plan
    added = [notice for notice in imported.notices if notice not in plain.notices]
    datasets, library, webhooks = texts_of(added, "differs")
    assert datasets.startswith("validation_using_datasets: pictures are made from prompts")
    assert library.startswith("validation_prompt_library: the prompts that SimpleTuner brings")
    assert webhooks.startswith("webhook_config: nothing is sent")
    assert {n.option for n in added if n.effect == "no_effect"} == {
        "evaluation_type",
        "num_eval_images",
        "validation_multigpu",
    }


def test_an_observing_option_that_is_off_is_not_mentioned() -> None:
    off = {"disable_benchmark": "false", "validation_preview": False, "user_prompt_library": "none"}

    assert notices_of(off) == notices_of({})


def test_the_first_prompt_of_the_library_is_the_sample_s_where_there_is_no_other() -> None:
    library = {"cat": {"prompt": "a <token> cat"}, "dog": "a <breed> dog"}

    alone = import_small(prompt_library=library)
    assert alone.plan.operation.sample_prompt == "a <token> cat"
    first = "the sample image has the first prompt, cat: no pictures are made while it trains."
    assert f"user_prompt_library: {first}" in texts(alone)
    assert "user_prompt_library: the placeholder <token> is used as it is." in texts(alone)
    assert not any("<breed>" in text for text in texts(alone))
    both = import_small({"validation_prompt": "a bird"}, prompt_library=library)
    assert both.plan.operation.sample_prompt == "a bird"
    assert not any("<token>" in text for text in texts(both))
    named = import_small(prompt_library={"validation": "a cat", "b": "a dog"})
    first = (
        "the sample image has the first prompt, validation: no pictures are made while it trains."
    )
    assert f"user_prompt_library: {first}" in texts(named)
    neither = "validation_prompt: is not given: the sample image has an empty prompt."
    assert neither in notices_of({})
    assert neither not in texts(alone)


def test_the_options_of_the_sample_image_act() -> None:
    written = {
        "validation_prompt": "a cat",
        "validation_negative_prompt": "blurry",
        "validation_num_inference_steps": "7",
        "validation_guidance": 2.5,
        "validation_guidance_rescale": 0.3,
        "validation_resolution": "128x64",
        "validation_seed": 3,
    }

    operation = import_small(written).plan.operation

    assert (operation.sample_prompt, operation.sample_negative_prompt) == ("a cat", "blurry")
    assert (operation.sample_steps, operation.sample_guidance) == (7, 2.5)
    assert (operation.sample_width_px, operation.sample_height_px) == (128, 64)
    assert (operation.sample_seed, operation.sample_guidance_rescale) == (3, 0.3)
    assert problems_of({"validation_num_inference_steps": 1001}) == [
        ("/config/validation_num_inference_steps", "bad_value")
    ]


HUB = {"push_to_hub": "true", "hub_model_id": "ada/cats"}


def test_checkpoints_are_published_where_the_template_asks_for_it() -> None:
    asked = import_small({**HUB, "push_checkpoints_to_hub": "true"}).plan.operation.publication

    assert (asked.hub_model_id, asked.private, asked.checkpoints) == ("ada/cats", True, True)
    assert not import_small(HUB).plan.operation.publication.checkpoints
    assert not import_small({}).plan.operation.publication.checkpoints


@pytest.mark.parametrize(
    ("config", "effect", "said"),
    [
        (
            {"push_checkpoints_to_hub": True},
            "differs",
            "without push_to_hub neither checkpoints nor the result are published.",
        ),
        (
            {**HUB, **FULL, "push_checkpoints_to_hub": True},
            "differs",
            "hold the state of the training and no model that can be loaded.",
        ),
        (
            {**HUB, "push_to_hub_background": True},
            "handled",
            "Publishing never holds up the training.",
        ),
    ],
)
def test_checkpoints_that_are_not_published_are_told(
    config: dict[str, Any], effect: Any, said: str
) -> None:
    imported = import_small(config)

    assert not imported.plan.operation.publication.checkpoints
    assert any(line.endswith(said) for line in texts_of(imported.notices, effect))


def test_a_repository_may_be_named_by_its_address() -> None:
    named = {**HUB, "hub_model_id": "https://huggingface.co/ada/cats/"}

    assert import_small(named).plan.operation.publication.hub_model_id == "ada/cats"


def test_a_local_run_writes_where_simpletuner_writes() -> None:
    assert local({}).output_dir == local({"output_dir": ""}).output_dir == "simpletuner-results"
    assert local({"output_dir": "out"}).output_dir == "out"
    assert import_small({"output_dir": "out"}).plan.operation.output_dir is None
