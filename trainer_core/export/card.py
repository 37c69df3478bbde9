"""The model card: facts of a run, rendered for the Hugging Face Hub. Imports no torch."""

import json
from collections.abc import Mapping
from typing import Any, Final

from pydantic import JsonValue

from trainer_core.base_models.known import FOURTH_ENCODER
from trainer_core.config.plan import (
    Identity,
    LokrAdapter,
    LoraAdapter,
    Plan,
)
from trainer_core.export.origin import ADAPTER_NAME, Weights

_REAL_BASES: Final = "HiDream-ai/"
_KINDS: Final = {"lokr": "LoKr adapter", "lora": "LoRA adapter", "full": "full fine-tune"}


def card_facts(
    plan: Plan,
    *,
    loss_before: Mapping[str, JsonValue] | None,
    loss_after: Mapping[str, JsonValue],
    trainable_parameters: int,
    trainable_modules: int,
    weights: Weights,
) -> dict[str, JsonValue]:
    """What ``card.json`` holds: the run in numbers, without paths, captions or names of tenants.

    ``weights`` says whether the result holds what was trained or its running mean.
    """
    identity, operation = plan.identity, plan.operation
    return {
        "version": 1,
        "base_model": {"name": identity.base.name, "digest": identity.base.digest},
        "model_type": identity.model_type,
        "multiplier": None if identity.adapter is None else 1.0,  # the file holds the trained one
        "weights": weights,
        "steps": identity.max_train_steps,
        "identity_digest": plan.identity_digest(),
        "trainable_parameters": trainable_parameters,
        "trainable_modules": trainable_modules,
        "options": {
            **_training_options(identity),
            **_objective_options(identity),
            **_adapter_options(identity.adapter),
        },
        "loss": {"before": _means(loss_before), "after": _means(loss_after)},
        "sample": {
            "path": "samples/0.png",
            "prompt": operation.sample_prompt,
            "negative_prompt": operation.sample_negative_prompt,
            "steps": operation.sample_steps,
            "guidance": operation.sample_guidance,
            "seed": operation.sample_seed,
            "width_px": operation.sample_width_px,
            "height_px": operation.sample_height_px,
        },
    }


def _training_options(identity: Identity) -> dict[str, JsonValue]:
    optimizer, schedule = identity.optimizer, identity.schedule
    clip, ema = identity.clip, identity.ema
    return {
        "seed": identity.seed,
        "optimizer": optimizer.name,
        "learning_rate": optimizer.learning_rate,
        "lr_scheduler": schedule.name,
        "lr_warmup_steps": schedule.warmup_steps,
        "max_grad_norm": f"{clip.limit} ({clip.method})" if clip else "none",
        "ema_decay": ema.decay if ema else None,
        "train_batch_size": identity.micro_batch_size,
        "gradient_accumulation_steps": identity.accumulation_steps * identity.world_size,
        "base_model_precision": identity.precision.base,
        "mixed_precision": identity.precision.compute,
        "caption_dropout_probability": identity.caption_dropout_probability,
    }


def _objective_options(identity: Identity) -> dict[str, JsonValue]:
    """None, which is not shown, for what the run does not use."""
    objective = identity.objective
    sigma = objective.sigma
    law = {
        "sigmoid": f"sigmoid of {sigma.sigmoid_scale:g} times normal",
        "uniform": "uniform",
        "beta": f"beta({sigma.beta_alpha:g}, {sigma.beta_beta:g})",
        "list": f"list of {len(sigma.values)}, {sigma.order}",
    }
    is_shifted = sigma.name != "list" and not objective.auto_shift
    huber = f"{objective.huber_c:g}, {objective.huber_schedule}"
    has_masks = any(backend.masks for backend in identity.backends)
    return {
        "sigma_law": law[sigma.name],
        "flow_schedule_shift": objective.shift if is_shifted else None,
        "flow_schedule_auto_shift": True if objective.auto_shift else None,
        "loss_type": objective.loss,
        "huber_c": None if objective.loss == "l2" else huber,
        "masked_loss_probability": objective.masked_loss_probability if has_masks else None,
        "balance_weight": objective.balance_weight or None,
        "pad_compat": True if objective.pad_compat else None,
    }


def _adapter_options(adapter: LokrAdapter | LoraAdapter | None) -> dict[str, JsonValue]:
    match adapter:
        case LokrAdapter():
            is_decomposed = not all(module.full_matrix for module in adapter.modules)
            return {
                "lokr_factor": adapter.factor,
                "lokr_dim": adapter.linear_dim if is_decomposed else None,
                "lokr_alpha": adapter.linear_alpha if is_decomposed else None,
                "lokr_decompose_both": True if adapter.decompose_both else None,
                "lokr_multiplier": adapter.multiplier,
            }
        case LoraAdapter():
            return {
                "lora_rank": adapter.rank,
                "lora_alpha": adapter.alpha,
                "lora_dropout": adapter.dropout,
            }
        case None:
            return {}


def _means(probe: Mapping[str, JsonValue] | None) -> dict[str, JsonValue] | None:
    if probe is None:
        return None
    return {"mean": probe["mean"], "held_out_mean": probe["held_out_mean"]}


def render_card(facts: Mapping[str, Any]) -> str:
    """README.md of a result: YAML front matter, settings, losses, the picture, how to load it.

    ``facts`` is the content of ``card.json``. What a tenant wrote (the prompt) is quoted, so that
    it can neither end the front matter nor add markup.
    """
    kind = _KINDS[facts["model_type"]]
    sections = (
        _front_matter(facts),
        f"# {kind} of {facts['base_model']['name']}",
        _summary(facts, kind),
        _sample(facts["sample"]),
        _losses(facts["loss"], facts["options"]),
        _settings(facts["options"]),
        _usage(facts),
        _LICENCE,
    )
    return "\n\n".join(section for section in sections if section) + "\n"


def _summary(facts: Mapping[str, Any], kind: str) -> str:
    parameters, layers = facts["trainable_parameters"], facts["trainable_modules"]
    text = f"A {kind} of {parameters:,} parameters in {layers} layers, {facts['steps']} steps."
    if facts.get("weights") == "ema":
        text += " The weights are the running mean (EMA) over the training, not its last step's."
    return text


def _front_matter(facts: Mapping[str, Any]) -> str:
    sample = facts["sample"]
    is_adapter = facts["model_type"] != "full"
    tags = ["text-to-image", "hidream", "diffusers"]
    tags += {
        "lokr": ["lokr", "lycoris", "template:sd-lora"],
        "lora": ["lora", "template:sd-lora"],
        "full": ["full-rank"],
    }[facts["model_type"]]
    name = facts["base_model"]["name"]
    lines = ["---", "license: mit", "pipeline_tag: text-to-image"]
    if name.startswith(_REAL_BASES):  # the Hub checks that the repository exists
        lines += ["library_name: diffusers", f"base_model: {name}"]
        lines.append(f"base_model_relation: {'adapter' if is_adapter else 'finetune'}")
    lines += ["tags:", *(f"- {tag}" for tag in tags), "inference: false", "widget:"]
    lines += [f"- text: {_quoted(sample['prompt'] or 'unconditional')}"]
    lines += ["  output:", f"    url: {sample['path']}", "---"]
    return "\n".join(lines)


def _sample(sample: Mapping[str, Any]) -> str:
    prompt = _inline(sample["prompt"]) if sample["prompt"] else "(no prompt)"
    return (
        f"![Sample]({sample['path']})\n\n"
        f"Prompt: {prompt}; {sample['width_px']} by {sample['height_px']} px, "
        f"{sample['steps']} steps, guidance {sample['guidance']}, seed {sample['seed']}."
    )


_MEASURES: Final = {
    "l2": "Mean squared error",
    "huber": "Pseudo-Huber loss",
    "smooth_l1": "Smooth L1 loss",
}


def _losses(loss: Mapping[str, Any], options: Mapping[str, Any]) -> str:
    before, after = loss["before"] or {}, loss["after"]
    rows = ["## Loss", "", "| | before | after |", "| --- | --- | --- |"]
    for title, key in (("all 64 fixed samples", "mean"), ("on held-out images", "held_out_mean")):
        if after.get(key) is not None:
            rows.append(f"| {title} | {_number(before.get(key))} | {_number(after[key])} |")
    measure = _MEASURES[options["loss_type"]]
    where = " where the masks count" if options.get("masked_loss_probability") else ""
    said = f"{measure} of the velocity{where}; images, noise and noise levels are the same."
    rows += ["", said]
    return "\n".join(rows)


def _settings(options: Mapping[str, Any]) -> str:
    rows = [
        f"| {name} | {_inline(str(value))} |"
        for name, value in options.items()
        if value is not None
    ]
    return "\n".join(("## Settings", "", "| option | value |", "| --- | --- |", *rows))


def _usage(facts: Mapping[str, Any]) -> str:
    name = facts["base_model"]["name"]
    body = {"lokr": _LOAD_LOKR, "lora": _LOAD_LORA, "full": _LOAD_FULL}[facts["model_type"]]
    filled = body.format(base=_quoted(name), scale=facts["multiplier"] or 1.0, **_call(facts))
    return f"## Use\n\n```python\n{filled}```"


def _call(facts: Mapping[str, Any]) -> dict[str, Any]:
    sample = facts["sample"]
    return {
        "prompt": _quoted(sample["prompt"]),
        "steps": sample["steps"],
        "guidance": sample["guidance"],
        "seed": sample["seed"],
        "width": sample["width_px"],
        "height": sample["height_px"],
        "adapter": _quoted(ADAPTER_NAME),
        "fourth_encoder": _quoted(FOURTH_ENCODER),
    }


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.6f}"


def _quoted(text: str) -> str:
    """A double-quoted string on one line, the same to Python and to YAML, without backticks."""
    body = json.dumps(text, ensure_ascii=False)
    return "".join(c if c.isprintable() and c != "`" else f"\\U{ord(c):08x}" for c in body)


def _inline(text: str) -> str:
    """Text as inline code, which no markup escapes: one line, no backticks, no cell border."""
    plain = " ".join(text.split()).replace("`", "'").replace("|", "¦")
    return f"`{plain}`"


_PIPELINE: Final = """\
import torch
from diffusers import HiDreamImagePipeline
from transformers import AutoTokenizer, LlamaForCausalLM

# The fourth text encoder has a licence of its own and is not part of the base model's repository.
# Leave `encoder` out where the base model's folder holds all four.
llama = {fourth_encoder}
encoder = {{
    "text_encoder_4": LlamaForCausalLM.from_pretrained(
        llama, subfolder="text_encoder_4", torch_dtype=torch.bfloat16
    ),
    "tokenizer_4": AutoTokenizer.from_pretrained(llama, subfolder="tokenizer_4"),
}}
"""

_PAINT: Final = """\
image = pipe(
    {prompt},
    width={width},
    height={height},
    num_inference_steps={steps},
    guidance_scale={guidance},
    generator=torch.Generator().manual_seed({seed}),
).images[0]
"""

_LOAD_LOKR: Final = (
    _PIPELINE
    + """\
pipe = HiDreamImagePipeline.from_pretrained({base}, torch_dtype=torch.bfloat16, **encoder)

from lycoris import create_lycoris_from_weights  # pip install lycoris-lora

with torch.no_grad():
    network, _ = create_lycoris_from_weights(1.0, {adapter}, pipe.transformer)
network.merge_to({scale})  # the strength; to quantise the transformer, do it after this
pipe.to("cuda")
"""
    + _PAINT
)

_LOAD_LORA: Final = (
    _PIPELINE
    + """\
pipe = HiDreamImagePipeline.from_pretrained({base}, torch_dtype=torch.bfloat16, **encoder)
pipe.load_lora_weights(".", weight_name={adapter}, adapter_name="default")  # needs peft
pipe.set_adapters("default", {scale})  # the strength
pipe.to("cuda")
"""
    + _PAINT
)

_LOAD_FULL: Final = (
    _PIPELINE.replace(
        "from diffusers import HiDreamImagePipeline",
        "from diffusers import HiDreamImagePipeline, HiDreamImageTransformer2DModel",
    )
    + """\
transformer = HiDreamImageTransformer2DModel.from_pretrained(
    "transformer", torch_dtype=torch.bfloat16  # the folder of this repository
)
pipe = HiDreamImagePipeline.from_pretrained(
    {base}, transformer=transformer, torch_dtype=torch.bfloat16, **encoder
).to("cuda")
"""
    + _PAINT
)

_LICENCE: Final = """\
## Licence

HiDream-I1 is published under the MIT licence. Its fourth text encoder, Llama 3.1 8B Instruct, is
not part of this repository and has the Llama 3.1 Community License; whoever runs the pipeline needs
to accept it. Built with Llama. The training images have rights of their own."""
