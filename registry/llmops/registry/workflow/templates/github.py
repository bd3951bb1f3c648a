"""GitHub Actions: tests at a pull request, an integration run in staging at a push to main, production at a release."""

from __future__ import annotations

import shlex

from llmops.registry.workflow.job import Job
from llmops.registry.workflow.templates import referred


def render(job: Job, *, image: str) -> dict[str, str]:
    del image
    name, file = job.config.name, shlex.quote(job.file)
    text = f"""\
# Workflow {name} of {job.file}. Environments `staging` and `production` hold SQL_URL (the state's database) and the
# secrets that the configuration refers to; give `production` required reviewers.
name: llmops {name}

on:
  pull_request:
  push:
    branches: [main]
  release:
    types: [published]

permissions:
  contents: read

jobs:
  test:
    if: github.event_name == 'pull_request'
    runs-on: ubuntu-latest
    timeout-minutes: 30
    steps:
{_set_up()}
      - run: llmops config validate {file}
      - run: llmops workflow run {file} --plan
      - run: python -m pytest

  staging:
    if: github.event_name == 'push'
    runs-on: ubuntu-latest
    timeout-minutes: 360
    environment: staging
    concurrency: {{group: llmops-{name}-staging, cancel-in-progress: false}}
    env:
{_environment(job, "staging")}
    steps:
{_set_up()}
      - run: llmops workflow run {file} --key "github-$GITHUB_RUN_ID"

  production:
    if: github.event_name == 'release'
    runs-on: ubuntu-latest
    timeout-minutes: 360
    environment: production
    concurrency: {{group: llmops-{name}-production, cancel-in-progress: false}}
    env:
{_environment(job, "prod")}
    steps:
{_set_up()}
      - run: llmops workflow run {file} --key "github-$GITHUB_RUN_ID"
"""
    return {f".github/workflows/llmops-{name.replace('_', '-')}.yml": text}


def _set_up() -> str:
    return """\
      - uses: actions/checkout@v4
        with: {persist-credentials: false}
      - uses: actions/setup-python@v5
        with: {python-version: "3.12", cache: pip}
      - run: python -m pip install -r requirements.txt"""


def _environment(job: Job, catalog: str) -> str:
    secrets = {"LLMOPS_STATE__SQL_URL": "SQL_URL", **{name: name for name in referred(job)}}
    lines = [f"      LLMOPS_ENV: {catalog}"]
    lines += [f"      {name}: ${{{{ secrets.{secret} }}}}" for name, secret in secrets.items()]
    return "\n".join(lines)
