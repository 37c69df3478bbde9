"""SimpleTuner's files become a plan, or a list of everything that is wrong with them."""

from typing import Any

import pytest

from tests.unit.config_examples import (
    BASE_MODELS,
    CONFIG_TEXT,
    LYCORIS_TEXT,
    NAMED_PRESET,
    REGULARISATION,
    SUBJECT,
    TEXT_EMBEDS,
    TRUE_CONFIG,
    import_small,
    problems_of,
    texts,
)
from trainer_core.config.plan import Clip, Plan
from trainer_core.config.plan.problems import PlanError, ProblemCode
from trainer_core.config.plan.shapes import hidream_linears, lokr_parameters
from trainer_core.config.simpletuner.importer import Imported, import_run
from trainer_core.config.simpletuner.reading import Source
from trainer_core.documents import parse_document


def published(source: Source, backends: list[Any], **lycoris: Any) -> Imported:
    config, adapter = parse_document(CONFIG_TEXT, name="c"), parse_document(LYCORIS_TEXT, name="l")
    assert isinstance(config, dict)
    assert isinstance(adapter, dict)
    return import_run(
        config=config,
        lycoris_config={**adapter, **lycoris},
        data_backends=backends,
        prompt_library={"anime_<token>": "a portrait of <token>"},
        base_models=BASE_MODELS,
        source=source,
    )


@pytest.mark.parametrize("source", ["http", "local"])
def test_the_published_example_is_read_as_it_is(source: Source) -> None:
    plan = published(source, [SUBJECT, TEXT_EMBEDS]).plan

    identity, operation = plan.identity, plan.operation
    assert identity.adapter is not None
    assert len(identity.adapter.modules) == 256
    assert identity.optimizer.name == "optimi-lion"
    assert identity.optimizer.learning_rate == 4e-5
    assert identity.clip == Clip(method="value", limit=0.01)
    assert identity.precision.base == "int8-quanto"
    assert identity.schedule.warmup_steps == 100
    assert [backend.repeats for backend in identity.backends] == [1000]
    assert operation.gradient_checkpointing
    assert (operation.sample_steps, operation.sample_width_px) == (20, 1024)
    assert operation.report_to == (("tensorboard",) if source == "local" else ())
    assert operation.tracker_run_name == "eval_loss_test1"
    assert "deferred" not in plan.model_dump(mode="json")
    assert operation.output_dir == ("output/models-hidream" if source == "local" else None)
    assert operation.data_dirs == (
        {"dreambooth-subject": "datasets/dreambooth-subject"} if source == "local" else {}
    )


def test_the_published_backends_are_taken_with_their_regularisation_data() -> None:
    plan = published("http", [REGULARISATION, SUBJECT, TEXT_EMBEDS]).plan

    first, second = plan.identity.backends
    assert (first.is_regularisation, second.is_regularisation) == (True, False)
    quoted = published("http", [{**REGULARISATION, "is_regularisation_data": "false"}]).plan
    assert not quoted.identity.backends[0].is_regularisation
    american = {"is_regularization_data": True, "is_regularisation_data": None}
    spelled = published("http", [{**REGULARISATION, **american}, SUBJECT]).plan
    assert spelled.identity.backends[0].is_regularisation


def test_the_published_presets_have_their_sizes() -> None:
    linears = hidream_linears(TRUE_CONFIG)

    by_class = published("http", [SUBJECT]).plan.identity.adapter
    by_name = published("http", [SUBJECT], apply_preset=NAMED_PRESET).plan.identity.adapter

    assert by_class is not None
    assert by_name is not None
    assert (len(by_class.modules), lokr_parameters(by_class, linears)) == (256, 6_619_392)
    assert (len(by_name.modules), lokr_parameters(by_name, linears)) == (448, 15_147_456)


def test_a_plan_survives_json() -> None:
    plan = published("local", [SUBJECT]).plan

    again = Plan.model_validate(plan.model_dump(mode="json"))

    assert again == plan
    assert again.identity_digest() == plan.identity_digest()


def test_the_digest_guards_the_numbers_and_nothing_else() -> None:
    digest = import_small({"seed": 1}).plan.identity_digest()

    assert import_small({"seed": 2}).plan.identity_digest() != digest
    assert import_small({"seed": 1, "max_train_steps": 99}).plan.identity_digest() == digest
    assert import_small({"seed": 1, "checkpointing_steps": 7}).plan.identity_digest() == digest


def test_a_base_model_goes_by_its_digest_and_not_by_its_name() -> None:
    """Renaming its folder is no reason to refuse a resume."""
    plan = import_small({"seed": 1}).plan

    def with_base(**change: str) -> Plan:
        base = plan.identity.base.model_copy(update=change)
        return plan.model_copy(update={"identity": plan.identity.model_copy(update={"base": base})})

    assert with_base(name="moved").identity_digest() == plan.identity_digest()
    assert with_base(digest="f" * 64).identity_digest() != plan.identity_digest()


def test_text_dashes_and_null_are_read_as_simpletuner_reads_them() -> None:
    plan = import_small(
        {"--gradient_checkpointing": "false", "train_batch_size": "2", "seed": None}
    ).plan

    assert not plan.operation.gradient_checkpointing
    assert plan.identity.micro_batch_size == 2
    assert plan.identity.seed == 42


def test_all_problems_are_reported_at_once() -> None:
    problems = problems_of(
        {
            "optimiser": "x",
            "tread_config": {"routes": []},
            "train_batch_size": "two",
            "seed": 1,
            "--seed": 2,
        },
        backends=[{"id": "a", "caption_strategy": "filename", "slider_strength": 0.5, "crops": 1}],
    )

    assert problems == [
        ("/config/optimiser", "unknown_option"),
        ("/config/tread_config", "not_implemented"),
        ("/config/train_batch_size", "bad_value"),
        ("/config/--seed", "conflict"),
        ("/data_backends/0/slider_strength", "not_implemented"),
        ("/data_backends/0/crops", "unknown_option"),
    ]


@pytest.mark.parametrize(
    ("overrides", "pointer", "code"),
    [
        ({"model_type": None}, "/config/model_type", "missing"),
        ({"model_family": None}, "/config/model_family", "missing"),
        ({"max_train_steps": None, "num_train_epochs": 0}, "/config/num_train_epochs", "missing"),
        (
            {"max_train_steps": 0, "--num_train_epochs": "0"},
            "/config/--num_train_epochs",
            "missing",
        ),
        ({"max_train_steps": 2**31}, "/config/max_train_steps", "bad_value"),
        ({"train_batch_size": 2**40}, "/config/train_batch_size", "bad_value"),
        ({"checkpoint_step_interval": 2**31}, "/config/checkpoint_step_interval", "bad_value"),
        ({"flow_sigmoid_scale": 1000}, "/config/flow_sigmoid_scale", "bad_value"),
        ({"flow_schedule_shift": 1e-17}, "/config/flow_schedule_shift", "bad_value"),
    ],
)
def test_what_a_run_cannot_live_with_is_refused_at_its_option(
    overrides: dict[str, Any], pointer: str, code: str
) -> None:
    assert (pointer, code) in problems_of(overrides)


@pytest.mark.parametrize("missing", ["id", "instance_prompt"])
def test_null_in_a_backend_is_not_given(missing: str) -> None:
    prompt = {"caption_strategy": "instanceprompt", "instance_prompt": "a cat"}
    backend = {"id": "a", **prompt, missing: None}

    problems = problems_of({}, backends=[backend])

    assert (f"/data_backends/0/{missing}", "missing") in problems


@pytest.mark.parametrize(
    "option",
    [
        "input_perturbation",
        "scheduled_sampling_max_step_offset",
    ],
)
def test_what_is_off_for_one_option_is_not_off_for_another(option: str) -> None:
    assert (f"/config/{option}", "not_implemented") in problems_of({option: 12})
    assert problems_of({option: 0, "optimiser": 1}) == [("/config/optimiser", "unknown_option")]


def test_a_resolution_in_pixels_of_less_than_one_is_no_default() -> None:
    backend = {"id": "a", "caption_strategy": "textfile", "resolution": 0.5}

    assert ("/data_backends/0/resolution", "bad_value") in problems_of({}, backends=[backend])


@pytest.mark.parametrize("written", ["6000x10", "99999x10", "10x99999", "1x1"])
def test_the_sample_image_is_one_that_the_base_model_takes(written: str) -> None:
    operation = import_small({"validation_resolution": written}).plan.operation

    width_px, height_px = operation.sample_width_px, operation.sample_height_px
    assert width_px % 16 == height_px % 16 == 0
    assert 0 < width_px * height_px <= 256 * 256


def test_more_options_than_there_can_be_are_one_problem() -> None:
    problems = problems_of({f"option_{n}": n for n in range(100_000)})

    assert ("/config", "bad_value") in problems
    assert len(problems) < 20


def test_an_unknown_option_names_the_nearest_name() -> None:
    with pytest.raises(PlanError, match="Did you mean optimizer"):
        import_small({"optimiser": "optimi-lion"})


@pytest.mark.parametrize(
    "harmless",
    [
        {"use_ema": False},
        {"use_ema": "false"},
        {"caption_dropout_probability": 0.0},
        {"gradient_accumulation_steps": 1},
        {"push_to_hub": False},
        {"scheduled_sampling_max_step_offset": "0"},
        {"loss_type": "l2"},
        {"init_lora": ""},
        {"lora_rank": 16},
        {"flow_schedule_auto_shift": "false"},
        {"base_model_precision": "no_change"},
    ],
)
def test_what_requests_nothing_is_accepted(harmless: dict[str, Any]) -> None:
    import_small(harmless)


@pytest.mark.parametrize(
    ("change", "pointer", "code"),
    [
        ({"model_family": "flux"}, "/config/model_family", "bad_value"),
        ({"lora_type": "loha"}, "/config/lora_type", "bad_value"),
        ({"num_train_epochs": 2}, "/config/num_train_epochs", "conflict"),
        ({"lr_scheduler": "sine"}, "/config/lr_scheduler", "not_implemented"),
        ({"lr_scheduler": "cosinus"}, "/config/lr_scheduler", "bad_value"),
        ({"optimizer": "soap"}, "/config/optimizer", "not_implemented"),
        ({"learning_rate": "1e999"}, "/config/learning_rate", "bad_value"),
        ({"learning_rate": 10**400}, "/config/learning_rate", "bad_value"),
        ({"learning_rate": True}, "/config/learning_rate", "bad_value"),
        ({"seed": 2**60}, "/config/seed", "bad_value"),
        ({"text_encoder_1_precision": "int4-quanto"}, "/config/text_encoder_1_precision",
         "not_implemented"),
        ({"pretrained_model_name_or_path": "/etc"}, "/config/pretrained_model_name_or_path",
         "refused"),
        ({"pretrained_model_name_or_path": "other"}, "/config/pretrained_model_name_or_path",
         "bad_value"),
        ({"init_lora": "a.safetensors"}, "/config/init_lora", "not_found"),
        ({"resume_from_checkpoint": "/x/checkpoint-5"}, "/config/resume_from_checkpoint",
         "refused"),
        ({"push_to_hub": True}, "/config/hub_model_id", "missing"),
        ({"push_to_hub": True, "hub_model_id": "a/../b"}, "/config/hub_model_id", "bad_value"),
        ({"validation_resolution": "big"}, "/config/validation_resolution", "bad_value"),
        ({"resolution_type": "pixels"}, "/config/resolution_type", "bad_value"),
    ],
)  # fmt: skip
def test_a_wrong_option_is_named(change: dict[str, Any], pointer: str, code: ProblemCode) -> None:
    assert (pointer, code) in problems_of(change)


def test_full_rank_has_rules_of_its_own() -> None:
    plan = import_small({"model_type": "full", "world_size": 2}, without=("lora_type",)).plan

    assert plan.identity.adapter is None
    assert (plan.operation.zero_stage, plan.operation.zero_offload) == ("auto", "auto")
    assert plan.identity.clip == Clip(method="norm", limit=2.0)
    wrong = {"base_model_precision": "int8-quanto", "zero_stage": 4}
    assert problems_of({"model_type": "full", **wrong}) == [
        ("/config/zero_stage", "bad_value"),
        ("/config/base_model_precision", "conflict"),
    ]


def test_a_run_may_go_on_with_other_gpus_and_the_same_batches_a_step() -> None:
    written = {"num_processes": 2, "gradient_accumulation_steps": 3, "train_batch_size": 4}
    plan = import_small(written).plan

    assert (plan.identity.world_size, plan.identity.accumulation_steps) == (2, 3)
    assert plan.identity.micro_batches_per_step == 6
    alone = import_small({**written, "num_processes": 1, "gradient_accumulation_steps": 6}).plan
    assert alone.identity_digest() == plan.identity_digest()
    fewer = import_small({**written, "num_processes": 1}).plan
    assert fewer.identity_digest() != plan.identity_digest()


def test_sizes_beyond_the_base_model_are_lowered_with_a_warning() -> None:
    imported = import_small({"resolution": 1024, "validation_resolution": "1024x512"})

    (backend,) = imported.plan.identity.backends
    assert backend.resolution_px == 256
    width, height = (
        imported.plan.operation.sample_width_px,
        imported.plan.operation.sample_height_px,
    )
    assert (width, height) == (352, 176)
    assert sum("lowered" in warning for warning in texts(imported)) == 2


@pytest.mark.parametrize(
    ("backend", "pointer", "code"),
    [
        ({}, "/data_backends/0/id", "missing"),
        ({"id": "../x"}, "/data_backends/0/id", "bad_value"),
        ({"id": "a", "type": "aws"}, "/data_backends/0/type", "not_implemented"),
        ({"id": "a", "type": "csv", "csv_file": "x", "crop_style": "?"}, "/data_backends/0/type",
         "not_implemented"),
        ({"id": "a", "crop": True, "crop_style": "face"}, "/data_backends/0/crop_style",
         "not_implemented"),
        ({"id": "a", "caption_strategy": "instanceprompt"}, "/data_backends/0/instance_prompt",
         "missing"),
        ({"id": "a", "resolution": 10}, "/data_backends/0/resolution", "bad_value"),
        ("no object", "/data_backends/0", "bad_value"),
    ],
)  # fmt: skip
def test_a_wrong_backend_is_named(backend: Any, pointer: str, code: ProblemCode) -> None:
    config = {"caption_strategy": "filename"}
    assert (pointer, code) in problems_of(config, backends=[backend])


def test_two_backends_of_one_name_and_none_to_train_on_are_problems() -> None:
    twice = [{"id": "a", "caption_strategy": "filename"}] * 2
    held_out = [{"id": "a", "caption_strategy": "filename", "dataset_type": "eval"}]

    assert problems_of(backends=twice) == [("/data_backends/1/id", "conflict")]
    assert problems_of(backends=held_out) == [("/data_backends", "missing")]
    assert problems_of(backends=[]) == [("/data_backends", "missing")]


def test_a_value_that_is_nested_too_deep_is_told_so() -> None:
    nested: Any = 1
    for _ in range(900):
        nested = {"a": nested}

    ((pointer, said),) = problems_of({"deepspeed_config": nested}, messages=True)

    assert pointer.startswith("/config/deepspeed_config/a")
    assert said == "It is nested too deep: at most 32 levels are read."


@pytest.mark.parametrize("epochs", [0.5, 10**12, 0])
def test_no_length_is_made_up_where_it_has_a_problem(epochs: float) -> None:
    written = {"max_train_steps": 0, "num_train_epochs": epochs, "lr_warmup_steps": 10}
    with pytest.raises(PlanError) as caught:
        import_small({**written, "use_ema": True, "ema_update_interval": 5})

    assert [each.pointer for each in caught.value.problems] == ["/config/num_train_epochs"]
    assert not [each for each in caught.value.notices if "longer than the run" in each.text]


def test_text_that_no_database_takes_is_a_problem() -> None:
    assert problems_of({"validation_prompt": "a\0b"}) == [
        ("/config/validation_prompt", "bad_value")
    ]
    assert problems_of({"validation_prompt": "\ud800"}) == [
        ("/config/validation_prompt", "bad_value")
    ]
