"""The device that networks run on, set up for repeatable results."""

import os
import sys

import torch

from tagging.base.errors import UserError

# Sums depend on the number of threads in their last bits: a fixed number gives the same results on
# machines with other numbers of cores. It is one because threads of small networks wait for each
# other: as soon as another process needs a core, they take thirty times as long.
THREADS = 1


def pick_device(name: str) -> torch.device:
    """Return the device `name` (auto, cpu, cuda or mps), set up for repeatable results.

    Raises:
        UserError: if this machine does not have it.
    """
    torch.set_num_threads(THREADS)
    has_gpu = torch.cuda.is_available()
    available = {
        "cuda": has_gpu and _has_kernels("cuda"),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    devices = [device for device, is_available in available.items() if is_available]
    if has_gpu and not available["cuda"] and name in ("auto", "cuda"):
        message = f"PyTorch {torch.__version__} has no kernels for {torch.cuda.get_device_name()}"
        if name == "cuda":
            raise UserError(f"params.yaml: runtime.device must not be cuda: {message}")
        print(f"{message}; the CPU is used", file=sys.stderr)
    if name == "auto":
        name = devices[0]
    if name not in devices:
        raise UserError(
            f"params.yaml: runtime.device must be one of {', '.join(devices)} on this machine, got "
            f"{name}"
        )
    if name != "cpu":  # one thread of a CPU is deterministic; this would cost a second
        torch.use_deterministic_algorithms(True)
        # cuBLAS needs buffers of its own to be deterministic; PyTorch refuses it otherwise.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    return torch.device(name)


def _has_kernels(name: str) -> bool:
    """Return whether this build of PyTorch can compute on a device that the driver offers."""
    try:
        torch.zeros(1, device=name).add_(1).item()
    except RuntimeError:  # "no kernel image is available for execution on the device"
        return False
    return True
