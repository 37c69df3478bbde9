"""Memory plans of the published example: its plan, its model, and runs of it on a card."""

from functools import cache
from typing import Any

from tests.unit.config_examples import BASE_MODELS, CONFIG_TEXT, LYCORIS_TEXT, TRUE_CONFIG
from trainer_core.config.plan import MatmulKind, Plan
from trainer_core.config.simpletuner.importer import import_run
from trainer_core.documents import parse_document
from trainer_core.memory.card_fit import CardRun
from trainer_core.memory.fused_model import FusedModel
from trainer_core.memory.fused_weights import fused_weights

GIB = 2**30
CONFIG: Any = parse_document(CONFIG_TEXT, name="config.json")
LYCORIS: Any = parse_document(LYCORIS_TEXT, name="lycoris_config.json")


def plan(**options: Any) -> Plan:
    """The published example with other options, without its images."""
    return import_run(
        config={**CONFIG, **options},
        lycoris_config=LYCORIS,
        data_backends=[{"id": "cats", "caption_strategy": "filename"}],
        prompt_library=None,
        base_models=BASE_MODELS,
        source="http",
    ).plan


@cache
def model(matmul: MatmulKind = "fp8", targets: tuple[str, ...] = ()) -> FusedModel:
    """Of the example, or of a LoRA on ``targets``."""
    lora = {"lora_type": "standard", "lora_rank": 8, "peft_lora_target_modules": list(targets)}
    return FusedModel.of(plan(**(lora if targets else {})), TRUE_CONFIG, matmul)


def run_of(
    free_gib: float, *, edge_px: int = 1024, base: str = "int8-quanto", **options: Any
) -> CardRun:
    matmul: MatmulKind = "no_change" if base == "no_change" else "fp8"
    return CardRun(
        plan=plan(base_model_precision=base, **options),
        model=model(matmul),
        weights=fused_weights(model(matmul)),
        image_px=edge_px**2,
        free_bytes=round(free_gib * GIB),
        picks_fp8=True,
    )
