"""Audio tagging: `tagging.load(name_or_path)(waveform, sample_rate)` predicts labels."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from tagging.commands.tagger import Tagger


def load(name: str, vggish: "str | Path | None" = None) -> "Tagger":
    """Load a trained model, which is called with a waveform and its sample rate.

    Processes that are forked afterwards can call it too; each then computes with one thread.

    Args:
        name: of the model, the path of its file, or `hf:user/model[@revision]` on the Hugging Face
            hub.
        vggish: VGGish's weights, with which a model of AudioSet's embeddings reads recordings.

    Raises:
        UserError: if the model or the weights do not exist.
    """
    # Imported here, as PyTorch loads slowly and other modules of the package do without it.
    from tagging.commands.tagger import load_tagger

    return load_tagger(name, vggish)
