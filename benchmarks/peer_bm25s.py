"""bm25s with its stemmer and stop words: build, ask each question, rank. Run by `peers.run_peer`."""

import json
import sys
import time

import bm25s
import Stemmer

job = json.load(sys.stdin)
stemmer = Stemmer.Stemmer("english")


def tokens(texts):
    return bm25s.tokenize(texts, stopwords="en", stemmer=stemmer, show_progress=False)


result = {"build_s": [], "query_s": [], "rankings": []}
for _ in range(job["rounds"]):
    start = time.process_time()
    index = bm25s.BM25(k1=1.5, b=0.75)
    index.index(tokens(job["texts"]), show_progress=False)
    result["build_s"].append(time.process_time() - start)
for query in job["queries"]:
    start = time.perf_counter()
    rows, scores = index.retrieve(tokens([query]), k=job["k"], show_progress=False, n_threads=1)
    result["query_s"].append(time.perf_counter() - start)
    result["rankings"].append([int(row) for row, score in zip(rows[0], scores[0], strict=True) if score > 0])
json.dump(result, sys.stdout)
