"""Text of users in pictures: shown as it is, never parsed."""

from __future__ import annotations

from typing import Any


def plain(value: Any) -> str:
    """``value`` as text that matplotlib shows letter by letter: no formula between two ``$``, and
    no label hidden for its leading underscore."""
    text = "".join(_visible(letter) for letter in str(value)).replace("$", r"\$")
    return f"\u200a{text}" if text.startswith("_") else text


def _visible(letter: str) -> str:
    """Control characters by their pictures; fonts have no other, and lines would break."""
    if letter == "\n":
        return "⏎"
    code = ord(letter)
    if code < 32:
        return chr(0x2400 + code)
    return "\u2421" if code == 127 else letter
