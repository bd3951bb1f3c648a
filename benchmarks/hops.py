"""What several searches add where a question needs several documents (musique_100: all of them in the top 10).

Side by side in one run: dense alone, the product's single search, and its searches in hops. The planner is the real
one, over HTTP; the model behind it is an oracle that names the subject (the title) of one supporting document that no
search has shown yet. So this measures searching and merging, and is the bound of what a good model can reach with them.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from benchmarks import question_sets
from benchmarks.question_sets import Corpus, Question
from llmops.core.chain import ChainContext
from llmops.core.identity import LOCAL
from llmops.core.llm import LlmClient, LlmEndpoint
from llmops.rag.config import RetrievalConfig
from llmops.rag.embed import open_embedder
from llmops.rag.hops import LlmPlanner, search_in_hops
from llmops.rag.index import open_index
from llmops.rag.retrieve import Retrieved, Retriever

BAR = 0.60
TOP = 10
HOPS = (2, 3, 4)


def main() -> None:
    data = question_sets.data_folder()
    if data is None:
        print("Skipped: LLMOPS_DATA names no folder with the question sets.")
        return
    corpus = question_sets.load(data, "musique_100")
    question_sets.ingest(corpus)
    print(table(measure(corpus)))


def measure(corpus: Corpus) -> list[tuple[str, float, float, float]]:
    """(method, share of questions with all support in the top 10, mean share of the support, searches a question)."""
    from tests.support.upstream import running_upstream

    index = open_index(corpus.state, corpus.index.name)
    embedder = open_embedder(index.reader().embedder_spec, corpus.state.cache)
    titles = {path.stem: path.read_text("utf-8").partition("\n")[0][2:] for path in corpus.folder.iterdir()}
    try:
        with running_upstream() as upstream:
            upstream.answer = lambda seen: oracle(corpus.questions, titles, seen.messages[1]["content"])
            planner = LlmPlanner(LlmClient(LlmEndpoint(upstream.url, "oracle")))

            def searcher(**settings: float) -> Callable[[str], Retrieved]:
                retriever = Retriever(index.reader, embedder, RetrievalConfig(top_k=TOP, **settings))
                return lambda text: retriever.retrieve(text, LOCAL)

            def hopping(most: int) -> Callable[[str], tuple[Retrieved, int]]:
                def run(text: str) -> tuple[Retrieved, int]:
                    *steps, found = search_in_hops(text, searcher(), planner, most, ChainContext())
                    assert isinstance(found, Retrieved)
                    return found, len(steps)

                return run

            methods = {
                "dense alone": lambda text: (searcher(dense_weight=1.0)(text), 1),
                "one search": lambda text: (searcher()(text), 1),
                **{f"at most {most} searches": hopping(most) for most in HOPS},
            }
            return [_row(name, method, corpus.questions) for name, method in methods.items()]
    finally:
        index.close()


def oracle(questions: Sequence[Question], titles: dict[str, str], asked: str):  # type: ignore[no-untyped-def]
    """The planner's reply: the title of a supporting document that does not stand among what was shown."""
    from tests.support.upstream import Reply

    text = asked.partition("\n")[0].removeprefix("Question: ")
    question = next(one for one in questions if one.text == text)
    missing = [titles[name] for name in sorted(question.relevant) if f"\n{titles[name]}\n" not in asked]
    return Reply((json.dumps({"search": missing[0]} if missing else {"enough": True}),))


def _row(
    name: str, method: Callable[[str], tuple[Retrieved, int]], questions: Sequence[Question]
) -> tuple[str, float, float, float]:
    shares, searches = [], []
    for question in questions:
        found, made = method(question.text)
        names = {Path(passage.chunk.uri).stem for passage in found.passages[:TOP]}
        shares.append(len(question.relevant & names) / len(question.relevant))
        searches.append(made)
    return name, float(np.mean([share == 1.0 for share in shares])), float(np.mean(shares)), float(np.mean(searches))


def table(rows: list[tuple[str, float, float, float]]) -> str:
    lines = [
        "musique_100, the planner's model being an oracle that names the next document's subject.\n",
        f"| x bar | method | all support in the top {TOP} | share of the support | searches a question | bar |",
        "|---:|---|---:|---:|---:|---:|",
    ]
    for name, whole, share, made in rows:
        bar = (f"{whole / BAR:.2f}", f"{BAR:.2f}") if name.startswith("at most") else ("", "")
        lines.append(f"| {bar[0]} | {name} | {whole:.2f} | {share:.2f} | {made:.1f} | {bar[1]} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
    sys.stdout.flush()
