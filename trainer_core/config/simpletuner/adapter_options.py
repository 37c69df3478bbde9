"""The verdict on every key of a LyCORIS config, its preset and its per-target overrides."""

from typing import Final

from trainer_core.config.simpletuner.targets import NAMED_PRESETS
from trainer_core.config.simpletuner.verdicts import Table, honoured, not_built, refused, superseded

_DORA: Final = (
    "DoRA rescales whole weights, which a quantised base does not hold, and costs a pass over each "
    "weight in every step. Set it to false."
)

LYCORIS_OPTIONS: Final[Table] = {
    "algo": honoured(
        "text",
        None,
        "The kind of adapter; for LoRA set lora_type to standard in config.json.",
        choices=("lokr",),
        known=(
            *("lora", "locon", "loha", "ia3", "dylora", "glora", "full", "diag-oft", "boft"),
            "tlora",
        ),
    ),
    "multiplier": honoured("float", 1.0, "Strength while training; stays a float.", above=0),
    "linear_dim": honoured("int", None, "Rank, where a matrix is not full.", at_least=1),
    "linear_alpha": honoured(
        "float", 1.0, "Scale is alpha / rank where a matrix is decomposed; 0: the rank."
    ),
    "full_matrix": honoured("bool", False, "Neither matrix is decomposed."),
    "decompose_both": honoured(
        "bool", False, "The smaller matrix, too, is decomposed where the rank is below half of it."
    ),
    "use_scalar": honoured("bool", False, "A learned scalar that starts at 0."),
    "factor": honoured(
        "int", -1, "Split of each dimension; larger is smaller. -1: the most even.", at_least=-1
    ),
    "apply_preset": honoured(
        "any", None, f"Which modules are adapted: an object, or {' or '.join(NAMED_PRESETS)}."
    ),
    "preset": honoured(
        "text",
        "full",
        "A name is the same as in apply_preset; full leaves the choice to apply_preset.",
        choices=("full", *NAMED_PRESETS),
        known=("full-lin", "attn-mlp", "attn-only", "unet-transformer-only", "unet-convblock-only"),
    ),
    **superseded("bypass_mode", "The adapter always works on activations.", "bool"),
    **not_built(
        "unbalanced_factorization train_norm rescaled rs_lora use_tucker use_cp use_conv_cp",
        "Set it to false.",
        False,
        type_="bool",
    ),
    **refused("dora_wd weight_decompose use_dora", _DORA, False),
    **superseded("wd_on_output wd_on_out disable_conv_cp", "It has no effect without dora_wd."),
    **not_built("dropout rank_dropout module_dropout constraint", "Set it to 0.", 0),
    **superseded("conv_dim conv_alpha block_size", "HiDream has no convolutions, LoKr no blocks."),
}

PRESET_OPTIONS: Final[Table] = {
    "target_module": honoured("any", None, "Classes whose linear layers are adapted."),
    "target_name": honoured("any", None, "Module paths or patterns."),
    "module_algo_map": honoured("any", None, "Class → overrides; also a target."),
    "name_algo_map": honoured("any", None, "Path or pattern → overrides; also a target."),
    "use_fnmatch": honoured("bool", False, "Names are shell patterns instead of expressions."),
    "exclude_name": honoured("any", None, "Paths or patterns that are left out."),
    **superseded("enable_conv", "HiDream has no convolutions.", "bool"),
    **superseded("lora_prefix", "Exported files have the prefix lycoris.", "text"),
}

OVERRIDE_OPTIONS: Final[Table] = {
    "algo": LYCORIS_OPTIONS["algo"],
    "factor": LYCORIS_OPTIONS["factor"],
    "dim": honoured("int", None, "Rank, where a matrix is not full.", at_least=1),
    "alpha": honoured("float", None, "As linear_alpha; 0: as the whole adapter."),
    "full_matrix": honoured("bool", None, "As for the whole adapter."),
    "decompose_both": honoured("bool", None, "As for the whole adapter."),
    "use_scalar": honoured("bool", None, "As for the whole adapter."),
    **refused("dora_wd weight_decompose use_dora", _DORA, False),
    **not_built("unbalanced_factorization", "Set it to false.", False, type_="bool"),
    **not_built("dropout rank_dropout module_dropout", "Set it to 0.", 0),
    **superseded("bypass_mode", "The adapter always works on activations.", "bool"),
}

CLASS_NAMES: Final = {
    "Attention": "HiDreamAttention",
    "FeedForward": "HiDreamImageFeedForwardSwiGLU",
    "MOEFeedForward": "MOEFeedForwardSwiGLU",
    "HiDreamImageBlock": "HiDreamBlock",
}
"""Class in SimpleTuner's own copy of the model → the same in diffusers."""
