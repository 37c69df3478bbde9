"""Memory that a kernel has to write: NaN until then."""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture
def poisoned_memory() -> Iterator[None]:
    """``torch.empty`` and its relatives return NaN (integers: the largest)."""
    torch.use_deterministic_algorithms(True)  # with it, torch fills what is not initialized
    try:
        assert torch.empty(3).isnan().all()
        yield
    finally:
        torch.use_deterministic_algorithms(False)
