"""Waveforms that a caller passes from Python: checked, and mixed down to one channel."""

from numbers import Real

import numpy as np

from tagging.base.errors import UserError
from tagging.features.channels import mix_down
from tagging.features.decoding import MAX_AMPLITUDE, MAX_SAMPLE_RATE, MIN_SAMPLE_RATE


def check_sample_rate(sample_rate: float) -> None:
    """Refuse a sample rate that no recording has.

    Raises:
        UserError: unless it is a number from 1,000 to 1,000,000 Hz.
    """
    is_number = isinstance(sample_rate, Real)  # callers are not type-checked
    if not is_number or not MIN_SAMPLE_RATE <= sample_rate <= MAX_SAMPLE_RATE:
        raise UserError(
            f"the sample rate must be a number from {MIN_SAMPLE_RATE:,} to {MAX_SAMPLE_RATE:,} Hz, "
            f"got {sample_rate!r}"
        )


def to_mono(waveform: np.ndarray) -> np.ndarray:
    """Return a waveform as one channel: float32 (samples,).

    Args:
        waveform: (samples,) or (samples, channels). Floats are in [-1, 1]; decoders may exceed
            this range, up to 10. Integers, signed or unsigned, use the whole range of their type.

    Raises:
        UserError: if its shape, type or range is another.
    """
    shape = waveform.shape
    # No recording has more channels than samples: the axes are swapped.
    if waveform.ndim not in (1, 2) or not waveform.size or shape[-1] > shape[0]:
        raise UserError(
            f"the waveform must have the shape (samples,) or (samples, channels), got {shape}"
        )
    if np.issubdtype(waveform.dtype, np.integer):
        limits = np.iinfo(waveform.dtype)
        full_scale = (float(limits.max) - float(limits.min) + 1) / 2
        waveform = (waveform - (float(limits.min) + full_scale)) / full_scale
    elif not np.issubdtype(waveform.dtype, np.floating):
        raise UserError(f"the waveform must have floats or integers, got {waveform.dtype}")
    waveform = waveform.astype(np.float32)
    mono = waveform if waveform.ndim == 1 else mix_down(waveform)
    if not np.isfinite(mono).all():
        raise UserError("the waveform must have finite samples, got NaN or infinity")
    if (peak := np.abs(mono).max()) > MAX_AMPLITUDE:
        raise UserError(
            f"the waveform must have floats in [-1, 1], got a peak of {peak:g}; pass integers in "
            "their integer type, or divide by its full scale"
        )
    return mono
