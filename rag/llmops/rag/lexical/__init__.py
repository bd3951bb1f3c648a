"""Lexical search: BM25 over immutable segments that lie in memory as they lie on disk.

Knows rows (numbers of chunks) and their text. It does not know chunks, documents, access, or where segments are kept.
"""

from llmops.rag.lexical.analyzer import FINGERPRINT, analyze, sample, vocabulary
from llmops.rag.lexical.bm25 import Lexical, Scored
from llmops.rag.lexical.segment import Segment, merge

__all__ = ["FINGERPRINT", "Lexical", "Scored", "Segment", "analyze", "merge", "sample", "vocabulary"]
