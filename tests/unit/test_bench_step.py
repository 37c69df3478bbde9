"""The parts of `make bench-step` that need no GPU, and all of it at tiny size."""

import json
import math
from pathlib import Path

import pytest
import torch
from diffusers import HiDreamImageTransformer2DModel

from benchmarks.step.agreement import agreement
from benchmarks.step.cases import CASES, select
from benchmarks.step.flops import forward_flops
from benchmarks.step.kernels import kind_of
from benchmarks.step.measure import Failure, Gradient, Timing, attempt
from benchmarks.step.report import line_of, table, write
from benchmarks.step.run import run
from benchmarks.step.setting import tiny_setting
from benchmarks.step.weights import fill_adapter, random_base, random_model
from tests.support.lycoris_oracle import presets_put_back
from tests.support.step_counts import flop_counter
from trainer_core.base_models.known import KNOWN_MODELS, PUBLISHED, TINY_NAME, WIDE_NAME
from trainer_core.config.plan import MatmulKind
from trainer_core.precision.linear8 import dtype8_of, hold_in_8bit

CPU = torch.device("cpu")


def model_of(name: str) -> HiDreamImageTransformer2DModel:
    return random_model(
        HiDreamImageTransformer2DModel,
        KNOWN_MODELS[name].transformer,
        drawn_on=CPU,
        device=CPU,
        dtype=torch.float32,
    )


@pytest.mark.parametrize("matmul", ["fp8", "int8", "no_change"])
def test_a_base_drawn_in_its_form_equals_one_that_is_brought_into_it(matmul: MatmulKind) -> None:
    expected = model_of(TINY_NAME)
    dtype8 = dtype8_of(matmul)
    if dtype8 is not None:
        hold_in_8bit(expected, CPU, dtype8)
    path = "caption_projection.0.linear"

    found = random_base(
        KNOWN_MODELS[TINY_NAME].transformer,
        device=CPU,
        dtype=torch.float32,
        matmul=matmul,
        on_host=[path],
    )

    values = found.state_dict()
    assert values.keys() == expected.state_dict().keys()
    for name, value in expected.state_dict().items():
        assert torch.equal(values[name].float(), value.float()), name
    assert found.training
    assert not any(each.requires_grad for each in found.parameters())


@pytest.mark.parametrize("name", [TINY_NAME, WIDE_NAME])
@pytest.mark.parametrize(("batch", "side", "tokens"), [(1, 8, 5), (2, 6, 128)])
def test_a_forward_takes_the_counted_operations(
    name: str, batch: int, side: int, tokens: int
) -> None:
    config = KNOWN_MODELS[name].transformer
    t5, llama = config["caption_channels"]

    with flop_counter() as counter, torch.no_grad():
        model_of(name)(
            hidden_states=torch.randn(batch, 16, side, side),
            timesteps=torch.rand(batch),
            encoder_hidden_states_t5=torch.randn(batch, tokens, t5),
            encoder_hidden_states_llama3=torch.randn(3, batch, tokens, llama),
            pooled_embeds=torch.randn(batch, config["text_emb_dim"]),
            return_dict=False,
        )

    counted = forward_flops(config, image_tokens=side**2 // 4, batch=batch, caption_tokens=tokens)
    assert counter.get_total_flops() == counted.forward


@pytest.mark.parametrize(
    ("image_tokens", "forward", "step", "checkpointed"),
    [(4096, 77.79, 170.24, 247.9), (1024, 21.74, 44.80, 66.40)],
)
def test_operations_of_the_true_shape(
    image_tokens: int, forward: float, step: float, checkpointed: float
) -> None:
    """TFLOP, worked out by hand from the published shape."""
    counted = forward_flops(PUBLISHED.transformer, image_tokens=image_tokens)

    found = [x / 1e12 for x in (counted.forward, counted.step, counted.checkpointed_step)]
    assert found == pytest.approx([forward, step, checkpointed], rel=2e-4)


def test_cases_have_names_of_their_own_and_are_found_by_them() -> None:
    assert len({case.name for case in CASES}) == len(CASES)
    assert [case.name for case in select("512-8bit, 768*")] == [
        "512-8bit",
        "768x512-bf16-ckpt",
        "768x512-bf16",
    ]
    with pytest.raises(ValueError, match="no case is named 640"):
        select("512*,640")


def test_weights_follow_from_their_names() -> None:
    one, other = (dict(model_of(WIDE_NAME).named_parameters()) for _ in range(2))

    assert all(torch.equal(one[name], other[name]) for name in one)
    query = "single_stream_blocks.0.block.attn1.to_{}.weight"
    assert not torch.equal(one[query.format("q")], one[query.format("k")])
    assert torch.equal(one[query.format("q")], one[query.format("q")].bfloat16().float())
    # Row sizes differ; on average they are those of torch's linears.
    sizes = one[query.format("q")].norm(dim=1)
    assert sizes.max() > 1.5 * sizes.min()
    assert sizes.square().mean() == pytest.approx(math.exp(2 * 0.3**2) / 3, rel=0.1)


def test_adapter_values_are_away_from_zero_and_exact_in_bf16() -> None:
    tensors = {"a.w1": torch.zeros(16, 16), "a.w2": torch.zeros(8, 8), "a.scalar": torch.zeros(1)}

    fill_adapter(tensors, drawn_on=CPU)

    for value in tensors.values():
        assert value.any()
        assert torch.equal(value, value.bfloat16().float())


def gradient_of(loss: float, **tensors: list[float]) -> Gradient:
    return Gradient(loss, {name: torch.tensor(value) for name, value in tensors.items()})


def test_agreement_of_gradients() -> None:
    right = gradient_of(2.0, a=[3.0, 0.0], b=[0.0, 4.0], tiny=[1e-3])
    found = gradient_of(1.0, a=[3.0, 3.0], b=[0.0, 4.0], tiny=[-1e-3])

    agreed = agreement(found, right)

    assert agreed.cosine == pytest.approx(25 / (5 * 34**0.5))
    assert agreed.relative == pytest.approx(3 / 5, rel=1e-3)
    assert agreed.loss_relative == 0.5
    assert [each.name for each in agreed.tensors] == ["tiny", "a", "b"]
    assert agreed.tensors[1].cosine == pytest.approx(0.5**0.5)
    assert agreed.tensors[1].norm == pytest.approx(0.6)
    assert agreed.share_above(0.99) == 0.5  # "tiny" does not count
    with pytest.raises(ValueError, match="2 tensors are trained by one side only"):
        agreement(gradient_of(1.0, c=[1.0]), gradient_of(1.0, d=[1.0]))


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("void cutlass::GemmUniversal<GroupProblemShape...>", "grouped product"),
        ("accelerated_tiles", "grouped product"),
        ("nvjet_sm90_tst_128x256", "product"),
        ("cudnn_generated_fort_native_sdpa_sm90_flash_bprop_wgmma", "attention"),
        ("void at::native::vectorized_elementwise_kernel<4, ...>", "elementwise"),
        ("Memcpy DtoH (Device -> Pinned)", "copy"),
        ("_swiglu_backward_kernel", "Triton"),
        ("something", "other"),
    ],
)
def test_kinds_of_kernels(name: str, kind: str) -> None:
    assert kind_of(name) == kind


def test_running_out_of_memory_is_a_result_and_other_errors_are_told_apart() -> None:
    def out_of_memory() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    assert attempt(out_of_memory) == Failure(
        "OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB", out_of_memory=True
    )
    failure = attempt(lambda: torch.ones(2) @ torch.ones(3))
    assert isinstance(failure, Failure)
    assert not failure.out_of_memory
    assert attempt(lambda: 7) == 7


def test_a_tiny_run_times_ours_and_diffusers_and_compares_their_gradients(
    tmp_path: Path,
) -> None:
    setting = tiny_setting()
    output = tmp_path / "rows.jsonl"

    with presets_put_back():
        rows = run(
            select("768x512-bf16"),
            setting,
            steps=1,
            peers=("diffusers",),
            profile=True,
            report=lambda rows: write(output, rows, setting),
        )

    head, line, kernels = (json.loads(text) for text in output.read_text().splitlines())
    assert head["versions"]["lycoris-lora"]
    assert line == json.loads(json.dumps(line_of(rows[0], setting)))
    assert isinstance(rows[0].ours, Timing)
    assert line["step_s"] > 0
    assert line["peer_s"] > 0
    assert line["ratio"] == pytest.approx(line["peer_s"] / line["step_s"], rel=0.02)
    # Sixty-four by ninety-six pixels: without its pads diffusers computes what ours does.
    assert line["loss"] == pytest.approx(line["peer_loss"], rel=1e-5)
    assert line["grad_cosine"] > 0.99999
    assert line["tflops"] > 0
    assert kernels["kernels_of"] == "768x512-bf16"
    assert kernels["count"] > 100
    assert len(list(table(rows, setting))) == 3
