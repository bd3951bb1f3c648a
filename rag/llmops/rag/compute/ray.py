"""Ray Data as the engine: a cluster that runs already, or one on this machine, on loopback, while it is needed."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from llmops.core.errors import UnavailableError

if TYPE_CHECKING:
    from llmops.rag.compute.cluster import Stage
    from llmops.rag.config import ComputeConfig

_INSTALL = "pip install 'llmops[ray]'"
_LOOPBACK = "127.0.0.1"


class Ray:
    """A connection to Ray."""

    def __init__(self, config: ComputeConfig) -> None:
        """Join the cluster at `address`, or start one here.

        Raises:
            UnavailableError: Ray is not installed, or there is no cluster.
        """
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            import ray
            import ray.data
        except ImportError as error:
            raise UnavailableError("Ray is not installed", where="compute.engine: ray", hint=_INSTALL) from error
        self._ray = ray
        self._ours = not ray.is_initialized()
        if self._ours:
            _join(ray, config)
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.verbose_stats_logs = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        self.slots = config.workers or max(1, int(ray.cluster_resources().get("CPU", 1)))

    def map(self, tables: list[pa.Table], stage: Stage) -> Iterator[pa.Table]:
        data = self._ray.data.from_arrow(tables).map_batches(
            _apply, fn_args=[stage], batch_format="pyarrow", batch_size=None, concurrency=self.slots
        )
        try:
            yield from data.iter_batches(batch_format="pyarrow", batch_size=None)
        except self._ray.exceptions.RayError as error:
            raise UnavailableError(
                f"a task on the Ray cluster failed: {_last_line(error)}", where="compute.engine: ray"
            ) from error

    def close(self) -> None:
        if self._ours:
            self._ray.shutdown()


def _join(ray: Any, config: ComputeConfig) -> None:
    quiet = {"logging_level": logging.ERROR, "log_to_driver": False}
    try:
        if config.address is not None:
            ray.init(address=config.address, **quiet)
        else:
            ray.init(num_cpus=config.workers, include_dashboard=False, _node_ip_address=_LOOPBACK, **quiet)
    except (ConnectionError, OSError, RuntimeError, ValueError) as error:
        place = config.address or "this machine"
        raise UnavailableError(f"Ray does not start: {_last_line(error)}", where=f"compute.address: {place}") from error


def _apply(table: pa.Table, stage: Stage) -> pa.Table:
    return stage(table)


def _last_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[-1][:300] if str(error).strip() else type(error).__name__
