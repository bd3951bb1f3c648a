"""The program of a trial's process: loads one version behind fences, and does with it what it is asked.

What is imported before the fences are up is trusted: Python, Arrow, pandas, MLflow and this package. The version's own
code runs after that. Clocks and this module's functions are bound before it, which is no defence against a version that
sets out to forge its latency; see docs/validation.md.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from time import perf_counter
from typing import Any

import orjson

from llmops.core.chain import Chain, ChainContext, Citation, Delta, Done, PassageRef, Retrieval, Step
from llmops.core.confined import Channel, pack
from llmops.core.errors import LlmopsError
from llmops.core.fences import Fence, confine, die_with_parent
from llmops.core.identity import Principal
from llmops.core.names import Ref
from llmops.core.state import StateConfig
from llmops.registry import load as loading
from llmops.registry.mlflow_adapter import prepare_to_load

_WARM_UP = 5
_WHAT = 400


def main() -> None:
    """Serve requests on stdin and stdout."""
    die_with_parent()
    channel = Channel()
    setup = channel.receive()
    if setup is None:
        return
    if setup["mlflow"]:
        _import_mlflow()
    fence = setup["fence"] | {"writable": tuple(setup["fence"]["writable"])}
    channel.send(pack(asdict(confine(Fence(**fence)))))
    bench = _ChainBench() if setup["chain"] else _ModelBench()
    while (request := channel.receive()) is not None:
        channel.send(_served(bench, request))


def _import_mlflow() -> None:
    """What every version but a chain of ours needs, before memory is counted."""
    import pandas  # noqa: F401
    import pyarrow as pa

    pa.set_cpu_count(1)
    prepare_to_load()


def _served(bench: _ModelBench | _ChainBench, request: dict[str, Any]) -> list[bytes]:
    handle: Callable[[dict[str, Any]], list[bytes]] = getattr(bench, request["do"])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return handle(request)
    except MemoryError:
        return pack({"failed": "memory", "what": "it took more memory than it may have"})
    except LlmopsError as error:
        out_of_memory = isinstance(error.__cause__, MemoryError)
        return pack({"failed": "memory" if out_of_memory else error.error_code, "what": error.what[:_WHAT]})
    except Exception as error:  # noqa: BLE001 - the boundary to the version's code: it may raise anything
        what = f"{type(error).__name__}: {' '.join(str(error).split())[:_WHAT]}"
        return pack({"failed": "broken", "what": what})


class _ModelBench:
    """A classic model: tables in, tables out."""

    def load(self, request: dict[str, Any]) -> list[bytes]:
        began, self._folder = perf_counter(), Path(request["folder"])
        self._model = loading.model_in(self._folder, StateConfig(**request["state"]), Ref.parse(request["name"]))
        metadata = self._model.metadata
        return pack(
            {
                "seconds": perf_counter() - began,
                "signature": metadata.signature is not None,
                "example": metadata.saved_input_example_info is not None,
            }
        )

    def predict(self, request: dict[str, Any]) -> list[bytes]:
        frame = _frame(request["table"], request["start"], request["stop"])
        names, columns = _columns(self._model.predict(frame))
        body = orjson.dumps(columns, option=orjson.OPT_SERIALIZE_NUMPY, default=_plain)
        return pack({"names": names}, body)

    def example(self, request: dict[str, Any]) -> list[bytes]:
        example = self._model.metadata.load_input_example(str(self._folder))
        columns = _columns(self._model.predict(example))[1]
        return pack({"outcome": f"{len(columns[0]) if columns else 0} predictions"})

    def time(self, request: dict[str, Any]) -> list[bytes]:
        frame = _frame(request["table"], 0, max(request["batch_rows"], request["rows"]))
        singles = [frame.iloc[[row % len(frame)]] for row in range(request["rows"])]
        batch = frame.iloc[: request["batch_rows"]]
        predict = self._model.predict
        return pack(
            {
                "row_s": _timed(predict, singles),
                "batch_s": _timed(predict, [batch] * request["batches"]),
            }
        )


class _ChainBench:
    """A chain: questions in, the contract's events out."""

    def load(self, request: dict[str, Any]) -> list[bytes]:
        began = perf_counter()
        folder, state = Path(request["folder"]), StateConfig(**request["state"])
        name, opening = request["name"], request["opening"]
        self._chain: Chain = (
            loading.chain_in(folder, state, Ref.parse(name))
            if opening is None
            else loading.open_by(opening["opener"], opening["configuration"] | {"state": request["state"]}, where=name)
        )
        return pack({"seconds": perf_counter() - began, "signature": False, "example": False})

    def ask(self, request: dict[str, Any]) -> list[bytes]:
        principal = Principal("validation", "service", frozenset(request["groups"]))
        began, first = perf_counter(), None
        texts: list[str] = []
        cited: list[Citation] = []
        retrieved: tuple[PassageRef, ...] = ()
        done: Done | None = None
        asked = [{"role": "user", "content": request["question"]}]
        for event in self._chain.stream(asked, ChainContext(principal=principal)):  # type: ignore[arg-type]
            if isinstance(event, Delta):
                first = perf_counter() if first is None else first
                texts.append(event.text)
            elif isinstance(event, Citation):
                cited.append(event)
            elif isinstance(event, Done):
                done = event
            elif isinstance(event, Retrieval):
                retrieved = event.passages
            elif not isinstance(event, Step):
                raise TypeError(f"`{type(event).__name__}` is no event of a chain")
        ended = perf_counter()
        if done is None:
            return pack({"failed": "contract", "what": "its stream ends without `done`"})
        answer = {
            "text": "".join(texts),
            "refused": done.refused,
            "citations": [{"uri": c.uri, "text": c.text, "stands": self._stands(c, principal)} for c in cited],
            "generation": done.generation,
            "index_seq": done.index_seq,
            "first_s": (first or ended) - began,
            "total_s": ended - began,
            "retrieved": [{"uri": one.uri, "text": one.text} for one in retrieved],
            "cost_usd": done.usage.cost_usd,
        }
        return pack({}, orjson.dumps(answer))

    def _stands(self, citation: Citation, principal: Principal) -> bool:
        """Whether the chain itself opens the cited span, and it says what was cited."""
        ref = PassageRef(citation.uri, citation.start, citation.end, citation.text, citation.page, citation.title)
        try:
            view = self._chain.passage(ref, principal)
        except LlmopsError:
            return False
        return view.text[view.highlight_start : view.highlight_end] == citation.text


def _frame(path: str, start: int, stop: int) -> Any:
    import pyarrow as pa

    with pa.memory_map(path) as file:
        table = pa.ipc.open_file(file).read_all().slice(start, stop - start)
        return table.to_pandas(use_threads=False, ignore_metadata=True)


def _timed(predict: Callable[[Any], Any], inputs: list[Any]) -> list[float]:
    for given in inputs[:_WARM_UP]:
        predict(given)
    taken = []
    for given in inputs:
        began = perf_counter()
        predict(given)
        taken.append(perf_counter() - began)
    return taken


def _columns(output: Any) -> tuple[list[str] | None, list[Any]]:
    """A model's output as columns: tables with their names, arrays and lists by their second dimension."""
    import numpy as np

    if hasattr(output, "columns") and hasattr(output, "iloc"):
        return [str(name) for name in output.columns], [_listed(output.iloc[:, i]) for i in range(output.shape[1])]
    if isinstance(output, dict):
        return [str(name) for name in output], [_listed(column) for column in output.values()]
    array = np.asarray(output.toarray() if hasattr(output, "toarray") else output)
    if array.ndim == 0:
        return None, [[array.item()]]
    if array.ndim == 1:
        return None, [array.tolist()]
    array = array.reshape(len(array), -1)
    return None, [array[:, place].tolist() for place in range(array.shape[1])]


def _listed(column: Any) -> list[Any]:
    return list(column.tolist()) if hasattr(column, "tolist") else list(column)


def _plain(value: Any) -> Any:
    """What JSON does not know: a missing value as null, anything else as its text."""
    return None if str(value) in {"NaT", "<NA>", "nan"} else str(value)
