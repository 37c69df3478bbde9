"""How products with the base are picked, and the option that asks for a kind of them."""

from pathlib import Path
from typing import Any, get_args

import pytest

from tests.unit.config_examples import import_small, notices_of, problems_of
from trainer_core.checkpoint.layout import MANIFEST_NAME, CheckpointManifest
from trainer_core.checkpoint.matmul import matmul_for, matmul_scalar
from trainer_core.config.plan import MatmulKind, Precision
from trainer_core.config.plan.matmul import (
    Capability,
    has_fused_blocks,
    pick_matmul,
    picked_earlier,
    picks_by_card,
)
from trainer_core.errors import DeviceError
from trainer_core.process.job import Job

POINTER = "/config/base_model_matmul_precision"
IN_8_BITS = {"base_model_precision": "int8-quanto"}
WITH_FP8: list[Capability] = ((8, 9), (9, 0), (10, 0), (12, 0))
WITHOUT: list[Capability | None] = (None, (7, 5), (8, 0), (8, 6))
WITH_INT8: list[Capability] = ((8, 0), (8, 6), *WITH_FP8)


def precision(**config: Any) -> Precision:
    return import_small(config).plan.identity.precision


@pytest.mark.parametrize(
    ("config", "is_picked"),
    [
        ({}, False),
        (IN_8_BITS, True),
        ({**IN_8_BITS, "mixed_precision": "no"}, False),
        ({**IN_8_BITS, "base_model_matmul_precision": "auto"}, True),
        ({**IN_8_BITS, "base_model_matmul_precision": "no_change"}, False),
        ({"base_model_matmul_precision": "fp8"}, True),
    ],
)
def test_a_card_with_fp8_uses_it_where_the_base_is_held_in_8_bits(
    config: dict[str, Any], is_picked: bool
) -> None:
    is_asked = config.get("base_model_matmul_precision") == "fp8"
    for capability in WITH_FP8:
        is_measured = capability == (9, 0)
        pick = pick_matmul(precision(**config), capability)
        is_fp8 = is_picked and (is_measured or is_asked)
        assert pick.kind == ("fp8" if is_fp8 else "no_change")
        assert "{}.{}".format(*capability) in pick.reason
        assert ("never measured" in pick.reason) == (is_fp8 and not is_measured)


def test_any_other_card_uses_none_or_refuses() -> None:
    for capability in WITHOUT:
        auto = precision(**IN_8_BITS)
        assert pick_matmul(auto, capability).kind == "no_change"
        with pytest.raises(DeviceError, match=r"capability 8\.9 or newer, and this run is on a "):
            pick_matmul(precision(base_model_matmul_precision="fp8"), capability)


def test_int8_is_used_only_where_it_is_asked_for() -> None:
    asked = precision(base_model_matmul_precision="int8")
    for capability in WITH_INT8:
        pick = pick_matmul(asked, capability)
        assert pick.kind == "int8"
        assert ("never measured" in pick.reason) == (capability != (9, 0))
        assert pick_matmul(precision(**IN_8_BITS), capability).kind != "int8"
    for without in (None, (7, 5)):
        with pytest.raises(DeviceError, match=r"int8 products need a CUDA card of capability 8\.0"):
            pick_matmul(asked, without)


@pytest.mark.parametrize("kind", get_args(MatmulKind))
def test_fused_blocks_need_a_card_whose_products_never_ask_the_host(kind: MatmulKind) -> None:
    for fits in ((9, 0), (10, 0), (10, 3)):
        assert has_fused_blocks(fits, kind)
    for other in (None, (7, 5), (12, 0)):
        assert not has_fused_blocks(other, kind)


@pytest.mark.parametrize(
    ("capability", "kinds"),
    [((8, 0), ["int8"]), ((8, 6), ["int8"]), ((8, 9), ["fp8", "int8"])],
)
def test_cards_of_8_fuse_blocks_with_the_8_bit_products_that_they_have(
    capability: Capability, kinds: list[MatmulKind]
) -> None:
    assert [kind for kind in get_args(MatmulKind) if has_fused_blocks(capability, kind)] == kinds


def test_a_resume_keeps_the_kind_and_needs_a_card_that_has_it() -> None:
    for capability in (*WITH_FP8, *WITHOUT):
        assert picked_earlier("no_change", capability).kind == "no_change"
    for capability in WITH_FP8:
        assert picked_earlier("fp8", capability).kind == "fp8"
    for capability in WITH_INT8:
        assert picked_earlier("int8", capability).kind == "int8"
    with pytest.raises(DeviceError, match="the checkpoint was trained with int8 products"):
        picked_earlier("int8", (7, 5))
    for capability in WITHOUT:
        with pytest.raises(DeviceError, match="the checkpoint was trained with fp8 products"):
            picked_earlier("fp8", capability)


def test_a_run_keeps_the_products_of_the_checkpoint_it_resumes_from(tmp_path: Path) -> None:
    plan = import_small(IN_8_BITS).plan
    hopper: Capability = (9, 0)
    new = Job.model_construct(plan=plan, resume_from=None)
    resumed = Job.model_construct(plan=plan, resume_from=str(tmp_path))

    assert matmul_for(new, hopper).kind == "fp8"
    for scalars, kind in (
        ({}, "no_change"),  # as older versions wrote it
        (matmul_scalar(pick_matmul(plan.identity.precision, None)), "no_change"),
        (matmul_scalar(pick_matmul(plan.identity.precision, hopper)), "fp8"),
    ):
        manifest = CheckpointManifest(
            step=1,
            cursor=1,
            identity_digest="0" * 64,
            data_digest="0" * 64,
            base_digest="0" * 64,
            scalars=scalars,
            files={},
        )
        (tmp_path / MANIFEST_NAME).write_text(manifest.model_dump_json())
        assert matmul_for(resumed, hopper).kind == kind
    with pytest.raises(DeviceError):
        matmul_for(resumed, (8, 0))


def test_every_class_of_card_is_shown_that_the_device_may_be() -> None:
    asked = precision(base_model_matmul_precision="fp8")
    auto = precision(**IN_8_BITS)

    assert picks_by_card(auto, "cpu") == {"CPU": "no_change"}
    assert picks_by_card(asked, "auto") == {
        "CPU": None,
        "cards before 8.0": None,
        "8.0 to 8.8": None,
        "8.9": "fp8",
        "9.0": "fp8",
        "cards after 9.0": "fp8",
    }
    int8 = picks_by_card(precision(base_model_matmul_precision="int8"), "cuda")
    assert [card for card, kind in int8.items() if kind != "int8"] == ["cards before 8.0"]
    assert "CPU" not in picks_by_card(asked, "cuda")


@pytest.mark.parametrize(
    ("config", "code", "words"),
    [
        ({"device": "cpu"}, "conflict", "fp8 products need a CUDA card of capability 8.9 or newer"),
        ({"mixed_precision": "no"}, "conflict", "bf16"),
        ({"model_type": "full", "lora_type": None}, "conflict", "frozen base"),
        (
            {"base_model_matmul_precision": "int8", "device": "cpu"},
            "conflict",
            "int8 products need a CUDA card of capability 8.0 or newer",
        ),
        ({"base_model_matmul_precision": "fp4"}, "bad_value", "has to be auto or fp8 or int8 or"),
    ],
)
def test_what_cannot_be_multiplied_so_is_refused(
    config: dict[str, Any], code: str, words: str
) -> None:
    asked = {"base_model_matmul_precision": "fp8", **config}

    assert problems_of(asked) == [(POINTER, code)]
    ((_, message),) = problems_of(asked, messages=True)
    assert words in message


@pytest.mark.parametrize("kind", ["fp8", "int8"])
def test_8_bit_products_hold_the_base_so_and_say_where_they_were_measured(kind: str) -> None:
    asked = {"base_model_matmul_precision": kind, "quantize_via": "cpu"}

    measured = f"{kind} products were measured on cards of capability 9.0 only."
    assert f"base_model_matmul_precision: {measured}" in notices_of(asked)
    assert any("holds the base in 8 bits" in warning for warning in notices_of(asked))
    assert not any("quantize_via" in warning for warning in notices_of(asked))
    assert not any("8 bits" in warning for warning in notices_of({**asked, **IN_8_BITS}))


def test_the_option_alone_refuses_no_resume() -> None:
    digests = {
        import_small({"seed": 1, **config}).plan.identity_digest()
        for config in (
            {},
            {"base_model_matmul_precision": "fp8"},
            {"base_model_matmul_precision": "int8"},
        )
    }
    assert len(digests) == 1
