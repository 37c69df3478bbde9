"""What has no effect is reported, and does not change the plan."""

from typing import Any

import pytest

from tests.unit.config_examples import import_small, notices_of, problems_of, texts

PLAIN: dict[str, Any] = {"id": "a", "caption_strategy": "filename"}
CUT: dict[str, Any] = {**PLAIN, "crop": True, "crop_style": "center"}
MASKS: dict[str, Any] = {"id": "m", "dataset_type": "conditioning", "conditioning_type": "mask"}
HELD_OUT: dict[str, Any] = {**PLAIN, "id": "e", "dataset_type": "eval"}


@pytest.mark.parametrize(
    "idle",
    [
        {"crop_style": "random"},
        {"crop_style": "face", "crop": "false"},
        {"crop_aspect": "preserve"},
        {"crop_aspect": "closest"},
        {"--crop_aspect": "random", "crop_aspect_buckets": [0.5, 1.0, 1.5]},
        {"max_upscale_threshold": 0.2},
        {"maximum_image_size": 99, "target_downsample_size": 99},
        {"target_downsample_size": 99},
    ],
)
def test_without_crop_ways_to_cut_change_nothing(idle: dict[str, Any]) -> None:
    plain = import_small(backends=[PLAIN]).plan
    imported = import_small(backends=[{**PLAIN, **idle}])

    assert imported.plan.identity_digest() == plain.identity_digest()
    for name in set(idle) - {"crop"}:
        named = f"{name.removeprefix('--')} (a): has no effect without crop."
        assert named in texts(imported)


def test_a_way_to_cut_that_there_is_not_is_wrong_with_or_without_crop() -> None:
    at = [("/data_backends/0/crop_style", "bad_value")]
    assert problems_of(backends=[{**PLAIN, "crop_style": []}]) == at
    assert problems_of(backends=[{**PLAIN, "crop_style": "middle"}]) == at
    assert problems_of(backends=[{**CUT, "crop_style": "middle"}]) == at


def test_masks_may_say_how_they_would_be_cut() -> None:
    masks = {**MASKS, "crop": True, "crop_style": "random", "crop_aspect": "closest"}
    backends = [{**CUT, "conditioning_data": "m"}, masks]

    assert "crop_style (m): has no effect on masks." in notices_of(backends=backends)


def test_sizes_for_a_cut_are_idle_in_the_config_where_nothing_is_cut() -> None:
    config = {"maximum_image_size": 99, "target_downsample_size": 99}

    assert any("no backend is cropped" in w for w in notices_of(config, backends=[PLAIN]))
    assert not any("no backend is cropped" in w for w in notices_of(config, backends=[CUT]))


@pytest.mark.parametrize(
    ("config", "backends", "said"),
    [
        ({}, [{**PLAIN, "instance_prompt": "sks"}], "instance_prompt (a): has no effect"),
        ({"instance_prompt": "sks"}, [PLAIN], "instance_prompt: has no effect"),
        ({"grad_clip_method": "norm", "max_grad_norm": 0}, [PLAIN], "grad_clip_method: has no"),
        ({}, [PLAIN, {**HELD_OUT, "repeats": 9}], "repeats (e): has no effect on held-out"),
        ({"masked_loss_probability": 0.5}, [PLAIN, {**HELD_OUT, "conditioning_data": "m"}, MASKS],
         "masked_loss_probability: acts only on the loss that is measured"),
        ({}, [{**CUT, "maximum_image_size": 99, "target_downsample_size": 199}],
         "target_downsample_size (a): is above"),
        ({}, [PLAIN, {"id": "v", "dataset_type": "image_embeds"}], "image_embeds is not needed"),
    ],
)  # fmt: skip
def test_what_does_nothing_is_reported(
    config: dict[str, Any], backends: list[Any], said: str
) -> None:
    assert any(said in warning for warning in notices_of(config, backends=backends))


def test_repeats_of_held_out_images_are_none() -> None:
    backends = import_small(backends=[PLAIN, {**HELD_OUT, "repeats": 9}]).plan.identity.backends

    assert [backend.repeats for backend in backends] == [0, 0]


def test_masks_of_held_out_images_count_as_often_as_is_written() -> None:
    backends = [PLAIN, {**HELD_OUT, "conditioning_data": "m"}, MASKS]
    plan = import_small({"masked_loss_probability": 0.5}, backends=backends).plan

    assert plan.identity.objective.masked_loss_probability == 0.5


def test_a_backend_may_say_the_batch_size_of_the_run() -> None:
    config = {"train_batch_size": 2}

    import_small(config, backends=[{**PLAIN, "train_batch_size": "2"}])
    assert problems_of(config, backends=[{**PLAIN, "train_batch_size": 4}]) == [
        ("/data_backends/0/train_batch_size", "not_implemented")
    ]


def test_masks_may_say_again_whose_they_are() -> None:
    images = {**CUT, "conditioning_data": "m"}

    import_small(backends=[images, {**MASKS, "source_dataset_id": "a"}])
    assert problems_of(backends=[images, {**MASKS, "source_dataset_id": "b"}]) == [
        ("/data_backends/1/source_dataset_id", "not_implemented")
    ]


@pytest.mark.parametrize(
    ("optimizer", "settings", "code"),
    [
        ("prodigy", "d_coef=0.5", "not_implemented"),
        ("prodigy", "d0=1e-5", "not_implemented"),
        ("torch-adamw", "d0=1e-5", "unknown_option"),
        ("optimi-lion", "decouple_lr=true", "not_implemented"),
    ],
)
def test_settings_that_simpletuner_has_are_known(optimizer: str, settings: str, code: str) -> None:
    config = {"optimizer": optimizer, "optimizer_config": settings, "learning_rate": 1}

    assert problems_of(config) == [("/config/optimizer_config", code)]


def test_settings_for_how_a_step_is_computed_are_idle() -> None:
    config = {"optimizer": "optimi-lion", "optimizer_config": "kahan_sum=true,foreach=True"}

    assert sum("optimizer_config: " in warning for warning in notices_of(config)) == 2


@pytest.mark.parametrize("written", ["1_000", "\N{FULLWIDTH DIGIT ONE}", "1e_3", "infinity"])
def test_other_spellings_of_numbers_are_none(written: str) -> None:
    for name in ("max_train_steps", "learning_rate"):
        assert (f"/config/{name}", "bad_value") in problems_of({name: written})
    assert problems_of({"optimizer": "torch-adamw", "optimizer_config": f"beta1={written}"})
    assert problems_of({"flow_custom_timesteps": written})


def test_values_are_taken_as_people_write_them() -> None:
    operation = import_small({"validation_resolution": 128.0}).plan.operation
    assert (operation.sample_width_px, operation.sample_height_px) == (128, 128)
    for nothing in ("None", "none", "NONE", "null"):
        assert import_small({"resume_from_checkpoint": nothing}).plan.operation.resume_from == ""
    assert import_small(lycoris={"algo": "LoKr"}).plan.identity.adapter is not None
    preset = {"target_module": ["Attention"], "module_algo_map": {"Attention": {"algo": "LOKR"}}}
    import_small(lycoris={"apply_preset": preset})


def test_lora_targets_may_be_text_with_commas() -> None:
    def adapter(targets: Any) -> Any:
        config = {"lora_type": "standard", "peft_lora_target_modules": targets}
        return import_small(config).plan.identity.adapter

    assert adapter("to_q, to_k") == adapter(["to_q", "to_k"])


@pytest.mark.parametrize(
    ("config", "pointer"),
    [
        ({"pretrained_model_name_or_path": "other"}, "/config/pretrained_model_name_or_path"),
        ({"model_type": "lorra"}, "/config/model_type"),
        ({"model_type": None}, "/config/model_type"),
        ({"lora_type": "lycori"}, "/config/lora_type"),
    ],
)
def test_the_lycoris_config_is_read_whatever_else_is_wrong(
    config: dict[str, Any], pointer: str
) -> None:
    lycoris = {"facto": 3, "apply_preset": {"target_module": ["Atention", "Attention"]}}

    assert {reported for reported, _ in problems_of(config, lycoris=lycoris)} == {
        pointer,
        "/lycoris_config/facto",
        "/lycoris_config/apply_preset/target_module/0",
    }


def test_a_wrong_preset_is_reported_whole() -> None:
    preset = {
        "target_module": ["Atention", "Attention"],
        "name_algo_map": {"a/b~": {}, "(a)\\1": {"factor": 2}, ".*to_q": {"factor": 0}},
    }
    at = "/lycoris_config/apply_preset"

    assert set(problems_of(lycoris={"apply_preset": preset, "facto": 1})) == {
        ("/lycoris_config/facto", "unknown_option"),
        (f"{at}/target_module/0", "bad_value"),
        (f"{at}/name_algo_map/a~1b~0", "bad_value"),
        (f"{at}/name_algo_map/(a)\\1", "not_implemented"),
        (f"{at}/name_algo_map/.*to_q/factor", "bad_value"),
    }
