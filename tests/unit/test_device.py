"""The choice of a device, on machines whose GPU this PyTorch cannot use."""

import pytest
import torch

from tagging.base.errors import UserError
from tagging.learning.device import pick_device


def no_kernel(*_args: object, **_kwargs: object) -> None:
    raise RuntimeError("CUDA error: no kernel image is available for execution on the device")


@pytest.fixture
def _old_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla K40c")
    monkeypatch.setattr(torch, "zeros", no_kernel)


@pytest.mark.usefixtures("_old_gpu")
def test_a_gpu_without_kernels_leaves_the_cpu_with_a_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert pick_device("auto") == torch.device("cpu")
    line = f"PyTorch {torch.__version__} has no kernels for Tesla K40c; the CPU is used\n"
    assert capsys.readouterr().err == line
    assert pick_device("cpu") == torch.device("cpu")
    assert capsys.readouterr().err == ""


@pytest.mark.usefixtures("_old_gpu")
def test_a_gpu_without_kernels_is_refused_where_it_is_asked_for() -> None:
    with pytest.raises(UserError, match=r"must not be cuda: PyTorch \S+ has no kernels for Tesla"):
        pick_device("cuda")
