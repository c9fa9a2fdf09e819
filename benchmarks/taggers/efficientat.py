"""Tagger of one file: `python -m benchmarks.taggers.efficientat <weights> <file>`.

It follows EfficientAT's `inference.py`: librosa reads and resamples, PyTorch tags the whole file at
once. EfficientAT cannot be installed as a package, so the spectrogram and the network are this
project's, which compute the same.
"""

import sys
from pathlib import Path

import librosa
import torch

from tagging.features import log_mel
from tagging.learning.model_file import load_network

SHOWN = 10


@torch.inference_mode()
def main(weights: str, file: str) -> None:
    trained = load_network(Path(weights), torch.device("cpu"))
    settings = log_mel.Settings(preset="efficientat")
    waveform, _ = librosa.load(file, sr=settings.sample_rate, mono=True)
    x = log_mel.Transform(settings)(torch.from_numpy(waveform)[None])
    probabilities = trained.network(x).sigmoid()[0]
    for place in probabilities.argsort(descending=True)[:SHOWN]:
        print(f"{trained.model_spec.classes[place].name}: {probabilities[place]:.3f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
