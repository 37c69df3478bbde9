"""Options of the loss, masks, caption dropout and load balancing."""

from collections.abc import Sequence
from typing import Final

from trainer_core.config.plan import Backend, HuberSchedule, Loss, Objective
from trainer_core.config.simpletuner.model import MODEL_TYPE, is_full_rank
from trainer_core.config.simpletuner.reading import Options
from trainer_core.config.simpletuner.timesteps import shift_of, timesteps_of
from trainer_core.config.simpletuner.verdicts import Option, Table

OBJECTIVE: Final = Table()

_LOSS: Final[Option[Loss]] = OBJECTIVE.choice("loss_type", Loss, "l2", "Of each element.")
_HUBER_C: Final = OBJECTIVE.number(
    "huber_c", 0.1, "Error at which huber and smooth_l1 become linear.", above=0, at_most=1000
)
_HUBER_SCHEDULE: Final[Option[HuberSchedule]] = OBJECTIVE.choice(
    "huber_schedule", HuberSchedule, "snr", "How huber_c follows sigma."
)
_MASK_PROBABILITY: Final = OBJECTIVE.number(
    "masked_loss_probability", 1.0, "How often a sample's mask is applied.", at_least=0, at_most=1
)
_CAPTION_DROPOUT: Final = OBJECTIVE.number(
    "caption_dropout_probability",
    0.1,
    "How often a caption is replaced by the empty one.",
    at_least=0,
    at_most=1,
)
_USE_BALANCE: Final = OBJECTIVE.flag(
    "hidream_use_load_balancing_loss",
    False,
    "Add the experts' load-balancing loss, with its gradient.",
)
_BALANCE_WEIGHT: Final = OBJECTIVE.number(
    "hidream_load_balancing_loss_weight",
    0.01,  # what SimpleTuner's documentation says is the default
    "Weight of the balancing loss.",
    at_least=0,
    at_most=1000,
)
_PAD_COMPAT: Final = OBJECTIVE.flag(
    "pad_compat",
    False,
    "Reverie's own: train non-square buckets with the padding that stock pipelines sample with.",
)
OBJECTIVE.unlike(
    _PAD_COMPAT,
    "Non-square images are trained at their own length; SimpleTuner pads them to 4096 tokens, as "
    "pad_compat does.",
)
OBJECTIVE.unlike(
    _USE_BALANCE, "The loss has a gradient; SimpleTuner's has none and only raises the logged loss."
)
OBJECTIVE.not_built("input_perturbation", "Leave it out.", 0)
OBJECTIVE.no_effect(
    "input_perturbation_steps", "It has no effect without input_perturbation, which is not built."
)
OBJECTIVE.not_built("scheduled_sampling_max_step_offset", "Set it to 0.", 0, type_="int")
OBJECTIVE.no_effect(
    "scheduled_sampling_probability scheduled_sampling_prob_start "
    "scheduled_sampling_ramp_steps scheduled_sampling_start_step "
    "scheduled_sampling_prob_end scheduled_sampling_ramp_shape scheduled_sampling_strategy "
    "scheduled_sampling_sampler scheduled_sampling_order scheduled_sampling_reflexflow "
    "scheduled_sampling_reflexflow_alpha scheduled_sampling_reflexflow_beta1 "
    "scheduled_sampling_reflexflow_beta2",
    "It has no effect without scheduled_sampling_max_step_offset, which is not built.",
)


def objective_of(config: Options, backends: Sequence[Backend]) -> Objective:
    """The objective, with defaults for options that are not given."""
    timesteps = timesteps_of(config)
    shift, follows_tokens = shift_of(config, timesteps.name)
    loss = config[_LOSS]
    if loss == "l2":
        config.idle("on the loss l2", _HUBER_C, _HUBER_SCHEDULE)
    return Objective(
        sigma=timesteps,
        shift=shift,
        auto_shift=follows_tokens,
        loss=loss,
        huber_c=config[_HUBER_C] if loss != "l2" else _HUBER_C.default,
        huber_schedule=config[_HUBER_SCHEDULE] if loss != "l2" else _HUBER_SCHEDULE.default,
        masked_loss_probability=_mask_probability(config, backends),
        balance_weight=_balance_weight(config),
        pad_compat=config[_PAD_COMPAT],
    )


def caption_dropout_of(config: Options) -> float:
    """How often a caption is replaced by the empty one."""
    return config[_CAPTION_DROPOUT]


def _mask_probability(config: Options, backends: Sequence[Backend]) -> float:
    probability = config[_MASK_PROBABILITY]
    roles = {backend.role for backend in backends if backend.masks}
    if not roles:
        config.idle("where no backend has masks", _MASK_PROBABILITY)
        return 1.0
    if roles == {"eval"} and config.given(_MASK_PROBABILITY):
        config.differs(
            _MASK_PROBABILITY,
            "acts only on the loss that is measured: no backend that is trained on has masks.",
        )
    if probability == 0:
        config.differs(_MASK_PROBABILITY, "0: no mask is ever applied.")
    return probability


def _balance_weight(config: Options) -> float:
    weight, is_written = config[_BALANCE_WEIGHT], config.given(_BALANCE_WEIGHT)
    if not config[_USE_BALANCE]:
        if is_written and weight:
            config.idle("without hidream_use_load_balancing_loss", _BALANCE_WEIGHT)
        return 0.0
    if weight == 0:
        config.idle("at the weight 0", _USE_BALANCE)
    if not is_full_rank(config) and not config.is_wrong(MODEL_TYPE):
        config.differs(
            _USE_BALANCE,
            "has a gradient here, in SimpleTuner none; an adapter does not train the experts' "
            "gates, so its effect is small.",
        )
    return weight
