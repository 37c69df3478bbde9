"""fp32 is rounded to bf16 without torch to the bits that torch gives."""

import torch

from trainer_core.export.rounding import rounded_to_bf16


def test_the_bits_are_those_of_torch() -> None:
    drawn = torch.Generator().manual_seed(0)
    bits = torch.randint(-(2**31), 2**31, (300_000,), generator=drawn, dtype=torch.int64)
    # Halfway between two bf16 numbers, and the numbers next to it.
    halfway = (bits[:100_000] & ~0xFFFF) + torch.randint(
        0x7FFF, 0x8002, (100_000,), generator=drawn
    )
    numbers = torch.cat([bits, halfway]).to(torch.int32).view(torch.float32)
    largest = torch.finfo(torch.float32).max
    edges = torch.tensor([0.0, -0.0, largest, -largest, 1e-45, -1e-45, 1.0])
    numbers = torch.cat([edges, numbers[numbers.isfinite()]])

    found = rounded_to_bf16(numbers.numpy().tobytes())

    assert found == numbers.bfloat16().view(torch.uint8).numpy().tobytes()
    assert rounded_to_bf16(b"") == b""
