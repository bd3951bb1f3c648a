"""The control's API and door over a real socket: keys, usage, routes, and who may do what."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.control import GUARD, Control, fill, row, running_control, write_metrics

from llmops.core.errors import UserError
from llmops.core.keys import Keys
from llmops.core.sql import open_sql
from llmops.gateway.control.usage import Wanted, days, moment
from llmops.gateway.control.wishes import read_budget, read_wish
from llmops.gateway.keyring import SNAPSHOT, Ring


@pytest.fixture(scope="module")
def control(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Control]:
    with running_control(tmp_path_factory.mktemp("control")) as started:
        yield started


@pytest.fixture
def client(control: Control) -> Iterator[httpx.Client]:
    with control.client(headers=GUARD) as opened:
        yield opened


def test_a_key_is_made_listed_used_and_revoked(control: Control, client: httpx.Client) -> None:
    wish = {
        "name": "intranet",
        "team": "search",
        "routes": ["fast"],
        "tags": {"app": "intranet"},
        "budgets": ["30/month", "0.5/day"],
        "requests_per_minute": 60,
        "expires": "90d",
    }
    made = client.post("/api/keys", json=wish)
    assert made.status_code == 201, made.text
    token, key = made.json()["token"], made.json()
    assert key["budgets"] == [{"usd": "30", "period": "month"}, {"usd": "0.5", "period": "day"}]
    ring = Ring.load(control.office.folder / SNAPSHOT)  # published before the answer
    found = ring.find(token)
    assert found is not None
    assert found.limits == {"requests_per_minute": 60}
    listed = client.get("/api/keys").json()["keys"]
    assert token not in str(listed)
    assert next(one for one in listed if one["key_id"] == key["key_id"])["state"] == "active"
    budgets = client.get("/api/budgets").json()["budgets"]
    mine = [one for one in budgets if one["subject"] == f"key:{key['key_id']}"]
    assert {(one["period"], one["limit_usd"], one["spent_usd"]) for one in mine} == {
        ("month", "30", "0"),
        ("day", "0.5", "0"),
    }
    assert client.post(f"/api/keys/{key['key_id']}/revoke").json()["state"] == "revoked"
    ring.refresh()
    assert ring.find(token) is None
    assert client.delete("/api/keys/0000000000000000").status_code == 404


@pytest.mark.parametrize(
    ("wish", "said"),
    [
        ({"name": "a", "routes": ["fats"]}, "fast"),
        ({"name": "a", "team": "nobody"}, "teams"),
        ({"name": "a", "budgets": ["lots"]}, "30/month"),
        ({"name": "a", "budgets": ["-1/month"]}, "30/month"),
        ({"name": "a", "budgets": ["1/month", "2/month"]}, "one budget a period"),
        ({"name": "a", "requests_per_minute": 0}, "above 0"),
        ({"name": "a", "concurrent": "x"}, "above 0"),
        ({"name": "a", "expires": "soon"}, "90d"),
        ({"name": "a", "expires": "2001-01-01"}, "future"),
        ({"name": "a", "scopes": ["serving"]}, "no further scope"),
        ({"name": "a", "tags": ["x"]}, "NAME=VALUE"),
        ({"name": 3}, "is a text"),
        ({"name": "a\x00b"}, "control characters"),
        ({"name": "a", "tags": {"b": "c\x1bd"}}, "control characters"),
        ({"name": "a", "expires": "0001-01-01T00:00:00+14:00"}, "90d"),
        ({"name": "a", "routes": [1]}, "list of texts"),
        ({"name": "a", "color": "red"}, "has no `color`"),
        ({}, "needs a name"),
        ([], "no JSON object"),
    ],
)
def test_a_wrong_wish_is_refused_with_what_to_do(client: httpx.Client, wish: Any, said: str) -> None:
    answer = client.post("/api/keys", json=wish)
    assert answer.status_code == 400
    assert said in answer.json()["error"]["message"]


def test_a_body_that_is_no_json_is_refused(client: httpx.Client) -> None:
    assert client.post("/api/keys", content=b"\xff{").status_code == 400
    assert client.post("/api/keys", content=b"x" * 70_000).status_code == 413


@settings(deadline=None)
@given(
    st.recursive(
        st.none() | st.text(max_size=5) | st.integers() | st.booleans(), lambda inner: st.lists(inner, max_size=3)
    )
)
def test_any_value_is_read_or_refused(value: Any) -> None:
    for name in ("name", "team", "routes", "tags", "budgets", "expires", "concurrent", "scopes"):
        try:
            read_wish({"name": "a", name: value})
        except UserError as refused:
            assert refused.what  # noqa: PT017 - either way is right


def test_budgets_as_they_are_written() -> None:
    assert (read_budget("$0.50/day").usd, read_budget("0.50/day").period) == (Decimal("0.50"), "day")
    assert read_budget("30").period == "month"
    for wrong in ("", "NaN", "1e400", "1/eon", "0", "1/day/day", "0.0000000001"):
        with pytest.raises(UserError):
            read_budget(wrong)


# --- who may --------------------------------------------------------------------------------------------------------


def test_a_page_of_another_site_reaches_nothing(control: Control) -> None:
    with control.client() as client:
        assert client.get("/api/keys", headers={"host": "evil.example"}).status_code == 403
        assert client.get("/", headers={"host": "evil.example:4001"}).status_code == 403
        assert client.get("/api/keys", headers={"origin": "http://evil.example"}).status_code == 403
        assert client.get("/api/keys", headers={"origin": "null"}).status_code == 403
        assert client.get("/api/keys").status_code == 200
        assert client.post("/api/keys", json={"name": "a"}).json()["error"]["code"] == "unguarded"
        cross = {"sec-fetch-site": "cross-site", **GUARD}
        assert client.post("/api/keys", json={"name": "a"}, headers=cross).status_code == 403
        foreign = {"origin": "http://evil.example", **GUARD}
        assert client.post("/api/keys", json={"name": "a"}, headers=foreign).status_code == 403
        assert client.post("/reload", data={"x": "1"}).status_code == 403
        own = {"origin": control.url}
        assert client.post("/api/keys", json={"name": "mine"}, headers=own).status_code == 201


def test_every_answer_is_sealed(control: Control) -> None:
    with control.client() as client:
        for path in ("/", "/keys", "/api/now", "/nothing", "/pages.css", "/healthz"):
            headers = client.get(path).headers
            policy = headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy
            assert headers["x-frame-options"] == "DENY"
            assert headers["x-content-type-options"] == "nosniff"


def test_errors_are_json_or_a_page(client: httpx.Client) -> None:
    assert client.get("/nothing").json()["error"]["code"] == "not_found"
    page = client.get("/nothing", headers={"accept": "text/html"})
    assert page.status_code == 404
    assert "<h1>Nothing is at /nothing</h1>" in page.text
    assert client.put("/api/keys").status_code == 405
    assert client.get("/usage?since=never", headers={"accept": "text/html"}).status_code == 400
    assert client.get("/api/usage?by=shoe").status_code == 400
    assert client.get("/api/requests?limit=x").status_code == 400
    assert client.get("/api/requests?limit=²").status_code == 400
    assert client.post("/api/reload").json()["error"]["code"] == "conflict"  # no supervisor is its parent


@pytest.mark.parametrize(
    ("since", "until", "status"),
    [
        ("0001-01-01", "", 400),  # a page of each day would hold up everybody for minutes
        ("99999d", "", 400),
        ("²d", "", 400),
        ("7d", "9999-12-31", 400),
        ("0001-01-01T00:00:00%2B14:00", "", 400),
        ("7d", "9999-12-31T23:59:59-14:00", 400),
        ("9999-12-30", "9999-12-31", 200),
        ("2026-01-02", "2026-01-01", 200),
        ("3650d", "", 200),
    ],
)
def test_times_at_the_ends_of_the_calendar_hold_nobody_up(
    client: httpx.Client, since: str, until: str, status: int
) -> None:
    for path in ("/api/usage", "/usage", "/requests"):
        assert client.get(f"{path}?since={since}&until={until}").status_code == status, path


def test_markup_in_names_stays_text(client: httpx.Client) -> None:
    client.post("/api/keys", json={"name": "<script>alert(1)</script>", "tags": {"a": '"><img src=x>'}})
    page = client.get("/keys").text
    assert "<script>alert" not in page
    assert "<img src=x" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "<b>" not in client.get("/usage?team=%3Cb%3E").text


def test_a_public_address_needs_an_admin_key(tmp_path: Path) -> None:
    public = {"control": {"host": "0.0.0.0", "port": 0}}
    with running_control(tmp_path, **public) as control:
        with open_sql(control.config.state) as sql:
            admin, key = Keys(sql).create("ops", scopes=["gateway:admin"])
            other, _ = Keys(sql).create("app", scopes=["gateway"])
        with control.client() as client:
            assert client.get("/api/keys").status_code == 401
            assert client.get("/metrics").status_code == 401
            assert client.get("/healthz").status_code == 200
            lead = client.get("/", headers={"accept": "text/html"})
            assert (lead.status_code, lead.headers["location"]) == (303, "/sign-in")
            assert client.get("/api/keys", headers={"authorization": f"Bearer {other}"}).status_code == 403
            assert client.get("/api/keys", headers={"authorization": f"Bearer {admin}x"}).status_code == 401
            assert client.get("/api/keys", headers={"authorization": f"Basic {admin}"}).status_code == 401
            bearer = {"authorization": f"Bearer {admin}"}
            made = client.post("/api/keys", json={"name": "made"}, headers=bearer)
            assert made.json()["created_by"] == f"key:{key.key_id}"
        with control.client(headers={"origin": control.url}) as browser:
            assert "not valid" in browser.post("/sign-in", data={"key": "lk_wrong"}).text
            signed = browser.post("/sign-in", data={"key": admin})
            assert signed.status_code == 303
            cookie = signed.headers["set-cookie"]
            assert "HttpOnly" in cookie
            assert "samesite=strict" in cookie.lower()
            assert browser.get("/keys").status_code == 200
            ((name, value),) = browser.cookies.items()
            for forged in ("", "x", value + "x", value.replace(key.key_id, "0" * 16), ".", ".."):
                with control.client(cookies={name: forged}) as stranger:
                    assert stranger.get("/api/keys").status_code == 401
            with open_sql(control.config.state) as sql:
                Keys(sql).revoke(key.key_id)
            assert browser.get("/api/keys").status_code == 401


# --- usage ----------------------------------------------------------------------------------------------------------

NOW = datetime.now(UTC)


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Control]:
    with running_control(tmp_path_factory.mktemp("used")) as started:
        fill(
            started.config,
            [
                *(row(latency_ms=float(latency)) for latency in (100, 200, 300)),
                row(tags={"team": "support"}, requester="key:two", endpoint="deep", cost_usd="2.5"),
                row(status_code=502, error_class="cut", cost_usd="0.25"),
                row(layer="gateway_attempt", status_code=504, cost_usd="0.125", tags={"target": "far/claude"}),
                row(at=NOW - timedelta(days=3), cost_usd="1"),
                row(at=NOW - timedelta(days=40), cost_usd="1000"),
                row(tags={"team": "o'hara <b>"}, cost_usd=None, input_tokens=None, output_tokens=None),
            ],
        )
        yield started


def usage(control: Control, **params: str) -> dict[str, dict[str, Any]]:
    with control.client() as client:
        answer = client.get("/api/usage", params=params)
        assert answer.status_code == 200, answer.text
    return {line["group"]: line for line in answer.json()["usage"]} | {"": answer.json()["total"]}


def test_sums_are_exact_and_attempts_cost_without_being_requests(used: Control) -> None:
    by_team = usage(used, by="team", since="7d")
    assert by_team[""]["cost_usd"] == "3.878000003"
    assert (by_team[""]["requests"], by_team[""]["errors"]) == (7, 1)
    assert by_team["search"]["cost_usd"] == "1.378000003"
    assert by_team["search"]["requests"] == 5
    assert by_team["o'hara <b>"]["cost_usd"] == "0"
    by_model = usage(used, by="model", since="7d")
    assert (by_model["far/claude"]["requests"], by_model["far/claude"]["cost_usd"]) == (0, "0.125")
    assert usage(used, by="route", since="7d")["deep"]["cost_usd"] == "2.5"
    assert usage(used, by="key", since="7d")["key:two"]["requests"] == 1
    assert usage(used, by="status", since="7d")["error"]["requests"] == 1
    assert usage(used, by="day", since="90d")[f"{(NOW - timedelta(days=40)).date()}"]["cost_usd"] == "1000"


def test_filters_narrow_the_sums_and_lead_to_the_rows(used: Control) -> None:
    assert usage(used, by="key", since="7d", team="support")[""]["requests"] == 1
    assert usage(used, by="key", since="7d", team="o'hara <b>")[""]["requests"] == 1
    assert usage(used, by="key", since="7d", team="' OR 1=1 --")[""]["requests"] == 0
    assert usage(used, by="team", since="1h")[""]["cost_usd"] == "2.878000003"
    assert usage(used, by="team", since="90d", until="7d")[""]["cost_usd"] == "1000"
    with used.client() as client:
        rows = client.get("/api/requests", params={"since": "7d", "status": "error"}).json()["requests"]
        assert {one["error_class"] for one in rows} == {"cut", None}  # the failed attempt is a row as well
        assert "request_json" not in rows[0]
        first = client.get("/api/requests", params={"since": "90d", "limit": "4"}).json()["requests"]
        rest = client.get("/api/requests", params={"since": "90d", "before": first[-1]["invocation_id"]}).json()[
            "requests"
        ]
        assert len(first) == 4
        assert len({one["invocation_id"] for one in first + rest}) == 9


def test_pages_show_the_sums_with_links_to_their_rows(used: Control) -> None:
    with used.client() as client:
        page = client.get("/usage", params={"by": "team", "since": "7d"}).text
        assert "$3.88" in page
        assert "o&#39;hara &lt;b&gt;" in page
        assert "/requests?since=" in page
        assert "<svg" in page
        rows = client.get("/requests", params={"since": "90d"}).text
        assert rows.count("<tr>") == 10
        assert client.get("/routes").status_code == client.get("/").status_code == 200


def test_days_without_requests_are_shown(used: Control) -> None:
    wanted = Wanted.read({"since": "5d"})
    lines = days(wanted, used.office.usage.sums("day", wanted))
    assert len(lines) == 6
    assert sum(line.requests for line in lines) == 7
    assert Wanted.read({"since": "2026-01-31T10:00:00Z"}).query == "since=2026-01-31T10%3A00%3A00Z"


@settings(deadline=None)
@given(st.text(max_size=12))
def test_any_text_is_a_time_or_refused(text: str) -> None:
    try:
        assert moment(text).tzinfo is not None
    except UserError as refused:
        assert "is no time" in refused.what  # noqa: PT017


# --- now ------------------------------------------------------------------------------------------------------------


def test_the_present_is_what_the_workers_wrote(tmp_path: Path) -> None:
    with running_control(tmp_path) as control, control.client() as client:
        folder = control.office.folder
        while not control.office.watch.samples():  # the first look is made at once
            time.sleep(0.01)
        write_metrics(folder, 0, requests=10)
        control.look()
        now = client.get("/api/now").json()
        assert (now["requests"], now["errors"], now["tokens"]) == (10, 0, 1100)
        assert now["cost_usd"] == pytest.approx(0.015)
        assert 0.1 <= now["p50_s"] <= 0.25
        fast, deep = client.get("/api/routes").json()["routes"]
        assert [(one["label"], one["share"]) for one in fast["targets"]] == [("near/small", 1.0), ("far/claude", 0.0)]
        assert deep["requests"] == 0
        text = client.get("/metrics").text
        assert 'llmops_gateway_requests_total{route="fast",status="2xx",target="near/small",team="search"} 10' in text
        assert "llmops_drain_records_total" in text
        rates = control.office.watch.rates()
        assert rates[-1].requests_per_s > 0
        assert "polyline" in client.get("/").text or "circle" in client.get("/").text


def test_many_may_read_at_once(used: Control) -> None:
    codes: list[int] = []

    def ask() -> None:
        with used.client() as client:
            codes.extend(client.get(path).status_code for path in ("/", "/usage?since=90d", "/metrics", "/keys"))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert codes == [200] * 16
