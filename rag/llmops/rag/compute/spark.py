"""Apache Spark as the engine: the master at an address, or Spark on this machine, on loopback."""

from __future__ import annotations

import os
import shutil
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from llmops.core.errors import UnavailableError

if TYPE_CHECKING:
    from llmops.rag.compute.cluster import Stage
    from llmops.rag.config import ComputeConfig

_INSTALL = "pip install 'llmops[spark]', and a Java runtime of version 17 or newer"
_LOOPBACK = "127.0.0.1"
_RESULTS = "n long, told string, body binary"
_QUIET = {"spark.ui.enabled": "false", "spark.ui.showConsoleProgress": "false", "spark.log.level": "ERROR"}
_TABLES = {
    "spark.scheduler.mode": "FAIR",
    "spark.python.worker.reuse": "true",
    "spark.sql.execution.arrow.useLargeVarTypes": "true",
    "spark.sql.execution.arrow.pyspark.enabled": "true",
}


class Spark:
    """A Spark session."""

    def __init__(self, config: ComputeConfig) -> None:
        """Open a session with the master at `address`, or with one here.

        Raises:
            UnavailableError: Spark or Java is not installed, or the master does not answer.
        """
        if shutil.which("java") is None and not Path(os.environ.get("JAVA_HOME", ""), "bin", "java").is_file():
            raise UnavailableError("Spark needs Java", where="compute.engine: spark", hint=_INSTALL)
        try:
            with _whatever_pandas():
                from pyspark.errors import PySparkException
                from pyspark.sql import SparkSession
        except ImportError as error:
            raise UnavailableError("Spark is not installed", where="compute.engine: spark", hint=_INSTALL) from error
        self._failure = PySparkException
        here = {"spark.driver.bindAddress": _LOOPBACK, "spark.driver.host": _LOOPBACK} if config.address is None else {}
        builder = SparkSession.builder.appName("llmops ingest").master(
            config.address or f"local[{config.workers or len(os.sched_getaffinity(0))}]"
        )
        for name, value in {**_QUIET, **_TABLES, **here}.items():
            builder = builder.config(name, value)
        if config.address is None:
            os.environ.setdefault("SPARK_LOCAL_IP", _LOOPBACK)
            os.environ["PYSPARK_PYTHON"] = sys.executable
        self._ours = SparkSession.getActiveSession() is None
        try:
            self._session = builder.getOrCreate()
        except (PySparkException, RuntimeError, OSError) as error:
            raise UnavailableError(f"Spark does not start: {error}", where="compute.engine: spark") from error
        self.slots = config.workers or max(1, self._session.sparkContext.defaultParallelism)

    def map(self, tables: list[pa.Table], stage: Stage) -> Iterator[pa.Table]:
        try:
            with _whatever_pandas():
                rows = self._session.createDataFrame(pa.concat_tables(tables)).repartition(len(tables))
                done = rows.mapInArrow(partial(_apply, stage), _RESULTS).toArrow()
        except self._failure as error:
            raise UnavailableError(
                f"a task on the Spark cluster failed: {str(error).strip().splitlines()[0][:300]}",
                where="compute.engine: spark",
            ) from error
        yield done

    def close(self) -> None:
        if self._ours:
            self._session.stop()


@contextmanager
def _whatever_pandas() -> Iterator[None]:
    """Spark warns of new versions of pandas; we hand Arrow over, and no pandas of any version."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "PySpark does not yet fully support pandas", FutureWarning)
        yield


def _apply(stage: Stage, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        yield from stage(pa.Table.from_batches([batch])).to_batches()
