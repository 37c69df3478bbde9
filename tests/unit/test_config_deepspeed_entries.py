"""Each entry of deepspeed_config agrees with the options, gives their value, or is named."""

import ast
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.unit.config_examples import import_small, problems_of
from tests.unit.deepspeed_examples import AGREEING, full
from trainer_core.config.plan import Clip, OptimizerPlan
from trainer_core.config.plan.problems import texts_of
from trainer_core.config.simpletuner.deepspeed_names import (
    ZERO_IDLE,
    ZERO_NOT_BUILT,
    ZERO_OFFLOADING,
)

OFFLOADED = "is not built: weights stay on the GPUs, which share them by zero_stage 3. Take it out."
NVME = "on nvme is not built: DeepSpeed compiles its async_io at run time. Set it to cpu."


def test_what_agrees_is_taken_care_of_in_one_line() -> None:
    imported = import_small(full(AGREEING), without=("lora_type",))

    assert imported.plan.operation.zero_stage == 3
    lines = {
        effect: [each for each in texts_of(imported.notices, effect) if "deepspeed_config" in each]
        for effect in ("differs", "no_effect", "handled")
    }
    assert lines == {
        "differs": [
            (
                "deepspeed_config: the learning rate rises in a line; DeepSpeed's follows the "
                "logarithm of the step, unless warmup_type is linear."
            )
        ],
        "no_effect": [],
        "handled": [
            (
                "deepspeed_config: zero_stage is 3. It gives adam_beta1, adam_beta2, "
                "adam_epsilon. The trainer sets zero_optimization.overlap_comm, fp16, "
                "steps_per_print itself."
            )
        ],
    }


Change = Callable[[dict[str, Any]], Any]
EQUAL = "make them equal, or leave one out."
ACCUMULATION = "gradient_accumulation_steps"
CONSTANT = "lr_scheduler is constant_with_warmup"
DECAY = "AdamW's own weight decay"
OURS = "optimizer to torch-adamw or optimi-lion"
SAMPLES = f"train_batch_size times {ACCUMULATION} times num_processes"


@pytest.mark.parametrize(
    ("change", "code", "said"),
    [
        (
            lambda c: c.update(gradient_clipping=0.5),
            "conflict",
            f"gradient_clipping is 0.5 there, and max_grad_norm is 1.0: {EQUAL}",
        ),
        (
            lambda c: c.update({ACCUMULATION: 8}),
            "conflict",
            f"{ACCUMULATION} is 8 there, and {ACCUMULATION} is 4: {EQUAL}",
        ),
        (
            lambda c: c.update(train_micro_batch_size_per_gpu=1),
            "conflict",
            f"train_micro_batch_size_per_gpu is 1 there, and train_batch_size is 2: {EQUAL}",
        ),
        (
            lambda c: c.update(train_batch_size=8),
            "conflict",
            f"train_batch_size is 8 there, and {SAMPLES} is 64: {EQUAL}",
        ),
        (
            lambda c: c["bf16"].update(enabled=False),
            "conflict",
            f"bf16.enabled is false there, and mixed_precision is bf16: {EQUAL}",
        ),
        (
            lambda c: c["bf16"].update(bf16_optimizer_states=True),
            "not_implemented",
            "bf16.bf16_optimizer_states is not built. Take it out.",
        ),
        (
            lambda c: c["fp16"].update(enabled=True),
            "not_implemented",
            "fp16 is not built: set mixed_precision to bf16, and take fp16 out.",
        ),
        (
            lambda c: c["optimizer"].update(type="Lamb"),
            "not_implemented",
            f"optimizer.type Lamb is not built: take optimizer out, and set {OURS}.",
        ),
        (
            lambda c: c["optimizer"].update(type="Lion"),
            "conflict",
            f"optimizer.type is Lion there, and optimizer is adamw: {EQUAL}",
        ),
        (
            lambda c: c["optimizer"]["params"].update(lr=1e-5),
            "conflict",
            f"optimizer.params.lr is 1e-05 there, and learning_rate is 0.0001: {EQUAL}",
        ),
        (
            lambda c: c["optimizer"]["params"].update(adam_w_mode=False),
            "conflict",
            f"optimizer.params.adam_w_mode is false there, and {DECAY} is true: {EQUAL}",
        ),
        (
            lambda c: c["scheduler"].update(type="OneCycle"),
            "not_implemented",
            "scheduler.type OneCycle is not built: take scheduler out, and set lr_scheduler.",
        ),
        (
            lambda c: c["scheduler"].update(type="WarmupDecayLR"),
            "conflict",
            f"scheduler.type is WarmupDecayLR there, and {CONSTANT}: {EQUAL}",
        ),
        (
            lambda c: c["zero_optimization"].update(stage=4),
            "bad_value",
            "zero_optimization.stage has to be 0, 1, 2 or 3, not 4.",
        ),
        (
            lambda c: c["zero_optimization"].update(offload_optimizer={"device": "nvme"}),
            "not_implemented",
            f"zero_optimization.offload_optimizer {NVME}",
        ),
        (
            lambda c: c.update(offload_optimizer_device="disk"),
            "bad_value",
            "offload_optimizer_device has to be none or cpu, not disk.",
        ),
        (
            lambda c: c["zero_optimization"].update(
                offload_optimizer={"device": "cpu", "ratio": 0.5}
            ),
            "not_implemented",
            "zero_optimization.offload_optimizer.ratio is not built. Take it out.",
        ),
        (
            lambda c: c["zero_optimization"].update(offload_param={"device": "cpu"}),
            "not_implemented",
            f"zero_optimization.offload_param {OFFLOADED}",
        ),
        (
            lambda c: c.update(offload_param_device="nvme"),
            "not_implemented",
            f"offload_param_device {OFFLOADED}",
        ),
        (
            lambda c: c["zero_optimization"].update(zero_quantized_gradients=True),
            "not_implemented",
            "zero_optimization.zero_quantized_gradients is not built. Take it out.",
        ),
        (
            lambda c: c.update(curriculum_learning={"enabled": True}),
            "not_implemented",
            "curriculum_learning is not built. Take it out.",
        ),
        (
            lambda c: c.update(gradient_cliping=1.0),
            "unknown_option",
            "gradient_cliping is not read here. Did you mean gradient_clipping?",
        ),
        (
            lambda c: c.update(qq={}),
            "unknown_option",
            "qq is not read here. Take it out.",
        ),
        (
            lambda c: c.update(zero_optimization=3),
            "bad_value",
            "zero_optimization has to be an object, not 3.",
        ),
        (
            lambda c: c.update(deepspeed_config_file="ds.json"),
            "not_implemented",
            "name that file as deepspeed_config itself, not deepspeed_config_file.",
        ),
    ],
)
def test_what_differs_names_both(change: Change, code: str, said: str) -> None:
    content = json.loads(json.dumps(AGREEING))
    change(content)

    for written in (content, json.dumps(content), str(content)):
        found = problems_of(full(written), messages=True, without=("lora_type",))
        assert found == [("/config/deepspeed_config", f"deepspeed_config: {said}")]
        codes = problems_of(full(written), without=("lora_type",))
        assert codes == [("/config/deepspeed_config", code)]


def test_an_option_that_is_not_written_has_the_value_of_deepspeed() -> None:
    content = json.loads(json.dumps(AGREEING))
    content["optimizer"]["params"]["weight_decay"] = 0.1
    few = ("lora_type", "learning_rate", "optimizer", "max_grad_norm", "train_batch_size")
    config = {"model_type": "full", "num_processes": 8, "deepspeed_config": content}

    imported = import_small(config, without=(*few, "lr_scheduler", "lr_warmup_steps"))

    identity = imported.plan.identity
    assert identity.optimizer == OptimizerPlan(
        name="adamw", learning_rate=1e-4, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.1
    )
    assert identity.clip == Clip(method="norm", limit=1.0)
    assert (identity.micro_batch_size, identity.accumulation_steps) == (2, 4)
    assert (identity.schedule.name, identity.schedule.warmup_steps) == ("constant_with_warmup", 3)
    (line,) = [each for each in texts_of(imported.notices, "handled") if "deepspeed_config" in each]
    assert line == (
        "deepspeed_config: zero_stage is 3. It gives adam_beta1, adam_beta2, adam_epsilon, "
        "adam_weight_decay, gradient_accumulation_steps, learning_rate, lr_scheduler, "
        "lr_warmup_steps, max_grad_norm, optimizer, train_batch_size. The trainer sets "
        "zero_optimization.overlap_comm, fp16, steps_per_print itself."
    )


@pytest.mark.parametrize(
    ("kind", "name"), [("Lion", "optimi-lion"), ("DeepSpeedCPUAdam", "adamw"), ("adam", "adamw")]
)
def test_the_optimizer_of_deepspeed_is_ours(kind: str, name: str) -> None:
    for written in ({"type": kind}, {"name": kind}, kind):
        config = {"model_type": "full", "deepspeed_config": {"optimizer": written}}
        plan = import_small(config, without=("lora_type", "optimizer")).plan
        assert plan.identity.optimizer.name == name


@pytest.mark.parametrize(
    "entries",
    [
        {"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu", "ratio": 1.0}}},
        {"zero_optimization": {"stage": 2, "cpu_offload": True}},
        {"zero_stage": 2, "offload_optimizer_device": "CPU"},
    ],
)
def test_the_optimizer_may_be_offloaded_to_the_cpu(entries: dict[str, Any]) -> None:
    imported = import_small(full(entries), without=("lora_type",))

    operation = imported.plan.operation
    assert (operation.zero_stage, operation.zero_offload) == (2, "cpu")
    told = "deepspeed_config: zero_stage is 2. zero_offload is cpu."
    assert any(line.startswith(told) for line in texts_of(imported.notices, "handled"))
    ((_, said),) = problems_of(
        full(entries, zero_offload="none"), messages=True, without=("lora_type",)
    )
    assert "is cpu there, and zero_offload is none" in said


PARAMS = "optimizer.params"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            {"train_micro_batch_size_per_gpu": -1, "train_batch_size": 32},
            ["train_micro_batch_size_per_gpu has to be at least 1, not -1."],
        ),
        (
            {"gradient_accumulation_steps": 0, "gradient_clipping": "much"},
            [
                "gradient_accumulation_steps has to be at least 1, not 0.",
                'gradient_clipping has to be a number, not "much".',
            ],
        ),
        (
            '{"gradient_clipping": 1e999}',
            ["gradient_clipping has to be a number, not Infinity."],
        ),
        (
            {
                "optimizer": {"type": "Adam", "params": {"lr": -1, "eps": "x", "betas": [2, 3]}},
                "scheduler": {"params": {"warmup_max_lr": 1e-4}},
            },
            [
                f"{PARAMS}.lr has to be above 0, not -1.",
                f"{PARAMS}.betas has to be at most 0.9999999, not 2.",
                f"{PARAMS}.betas has to be at most 0.9999999, not 3.",
                f'{PARAMS}.eps has to be a number, not "x".',
            ],
        ),
        (
            {"optimizer": {"params": {"betas": [0.9], "eps": "x"}}},
            [
                f"{PARAMS}.betas has to be a list of two numbers, not [0.9].",
                f"{PARAMS}.eps has to be a number, not x.",
            ],
        ),
        (
            {"scheduler": {"params": {"warmup_num_steps": 1.5, "warmup_min_lr": "low"}}},
            [
                "scheduler.params.warmup_num_steps has to be a whole number, not 1.5.",
                "scheduler.params.warmup_min_lr has to be a number, not low.",
            ],
        ),
    ],
)
@pytest.mark.parametrize("written", [True, False])
def test_a_value_that_no_option_takes_is_told(content: Any, said: list[str], written: bool) -> None:
    """Whether the option is written or not: no value that nobody wrote is named."""
    options = full(content) if written else {"model_type": "full", "deepspeed_config": content}
    without = () if written else ("learning_rate",)

    found = problems_of(options, messages=True, without=("lora_type", "optimizer", *without))

    assert found == [("/config/deepspeed_config", f"deepspeed_config: {each}") for each in said]


def test_what_simpletuner_leaves_to_deepspeed_is_told() -> None:
    written = full("zero2", optimizer="optimi-lion", lr_scheduler="linear", lr_warmup_steps=0)

    imported = import_small(written, without=("lora_type",))

    lines = texts_of(imported.notices, "differs")
    assert [each for each in lines if "deepspeed_config" in each] == [
        f"deepspeed_config: without {entry} in it, {option} acts; SimpleTuner {instead} then."
        for entry, option, instead in (
            ("gradient_clipping", "max_grad_norm 1", "does not clip"),
            ("optimizer", "optimizer optimi-lion", "takes AdamW"),
            ("scheduler", "lr_scheduler linear", "takes WarmupLR"),
        )
    ]


def test_every_entry_of_zero_has_a_verdict() -> None:
    """Compared with the fields of DeepSpeed itself, read without importing it."""
    spec = importlib.util.find_spec("deepspeed")
    assert spec is not None
    assert spec.origin is not None
    source = (Path(spec.origin).parent / "runtime" / "zero" / "config.py").read_text()
    (fields,) = [
        node.body
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ClassDef) and node.name == "DeepSpeedZeroConfig"
    ]
    declared = [node for node in fields if isinstance(node, ast.AnnAssign)]
    names = {node.target.id for node in declared if isinstance(node.target, ast.Name)} | {
        keyword.value.value
        for node in declared
        if isinstance(node.value, ast.Call)
        for keyword in node.value.keywords
        if keyword.arg == "alias" and isinstance(keyword.value, ast.Constant)
    }

    assert len(names) > 50
    assert names - {"stage", *ZERO_IDLE, *ZERO_NOT_BUILT, *ZERO_OFFLOADING} == set()
