"""Repeated calls of a function as replays of a CUDA graph.

Written from PyTorch's documentation of CUDA graphs; tested on the CPU only.
"""

from collections.abc import Callable

import torch

WARM_UPS = 3  # calls before recording: libraries initialize themselves, which no graph can record


class Replayed:
    """Calls `function`; on a CUDA GPU, records its operations once and then replays them together.

    Args:
        function: reads and writes tensors on the device, in place. Python numbers that it reads
            keep the value that they had when it was recorded.
        device: the device of the tensors.
    """

    def __init__(self, function: Callable[[], None], device: torch.device) -> None:
        self._function = function
        self._on_cuda = device.type == "cuda"
        self._warm_ups = 0
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self) -> None:
        """Call the function, or replay its operations."""
        if not self._on_cuda:
            self._function()
        elif self._warm_ups < WARM_UPS:
            self._warm_ups += 1
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                self._function()
            torch.cuda.current_stream().wait_stream(stream)
        else:
            if self._graph is None:
                graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(graph):  # records without computing
                    self._function()
                self._graph = graph
            self._graph.replay()
