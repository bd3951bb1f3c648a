"""The gateways that are measured, each started as its makers say: ours with all features on, and its peers.

Knows how to install, configure and start them; a peer lives under .benchmarks/ and never becomes a dependency.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

from benchmarks.gateway.tools import (
    BUILD,
    GATEWAY_CORE,
    OTHER_CORE,
    ROOT,
    Load,
    UnavailableError,
    await_port,
    family,
    free_port,
    process,
)
from benchmarks.peers import PeerUnavailableError, installed

MODEL = "gpt-4o-mini"
LITELLM = ("litellm[proxy]==1.106.2",)
PORTKEY = "@portkey-ai/gateway@1.15.2"


@dataclass
class Running:
    """A gateway that answers."""

    name: str
    pid: int
    port: int
    headers: tuple[str, ...] = ()
    folder: Path | None = None
    start_s: float = 0.0

    @property
    def pids(self) -> list[int]:
        return family(self.pid)

    def load(self, lg: Path, body: Path) -> Load:
        return Load(lg, self.port, body, self.headers)


Opened = Callable[[int], AbstractContextManager[Running]]


_NOTHING_MORE: Mapping[str, Any] = {}


def our_config(folder: Path, upstream: str, job: Mapping[str, Any], **provider: Any) -> tuple[Path, str]:
    """The configuration file and a virtual key: key, limits, budget, price and payload log on, cache off."""
    from llmops.gateway.calls import KeyPolicy
    from llmops.gateway.keyring import SNAPSHOT, write_snapshot

    config = {
        "job": "gateway",
        "state": {"dir": str(folder / "state")},
        "port": free_port(),
        "control": {"port": free_port()},
        "require_keys": True,
        "providers": {"mock": {"url": upstream, "api_key": "env:LLMOPS_BENCHMARK_KEY", **provider}},
        "prices": {f"openai/{MODEL}": {"input": "0.15", "output": "0.60", "cached_input": "0.075"}},
        "teams": {"team": {"limits": _LIMITS, "budgets": [{"usd": "1000000", "period": "month"}]}},
        "routes": [
            {"name": MODEL, "targets": [{"provider": "mock", "model": MODEL}], "limits": {"concurrent": 100_000}}
        ],
        "store": {"lease_usd": "25"},
        **job,
    }
    path = folder / "gateway.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    key_id, secret = secrets.token_hex(8), secrets.token_urlsafe(32)
    policy = KeyPolicy(
        key_id, hashlib.sha256(secret.encode()).hexdigest(), "benchmark", frozenset({"staff"}), frozenset({"gateway"}),
        None, "team", frozenset({MODEL}), {"purpose": "benchmark"}, _LIMITS, ((10**15, "month"),),
    )  # fmt: skip
    write_snapshot(folder / "state" / "gateway" / SNAPSHOT, [policy])
    return path, f"lk_{key_id}_{secret}"


_LIMITS = {"requests_per_minute": 1_000_000_000, "tokens_per_minute": 1_000_000_000_000, "concurrent": 100_000}


@contextmanager
def ours(
    folder: Path, upstream: str, compiled: bool = False, job: Mapping[str, Any] = _NOTHING_MORE, **provider: Any
) -> Iterator[Running]:
    """One worker of the data plane; what drains its spool runs beside it. `job` adds to its configuration."""
    folder.mkdir(parents=True, exist_ok=True)
    config, token = our_config(folder, upstream, job, **provider)
    port = yaml.safe_load(config.read_text())["port"]
    environment = {
        **os.environ, "LLMOPS_BENCHMARK_KEY": "sk-upstream", "LLMOPS_COMPILED": "1" if compiled else "0",
        "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]),
    }  # fmt: skip
    command = [sys.executable, "-m", "llmops.gateway.worker", config]
    begun = time.perf_counter()
    log = (folder / "log").open("w", encoding="utf-8")
    with log, process(command, GATEWAY_CORE, stdout=log, stderr=log, env=environment) as running:
        headers = (f"Authorization: Bearer {token}",)
        _await_answer(running, port, headers, begun)
        yield Running(
            "llmops, compiled" if compiled else "llmops",
            running.pid,
            port,
            headers,
            folder,
            time.perf_counter() - begun,
        )


def _await_answer(running: subprocess.Popen[str], port: int, headers: tuple[str, ...], begun: float) -> None:
    """Until the first question is answered."""
    body = {"model": MODEL, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 5}
    named = dict(header.split(": ", 1) for header in headers)
    deadline = begun + 120
    with httpx.Client(trust_env=False, timeout=30) as client:
        while True:
            try:
                answer = client.post(f"http://127.0.0.1:{port}/v1/chat/completions", json=body, headers=named)
                if answer.status_code == 200:
                    return
                problem = f"{answer.status_code}: {answer.text[:200]}"
            except httpx.TransportError as error:
                problem = str(error)
            if running.poll() is not None or time.perf_counter() > deadline:
                raise UnavailableError(f"port {port} does not answer: {problem}")
            time.sleep(0.005)


@contextmanager
def litellm(upstream: int) -> Iterator[Running]:
    """The stock proxy with one worker and a master key; neither budgets nor a payload log (those need its database)."""
    try:
        python = installed("litellm", LITELLM)
    except PeerUnavailableError as error:
        raise UnavailableError(str(error)) from error
    port = free_port()
    config = {
        "model_list": [
            {
                "model_name": MODEL,
                "litellm_params": {
                    "model": f"openai/{MODEL}", "api_base": f"http://127.0.0.1:{upstream}/v1", "api_key": "sk-upstream",
                },
            }
        ],
        "general_settings": {"master_key": "os.environ/LITELLM_MASTER_KEY"},
    }  # fmt: skip
    path = BUILD / "litellm.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    command = [python.parent / "litellm", "--config", path, "--port", str(port), "--host", "127.0.0.1"]
    command += ["--num_workers", "1", "--telemetry", "False"]
    environment = {**os.environ, "PATH": f"{python.parent}:{os.environ['PATH']}", "LITELLM_LOG": "ERROR"}
    key = f"sk-{secrets.token_hex(32)}"
    environment |= {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_MASTER_KEY": key}
    begun = time.perf_counter()
    with process(command, GATEWAY_CORE, env=environment) as running:
        headers = (f"Authorization: Bearer {key}",)
        _await_answer(running, port, headers, begun)
        yield Running("LiteLLM", running.pid, port, headers, start_s=time.perf_counter() - begun)


@contextmanager
def portkey(upstream: int) -> Iterator[Running]:
    """The open gateway of Portkey on node; it knows no virtual keys."""
    folder = ROOT / ".benchmarks" / "portkey"
    script = folder / "node_modules" / "@portkey-ai" / "gateway" / "build" / "start-server.js"
    if shutil.which("node") is None or shutil.which("npm") is None:
        raise UnavailableError("there is no node")
    if not script.exists():
        folder.mkdir(parents=True, exist_ok=True)
        command = ["npm", "install", "--no-fund", "--no-audit", "--prefix", str(folder), PORTKEY]
        done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
        if done.returncode or not script.exists():
            raise UnavailableError(f"Portkey could not be installed: {done.stderr[-200:]}")
    port = free_port()
    begun = time.perf_counter()
    environment = {**os.environ, "NODE_ENV": "production", "TRUSTED_CUSTOM_HOSTS": "127.0.0.1,localhost"}
    with process(["node", script, f"--port={port}", "--headless"], GATEWAY_CORE, env=environment) as running:
        headers = (
            "x-portkey-provider: openai", f"x-portkey-custom-host: http://127.0.0.1:{upstream}/v1",
            "Authorization: Bearer sk-upstream",
        )  # fmt: skip
        _await_answer(running, port, headers, begun)
        yield Running("Portkey", running.pid, port, headers, start_s=time.perf_counter() - begun)


_NGINX = """
worker_processes 1; daemon off; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{ worker_connections 8192; }}
http {{
  access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  keepalive_requests 100000000;
  upstream mock {{ server 127.0.0.1:{upstream}; keepalive 2048; keepalive_requests 100000000; }}
  server {{
    listen 127.0.0.1:{port} {tls};
    location / {{
      proxy_pass http://mock; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off;
      client_body_buffer_size 1m; client_max_body_size 20m;
    }}
  }}
}}
"""


@contextmanager
def nginx(upstream: int, core: int = GATEWAY_CORE, tls: str = "") -> Iterator[Running]:
    """A plain proxy, which looks at nothing; with `tls` the end of TLS before the mock."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if program is None:
        raise UnavailableError("there is no nginx (apt-get install nginx-light)")
    port = free_port()
    folder = BUILD / f"nginx-{port}"
    folder.mkdir(parents=True)
    config = folder / "nginx.conf"
    config.write_text(_NGINX.format(folder=folder, upstream=upstream, port=port, tls=tls), encoding="utf-8")
    begun = time.perf_counter()
    try:
        with process([program, "-c", config, "-p", folder, "-e", folder / "error.log"], core) as running:
            await_port(port, running)
            yield Running("nginx", running.pid, port, start_s=time.perf_counter() - begun)
    finally:
        shutil.rmtree(folder)


@contextmanager
def tls_end(upstream: int) -> Iterator[tuple[int, Path]]:
    """A TLS server before the mock, on the other core: its port, and the certificate to trust."""
    if shutil.which("openssl") is None:
        raise UnavailableError("there is no openssl")
    certificate, key = BUILD / "tls.pem", BUILD / "tls.key"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "2",
    ]
    command += ["-keyout", str(key), "-out", str(certificate), "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"]
    subprocess.run(command, check=True, capture_output=True)
    directives = f"ssl; ssl_certificate {certificate}; ssl_certificate_key {key}; ssl_session_cache shared:a:1m"
    with nginx(upstream, OTHER_CORE, directives) as running:
        yield running.port, certificate


PEERS: dict[str, Opened] = {"nginx": nginx, "Portkey": portkey, "LiteLLM": litellm}


def as_json(figures: Any) -> str:
    return json.dumps(figures, indent=2, default=str)
