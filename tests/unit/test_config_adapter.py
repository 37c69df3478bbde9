"""LyCORIS presets name the same layers here as in lycoris, and shapes are those of diffusers."""

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.config_examples import NAMED_PRESET, TINY_CONFIG, TRUE_CONFIG, import_small
from trainer_core.config.plan import LokrAdapter
from trainer_core.config.problems import PlanError
from trainer_core.config.shapes import (
    LinearShape,
    factorization,
    hidream_linears,
    lokr_parameters,
)


def meta_model(config: dict[str, Any]) -> Any:
    torch = pytest.importorskip("torch")
    from diffusers import HiDreamImageTransformer2DModel

    with torch.device("meta"):
        return HiDreamImageTransformer2DModel(**config)


@pytest.mark.parametrize(
    "config", [TRUE_CONFIG, TINY_CONFIG, {**TINY_CONFIG, "num_routed_experts": 0}]
)
def test_the_table_is_the_model(config: dict[str, Any]) -> None:
    torch = pytest.importorskip("torch")
    modules = dict(meta_model(config).named_modules())

    expected = []
    for path, module in modules.items():
        if isinstance(module, torch.nn.Linear):
            parts = path.split(".")
            around = (modules[".".join(parts[:depth])] for depth in range(len(parts)))
            expected.append(
                LinearShape(
                    path=path,
                    ancestors=tuple(type(m).__name__ for m in around),
                    in_features=module.in_features,
                    out_features=module.out_features,
                    bias=module.bias is not None,
                )
            )

    assert list(hidream_linears(config)) == expected


@settings(deadline=None)
@given(st.integers(1, 20_000), st.integers(-1, 300))
def test_dimensions_split_as_in_lycoris(dimension: int, factor: int) -> None:
    general = pytest.importorskip("lycoris.functional.general")

    assert factorization(dimension, factor) == general.factorization(dimension, factor)


_CLASS_STATE = (
    "ENABLE_CONV",
    "TARGET_REPLACE_MODULE",
    "TARGET_REPLACE_NAME",
    "LORA_PREFIX",
    "MODULE_ALGO_MAP",
    "NAME_ALGO_MAP",
    "USE_FNMATCH",
    "TARGET_EXCLUDE_NAME",
)


@pytest.fixture
def lycoris_network() -> Iterator[Any]:
    """LycorisNetwork, whose presets are state of the class: put back afterwards."""
    network = pytest.importorskip("lycoris.wrapper").LycorisNetwork
    before = {name: getattr(network, name) for name in _CLASS_STATE}
    yield network
    for name, value in before.items():
        setattr(network, name, value)


def oracle(network: Any, config: dict[str, Any], lycoris: dict[str, Any]) -> tuple[set[str], int]:
    """Names and trainable parameters of what lycoris makes of the config."""
    defaults: dict[str, Any] = {
        "target_module": [],
        "target_name": [],
        "module_algo_map": {},
        "name_algo_map": {},
        "use_fnmatch": False,
        "exclude_name": [],
    }
    network.apply_preset({**defaults, **lycoris["apply_preset"]})
    made = network(
        meta_model(config),
        lora_dim=lycoris.get("linear_dim", 4),
        alpha=1,
        network_module="lokr",
        factor=lycoris["factor"],
        full_matrix=lycoris.get("full_matrix", False),
        use_scalar=lycoris.get("use_scalar", False),
        warn_on_unmatched=False,
    )
    parameters = sum(p.numel() for lora in made.loras for p in lora.parameters())
    return {lora.lora_name for lora in made.loras}, parameters


PRESETS: Sequence[dict[str, Any]] = (
    {"target_module": ["HiDreamAttention"], "module_algo_map": {"HiDreamAttention": {"factor": 4}}},
    NAMED_PRESET,
    {"target_module": ["HiDreamAttention", "HiDreamImageFeedForwardSwiGLU"]},
    {"target_module": ["HiDreamBlock"], "module_algo_map": {"HiDreamAttention": {"factor": 2}}},
    {"target_module": ["MOEFeedForwardSwiGLU"], "exclude_name": [r".*experts\.2"]},
    {"target_module": ["Linear"], "exclude_name": ["*caption*", "*.w2"], "use_fnmatch": True},
    {"target_name": ["x_embedder.proj", "single_.*adaLN_modulation.1$"]},
    {"name_algo_map": {".*to_q": {"factor": 2}, ".*to_.*": {"factor": 8}}},
    {"target_module": ["HiDreamAttention"], "name_algo_map": {".*attn1$": {"factor": 2}},
     "target_name": ["final_layer.linear"]},
)  # fmt: skip


def imported(lycoris: dict[str, Any]) -> LokrAdapter:
    adapter = import_small(lycoris=lycoris).plan.identity.adapter
    assert adapter is not None
    return adapter


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("scalar", [True, False])
def test_presets_resolve_as_in_lycoris(
    preset: dict[str, Any], scalar: bool, lycoris_network: Any
) -> None:
    lycoris = {"factor": 8, "full_matrix": True, "use_scalar": scalar, "apply_preset": preset}

    adapter = imported(lycoris)

    names, parameters = oracle(lycoris_network, TINY_CONFIG, lycoris)
    assert {f"lycoris_{m.path.replace('.', '_')}" for m in adapter.modules} == names
    assert lokr_parameters(adapter, hidream_linears(TINY_CONFIG)) == parameters


@pytest.mark.parametrize(
    ("preset", "modules", "parameters"),
    [({"target_module": ["HiDreamAttention"]}, 256, 6_619_392), (NAMED_PRESET, 448, 15_147_456)],
)
def test_the_true_model_has_the_published_counts(
    preset: dict[str, Any], modules: int, parameters: int, lycoris_network: Any
) -> None:
    lycoris = {"factor": 16, "full_matrix": True, "use_scalar": True, "apply_preset": preset}

    names, count = oracle(lycoris_network, TRUE_CONFIG, lycoris)

    assert (len(names), count) == (modules, parameters)


def test_a_large_rank_is_full_without_full_matrix(lycoris_network: Any) -> None:
    lycoris = {
        "factor": 4,
        "full_matrix": False,
        "linear_dim": 16384,
        "apply_preset": {"target_module": ["HiDreamAttention"]},
    }

    adapter = imported(lycoris)

    _, parameters = oracle(lycoris_network, TINY_CONFIG, lycoris)
    assert lokr_parameters(adapter, hidream_linears(TINY_CONFIG)) == parameters
    assert said({**lycoris, "linear_dim": 7}) == [
        ("/lycoris_config/full_matrix", "not_implemented")
    ]
    assert imported({**lycoris, "linear_dim": 8}).linear_dim == 8


def said(lycoris: dict[str, Any]) -> list[tuple[str, str]]:
    with pytest.raises(PlanError) as caught:
        import_small(lycoris=lycoris)
    return [(problem.pointer, problem.code) for problem in caught.value.problems]


def test_floats_stay_floats() -> None:
    adapter = imported({"multiplier": 0.5, "linear_alpha": "0.25"})

    assert (adapter.multiplier, adapter.linear_alpha) == (0.5, 0.25)


@pytest.mark.parametrize(
    ("lycoris", "pointer", "code"),
    [
        ({"algo": "loha"}, "/lycoris_config/algo", "not_implemented"),
        ({"algos": "lokr"}, "/lycoris_config/algos", "unknown_option"),
        ({"factor": 0}, "/lycoris_config/factor", "bad_value"),
        ({"full_matrix": False}, "/lycoris_config/linear_dim", "missing"),
        ({"decompose_both": True}, "/lycoris_config/decompose_both", "not_implemented"),
        ({"apply_preset": []}, "/lycoris_config/apply_preset", "bad_value"),
        ({"apply_preset": {"target_module": []}}, "/lycoris_config/apply_preset", "no_modules"),
        ({"apply_preset": {"target_module": ["Attention", "Nothing"]}},
         "/lycoris_config/apply_preset", "bad_value"),
        ({"apply_preset": {"name_algo_map": {"*to_q": {"factor": 0}}, "use_fnmatch": True}},
         "/lycoris_config/apply_preset/name_algo_map/*to_q", "bad_value"),
        ({"apply_preset": {"target_name": ["(a+)+b"]}}, "/lycoris_config/apply_preset",
         "not_implemented"),
    ],
)  # fmt: skip
def test_a_wrong_adapter_is_named(lycoris: dict[str, Any], pointer: str, code: str) -> None:
    assert (pointer, code) in said(lycoris)


def test_an_unmatched_pattern_in_a_disguise_cannot_stall() -> None:
    """Shell patterns are compiled without backtracking over their stars."""
    pattern = "*a" * 99 + "b"

    assert said({"apply_preset": {"target_name": [pattern], "use_fnmatch": True}})
