from __future__ import annotations

import json

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.core.errors import ConfigError
from llmops.core.redact import PersonalData, redact_secrets

SECRETS = [
    "sk-proj-abcdefghijklmnop1234",
    "lk_0123456789abcdef_" + "A" * 43,
    "ghp_" + "a1" * 18,
    "hf_" + "Ab" * 15,
    "AKIA" + "ABCDEFGH12345678",
    "ASIA" + "ABCDEFGH12345678",
    "ABSK" + "QmVkcm9ja0FQSUtleS1hYmNkZWZnaGlqa2xtbm9w",
    "xoxb-1234567890-abcdef",
    "AIza" + "x" * 35,
]


@pytest.mark.parametrize("secret", SECRETS)
def test_a_key_is_gone_wherever_it_stands(secret: str) -> None:
    inner = json.dumps({"content": f"my key is {secret}, and `{secret}`."})

    clean = redact_secrets(orjson.dumps({"request_json": inner, "tags": {"k": secret}}))

    assert secret.encode() not in clean
    record = orjson.loads(clean)
    assert json.loads(record["request_json"])["content"] == "my key is [redacted], and `[redacted]`."
    assert record["tags"]["k"] == "[redacted]"


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("Authorization: Bearer abc.def-ghi123", "Authorization: Bearer [redacted]"),
        ("authorization: bearer abc.def-ghi123==", "authorization: bearer [redacted]"),
        ('{"api_key": "s3cr3t-value"}', '{"api_key": "[redacted]"}'),
        ("API_KEY=s3cr3tvalue next", "API_KEY=[redacted] next"),
        ("password: hunter2hunter2", "password: [redacted]"),
        ("-----BEGIN RSA PRIVATE KEY-----\nMIIabc/+=\n-----END RSA PRIVATE KEY-----", "[redacted]"),
    ],
)
def test_what_follows_a_name_is_gone(text: str, clean: str) -> None:
    nested = orjson.dumps({"request_json": orjson.dumps({"content": text}).decode()})

    assert orjson.loads(redact_secrets(orjson.dumps({"a": text})))["a"] == clean
    assert orjson.loads(orjson.loads(redact_secrets(nested))["request_json"])["content"] == clean


@pytest.mark.parametrize("text", ["ask-me-anything", "bearer authentication", "an api key is needed", "sk-short"])
def test_plain_words_stay(text: str) -> None:
    encoded = orjson.dumps({"request_json": text})

    assert redact_secrets(encoded) is encoded


@given(st.recursive(st.text() | st.sampled_from(SECRETS), lambda inner: st.dictionaries(st.text(), inner)))
def test_json_stays_json(value: object) -> None:
    clean = orjson.loads(redact_secrets(orjson.dumps({"value": value})))
    assert list(clean) == ["value"]
    assert type(clean["value"]) is type(value)


def test_personal_data_goes_by_pattern_from_words_and_not_from_ids() -> None:
    personal = PersonalData({"email": r"[\w.]+@[\w.]+", "digits": r"\d{6,}"})
    record = {"request_id": "12345678", "request_json": "ann@example.org called 12345678", "rationale": None}

    assert personal.redact(record) == {
        "request_id": "12345678",
        "request_json": "[email] called [digits]",
        "rationale": None,
    }


def test_a_pattern_that_is_none_is_named() -> None:
    with pytest.raises(ConfigError, match="email"):
        PersonalData({"email": "["})
