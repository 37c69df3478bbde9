"""Which tiling a card gets. A fake tensor is on CUDA without a card, and has no numbers."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from trainer_core.kernels.tile_order import Tiling
from trainer_core.kernels.tilings import BITS_16, E4M3, INT8, LOADED8, is_before_hopper, tiling_for


@pytest.mark.parametrize(
    ("capability", "of_int8", "of_e4m3", "of_bf16"),
    [
        ((8, 0), LOADED8, LOADED8, BITS_16),
        ((8, 9), LOADED8, LOADED8, BITS_16),
        ((9, 0), INT8, E4M3, BITS_16),
        ((12, 0), INT8, E4M3, BITS_16),
    ],
)
def test_rows_of_8_bits_get_plain_loads_on_cards_without_the_accelerator(
    monkeypatch: pytest.MonkeyPatch,
    capability: tuple[int, int],
    of_int8: Tiling,
    of_e4m3: Tiling,
    of_bf16: Tiling,
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    tilings = {torch.int8: of_int8, torch.float8_e4m3fn: of_e4m3, torch.bfloat16: of_bf16}

    for dtype, tiling in tilings.items():
        with FakeTensorMode():
            rows = torch.empty(16, 16, dtype=dtype, device="cuda")
        assert tiling_for(rows) == tiling
        assert is_before_hopper(rows) == (capability[0] == 8)
