import pytest
import torch
from torch import nn

from tagging.layers.padding import (
    MaskedBatchNorm,
    PackedFrames,
    frame_mask,
    last_frame,
    max_over_frames,
    mean_over_frames,
)

FRAMES = torch.tensor([3, 1, 5])
MASK = torch.tensor([[1, 1, 1, 0, 0], [1, 0, 0, 0, 0], [1, 1, 1, 1, 1]], dtype=torch.bool)


def maps(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 3 + 5


def test_mask_is_true_at_real_frames():
    assert torch.equal(frame_mask(FRAMES, 5), MASK)
    assert frame_mask(None, 5) is None


def test_masked_batch_norm_equals_batch_norm_of_real_frames():
    for features in ((), (7,)):
        x = maps(3, 4, 5, *features)
        masked, plain = MaskedBatchNorm(4), nn.BatchNorm1d(4)
        out = masked(x, MASK)
        rows = torch.cat([clip[:, :frames] for clip, frames in zip(x, FRAMES, strict=True)], 1)
        expected = plain(rows.flatten(1).unsqueeze(0)).reshape(rows.shape)
        real = torch.cat([clip[:, :frames] for clip, frames in zip(out, FRAMES, strict=True)], 1)
        torch.testing.assert_close(real, expected)
        torch.testing.assert_close(masked.running_mean, plain.running_mean)
        torch.testing.assert_close(masked.running_var, plain.running_var)
        assert not out.transpose(1, 2)[~MASK].any()


def test_masked_batch_norm_without_mask_equals_pytorch():
    x = maps(3, 4, 5, 7)
    torch.testing.assert_close(MaskedBatchNorm(4)(x), nn.BatchNorm2d(4)(x))


def test_pooling_ignores_padding():
    for features in ((), (7,)):
        x = maps(3, 4, 5, *features)
        clips = [clip[:, :frames] for clip, frames in zip(x, FRAMES, strict=True)]
        torch.testing.assert_close(
            mean_over_frames(x, MASK), torch.stack([clip.mean(1) for clip in clips])
        )
        torch.testing.assert_close(
            max_over_frames(x, MASK), torch.stack([clip.amax(1) for clip in clips])
        )
        torch.testing.assert_close(mean_over_frames(x, None), x.mean(2))
        torch.testing.assert_close(max_over_frames(x, None), x.amax(2))


def test_last_frame_is_the_last_real_frame():
    x = maps(3, 5, 4)
    expected = torch.stack([x[0, 2], x[1, 0], x[2, 4]])
    assert torch.equal(last_frame(x, FRAMES), expected)
    assert torch.equal(last_frame(x, None), x[:, 4])


def test_real_frames_are_packed_and_unpacked():
    x = maps(3, 5, 4)
    packed = PackedFrames(FRAMES, 5)
    rows = packed.pack(x)
    assert torch.equal(rows, torch.cat([x[0, :3], x[1, :1], x[2]]))
    unpacked = packed.unpack(rows, -torch.inf)
    assert torch.equal(unpacked[MASK], x[MASK])
    assert (unpacked[~MASK] == -torch.inf).all()
    assert not packed.unpack(rows)[~MASK].any()


def test_all_frames_are_packed_without_padding():
    x = maps(3, 5, 4)
    packed = PackedFrames(None, 5)
    assert torch.equal(packed.pack(x), x.reshape(15, 4))
    assert torch.equal(packed.unpack(packed.pack(x), -torch.inf), x)


@pytest.mark.parametrize("frames", [None, torch.arange(64) % 5 + 1])
def test_dropout_drops_a_channel_for_the_whole_clip(frames):
    packed = PackedFrames(frames, 5)
    x = packed.pack(torch.ones(64, 5, 30))
    torch.manual_seed(0)
    out = packed.dropout(x, 0.4, True)
    torch.testing.assert_close(out.unique(), torch.tensor([0, 1 / 0.6]))
    real = torch.full((64,), 5) if frames is None else frames
    kept = (packed.unpack(out) > 0).sum(1)  # frames of each clip and channel
    assert ((kept == 0) | (kept == real.unsqueeze(1))).all()
    assert 0.35 < (kept == 0).float().mean() < 0.45
    assert packed.dropout(x, 0.4, False) is x
    assert packed.dropout(x, 0.0, True) is x
