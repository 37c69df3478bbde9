"""Captures CUDA graphs that share their memory."""

from contextlib import suppress

import torch

from trainer_core.engine.graphs import Run


class CudaRecorder:
    """All graphs use the same memory: they run one after another, and nothing in it outlives one.

    What runs without a graph uses that memory too. Otherwise a rehearsal would need as much again
    as the graphs hold.
    """

    def __init__(self, device: torch.device) -> None:
        # torch's memory pools take only a device with a number.
        self._device = torch.device("cuda", _number_of(device))
        self._stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        self._memory = torch.cuda.MemPool()

    def make_room(self) -> None:
        # While torch allocates for a pool, it gives back nothing that it keeps for others, such as
        # what a measured loss needed, but fails for want of memory.
        torch.cuda.empty_cache()

    def capture(self, run: Run) -> Run:
        graph = torch.cuda.CUDAGraph()
        # A capture that fails would leave its own stream behind as the current one.
        with torch.cuda.stream(torch.cuda.current_stream(self._device)):
            try:
                with (
                    torch.cuda.graph(
                        graph,
                        pool=self._memory.id,  # type: ignore[arg-type]
                        stream=self._stream,
                        # The thread that feeds batches allocates and copies at the same time.
                        capture_error_mode="thread_local",
                    ),
                    _one_thread(),
                ):
                    run()
            except RuntimeError:
                self._end_recording()
                raise
        return graph.replay

    def _end_recording(self) -> None:
        """Let the memory be used again after a capture that CUDA has ended with an error.

        torch 2.11 then goes on to count it as in use by that capture: it refuses to use it for
        anything else, and frees no tensor that another stream has used. The device's random numbers
        refuse to be drawn, too, until their generator has another state.
        """
        with suppress(RuntimeError):  # it was ended
            torch._C._cuda_endAllocateToPool(self._device.index, self._memory.id)
        generator = torch.cuda.default_generators[self._device.index]
        generator.graphsafe_set_state(generator.clone_state())

    def run_beside(self, run: Run) -> None:
        """In order with the current stream."""
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        try:
            with (
                torch.cuda.stream(self._stream),
                torch.cuda.use_mem_pool(self._memory, self._device),
                _one_thread(),
            ):
                run()
        finally:
            current.wait_stream(self._stream)

    def clear(self) -> None:
        # A rehearsal's kernels may still be at work in the memory.
        torch.cuda.synchronize(self._device)
        self._memory = torch.cuda.MemPool()


def _number_of(device: torch.device) -> int:
    return torch.cuda.current_device() if device.index is None else device.index


def _one_thread() -> torch.autograd.set_multithreading_enabled:
    """Backward passes stay in this thread, because memory and capture are bound to a thread."""
    return torch.autograd.set_multithreading_enabled(False)
