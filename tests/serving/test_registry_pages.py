"""The registry's pages over a real registry and a real server: what they show, who may do what, what is on record."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import httpx
import pytest
from sqlalchemy import text
from tests.support.promotions import Desk, found
from tests.support.registry_story import CHAIN, FRAUD, HOSTILE, PROMPT, Story, serving_story
from tests.support.serving import Running, running

from llmops.core.identity import LOCAL
from llmops.core.keys import REGISTRY_SCOPE, Keys
from llmops.core.state import StateConfig
from llmops.registry import Evidence, Version
from llmops.registry.access import Privilege
from llmops.registry.audit import Origin, Wanted
from llmops.registry.evidence import Method
from llmops.registry.promotion import State
from llmops.registry.workflow import Workflows
from llmops.serving.registry_pages.app import Rooms
from llmops.serving.registry_pages.evidence import threshold
from llmops.serving.registry_pages.pages import PAGES
from llmops.serving.registry_pages.words import effect

HTML = {"accept": "text/html"}


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Story, Running]]:
    with serving_story(tmp_path_factory.mktemp("state")) as opened:
        yield opened


@pytest.fixture
def told(stage: tuple[Story, Running]) -> Story:
    return stage[0]


@pytest.fixture
def client(stage: tuple[Story, Running]) -> Iterator[httpx.Client]:
    """A browser that has not signed in."""
    with browser(stage[1]) as opened:
        yield opened


@contextmanager
def browser(server: Running, token: str | None = None) -> Iterator[httpx.Client]:
    headers = HTML | {"origin": server.url, "user-agent": "test browser"}
    with server.client(headers=headers) as opened:
        if token:
            response = opened.post("/registry/sign-in", data={"key": token})
            assert response.status_code == 303, response.text
        yield opened


def say(client: httpx.Client, version: Version, decision: str = "approve", **more: str) -> httpx.Response:
    form = {"ref": str(version.ref), "group": "risk", "decision": decision, **more}
    return client.post("/registry/approvals", data=form)


def twin(client: httpx.Client, path: str) -> Any:
    response = client.get(f"/registry/api{path}")
    assert response.status_code == 200, response.text
    return response.json()


def tampered(registry: Desk, evidence_id: str) -> None:
    """Change a record as somebody with the file in hands can."""
    with registry.sql.begin() as connection:
        query = "SELECT name, sql FROM sqlite_master WHERE type = 'trigger' AND tbl_name = 'evidence'"
        triggers = connection.execute(text(query)).all()
        for trigger in triggers:
            connection.execute(text(f"DROP TRIGGER {trigger.name}"))
        change = "UPDATE evidence SET body = replace(body, '\"fail\"', '\"pass\"') || ' ' WHERE evidence_id = :id"
        connection.execute(text(change), {"id": evidence_id})
        for trigger in triggers:
            connection.execute(text(trigger.sql))


# --- what is shown


def test_every_link_leads_to_a_page_and_every_page_has_its_twin(client: httpx.Client, told: Story) -> None:
    seen, waiting, twins = set(), ["/registry/"], set()
    while waiting:
        address = waiting.pop()
        response = client.get(address)
        assert response.status_code == 200, f"{address}: {response.text[:500]}"
        assert response.headers["content-security-policy"].startswith("default-src 'none'")
        assert response.headers["cache-control"].endswith("no-store")
        path = address.partition("?")[0].removeprefix("/registry")
        if "." not in path.rpartition("/")[2] or path.startswith("/assets/"):
            twins.add(path)
        for link in re.findall(r'href="([^"#]+)', response.text):
            found = urljoin(address, link.replace("&amp;", "&")).partition("#")[0]
            if found.startswith("/registry") and found not in seen and len(seen) < 400:
                seen.add(found)
                waiting.append(found)
    for path in twins - {"/", "/sign-in", ""}:
        assert twin(client, path), path
    patterns = [re.compile(re.sub(r"{\w+}", "[^/]+", page.path)) for page in PAGES if page.template != "rollback.html"]
    assert all(any(pattern.fullmatch(path) for path in twins) for pattern in patterns)  # the crawl met every page


def test_the_list_says_who_is_champion_and_what_is_on_its_way(client: httpx.Client, told: Story) -> None:
    lines = {line["name"]: line for line in twin(client, "/assets")["assets"]}
    assert lines[str(FRAUD)]["aliases"]["champion"] == 5
    assert lines[str(FRAUD)]["promotion"]["state"] == "awaiting_approval"
    assert lines[str(PROMPT)]["promotion"] is None
    only = twin(client, "/assets?kind=prompt")["assets"]
    assert [line["name"] for line in only] == [str(PROMPT)]
    assert twin(client, "/assets?catalog=prod")["assets"] == []
    assert "Nothing of this kind" in client.get("/registry/?kind=judge").text
    assert client.get("/registry/?kind=nonsense").status_code == 400


def test_an_asset_tells_who_was_champion_when_and_why(client: httpx.Client, told: Story) -> None:
    facts = twin(client, f"/assets/{FRAUD}")
    assert facts["champion"]["version"] == 5
    assert [reign["version"] for reign in facts["reigns"]] == [5, 1, 3, 1]
    assert facts["reigns"][0]["until"] is None
    assert facts["rollback"] == {"name": str(FRAUD), "from_version": 5, "to_version": 1, "previous_champion": None}
    page = client.get(f"/registry/assets/{FRAUD}").text
    assert "It refuses too many payments from Norway" in page
    assert page.count('class="span now"') == 1
    assert len(twin(client, f"/assets/{FRAUD}?lines=3")["story"]) == 3


def test_a_version_tells_its_gates_evidence_and_differences(client: httpx.Client, told: Story) -> None:
    facts = twin(client, f"/versions/{FRAUD}/6")
    assert [(gate["gate"], gate["verdict"]) for gate in facts["plan"]["gates"]] == [
        ("validation", "pass"),
        ("comparison", "pass"),
    ]
    assert {record["gate"] for record in facts["evidence"]} == {"validation", "comparison"}
    assert {"what": "param number", "champion": "5", "version": "6"} in facts["differences"]
    assert {found["node"] for found in facts["made_from"]} == {"dataset:dev.fraud.payments@7", "run:5f0c2a"}
    assert "<svg" in client.get(f"/registry/versions/{FRAUD}/6").text


def test_a_prompt_shows_its_text_and_what_changed_in_it(client: httpx.Client, told: Story) -> None:
    page = client.get(f"/registry/versions/{PROMPT}/2").text
    assert '<span class="ins">+ Say so if none helps.</span>' in page
    assert '<span class="same">  Cite each one.</span>' in page
    assert twin(client, f"/versions/{PROMPT}/1")["text"].startswith("Answer from")
    assert twin(client, f"/versions/{CHAIN}/1")["made_from"][0]["node"] == f"{PROMPT}@champion"


def test_a_card_shows_what_the_gates_measured(client: httpx.Client, told: Story) -> None:
    card = twin(client, f"/versions/{FRAUD}/6/card")
    assert [report["gate"] for report in card["reports"]] == ["comparison"]
    page = client.get(f"/registry/versions/{FRAUD}/6/card").text
    assert page.count("<svg") == 2
    assert "where &lt;b&gt;small&lt;/b&gt;" in page
    assert "&lt;NO&gt;" in page
    assert "<b>small" not in page
    assert '<td class="n">7000</td><td class="n">120</td>' in page
    evidence = client.get(f"/registry/evidence/{card['reports'][0]['evidence_id']}").text
    assert "guard:recall" in evidence
    assert "margin -0.005" in evidence
    assert "No report of a gate lies" in client.get(f"/registry/versions/{FRAUD}/2/card").text


def test_evidence_is_found_by_the_beginning_of_its_id(client: httpx.Client, told: Story) -> None:
    facts = twin(client, f"/evidence/{told.decision[:12]}")
    assert (facts["evidence_id"], facts["gate"], facts["intact"]) == (told.decision, "promotion", True)
    assert {parent["gate"] for parent in facts["parent_records"]} == {"validation", "comparison"}
    assert "promoted" in {entry["what"] for entry in facts["cited_by"]}
    for wrong in ("abc", "zz" * 32, told.decision[:7], "%25" * 10):
        assert client.get(f"/registry/evidence/{wrong}").status_code == 404


def test_what_people_write_is_shown_as_text(client: httpx.Client, told: Story) -> None:
    for path in (f"/assets/{FRAUD}?lines=1000", f"/versions/{FRAUD}/1", f"/runs/{told.run_id}", "/audit"):
        page = client.get(f"/registry{path}").text
        assert "<script>document" not in page
        assert "&lt;script&gt;document" in page
    told.registry.tag(f"{FRAUD}/2", "</td><b>", HOSTILE)
    assert "<b>" not in client.get(f"/registry/versions/{FRAUD}/2").text


def test_runs_show_their_tasks_and_the_end_of_their_logs(client: httpx.Client, told: Story) -> None:
    runs = twin(client, "/runs")["runs"]
    assert {run["workflow"]: run["status"] for run in runs} == {"fraud": "waiting", "fraud_nightly": "failed"}
    facts = twin(client, f"/runs/{told.run_id}")
    assert {task["task"]: task["needs"] for task in facts["tasks"]}["ask"] == ["explain", "validate"]
    assert [run["workflow"] for run in twin(client, "/runs?workflow=fraud")["runs"]] == ["fraud"]
    failed = next(run for run in runs if run["status"] == "failed")
    page = client.get(f"/registry/runs/{failed['run_id']}").text
    assert "recall fell to 0.41" in page
    assert page.count('class="box"') == 2
    assert client.get("/registry/runs?workflow=nothing").status_code == 404


def test_the_audit_log_is_filtered_and_goes_on(client: httpx.Client, told: Story) -> None:
    first = twin(client, "/audit?rows=5")
    second = twin(client, f"/audit?rows=5&before={first['older']}")
    numbers = [entry["seq"] for entry in first["entries"] + second["entries"]]
    assert len(numbers) == 10
    assert numbers == sorted(numbers, reverse=True)
    approvals = twin(client, f"/audit?action=approve&about={FRAUD}")["entries"]
    assert {entry["action_name"] for entry in approvals} == {"approve"}
    assert all(entry["phase"] != "intent" for entry in approvals)
    assert "Nothing like that" in client.get("/registry/audit?actor=nobody").text
    for wrong in ("rows=0", "rows=many", "before=-1", "rows=99999"):
        assert client.get(f"/registry/audit?{wrong}").status_code == 400
    assert twin(client, "/audit/verify")["ok"] is True


def test_errors_are_pages_for_people_and_json_for_programs(client: httpx.Client, told: Story) -> None:
    missing = client.get("/registry/assets/dev.fraud.fraud_cl")
    assert missing.status_code == 404
    assert "Did you mean `dev.fraud.fraud_clf`?" in missing.text
    assert client.get(f"/registry/versions/{FRAUD}/99").status_code == 404
    assert client.get(f"/registry/versions/{FRAUD}/x").status_code == 400
    assert client.get("/registry/nothing", headers={"accept": "*/*"}).json()["error"]["code"] == "not_found"
    assert client.get("/registry/api/assets/dev.a.b").json()["error"]["code"] == "unknown_asset"
    assert client.put("/registry/approvals").status_code == 405
    home = client.get("/registry")
    assert (home.status_code, home.headers["location"]) == (307, "/registry/")
    assert client.get("/registryx").status_code == 404


def test_an_effect_is_held_against_what_its_gate_asked(told: Story) -> None:
    def record(params: dict[str, Any]) -> Evidence:
        return found(told.versions[1], method=Method(name="m", version="1", params=params), effect=1.2)

    better = {"spec": {"claim": "better", "min_effect": 0.02, "margin": 0.1}, "effect": {"bad": "low"}}
    assert threshold(record(better)) == ("least gain", 0.02)
    assert threshold(record(better | {"effect": {"bad": "high"}})) == ("least gain", -0.02)
    assert threshold(record({"spec": {"claim": "not_worse", "margin": 0.1}, "effect": {"bad": "high"}})) == (
        "margin",
        0.1,
    )
    assert threshold(record({"margin": 0.1})) == ("margin", -0.1)
    assert threshold(record({"margin": 0})) is None
    assert threshold(record({"effect": "rate ratio", "margin": 1.25})) == ("margin", 1.25)
    assert effect(record({"effect": "rate ratio"})) == "1.2"
    assert effect(record({"effect": {"effect": "ratio of quantiles", "p_value": 0.5}})) == "1.2"
    assert effect(record({"effect": {"effect": "difference of means"}})) == "+1.2"


# --- what is done


def test_an_approval_is_the_signed_in_persons_and_on_record(stage: tuple[Story, Running], told: Story) -> None:
    version = told.ask()
    with browser(stage[1], told.tokens["boris"]) as boris:
        assert "You speak as boris, for risk" in boris.get("/registry/approvals").text
        response = say(boris, version, comment="The slices look fine")
        assert response.headers["location"] == f"/registry/approvals?done={version.ref}"
        page = boris.get(response.headers["location"]).text
    assert f"llmops promote {version.ref}" in page
    assert "The slices look fine" in page
    entry = told.registry.audit.read(Wanted(about=str(version.ref), action="approve"))[0]
    assert (entry.actor, entry.phase) == (told.people["boris"].id, "done")
    assert (entry.source_ip_address, entry.user_agent) == ("127.0.0.1", "test browser")
    assert entry.request_id is not None


def test_who_may_not_approve_is_told_why_and_nothing_happens(
    stage: tuple[Story, Running], told: Story, client: httpx.Client
) -> None:
    version = told.ask(starter="anna")
    listed = client.get("/registry/approvals").text
    assert "`local` is not in the group `risk`" in listed
    assert "llmops keys create NAME --scope registry --group risk" in listed
    refused = say(client, version)
    assert refused.status_code == 403
    with browser(stage[1], told.tokens["anna"]) as anna:
        assert "started its promotion, and can&#39;t approve it" in anna.get("/registry/approvals").text
        own = say(anna, version)
    assert own.status_code == 403
    assert "Ask somebody else of the group `risk`" in own.text
    with browser(stage[1], told.tokens["clara"]) as clara:
        assert say(clara, version).status_code == 403
        assert say(clara, version, group="legal").status_code == 400
        assert say(clara, version, decision="bless").status_code == 400
    assert state_of(told, version) is State.AWAITING_APPROVAL
    assert told.registry.audit.read(Wanted(about=str(version.ref), action="approve"))[0].phase == "failed"


def test_a_denial_ends_it_and_a_word_can_be_taken_back(stage: tuple[Story, Running], told: Story) -> None:
    denied, kept = told.ask(), told.ask()
    with browser(stage[1], told.tokens["boris"]) as boris:
        assert say(boris, denied, "deny", comment="No").status_code == 303
        again = say(boris, denied)
        assert again.status_code == 400
        assert "this promotion has ended: it is denied" in again.text.replace("This", "this")
        say(boris, kept)
        assert state_of(told, kept) is State.APPROVED
        assert "Take my word for risk back" in boris.get("/registry/approvals").text
        say(boris, kept, "revoke")
        long = say(boris, kept, comment="x" * 2001)
    assert long.status_code == 400
    assert state_of(told, denied) is State.DENIED
    assert state_of(told, kept) is State.AWAITING_APPROVAL


def test_two_who_speak_at_once_both_get_a_clear_answer(stage: tuple[Story, Running], told: Story) -> None:
    with (
        browser(stage[1], told.tokens["anna"]) as anna,
        browser(stage[1], told.tokens["boris"]) as boris,
        ThreadPoolExecutor(2) as pool,
    ):
        for decisions in (("approve", "approve"), ("approve", "deny"), ("deny", "deny")):
            version = told.ask()
            said = [pool.submit(say, who, version, word) for who, word in zip((anna, boris), decisions, strict=True)]
            answers = [one.result() for one in said]
            assert {answer.status_code for answer in answers} <= {303, 400, 409}
            for answer in answers:
                if answer.status_code != 303:
                    assert 'role="alert"' in answer.text
                    assert "This page shows how it stands now" in answer.text
            final = State.DENIED if "deny" in decisions else State.APPROVED
            assert state_of(told, version) in {final, State.APPROVED if "approve" in decisions else final}


def test_a_rollback_asks_first_and_means_the_champion_it_showed(stage: tuple[Story, Running]) -> None:
    with serving_story(stage[1].config.state.root.parent / "rollback", runs=False) as (told, server):
        with browser(server) as someone:
            address = f"/registry/assets/{FRAUD}/rollback"
            assert someone.get(address).status_code == 400
            asked = someone.get(address, params={"reason": "It is <slow>"})
            assert "It is &lt;slow&gt;" in asked.text
            assert twin(someone, f"/assets/{FRAUD}")["champion"]["version"] == 5  # looking did nothing
            assert someone.post(address, data={"reason": "It is slow"}).status_code == 400
            stale = someone.post(address, data={"reason": "It is slow", "from_version": "3"})
            assert stale.status_code == 409
            assert "Version 3 is not champion" in stale.text
            done = someone.post(address, data={"reason": "It is slow", "from_version": "5"})
            assert done.status_code == 303
            page = someone.get(done.headers["location"]).text
        assert "Rolled back: version 1 is champion again" in page
        assert "It is slow" in page
        assert told.registry.audit.read(Wanted(action="rollback"))[0].actor == "local"


def test_programs_do_the_same_in_json(stage: tuple[Story, Running], told: Story) -> None:
    version = told.ask()
    bearer = {"authorization": f"Bearer {told.tokens['boris']}"}
    with stage[1].client(headers=bearer) as program:
        body = {"ref": str(version.ref), "group": "risk", "decision": "approve", "comment": None}
        response = program.post("/registry/api/approvals", json=body)
        assert response.json()["state"] == "approved"
        entry = told.registry.audit.read(Wanted(about=str(version.ref), action="approve"))[0]
        assert entry.request_id == response.headers["x-request-id"]
        assert entry.actor == told.people["boris"].id  # whoever shows a key acts as it, on loopback too
        assert program.post("/registry/api/approvals", content="[").status_code == 400
        assert program.post("/registry/api/approvals", json=[]).status_code == 400
        assert program.post(f"/registry/api/assets/{FRAUD}/rollback", json={"from_version": "x"}).status_code == 400


def state_of(told: Story, version: Version) -> State:
    return next(one.state for one in told.promoter("deploy").states(FRAUD) if one.version == version.version)


# --- what is wrong is said, and stops nothing else


def test_a_record_that_was_changed_is_shown_as_that_everywhere(tmp_path: Path) -> None:
    with serving_story(tmp_path, runs=False) as (told, server), browser(server, told.tokens["boris"]) as boris:
        bad = told.registry.filed_about(told.waiting)[1].evidence_id
        tampered(told.registry, bad)
        assert "was changed after it was filed" in boris.get(f"/registry/evidence/{bad}").text
        assert twin(boris, f"/evidence/{bad}")["intact"] is False
        version = boris.get(f"/registry/versions/{FRAUD}/6").text
        assert 'role="alert"' in version
        assert "Nothing is decided about this version" in version
        assert boris.get("/registry/").status_code == 200
        listed = boris.get("/registry/approvals")
        assert "changed after it was filed" in listed.text
        refused = say(boris, told.waiting)
        assert refused.status_code >= 400
        assert state_of(told, told.waiting) is State.AWAITING_APPROVAL
        assert twin(boris, "/audit/verify")["ok"] is False


def test_once_access_is_enforced_each_sees_their_own(tmp_path: Path) -> None:
    with serving_story(tmp_path, runs=True) as (told, server):
        boris = told.people["boris"].id
        grants = told.registry.in_name_of(LOCAL, Origin.local()).grants
        grants.grant(Privilege.USE_CATALOG, "dev", boris)
        grants.grant(Privilege.USE_SCHEMA, "dev.docs", boris)
        grants.grant(Privilege.EXECUTE, PROMPT, boris)
        with browser(server, told.tokens["boris"]) as reader:
            assert [line["name"] for line in twin(reader, "/assets")["assets"]] == [str(PROMPT)]
            for hidden in (f"/assets/{FRAUD}", f"/versions/{FRAUD}/6", f"/evidence/{told.decision}"):
                assert reader.get(f"/registry{hidden}").status_code == 404
            assert twin(reader, "/approvals")["waiting"] == []
            assert twin(reader, "/runs")["runs"] == []
            assert reader.get(f"/registry/runs/{told.run_id}").status_code == 404
            denied = reader.get("/registry/audit")
            assert denied.status_code == 403
            assert "MANAGE" in denied.text
            assert reader.get("/registry/audit/verify").status_code == 403
            assert say(reader, told.waiting).status_code == 404


def test_a_fresh_state_names_the_next_command(tmp_path: Path) -> None:
    state = StateConfig(dir=tmp_path)
    with (
        Desk(state) as registry,
        Workflows(state) as workflows,
        running(tmp_path, rooms=Rooms(registry, workflows)) as server,
        browser(server) as someone,
    ):
        assert "llmops ingest" in someone.get("/registry/").text
        assert "llmops promote" in someone.get("/registry/approvals").text
        assert "llmops workflow run" in someone.get("/registry/runs").text
        assert "Nothing is on record yet" in someone.get("/registry/audit").text
        assert someone.get("/registry/audit/verify").status_code == 200


# --- the door


def test_pages_of_other_sites_reach_nothing(stage: tuple[Story, Running], told: Story) -> None:
    version = told.ask()
    form = {"ref": str(version.ref), "group": "risk", "decision": "deny"}
    with stage[1].client() as bare:
        assert bare.get("/registry/", headers={"host": "evil.example"}).json()["error"]["code"] == "foreign_host"
        foreign = bare.post("/registry/approvals", data=form, headers={"origin": "https://evil.example"})
        assert (foreign.status_code, foreign.json()["error"]["code"]) == (403, "foreign_origin")
        assert bare.post("/registry/approvals", data=form).json()["error"]["code"] == "unguarded"
        assert bare.post("/registry/sign-out").status_code == 403
        cross = bare.post("/registry/approvals", data=form, headers={"sec-fetch-site": "cross-site"})
        assert cross.status_code == 403
        large = bare.post("/registry/approvals", content=b"x" * 70_000, headers={"origin": stage[1].url})
        assert large.status_code == 413
    assert state_of(told, version) is State.AWAITING_APPROVAL


def test_where_keys_are_required_one_signs_in_and_out(tmp_path: Path) -> None:
    with serving_story(tmp_path, runs=False, require_keys=True) as (told, server), browser(server) as someone:
        sent = someone.get("/registry/")
        assert (sent.status_code, sent.headers["location"]) == (303, "/registry/sign-in")
        assert someone.get("/registry/api/assets", headers={"accept": "*/*"}).status_code == 401
        assert someone.get("/registry/pages.css").status_code == 200
        assert someone.post("/registry/sign-in", data={"key": "lk_wrong"}).status_code == 401
        other, _ = Keys(told.registry.sql).create("chat", scopes=["serving"])
        assert someone.post("/registry/sign-in", data={"key": other}).status_code == 403
        bearer = {"authorization": f"Bearer {told.tokens['anna']}"}
        assert someone.get("/registry/api/assets", headers=bearer).status_code == 200
        assert someone.post("/registry/sign-in", data={"key": told.tokens["anna"]}).status_code == 303
        page = someone.get("/registry/").text
        assert "anna" in page
        assert told.tokens["anna"] not in page
        assert someone.post("/registry/sign-out").status_code == 303
        assert someone.get("/registry/").status_code == 303


def test_a_revoked_key_signs_nobody_in_any_more(stage: tuple[Story, Running], told: Story) -> None:
    keys = Keys(told.registry.sql)
    with browser(stage[1], told.tokens["anna"]) as another:
        assert "anna" in another.get("/registry/").text  # the pages know the names of keys from now on
    token, key = keys.create("short", scopes=[REGISTRY_SCOPE], groups=["risk"])
    with browser(stage[1], token) as someone:
        assert "short" in someone.get("/registry/").text  # and that of a newer one all the same
        keys.revoke(key.key_id)
        assert "You speak as local" in someone.get("/registry/approvals").text


def test_the_chat_names_its_neighbour_only_where_there_is_one(stage: tuple[Story, Running], tmp_path: Path) -> None:
    with stage[1].client() as program:
        assert program.post("/v1/session", json={}).json()["registry"] == "/registry/"
        assert program.get("/healthz").status_code == 200
    with running(tmp_path) as alone, alone.client() as program:
        assert program.post("/v1/session", json={}).json()["registry"] is None
        assert program.get("/registry/").status_code == 404
