"""Where tensors live: the best device there is, unless `run.device` names one."""

import os

import torch

from tagging.base.errors import UserError

# Sums depend on the number of threads in their last bits: a fixed number makes results the same on
# machines with other numbers of cores. It is one because threads that wait for each other in small
# networks cost thirty times the time as soon as another process wants a core.
THREADS = 1


def pick_device(name: str) -> torch.device:
    """Return the device called `name` (auto, cpu, cuda or mps), set up for repeatable results.

    Raises:
        UserError: if this machine does not have it.
    """
    torch.set_num_threads(THREADS)
    there = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        name = next(device for device, found in there.items() if found)
    if not there[name]:
        found = ", ".join(device for device, found in there.items() if found)
        raise UserError(f"params.yaml: run.device is {name!r}, not on this machine; it has {found}")
    if name != "cpu":  # where one thread is deterministic by itself; to say so costs a second
        torch.use_deterministic_algorithms(True)
        # cuBLAS is deterministic with buffers of its own alone; PyTorch refuses it otherwise.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    return torch.device(name)
