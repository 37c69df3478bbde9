"""Whether an adapter takes part in a forward."""

from collections.abc import Iterator
from contextlib import contextmanager


class AdapterSwitch:
    """One object that all layers of one adapter read.

    Whether the adapter takes part is an input of the whole forward. diffusers' blocks call their
    linears with one tensor and pass nothing else on, so that input has to reach the adapted layers
    another way. It is off only inside a forward without gradients, so no block that is computed
    again in the backward pass can find it in another position.
    """

    def __init__(self) -> None:
        self.is_on = True

    @contextmanager
    def off(self) -> Iterator[None]:
        """Inside, the model computes what its base computes; also in a nested use."""
        before = self.is_on
        self.is_on = False
        try:
            yield
        finally:
            self.is_on = before
