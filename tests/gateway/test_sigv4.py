"""Our signatures are those that AWS publishes, and those that AWS's own library makes of any request."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.nonsense import EXAMPLES

from llmops.gateway.signing.sigv4 import (
    AwsKeys,
    Message,
    Scope,
    Signature,
    canonical_request,
    signing_key,
    string_to_sign,
)

PUBLISHED = json.loads((Path(__file__).parent / "fixtures" / "bedrock" / "sigv4.json").read_text(encoding="utf-8"))
KEYS = AwsKeys(PUBLISHED["access_key_id"], PUBLISHED["secret_access_key"])
MOMENT = datetime(2015, 8, 30, 12, 36, tzinfo=UTC)
LIST_USERS, SUITE = PUBLISHED["list_users"], PUBLISHED["suite"]


def headers_of(case: dict[str, Any]) -> list[tuple[str, str]]:
    return [(name, value) for name, value in case["headers"]]


def test_each_step_of_the_documented_example() -> None:
    scope = Scope(LIST_USERS["region"], LIST_USERS["service"])
    headers = [*headers_of(LIST_USERS), ("x-amz-date", "20150830T123600Z")]
    canonical = canonical_request("GET", LIST_USERS["target"], headers, b"")
    assert canonical == LIST_USERS["canonical_request"]
    text = string_to_sign("20150830T123600Z", scope.on("20150830"), canonical)
    assert text == LIST_USERS["string_to_sign"]
    assert signing_key(KEYS.secret_access_key, "20150830", scope).hex() == LIST_USERS["signing_key"]
    message = Message("GET", LIST_USERS["target"], headers_of(LIST_USERS), b"")
    added = dict(Signature(KEYS, scope).headers(message, MOMENT))
    assert added == {
        "x-amz-date": "20150830T123600Z",
        "authorization": "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/iam/aws4_request, "
        f"SignedHeaders=content-type;host;x-amz-date, Signature={LIST_USERS['signature']}",
    }


@pytest.mark.parametrize("case", SUITE["cases"], ids=lambda case: case["name"])
def test_the_suite(case: dict[str, Any]) -> None:
    signer = Signature(KEYS, Scope(SUITE["region"], SUITE["service"]))
    headers = [("Host", SUITE["host"]), *headers_of(case)]
    added = dict(signer.headers(Message(case["method"], case["target"], headers, case["body"].encode()), MOMENT))
    assert added["authorization"].endswith(f"Signature={case['signature']}")


def test_a_key_is_derived_anew_each_day() -> None:
    signer = Signature(KEYS, Scope("us-east-1", "bedrock"))
    message = Message("POST", "/", [("host", "h")], b"{}")
    first, second = (signer.headers(message, datetime(2026, 1, day, tzinfo=UTC)) for day in (1, 2))
    assert first != second
    assert signer.headers(message, datetime(2026, 1, 1, tzinfo=UTC)) == first


def test_no_secret_is_shown() -> None:
    keys = AwsKeys("AKIDEXAMPLE", "secret-part", "token-part")
    assert "secret-part" not in repr(keys)
    assert "token-part" not in repr(keys)


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    model=st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), min_size=1, max_size=30).filter(
        lambda name: name not in (".", "..")
    ),
    body=st.binary(max_size=200),
    token=st.none() | st.from_regex(r"[A-Za-z0-9+/=]{1,40}", fullmatch=True),
    value=st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20),
    moment=st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
)
def test_awss_own_library_signs_alike(model: str, body: bytes, token: str | None, value: str, moment: datetime) -> None:
    target = f"/model/{quote(model, safe='')}/converse"
    keys = AwsKeys(KEYS.access_key_id, KEYS.secret_access_key, token)
    headers = [("host", "bedrock-runtime.eu-central-1.amazonaws.com"), ("x-amz-other", value)]
    added = dict(
        Signature(keys, Scope("eu-central-1", "bedrock")).headers(Message("POST", target, headers, body), moment)
    )
    request = AWSRequest("POST", f"https://{headers[0][1]}{target}", {**dict(headers), **added}, body)
    del request.headers["authorization"]
    request.context["timestamp"] = added["x-amz-date"]
    theirs = SigV4Auth(Credentials(keys.access_key_id, keys.secret_access_key, token), "bedrock", "eu-central-1")
    text = theirs.string_to_sign(request, theirs.canonical_request(request))
    assert added["authorization"].endswith(f"Signature={theirs.signature(text, request)}")
    assert added.get("x-amz-security-token") == token
