"""Options that say what a step learns from its samples."""

from typing import Final

from trainer_core.config.simpletuner.verdicts import Table, honoured, not_built, superseded

_SIGMA: Final[Table] = {
    "flow_schedule_shift": honoured(
        "float", 3.0, "Shift of sigma; 0 for none.", at_least=0, at_most=1000
    ),
    "flow_schedule_auto_shift": honoured(
        "bool", False, "The shift follows the number of image tokens; goes before a fixed shift."
    ),
    "flow_sigmoid_scale": honoured(
        "float", 1.0, "Spread of sigma, where no other law is chosen.", above=0, at_most=100
    ),
    "flow_use_uniform_schedule": honoured("bool", False, "Sigma is uniform."),
    "flow_use_beta_schedule": honoured("bool", False, "Sigma has a beta distribution."),
    "flow_beta_schedule_alpha": honoured(
        "float", 2.0, "First shape of the beta distribution.", at_least=0.05, at_most=1000
    ),
    "flow_beta_schedule_beta": honoured(
        "float", 2.0, "Second shape of the beta distribution.", at_least=0.05, at_most=1000
    ),
    "flow_custom_timesteps": honoured(
        "any",
        None,
        "A list, or text with commas: values up to 1 are sigmas, others timesteps of 1000. Never "
        "shifted.",
    ),
    "flow_timesteps_mode": honoured(
        "text",
        "fixed-list",
        "Which of the custom timesteps a sample gets: one at random, or each in turn.",
        choices=("fixed-list", "round-robin"),
    ),
    **not_built(
        "flux_fast_schedule mixflow_enabled",
        "Choose another law of sigma and leave this out.",
        False,
        type_="bool",
    ),
    **not_built("flow_cubic_schedule_weights", "Choose another law of sigma and leave this out."),
    **not_built("input_perturbation", "Leave it out.", 0),
    **superseded(
        "input_perturbation_steps",
        "It has no effect without input_perturbation, which is not built.",
    ),
}

_LOSS: Final[Table] = {
    "loss_type": honoured(
        "text", "l2", "Of each element.", choices=("l2", "huber", "smooth_l1")
    ),
    "huber_c": honoured(
        "float", 0.1, "Where huber and smooth_l1 go over into a line.", above=0, at_most=1000
    ),
    "huber_schedule": honoured(
        "text",
        "snr",
        "How huber_c follows sigma.",
        choices=("constant", "exponential", "snr"),
    ),
    "masked_loss_probability": honoured(
        "float", 1.0, "How often a sample's mask is applied.", at_least=0, at_most=1
    ),
    "caption_dropout_probability": honoured(
        "float", 0.1, "How often a caption is replaced by the empty one.", at_least=0, at_most=1
    ),
    "hidream_use_load_balancing_loss": honoured(
        "bool", False, "Add the experts' load-balancing loss, with its gradient."
    ),
    "hidream_load_balancing_loss_weight": honoured(
        "float", None, "Weight of the balancing loss; 0.01 where it is not given.",
        at_least=0, at_most=1000,
    ),
    "pad_compat": honoured(
        "bool", False,
        "Reverie's own: train non-square buckets with the padding that stock pipelines sample with."
    ),
}  # fmt: skip

_ROLLOUT: Final[Table] = {
    **not_built("scheduled_sampling_max_step_offset", "Set it to 0.", 0, type_="int"),
    **superseded(
        "scheduled_sampling_probability scheduled_sampling_prob_start "
        "scheduled_sampling_ramp_steps scheduled_sampling_start_step "
        "scheduled_sampling_prob_end scheduled_sampling_ramp_shape scheduled_sampling_strategy "
        "scheduled_sampling_sampler scheduled_sampling_order scheduled_sampling_reflexflow "
        "scheduled_sampling_reflexflow_alpha scheduled_sampling_reflexflow_beta1 "
        "scheduled_sampling_reflexflow_beta2",
        "It has no effect without scheduled_sampling_max_step_offset, which is not built.",
    ),
}

OBJECTIVE: Final[Table] = {**_SIGMA, **_LOSS, **_ROLLOUT}
