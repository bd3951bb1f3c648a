"""Copies are told by their terms: the look at a sample decides nothing that all terms would not."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from llmops.rag.lexical import sample, vocabulary
from llmops.rag.wording import alike

ROOTS = ("cri", "dy", "happ", "lie", "pony", "run", "sk", "sky", "stepp", "young")
ENDS = ("", "e", "ed", "ies", "ing", "ly", "ness", "s", "y")
WORDS = st.one_of(
    st.builds("{}{}".format, st.sampled_from(ROOTS), st.sampled_from(ENDS)),
    st.text(min_size=1, max_size=9),
    st.sampled_from(["c", "p", "the", "such", "Çedille", "ﬁsh", "पानी", "水"]),
)


def shared(one: frozenset[str], other: frozenset[str]) -> bool:
    """The Jaccard index, in whole numbers."""
    return 10 * len(one & other) >= 9 * len(one | other)


@given(st.lists(WORDS, max_size=40))
def test_a_sample_holds_the_terms_of_its_letters_and_no_other(words: list[str]) -> None:
    text = " ".join(words)
    held, most = sample(text)
    assert held == {term for term in vocabulary(text) if term[0] in "cps"}
    assert most >= len(vocabulary(text))


@given(st.lists(WORDS, max_size=60), st.data())
def test_a_text_is_like_another_where_nearly_all_terms_are_shared(words: list[str], data: st.DataObject) -> None:
    changed = list(words)
    for place in data.draw(st.sets(st.integers(0, len(words) - 1), max_size=6)) if words else ():
        changed[place] = data.draw(WORDS)
    one, other = " ".join(words), " ".join(changed)
    assert alike(one, other) == alike(other, one) == shared(vocabulary(one), vocabulary(other))


def test_one_term_more_in_ten_is_a_copy_still_and_one_more_in_nine_is_not() -> None:
    for letter in "cx":
        terms = [f"{letter}{number}" for number in range(10)]
        assert alike(" ".join(terms), " ".join(terms[:9]))
        assert not alike(" ".join(terms[:9]), " ".join(terms[:8]))
