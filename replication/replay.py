"""A function without arguments, called over and over: on a CUDA GPU, a call is one graph replay.

Written to PyTorch's documentation of CUDA graphs, and tested on the CPU alone.
"""

from collections.abc import Callable

import torch

WARM_UPS = 3  # calls before the capture: libraries choose and set up what a graph cannot record


class Replayed:
    """Calls `function`. On a CUDA GPU its operations are recorded once and then replayed together.

    Args:
        function: what it reads and writes beyond a call are tensors on the device that stay where
            they are, changed in place; numbers of Python's keep the value they had when recorded.
        device: where the tensors are.
    """

    def __init__(self, function: Callable[[], None], device: torch.device) -> None:
        self._function = function
        self._on_cuda = device.type == "cuda"
        self._warm_ups = 0
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self) -> None:
        """Call the function, or replay what it did."""
        if not self._on_cuda:
            self._function()
        elif self._warm_ups < WARM_UPS:
            self._warm_ups += 1
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                self._function()
            torch.cuda.current_stream().wait_stream(side)
        else:
            if self._graph is None:
                graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(graph):  # records, and computes nothing
                    self._function()
                self._graph = graph
            self._graph.replay()
