"""Makes one spelling of many, so that a word is found however it is dressed up.

Compatibility forms (full width, mathematical, circled), case, accents, zero-width and other invisible characters, and
the letters of other scripts that look Latin. Both the text and what is looked for are folded, so that folding too much
costs precision only. It knows neither leetspeak nor letters spaced out.

Source: Unicode Standard Annex #15 (normalisation) and Technical Standard #39 (confusables); the table holds the letters
that common fonts draw alike, not all of TS #39.
"""

from __future__ import annotations

import unicodedata
from itertools import accumulate
from typing import Literal

_ALIKE = dict(
    zip(
        "аеорсухіјѕԁһӏԛԝвмнткгпαβεζηικμνορτυχγωɑɡıɩʙɢʜɪʟɴʀʏᴀᴄᴅᴇᴊᴋᴍᴏᴘᴛᴜᴠᴡᴢøłđ",
        "aeopcyxijsdhlqwbmhtkrnabezhikmvoptuxywagiibghilnryacdejkmoptuvwzold",
        strict=True,
    )
)
_UNSEEN = frozenset("\u115f\u1160\u2800\u3164\uffa0")
_SQUARED = ((0x1F150, 0x1F169), (0x1F170, 0x1F189), (0x1F1E6, 0x1F1FF))  # letters without a compatibility form
_WHOLE = (0x3000, 0xD7FF)  # East Asian letters keep their marks: they are other letters without them


class _Folding(dict[int, str]):
    """What becomes of each character; made as they come, for the basic plane once."""

    def __missing__(self, code: int) -> str:
        folded = _fold_character(chr(code))
        if code < 0x10000:
            self[code] = folded
        return folded


def _fold_character(character: str) -> str:
    code = ord(character)
    for first, last in _SQUARED:
        if first <= code <= last:
            return chr(ord("a") + code - first)
    form: Literal["NFKC", "NFKD"] = "NFKC" if _WHOLE[0] <= code <= _WHOLE[1] else "NFKD"
    spread = unicodedata.normalize(form, unicodedata.normalize(form, character).casefold())
    kept = (one for one in spread if unicodedata.category(one) not in ("Mn", "Me", "Cf") and one not in _UNSEEN)
    return "".join(_ALIKE.get(one, one) for one in kept)


_TABLE = _Folding()


def fold(text: str) -> str:
    """The text in its one spelling."""
    return text.lower() if text.isascii() else text.translate(_TABLE)


def offsets(text: str) -> list[int]:
    """Where each character begins in the folded text, and where that ends."""
    return list(accumulate((len(_TABLE[ord(character)]) for character in text), initial=0))
