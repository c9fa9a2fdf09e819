"""Words spoken by eSpeak NG, an offline synthesizer."""

import ctypes
import os
from collections.abc import Iterable
from pathlib import Path

import espeakng_loader
import numpy as np
import soundfile

# Values of the C header speak_lib.h: samples are passed to a callback, and texts are in UTF-8.
_SYNCHRONOUS, _CHARACTERS, _UTF8 = 2, 1, 1
_CALLBACK = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p
)


def speak(words: Iterable[tuple[str, str, Path]]) -> None:
    """Write a recording of each word.

    Args:
        words: the word, the name of the voice, and the WAV file.
    """
    library = ctypes.CDLL(espeakng_loader.get_library_path())
    data = os.fsencode(espeakng_loader.get_data_path())
    rate = library.espeak_Initialize(_SYNCHRONOUS, 0, data, 0)
    assert rate > 0, "eSpeak NG did not start"
    blocks: list[np.ndarray] = []

    @_CALLBACK
    def receive(samples: ctypes._Pointer, number: int, _: int | None) -> int:
        if samples and number:
            blocks.append(np.ctypeslib.as_array(samples, (number,)).copy())
        return 0

    library.espeak_SetSynthCallback(receive)
    for word, voice, path in words:
        assert library.espeak_SetVoiceByName(voice.encode()) == 0, voice
        blocks.clear()
        text = word.encode()
        library.espeak_Synth(text, len(text) + 1, 0, _CHARACTERS, 0, _UTF8, None, None)
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, np.concatenate(blocks), rate)
    library.espeak_Terminate()
