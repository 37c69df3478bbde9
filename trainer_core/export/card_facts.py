"""``card.json`` of a result: the facts of a run that its model card shows. Imports no torch."""

from collections.abc import Mapping

from pydantic import JsonValue

from trainer_core.config.plan import Identity, LokrAdapter, LoraAdapter, MatmulKind, Plan
from trainer_core.data.collecting import MAX_TEXT_TOKENS
from trainer_core.data.cut_captions import CutCaptions
from trainer_core.export.origin import Weights


def card_facts(
    plan: Plan,
    *,
    step: int,
    loss_before: Mapping[str, JsonValue] | None,
    loss_after: Mapping[str, JsonValue] | None,
    trainable_parameters: int,
    trainable_modules: int,
    weights: Weights,
    matmul: MatmulKind,
    captions: CutCaptions | None = None,
    is_checkpoint: bool = False,
    evaluation: Mapping[str, JsonValue] | None = None,
) -> dict[str, JsonValue]:
    """The content of ``card.json``: settings and losses, without paths, captions or tenant names.

    ``weights`` says which values of the trained parameters the result has, ``matmul`` how the run
    multiplied with the base, ``captions`` how many captions were cut off. ``step`` is its last one,
    or that of a checkpoint, which has neither a picture nor a loss after the training.
    ``evaluation``: the evaluation losses, where the run has measured any.
    """
    identity, operation = plan.identity, plan.operation
    start = identity.start_adapter
    return {
        "version": 1,
        "base_model": {"name": identity.base.name, "digest": identity.base.digest},
        "model_type": identity.model_type,
        # The multiplier of training is folded into the file.
        "multiplier": None if identity.adapter is None else 1.0,
        "weights": weights,
        "steps": step,
        "identity_digest": plan.identity_digest(),
        "trainable_parameters": trainable_parameters,
        "trainable_modules": trainable_modules,
        "options": {
            **_training_options(identity, matmul),
            **_objective_options(identity),
            **_adapter_options(identity.adapter),
            "init_lora": None if start is None else f"SHA-256 {start.sha256}",
        },
        "captions": None if captions is None else _captions(captions),
        "loss": {"before": _means(loss_before), "after": _means(loss_after)},
        **({} if evaluation is None else {"evaluation": {**evaluation}}),
        "sample": {
            "path": None if is_checkpoint else "samples/0.png",
            "prompt": operation.sample_prompt,
            "negative_prompt": operation.sample_negative_prompt,
            "steps": operation.sample_steps,
            "guidance": operation.sample_guidance,
            "guidance_rescale": operation.sample_guidance_rescale,
            "seed": operation.sample_seed,
            "width_px": operation.sample_width_px,
            "height_px": operation.sample_height_px,
        },
    }


def _captions(captions: CutCaptions) -> dict[str, JsonValue]:
    return {
        "number": captions.captions,
        "cut": captions.cut,
        "longest_tokens": captions.longest_tokens,
        "limit_tokens": MAX_TEXT_TOKENS,
        "is_estimate": not captions.is_exact,
    }


def _training_options(identity: Identity, matmul: MatmulKind) -> dict[str, JsonValue]:
    optimizer, schedule = identity.optimizer, identity.schedule
    clip, ema = identity.clip, identity.ema
    return {
        "seed": identity.seed,
        "num_train_epochs": identity.num_train_epochs,
        "optimizer": optimizer.name,
        "learning_rate": optimizer.learning_rate,
        "lr_scheduler": schedule.name,
        "lr_warmup_steps": schedule.warmup_steps,
        "max_grad_norm": f"{clip.limit} ({clip.method})" if clip else "none",
        "ema_decay": ema.decay if ema else None,
        "train_batch_size": identity.micro_batch_size,
        "gradient_accumulation_steps": identity.micro_batches_per_step,
        "base_model_precision": identity.precision.base,
        "base_model_matmul_precision": matmul,
        "mixed_precision": identity.precision.compute,
        "caption_dropout_probability": identity.caption_dropout_probability,
    }


def _objective_options(identity: Identity) -> dict[str, JsonValue]:
    """The options of the objective. An unused one is None, and the card leaves it out."""
    objective = identity.objective
    sigma = objective.sigma
    sampling = {
        "sigmoid": f"sigmoid of {sigma.sigmoid_scale:g} times normal",
        "uniform": "uniform",
        "beta": f"beta({sigma.beta_alpha:g}, {sigma.beta_beta:g})",
        "list": f"list of {len(sigma.values)}, {sigma.order}",
    }
    is_shifted = sigma.name != "list" and not objective.auto_shift
    huber = f"{objective.huber_c:g}, {objective.huber_schedule}"
    has_masks = any(backend.masks for backend in identity.backends)
    return {
        "sigma_law": sampling[sigma.name],
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


def _means(loss: Mapping[str, JsonValue] | None) -> dict[str, JsonValue] | None:
    if loss is None:
        return None
    return {"mean": loss["mean"], "held_out_mean": loss["held_out_mean"]}
