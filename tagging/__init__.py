"""Audio tagging: `tagging.load(name_or_path)(waveform, rate)` gives a waveform's labels."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from tagging.commands.tagger import Tagger


def load(name: str, vggish: "str | Path | None" = None) -> "Tagger":
    """Return a trained model, by its name or its file; called with a waveform, it answers.

    Args:
        name: of the model.
        vggish: where VGGish's weights are, for a model of AudioSet's embeddings to hear sound.

    Raises:
        UserError: if there is none of that name.
    """
    # Here, as it takes PyTorch along, which no other module should have to wait for.
    from tagging.commands.tagger import load as load_tagger

    return load_tagger(name, vggish)
