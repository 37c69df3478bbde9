"""The plan of a case, made from SimpleTuner's quick-start configuration as a run's is."""

from collections.abc import Mapping
from typing import Any, Final

from benchmarks.step.cases import Adapter, Case
from benchmarks.step.setting import Setting
from benchmarks.trainer_matrix import EXAMPLES
from trainer_core.base_models.known import FLAVOURS, KNOWN_MODELS
from trainer_core.config.plan import Plan
from trainer_core.config.simpletuner.importer import import_run
from trainer_core.documents import load_document

LEARNING_RATE: Final = 4e-5
LYCORIS_CLASSES: Final[Mapping[Adapter, Mapping[str, int]]] = {
    "attention": {"Attention": 16},
    "feed-forward": {"Attention": 16, "FeedForward": 8},
}
"""SimpleTuner's module classes that an adapter takes, with LoKr's factor of each."""

_QUICK_START: Final[Mapping[str, Any]] = {
    "resolution": 1024,
    "validation_resolution": "1024x1024",
    "learning_rate": LEARNING_RATE,
    "lr_warmup_steps": 100,
    "max_train_steps": 10000,
}
_LORA: Final[Mapping[str, Any]] = {
    "lora_type": "standard",
    "lora_rank": 16,
    "lora_dropout": 0.0,
    "lycoris_config": None,
}


def quick_start(
    options: Mapping[str, Any],
    *,
    base_model: str = FLAVOURS["full"],
    lycoris: Mapping[str, Any] | None = None,
) -> Plan:
    """The quick-start plan; ``options`` replace entries of its config, None takes one out."""
    demo = EXAMPLES / "demo"
    raw: Any = load_document(demo / "config.json")
    stock: Any = load_document(demo / "lycoris_config.json")
    given = {**raw, "pretrained_model_name_or_path": base_model, **_QUICK_START, **options}
    config = {name: value for name, value in given.items() if value is not None}
    return import_run(
        config=config,
        lycoris_config=(lycoris or stock) if config["lora_type"] == "lycoris" else None,
        data_backends=[{"id": "photos", "caption_strategy": "filename"}],
        prompt_library=None,
        base_models={base_model: KNOWN_MODELS[base_model].as_base(base_model)},
        source="http",
    ).plan


def plan_of(case: Case, setting: Setting) -> Plan:
    """The plan with which ours runs a case.

    The random base is drawn on the card, so it is quantised there too; a run's default is the CPU.
    """
    options: dict[str, Any] = {
        "device": setting.device.type,
        "train_batch_size": case.batch,
        "gradient_checkpointing": case.checkpointing,
        "base_model_precision": "no_change" if case.precision == "bf16" else "int8-quanto",
        "mixed_precision": "bf16" if setting.device.type == "cuda" else "no",
        "quantize_via": "accelerator" if setting.device.type == "cuda" else "cpu",
    }
    if case.precision == "int8" and setting.device.type == "cuda":
        options["base_model_matmul_precision"] = "int8"
    if case.adapter == "lora":
        options |= _LORA
        return quick_start(options, base_model=setting.base_model)
    return quick_start(options, base_model=setting.base_model, lycoris=lycoris_config(case.adapter))


def lycoris_config(adapter: Adapter) -> dict[str, Any]:
    """The quick-start's lycoris config, with the classes of ``LYCORIS_CLASSES``."""
    stock: Any = load_document(EXAMPLES / "demo" / "lycoris_config.json")
    factors = LYCORIS_CLASSES[adapter]
    preset = {
        "target_module": list(factors),
        "module_algo_map": {name: {"factor": factor} for name, factor in factors.items()},
    }
    return {**stock, "apply_preset": preset}
