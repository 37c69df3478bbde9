"""Memory that a kernel has to write: NaN until then."""

from collections.abc import Iterator
from typing import Any

import pytest


@pytest.fixture
def poisoned_memory() -> Iterator[None]:
    """``torch.empty`` and its relatives return NaN (integers: the largest)."""
    import torch  # every test run imports this module

    deterministic: Any = torch.utils.deterministic
    filled_before = deterministic.fill_uninitialized_memory
    # Together they make torch fill what is not initialized. A run turns the filling off.
    torch.use_deterministic_algorithms(True)
    deterministic.fill_uninitialized_memory = True
    try:
        assert torch.empty(3).isnan().all()
        yield
    finally:
        torch.use_deterministic_algorithms(False)
        deterministic.fill_uninitialized_memory = filled_before
