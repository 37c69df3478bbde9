"""``init_lora`` and the options beside it: what they change in the plan, and what is said."""

from typing import Any, Final

import pytest

from tests.unit.config_examples import TINY_CONFIG, import_small, notices_of, problems_of, texts
from trainer_core.config.plan import LokrAdapter, Plan
from trainer_core.config.plan.shapes import hidream_linears, lokr_shapes
from trainer_core.weights.entries import Entry, Header
from trainer_core.weights.start_adapter import FoundStart, StartProblem

NAMED: Final[dict[str, Any]] = {"init_lora": "old.safetensors"}
SHA256: Final = "7" * 64
STEP_GIVEN: Final = (
    "init_lora_step: A run from init_lora starts at step 0 here: max_train_steps is the number of "
    "steps that it takes itself."
)
STEP_NOTED: Final = (
    "init_lora: The run starts at step 0 and takes max_train_steps steps; SimpleTuner would count "
    "on from step 500, which the file names."
)


def found(plan: Plan | None = None, *, without: str = "none", **noted: str) -> FoundStart:
    """The header of an adapter file that fits the plan's LoKr, but for one module."""
    adapter = (plan or import_small().plan).identity.adapter
    assert isinstance(adapter, LokrAdapter)
    linears = {each.path: each for each in hidream_linears(TINY_CONFIG)}
    entries = {
        f"lycoris_{module.path.replace('.', '_')}.lokr_{name}": Entry(
            dtype="F32", shape=shape, offset_bytes=0, size_bytes=0
        )
        for module in adapter.modules
        if module.path != without
        for name, shape in lokr_shapes(
            module, linears[module.path].in_features, linears[module.path].out_features
        ).items()
        if name != "scalar"
    }
    header = Header(entries=entries, metadata=noted)
    return FoundStart(name="old.safetensors", sha256=SHA256, header=header)


def test_the_file_is_part_of_the_identity() -> None:
    plain = import_small().plan
    plan = import_small(NAMED, start=found()).plan

    assert plan.guarded_identity()["start_adapter"] == {"sha256": SHA256}
    assert "start_adapter" not in plain.guarded_identity()
    assert "start_adapter" not in plain.model_dump(mode="json")["identity"]
    rest = plan.identity.model_copy(update={"start_adapter": None})
    assert rest == plain.identity
    assert plan.identity_digest() != plain.identity_digest()
    assert Plan.model_validate_json(plan.model_dump_json()) == plan


@pytest.mark.parametrize("nothing", [None, "", "none", "null", "None"])
def test_no_file_is_no_start(nothing: str | None) -> None:
    imported = import_small({"init_lora": nothing})

    assert imported.plan.identity_digest() == import_small().plan.identity_digest()
    assert imported.notices == import_small().notices


def test_what_cannot_be_used_is_a_problem_of_the_option() -> None:
    missing = StartProblem(code="not_found", message="there is no run_7")
    assert problems_of(NAMED, start=missing, messages=True) == [
        ("/config/init_lora", "init_lora: there is no run_7.")
    ]
    assert problems_of({"--init_lora": "x"}) == [("/config/--init_lora", "not_found")]
    path = "double_stream_blocks.0.block.attn1.to_q"
    assert problems_of(NAMED, start=found(without=path)) == [("/config/init_lora", "conflict")]
    empty = FoundStart(name="x", sha256=SHA256, header=Header(entries={}, metadata={}))
    assert problems_of(NAMED, start=empty) == [("/config/init_lora", "bad_value")]


def test_one_that_is_still_uploaded_is_accepted() -> None:
    later = FoundStart(name="ds_7", sha256=SHA256, header=None)

    assert import_small(NAMED, start=later).plan.identity.start_adapter is not None


def test_the_run_starts_at_step_0_and_says_so() -> None:
    def said(config: dict[str, Any], **noted: str) -> list[str]:
        warned = notices_of({**NAMED, **config}, start=found(**noted))
        return [text for text in warned if "init_lora" in text]

    assert said({}) == []
    assert said({"init_lora_step": 0}, global_step="500") == []
    assert said({"init_lora_step": "500"}) == [STEP_GIVEN]
    assert said({}, global_step="500") == [STEP_NOTED]
    assert said({"init_lora_ema": "ema_model.pt"}) == [
        "init_lora_ema: It is not read: the running mean (EMA) starts at init_lora."
    ]


def test_ways_to_begin_are_idle_beside_it() -> None:
    plan = import_small(NAMED, start=found()).plan
    other = import_small({**NAMED, "init_lokr_norm": 1e-3}, start=found())
    assert other.plan.identity_digest() == plan.identity_digest()
    assert "init_lokr_norm: has no effect with init_lora." in texts(other)

    alone = notices_of({"init_lora_step": 5, "init_lora_ema": "x.pt"})
    assert "init_lora_step: has no effect without init_lora." in alone
    assert "init_lora_ema: has no effect without init_lora." in alone


def test_full_rank_has_no_adapter_to_start() -> None:
    imported = import_small({**NAMED, "model_type": "full"}, without=("lora_type",))

    assert imported.plan.identity.start_adapter is None
    assert "init_lora: has no effect with model_type full." in texts(imported)
