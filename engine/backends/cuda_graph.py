"""Work on fixed CUDA buffers, recorded once and then replayed by a single launch."""

from collections.abc import Callable, Iterable

import torch

from d2r_fast.engine.backends.cuda import new_stream
from d2r_fast.engine.backends.network import Port, Tensors

WARM_UP_RUNS = 3


class CudaGraph:
    """A function of fixed input buffers as a CUDA graph, replayed on the caller's current stream.

    The runs before the recording let libraries choose kernels and allocate workspaces, which they may not do
    while a graph records.

    Args:
        ports: the inputs, all sizes decided.
        work: from the input buffers to the outputs, the same tensors or graph-private ones each time.
        device: "cuda:N".
    """

    def __init__(
        self, ports: Iterable[Port], work: Callable[[Tensors], dict[str, torch.Tensor]], *, device: str
    ) -> None:
        self._inputs = {port.name: make_buffer(port, device) for port in ports}
        with torch.cuda.device(device):
            side = new_stream(device)
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(WARM_UP_RUNS):
                    work(self._inputs)
            torch.cuda.current_stream().wait_stream(side)
            self._graph = torch.cuda.CUDAGraph()
            # Networks may be opened while a thread waits for another's results, which would end a recording that
            # minds all threads.
            with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
                self._outputs = work(self._inputs)

    def __call__(self, inputs: Tensors) -> dict[str, torch.Tensor]:
        """Replays it; the outputs are overwritten by the next call."""
        for name, buffer in self._inputs.items():
            buffer.copy_(inputs[name], non_blocking=True)
        self._graph.replay()
        return self._outputs


def make_buffer(port: Port, device: str) -> torch.Tensor:
    """A tensor of zeros for a port whose sizes are all decided."""
    sizes = [size for size in port.shape if isinstance(size, int)]
    assert len(sizes) == len(port.shape), port
    return torch.zeros(sizes, dtype=port.dtype, device=device)


def is_static(ports: Iterable[Port]) -> bool:
    """Whether all sizes of all ports are decided."""
    return all(isinstance(size, int) for port in ports for size in port.shape)
