"""Text that people write: labels and names that look alike, and how to tell them apart."""

import re
import unicodedata

# Marks of direction, joiners and other characters without a width; a byte order mark is one, too.
_ZERO_WIDTH = "\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff"
_ENDS = re.compile(f"^[\\s{_ZERO_WIDTH}]+|[\\s{_ZERO_WIDTH}]+$")
# With the selectors of a character's variant, such as an emoji's.
_INVISIBLE = re.compile(f"[{_ZERO_WIDTH}\ufe00-\ufe0f]")


def clean_text(text: str) -> str:
    """Return text in Unicode's composed form (NFC), without spaces and marks at both ends."""
    return _ENDS.sub("", unicodedata.normalize("NFC", text))


def has_control(text: str) -> bool:
    """Return whether text has a control character, such as a line break."""
    return any(unicodedata.category(character) == "Cc" for character in text)


def fold_text(text: str) -> str:
    """Return a text that is equal for all texts that look alike or differ in case alone."""
    return _visible(text).casefold()


def quote_both(one: str, other: str) -> tuple[str, str]:
    """Return two texts in quotes, with escapes where they look alike but are not equal."""
    quote = ascii if _visible(one) == _visible(other) else repr
    return quote(one), quote(other)


def _visible(text: str) -> str:
    visible = _INVISIBLE.sub("", unicodedata.normalize("NFKC", text))
    visible = "".join(" " if has_control(character) else character for character in visible)
    return " ".join(visible.split())
