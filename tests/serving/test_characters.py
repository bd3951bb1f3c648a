"""No stream, however it is cut, turns whole characters into halves."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from llmops.serving.characters import CharacterJoiner, is_text, whole_characters


def halves(text: str) -> list[str]:
    """The text as its UTF-16 code units, each a string of its own."""
    units = text.encode("utf-16-le")
    return [units[i : i + 2].decode("utf-16-le", "surrogatepass") for i in range(0, len(units), 2)]


@given(st.text(max_size=30), st.data())
def test_any_cut_of_a_text_joins_to_the_text(text: str, data: st.DataObject) -> None:
    units = halves(text)
    joiner, told, place = CharacterJoiner(), "", 0
    while place < len(units):
        size = data.draw(st.integers(1, 4))
        piece = joiner.join("".join(units[place : place + size]))
        assert is_text(piece)
        told += piece
        place += size
    assert told == text


def test_a_lone_half_is_replaced() -> None:
    assert CharacterJoiner().join("a\udc00b") == "a�b"
    assert whole_characters("\ud83d!") == "�!"
