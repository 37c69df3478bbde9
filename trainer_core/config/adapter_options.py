"""The verdict on every key of a LyCORIS config, its preset and its per-target overrides."""

from typing import Final

from trainer_core.config.verdicts import Table, honoured, not_built, superseded

LYCORIS_OPTIONS: Final[Table] = {
    "algo": honoured(
        "text",
        None,
        "The kind of adapter.",
        choices=("lokr",),
        known=(
            *("lora", "locon", "loha", "ia3", "dylora", "glora", "full", "diag-oft", "boft"),
            "tlora",
        ),
    ),
    "multiplier": honoured("float", 1.0, "Strength while training; stays a float.", above=0),
    "linear_dim": honoured("int", None, "Rank, where a matrix is not full.", at_least=1),
    "linear_alpha": honoured("float", None, "Without effect while both matrices are full."),
    "full_matrix": honoured("bool", False, "Neither matrix is decomposed."),
    "use_scalar": honoured("bool", False, "A learned scalar that starts at 0."),
    "factor": honoured(
        "int", -1, "Split of each dimension; larger is smaller. -1: the most even.", at_least=-1
    ),
    "apply_preset": honoured("any", None, "Which modules are adapted."),
    **superseded("bypass_mode", "The adapter always works on activations.", "bool"),
    **not_built(
        "decompose_both unbalanced_factorization train_norm rescaled dora_wd rs_lora use_tucker "
        "use_cp use_conv_cp",
        "Set it to false.",
        False,
        type_="bool",
    ),
    **superseded("wd_on_output wd_on_out disable_conv_cp", "It has no effect without dora_wd."),
    **not_built("dropout rank_dropout module_dropout constraint", "Set it to 0.", 0),
    **superseded("conv_dim conv_alpha block_size", "HiDream has no convolutions, LoKr no blocks."),
    **not_built("preset", "Use apply_preset.", "full", type_="text"),
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
    "alpha": honoured("float", None, "Without effect while both matrices are full."),
    **not_built(
        "full_matrix use_scalar decompose_both unbalanced_factorization dropout rank_dropout "
        "module_dropout bypass_mode weight_decompose",
        "Set it for the whole adapter.",
    ),
}

CLASS_NAMES: Final = {
    "Attention": "HiDreamAttention",
    "FeedForward": "HiDreamImageFeedForwardSwiGLU",
    "MOEFeedForward": "MOEFeedForwardSwiGLU",
    "HiDreamImageBlock": "HiDreamBlock",
}
"""Class in SimpleTuner's own copy of the model → the same in diffusers."""
