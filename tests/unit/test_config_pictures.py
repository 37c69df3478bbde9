"""Which pictures a run makes while it trains, by the options of SimpleTuner's files."""

from pathlib import Path
from typing import Any

import pytest

from tests.unit.config_examples import import_small, problems_of, texts
from trainer_core.config.plan import PictureAdapter, Pictures, PictureSize, Plan, Previews
from trainer_core.config.plan.pictures import FREE_S
from trainer_core.config.plan.problems import texts_of
from trainer_core.config.simpletuner.importer import Imported
from trainer_core.local.previews import preview_autoencoder, without_missing_autoencoder

FULL = {"model_type": "full", "lora_type": None}
EVERY_2: dict[str, Any] = {"validation_step_interval": "2", "seed": 1}
LIBRARY: dict[str, Any] = {
    "a_<token>": "a <token> cat",
    "A__TOKEN_": {"prompt": "b", "adapter_strength": "0.5", "more": 1},
}


def pictures_of(config: dict[str, Any], library: dict[str, Any] | None = None) -> Pictures:
    pictures = import_small({**EVERY_2, **config}, prompt_library=library).plan.operation.pictures
    assert pictures is not None
    return pictures


def test_without_an_interval_a_plan_is_as_it_was() -> None:
    plan = import_small({"seed": 1, "validation_step_interval": 0}).plan

    assert plan.operation.pictures is None
    assert "pictures" not in plan.model_dump(mode="json")["operation"]


def test_each_prompt_is_painted_at_each_size_with_each_seed() -> None:
    written = {
        "validation_prompt": "a bird",
        "validation_negative_prompt": "ugly",
        "validation_resolution": "64, 128x64,64x64",
        "validation_seed": 7,
        "num_validation_images": 2,
        "validation_num_inference_steps": 3,
        "validation_guidance": 2.0,
        "validation_guidance_rescale": "0.7",
    }

    found = pictures_of(written, LIBRARY)

    named = [(each.name, each.text) for each in found.prompts]
    assert named == [("validation", "a bird"), ("a__token_", "a <token> cat"), ("A__TOKEN_-2", "b")]
    assert found.sizes == (
        PictureSize(width_px=64, height_px=64),
        PictureSize(width_px=128, height_px=64),
    )
    assert (found.seeds, found.steps) == ((7, 8), 3)
    assert (found.guidance, found.guidance_rescale) == (2.0, 0.7)
    assert [found.strength_of(prompt) for prompt in found.prompts] == [1.0, 1.0, 0.5]
    assert found.texts() == ("a bird", "a <token> cat", "b", "ugly")
    assert (found.step_interval, found.epoch_interval, found.has_base) == (2, None, True)
    plan = import_small({**EVERY_2, **written}, prompt_library=LIBRARY).plan
    assert Plan.model_validate_json(plan.model_dump_json()) == plan


def test_without_a_prompt_the_picture_has_none() -> None:
    assert [(each.name, each.text) for each in pictures_of({}).prompts] == [("validation", "")]


def test_pictures_change_neither_identity_nor_sample() -> None:
    plain = import_small({"seed": 1, "validation_prompt": "a"}).plan
    painted = import_small({**EVERY_2, "validation_prompt": "a"}).plan

    assert painted.identity_digest() == plain.identity_digest()
    assert painted.operation.model_copy(update={"pictures": None}) == plain.operation


@pytest.mark.parametrize(
    ("config", "option"),
    [
        ({"validation_step_interval": 0, "num_validation_images": 3}, "num_validation_images"),
        ({"validation_disable": True}, "validation_step_interval"),
        ({"validation_disable": True, "validation_time_share": 0.1}, "validation_time_share"),
        ({"ema_validation": "ema_only"}, "ema_validation"),
        ({"validation_disable": True, "ema_validation": "none"}, "ema_validation"),
        (
            {"validation_guidance": 1, "validation_guidance_rescale": 0.5},
            "validation_guidance_rescale",
        ),
        ({"validation_preview_steps": 2}, "validation_preview_steps"),
        ({"validation_disable": True, "validation_preview": True}, "validation_preview"),
        ({**FULL, "validation_lycoris_strength": 0.5}, "validation_lycoris_strength"),
    ],
)
def test_an_option_without_effect_is_told(config: dict[str, Any], option: str) -> None:
    lines = texts_of(import_small({**EVERY_2, **config}).notices, "no_effect")

    assert any(option in line.partition(": has no effect w")[0] for line in lines)


@pytest.mark.parametrize(
    ("config", "why"),
    [(FULL, "where all weights are trained"), ({"validation_disable": True}, "where no pictures")],
)
def test_a_strength_without_effect_is_told(config: dict[str, Any], why: str) -> None:
    told = "user_prompt_library: adapter_strength has no effect"
    with_strength = import_small({**EVERY_2, **config}, prompt_library=LIBRARY)

    assert any(line.startswith(f"{told} {why}") for line in texts(with_strength))
    assert not any(told in line for line in texts(import_small(EVERY_2, prompt_library=LIBRARY)))


@pytest.mark.parametrize(
    ("config", "option", "code"),
    [
        ({"validation_noise_scheduler": "ddim"}, "validation_noise_scheduler", "refused"),
        ({"validation_noise_scheduler": "eular"}, "validation_noise_scheduler", "bad_value"),
        ({"validation_resolution": "64,x"}, "validation_resolution", "bad_value"),
        ({"validation_resolution": ","}, "validation_resolution", "bad_value"),
        ({"validation_time_share": 0}, "validation_time_share", "bad_value"),
        ({"validation_time_share": 1.5}, "validation_time_share", "bad_value"),
        ({"num_validation_images": 0}, "num_validation_images", "bad_value"),
        ({"validation_guidance_rescale": 1.5}, "validation_guidance_rescale", "bad_value"),
        ({"validation_preview_steps": 0}, "validation_preview_steps", "bad_value"),
        ({"ema_validation": "both"}, "ema_validation", "bad_value"),
    ],
)
def test_a_wrong_value_is_a_problem(config: dict[str, Any], option: str, code: str) -> None:
    assert problems_of({**EVERY_2, **config}) == [(f"/config/{option}", code)]


@pytest.mark.parametrize(
    "strength", [-1, 101, pytest.param(10**400, id="huge"), "strong", "nan", True, [1.0]]
)
def test_a_prompt_has_no_strength_that_is_no_number(strength: Any) -> None:
    library = {"a/b": {"prompt": "a", "adapter_strength": strength}}

    assert problems_of({}, prompt_library=library) == [
        ("/prompt_library/a~1b/adapter_strength", "bad_value")
    ]


def test_too_many_pictures_at_a_time_are_refused() -> None:
    library = {f"p{n}": "a" for n in range(100)}

    assert problems_of({**EVERY_2, "num_validation_images": 11}, prompt_library=library) == [
        ("/config/num_validation_images", "bad_value")
    ]
    assert problems_of({}, prompt_library={f"p{n}": "a" for n in range(501)}) == [
        ("/prompt_library", "bad_value")
    ]


@pytest.mark.parametrize(
    ("share", "elapsed_s", "allowed_s"),
    [(None, 10.0, FREE_S), (None, 10 * FREE_S, 5 * FREE_S), (0.1, 100.0, 10.0), (1.0, 7.0, 7.0)],
)
def test_pictures_take_a_share_of_the_time(
    share: float | None, elapsed_s: float, allowed_s: float
) -> None:
    assert pictures_of({"validation_time_share": share}).allowed_s(elapsed_s) == allowed_s


def local_import(config: dict[str, Any]) -> Imported:
    cats = [{"id": "cats", "caption_strategy": "filename", "instance_data_dir": "cats"}]
    written = {**EVERY_2, "output_dir": "out", **config}
    return import_small(written, backends=cats, source="local")


def local_plan(config: dict[str, Any]) -> Plan:
    return local_import(config).plan


def previews_of(config: dict[str, Any]) -> Previews | None:
    made = local_plan(config)
    assert made.operation.pictures is not None
    return made.operation.pictures.previews


def test_previews_are_made_where_they_are_asked_for() -> None:
    wanted = {"validation_preview": "true", "validation_preview_steps": "3"}

    assert previews_of({}) is None
    assert previews_of({"validation_preview": True}) == Previews(steps=1, autoencoder=None)
    found = previews_of({**wanted, "validation_preview_autoencoder": "madebyollin/taef1"})
    assert found == Previews(steps=3, autoencoder="madebyollin/taef1")


def test_a_relative_path_of_an_autoencoder_is_looked_up_beside_the_config(tmp_path: Path) -> None:
    (tmp_path / "config/models/tiny").mkdir(parents=True)
    asked = {"validation_preview": True, "validation_preview_autoencoder": " models/tiny "}
    found = preview_autoencoder(local_plan(asked), (tmp_path, tmp_path / "config"))

    assert found == str(tmp_path / "config/models/tiny")
    assert preview_autoencoder(local_plan(asked), (tmp_path,)) is None
    assert preview_autoencoder(local_plan({"validation_preview": True}), (tmp_path,)) is None
    assert preview_autoencoder(local_plan({}), (tmp_path,)) is None


def test_a_missing_autoencoder_is_told_and_left_out_of_the_plan(tmp_path: Path) -> None:
    (tmp_path / "tiny").mkdir()
    asked = {"validation_preview": True, "validation_preview_autoencoder": "tiny"}
    plan, told = local_plan(asked), list[tuple[str, str]]()

    def planned(*folders: Path) -> Plan:
        return without_missing_autoencoder(
            plan, folders, lambda code, message: told.append((code, message))
        )

    assert planned(tmp_path) is plan
    assert told == []
    expected = local_plan({"validation_preview": True})
    assert planned(tmp_path / "tiny").operation.pictures == expected.operation.pictures
    ((code, message),) = told
    assert code == "preview_autoencoder"
    assert "tiny is no folder here, and no model in the Hub's cache on this machine" in message


def test_an_autoencoder_of_the_hub_is_taken_from_its_cache(tmp_path: Path) -> None:
    kept, commit = tmp_path / "models--me--tiny", "0123456789abcdef0123456789abcdef01234567"
    (kept / "snapshots" / commit).mkdir(parents=True)
    (kept / "snapshots" / commit / "config.json").write_text("{}")
    (kept / "refs").mkdir()
    (kept / "refs/main").write_text(commit)

    def found(name: str) -> str | None:
        asked = {"validation_preview": True, "validation_preview_autoencoder": name}
        return preview_autoencoder(local_plan(asked), (tmp_path,), hub_cache=tmp_path)

    assert found("me/tiny") == str(kept / "snapshots" / commit)
    assert found("me/other") is None
    assert found("no/such/one") is None
    assert found("me/ti--ny") is None


def test_more_steps_between_previews_than_the_sampler_takes_are_told() -> None:
    asked = {"validation_preview": True, "validation_preview_steps": 31}
    found = local_import(asked)

    assert previews_of(asked) is None
    why = "with validation_preview_steps above the 30 steps of the sampler"
    told = texts_of(found.notices, "no_effect")
    assert f"validation_preview: has no effect {why}." in told
    assert previews_of({**asked, "validation_num_inference_steps": 31}) == Previews(
        steps=31, autoencoder=None
    )


def test_plans_without_previews_are_as_they_were() -> None:
    plain = pictures_of({})

    assert plain.previews is None
    assert not {"previews", "adapter"} & set(plain.model_dump(mode="json"))


def adapter_of(config: dict[str, Any]) -> PictureAdapter | None:
    made = local_plan(config)
    assert made.operation.pictures is not None
    return made.operation.pictures.adapter


def test_a_local_run_shows_a_further_adapter() -> None:
    path = {"validation_adapter_path": " adapters/style.safetensors "}
    style = "adapters/style.safetensors"

    assert adapter_of(path) == PictureAdapter(path=style, strength=1.0)
    found = adapter_of({**path, "validation_adapter_strength": "0.5"})
    assert found == PictureAdapter(path=style, strength=0.5)
    assert adapter_of({**path, "validation_adapter_mode": "none"}) is None
    assert adapter_of({"validation_adapter_strength": 0.5}) is None
    told = texts_of(local_import({"validation_adapter_strength": 0.5}).notices, "no_effect")
    assert "validation_adapter_strength: has no effect without validation_adapter_path." in told


def test_a_comparison_of_a_further_adapter_is_told_to_need_a_second_run() -> None:
    asked = {"validation_adapter_path": "style", "validation_adapter_mode": "comparison"}
    told = texts_of(local_import(asked).notices, "differs")

    assert adapter_of(asked) == PictureAdapter(path="style", strength=1.0)
    (text,) = (text for text in told if text.startswith("validation_adapter_mode: "))
    assert "a run without it, with the same seeds, makes those to compare with" in text


def test_the_service_tells_that_it_shows_no_further_adapter() -> None:
    asked = {"validation_adapter_path": "style", "validation_adapter_strength": 0.5}
    found = import_small({**EVERY_2, **asked})

    assert found.plan.operation.pictures is not None
    assert found.plan.operation.pictures.adapter is None
    (text,) = (t for t in texts_of(found.notices, "differs") if t.startswith("validation_adapter"))
    assert text.startswith("validation_adapter_path: in the service pictures show what is trained")


def test_the_service_has_the_same_previews() -> None:
    asked = {
        "validation_preview": True,
        "validation_preview_steps": 5,
        "validation_preview_autoencoder": "madebyollin/taef1",
    }
    found = import_small({**EVERY_2, **asked})

    assert found.plan.operation.pictures is not None
    assert found.plan.operation.pictures.previews == previews_of(asked)
    assert not any("validation_preview" in each.option for each in found.notices)
