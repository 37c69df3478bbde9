"""One token with the score log n is n of the stock pipeline's pads."""

from dataclasses import replace

import pytest
import torch
from diffusers import HiDreamImageTransformer2DModel

from tests.support.networks import network_of
from tests.support.noisy_latents import noisy_and_target
from tests.unit.hidream_oracle import Question, model_of, stock_prediction
from trainer_core.hidream.forward import Padding
from trainer_core.hidream.text import TextEmbeddings
from trainer_core.precision.compute import Compute

SIZES = [(6, 10), (12, 4), (2, 4)]


CPU64 = Compute(device=torch.device("cpu"), weights=torch.float64, is_autocast=False)


def ask(
    model: HiDreamImageTransformer2DModel,
    question: Question,
    padding: Padding = "stock",
    gradient_checkpointing_interval: int | None = None,
) -> torch.Tensor:
    network = network_of(
        model, compute=CPU64, gradient_checkpointing_interval=gradient_checkpointing_interval
    )
    return network.velocity(
        noisy_and_target(question.latents, question.noise, question.sigmas)[0],
        question.sigmas * 1000,
        TextEmbeddings(question.t5, question.llama, question.pooled),
        padding,
    ).velocity_BCHW


def weights_of(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return dict(model.named_parameters())


@pytest.mark.parametrize(
    ("shape", "size"), [*(("tiny", size) for size in SIZES), ("tiny", (8, 8)), ("wide", (6, 10))]
)
def test_output_and_gradient_equal_those_of_diffusers_padded_forward(
    shape: str, size: tuple[int, int]
) -> None:
    question, stock, ours = Question.of(size), model_of(shape), model_of(shape)
    weight = torch.linspace(-1, 1, question.latents.numel()).view_as(question.latents).double()

    right, _ = stock_prediction(stock, weights_of(stock), question)
    found = ask(ours, question)
    (right * weight).sum().backward()
    (found * weight).sum().backward()

    assert (found - right).norm() < 1e-11 * right.norm()
    for name, parameter in ours.named_parameters():
        gradient = stock.get_parameter(name).grad
        assert gradient is not None
        assert parameter.grad is not None
        assert (parameter.grad - gradient).norm() <= 1e-10 * gradient.norm(), name


@pytest.mark.parametrize("size", SIZES)
def test_eval_mode_is_padded_in_the_same_way(size: tuple[int, int]) -> None:
    question, stock, ours = Question.of(size), model_of("tiny"), model_of("tiny").eval()

    with torch.no_grad():
        right, _ = stock_prediction(stock, weights_of(stock), question)
        found = ask(ours, question)
        unpadded = ask(ours, question, "exact")

    assert (found - right).norm() < 1e-11 * right.norm()
    assert (unpadded - right).norm() > 1e-4 * right.norm()


def test_gradient_checkpointing_does_not_change_padded_attention() -> None:
    question, plain, checkpointed = Question.of((6, 10)), model_of("tiny"), model_of("tiny")

    for model, interval in ((plain, None), (checkpointed, 1)):
        ask(model, question, gradient_checkpointing_interval=interval).square().mean().backward()

    for name, parameter in checkpointed.named_parameters():
        assert torch.equal(parameter.grad, plain.get_parameter(name).grad), name


def test_diffusers_forward_is_unchanged_after_a_padded_one() -> None:
    question, stock, ours = Question.of((6, 10)), model_of("tiny"), model_of("tiny")
    with torch.no_grad():
        ask(ours, question)
        for one in (stock, ours):
            one.eval()
        noisy, _ = noisy_and_target(question.latents, question.noise, question.sigmas)
        right, found = (
            model(
                noisy,
                question.sigmas * 1000,
                question.t5,
                question.llama.transpose(0, 1),
                question.pooled,
            ).sample
            for model in (stock, ours)
        )

    assert torch.equal(found, right)


def test_a_bucket_of_the_longest_sequence_has_no_pads_and_a_longer_one_is_refused() -> None:
    model = model_of("tiny", (6, 10))
    longest, longer = Question.of((10, 6)), Question.of((10, 8))

    with torch.no_grad():
        assert torch.equal(ask(model, longest), ask(model, longest, "exact"))
    with pytest.raises(ValueError, match="20 patches are more than the model's max_seq 15"):
        ask(model, longer)


@pytest.mark.parametrize("how", ["weights", "autocast"])
def test_bf16_is_near_the_exact_answer(how: str) -> None:
    question, model = Question.of((6, 10)), model_of("tiny")
    with torch.no_grad():
        exact = ask(model, question)
        kind = torch.bfloat16 if how == "weights" else torch.float32
        model.to(kind)
        text = TextEmbeddings(question.t5, question.llama, question.pooled)
        noisy, _ = noisy_and_target(question.latents, question.noise, question.sigmas)
        compute = replace(CPU64, weights=kind, is_autocast=how == "autocast")
        rounded = (
            network_of(model, compute=compute)
            .velocity(
                noisy.to(kind),
                question.sigmas * 1000,
                text.to(device=torch.device("cpu"), dtype=kind),
                "stock",
            )
            .velocity_BCHW
        )

    assert (rounded.double() - exact).norm() < 0.05 * exact.norm()
