"""Bedrock's runtime API for tests: Converse, ConverseStream, InvokeModel of Titan's and Cohere's embeddings.

Who asks is checked by AWS's own implementation of the signature, what is asked by AWS's own description of the API,
both of `botocore`, which the product does not use. What that description leaves open is refused as the models do:
roles alternate, results answer the calls before them, no text is blank.

Source: https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_Converse.html
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import cache
from typing import Any
from urllib.parse import unquote

import botocore.session
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.validate import ParamValidator
from tests.support.upstreams.frames import event, exception
from tests.support.upstreams.wire import KEY, Answer, Charge, Seen, WireServer, need

REGION = "eu-central-1"
ACCESS_KEY = "AKIDEXAMPLE"
SECRET_KEY = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
SESSION_TOKEN = "IQoJb3JpZ2luX2VjEXAMPLE//////////wEaDGV1LWNlbnRyYWwtMSJHMEUCIQ=="

_PATH = re.compile(r"/model/([^/]+)/(converse|converse-stream|invoke)")
_AUTHORIZATION = re.compile(r"AWS4-HMAC-SHA256 Credential=([^,]+), SignedHeaders=([^,]+), Signature=([0-9a-f]{64})")
_DOCUMENT_NAME = re.compile(r"[a-zA-Z0-9()\[\]-]+(?: [a-zA-Z0-9()\[\]-]+)*")
_OPERATIONS = {"converse": "Converse", "converse-stream": "ConverseStream"}


def signature_of(thinking: str) -> str:
    """Only what this server thought can be sent back to it."""
    return base64.b64encode(hashlib.sha256(f"secret of the test:{thinking}".encode()).digest()).decode()


@cache
def service() -> Any:
    return botocore.session.get_session().get_service_model("bedrock-runtime")


class BedrockServer(WireServer):
    """`url` is the base URL. Takes the access key above, with or without its session token, or `KEY` as an API key."""

    stream_type = "application/vnd.amazon.eventstream"
    session_token: str | None = None
    region = REGION

    def check(self, seen: Seen) -> None:
        _check_caller(seen, self.session_token, self.region)
        match = _PATH.fullmatch(seen.path)
        need(match, "UnknownOperationException", 404)
        assert match is not None
        need(seen.headers.get("content-type") == "application/json", "unsupported content type", 415)
        if match[2] == "invoke":
            _check_invoked(unquote(match[1]), seen.body)
        else:
            _check_converse(_OPERATIONS[match[2]], unquote(match[1]), seen.body)

    def streams(self, seen: Seen) -> bool:
        return seen.path.endswith("/converse-stream")

    def whole(self, seen: Seen, answer: Answer) -> dict[str, Any]:
        if seen.path.endswith("/invoke"):
            if "inputText" in seen.body:
                vector = [0.1, 0.2, 0.0]
                count = seen.input_tokens
                return {"embedding": vector, "inputTextTokenCount": count, "embeddingsByType": {"float": vector}}
            vectors = [[0.1, 0.2, float(number)] for number, _ in enumerate(seen.body["texts"])]
            return {"id": "e1", "embeddings": {"float": vectors}, "response_type": "embeddings_by_type"}
        return {
            "output": {"message": {"role": "assistant", "content": _content(answer)}},
            "stopReason": _stop(answer),
            "usage": _usage(seen, answer, answer.output_tokens),
            "metrics": {"latencyMs": 12},
        }

    def events(self, seen: Seen, answer: Answer) -> Iterator[tuple[bytes, int]]:
        yield event("messageStart", role="assistant"), 0
        for index, block in enumerate(_content(answer)):
            yield from _block_events(index, block, answer)
        yield event("messageStop", stopReason=_stop(answer)), 0
        yield event("metadata", usage=_usage(seen, answer, answer.output_tokens), metrics={"latencyMs": 12}), 0

    def cost(self, seen: Seen, answer: Answer) -> Charge:
        if seen.path.endswith("/invoke"):
            return Charge(seen.input_tokens, 0)
        return super().cost(seen, answer)

    def error(self, status: int, kind: str, message: str) -> dict[str, Any]:
        return {"message": message}

    def error_headers(self, kind: str) -> dict[str, str]:
        """`kind` is an exception's name; the server's own refusals are told by their status."""
        name = kind if kind.endswith("Exception") else "ValidationException"
        return {"x-amzn-errortype": f"{name}:http://internal.amazon.com/coral/com.amazon.bedrock/"}

    def error_event(self, kind: str, message: str) -> bytes:
        return exception(kind, message)


def _check_caller(seen: Seen, session_token: str | None, region: str) -> None:
    told = seen.headers.get("authorization", "")
    if told.startswith("Bearer "):
        need(told == f"Bearer {KEY}", "The API key is not valid", 403, "AccessDeniedException")
        return
    match = _AUTHORIZATION.fullmatch(told)
    need(match, "Missing Authentication Token", 403, "MissingAuthenticationTokenException")
    assert match is not None
    when = seen.headers.get("x-amz-date", "")
    scope = f"{when[:8]}/{region}/bedrock/aws4_request"
    need(match[1] == f"{ACCESS_KEY}/{scope}", "Credential should be scoped to a valid region", 403, _INVALID)
    token = seen.headers.get("x-amz-security-token")
    need(token == session_token, "The security token included in the request is invalid", 403, _UNRECOGNIZED)
    sent = datetime.strptime(when, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    need(abs((datetime.now(UTC) - sent).total_seconds()) < 300, "Signature expired", 403, _INVALID)
    need(signature(seen, match[2].split(";"), region) == match[3], _MISMATCH, 403, _INVALID)


_INVALID, _UNRECOGNIZED = "InvalidSignatureException", "UnrecognizedClientException"
_MISMATCH = "The request signature we calculated does not match the signature you provided."


def signature(seen: Seen, names: list[str], region: str) -> str:
    """The signature that AWS's own library makes of the request as it arrived."""
    need({"host", "x-amz-date", "content-type"} <= set(names), "a header that must be signed is not", 403, _INVALID)
    headers = {name: seen.headers[name] for name in names}
    request = AWSRequest("POST", f"http://{seen.headers['host']}{seen.path}", headers, seen.raw)
    request.context["timestamp"] = seen.headers["x-amz-date"]
    signer = SigV4Auth(Credentials(ACCESS_KEY, SECRET_KEY), "bedrock", region)
    text = signer.string_to_sign(request, signer.canonical_request(request))
    return str(signer.signature(text, request))


def _check_converse(operation: str, model: str, body: dict[str, Any]) -> None:
    shape = service().operation_model(operation).input_shape
    report = ParamValidator().validate({"modelId": model, **body}, shape)
    need(not report.has_errors(), report.generate_report())
    for enum, value in _enums(shape, body):
        need(value in enum, f"{value!r} is none of {enum}")
    open_calls: set[str] = set()
    before = None
    names: list[str] = []
    for number, message in enumerate(body["messages"]):
        where = f"messages.{number}"
        need(message["role"] in ("user", "assistant"), f"{where}: unsupported role")
        need(message["role"] != before, "roles must alternate between user and assistant")
        need(number or message["role"] == "user", "A conversation must start with a user message")
        before = message["role"]
        open_calls = _check_blocks(message, open_calls, where, names)
    need(not open_calls, "Expected toolResult blocks for the toolUse blocks of the last message")
    need(len(names) == len(set(names)), "document names must differ")
    used = any(kind in block for turn in body["messages"] for block in turn["content"] for kind in _TOOL_KINDS)
    need(not used or "toolConfig" in body, "The toolConfig field must be defined when using toolUse and toolResult")
    for block in body.get("system", ()):
        need("cachePoint" in block or block.get("text"), "system: text is blank")
    choice = body.get("toolConfig", {}).get("toolChoice", {"auto": {}})
    need(len(choice) == 1, "toolChoice must set exactly one member")
    tools = [tool["toolSpec"]["name"] for tool in body.get("toolConfig", {}).get("tools", ()) if "toolSpec" in tool]
    need("tool" not in choice or choice["tool"]["name"] in tools, "toolChoice names no tool")
    text_format = body.get("outputConfig", {}).get("textFormat")
    if text_format is not None:
        json.loads(text_format["structure"]["jsonSchema"]["schema"])


_TOOL_KINDS = ("toolUse", "toolResult")


def _enums(shape: Any, value: Any) -> Iterator[tuple[list[str], Any]]:
    """Botocore does not check enumerations."""
    if getattr(shape, "enum", None):
        yield shape.enum, value
    elif shape.type_name == "structure" and not shape.metadata.get("document"):
        for name, inner in value.items():
            yield from _enums(shape.members[name], inner)
    elif shape.type_name == "list":
        for inner in value:
            yield from _enums(shape.member, inner)


def _check_blocks(message: dict[str, Any], open_calls: set[str], where: str, names: list[str]) -> set[str]:
    blocks = message["content"]
    need(blocks, f"{where}: The content field is empty")
    results = [block["toolResult"]["toolUseId"] for block in blocks if "toolResult" in block]
    need(set(results) == open_calls and len(results) == len(set(results)), f"{where}: results do not answer the calls")
    kinds = ["toolResult" in block for block in blocks if "cachePoint" not in block]
    need(kinds == sorted(kinds, reverse=True), f"{where}: toolResult blocks must come first")
    for block in blocks:
        need(len(block) == 1, f"{where}: a block must set exactly one member")
        _check_block(block, message["role"], where, names)
    ids = [block["toolUse"]["toolUseId"] for block in blocks if "toolUse" in block]
    need(len(ids) == len(set(ids)), f"{where}: toolUse ids must be unique")
    return set(ids)


def _check_block(block: dict[str, Any], role: str, where: str, names: list[str]) -> None:
    (kind, value), *_ = block.items()
    allowed = {"user": ("text", "image", "document", "toolResult", "cachePoint")}
    known = allowed.get(role, ("text", "toolUse", "reasoningContent", "cachePoint"))
    need(kind in known, f"{where}: {kind} in a turn of the {role}")
    if kind == "text":
        need(value, f"{where}: The text field in the ContentBlock object is blank")
    elif kind in ("image", "document"):
        base64.b64decode(value["source"]["bytes"], validate=True)
        if kind == "document":
            need(_DOCUMENT_NAME.fullmatch(value["name"]), f"{where}: the document's name holds other signs")
            names.append(value["name"])
    elif kind == "toolUse":
        need(re.fullmatch(r"[a-zA-Z0-9_.:-]{1,64}", value["toolUseId"]), f"{where}: toolUseId does not match")
    elif kind == "toolResult":
        for part in value["content"]:
            need(part.get("text", "x"), f"{where}: blank text in a toolResult")
    elif "reasoningText" in value:
        text = value["reasoningText"]
        need(text.get("signature") == signature_of(text["text"]), f"{where}: Invalid signature in thinking block")


def _check_invoked(model: str, body: dict[str, Any]) -> None:
    if "titan-embed" in model:
        need(isinstance(body.get("inputText"), str) and body.keys() <= {"inputText", "dimensions", "normalize"}, "bad")
        return
    need("cohere.embed" in model, "The provided model identifier is invalid.")
    known = {"texts", "input_type", "embedding_types", "output_dimension", "truncate"}
    need(body.keys() <= known and body.get("texts") and "input_type" in body, "Malformed input request")


def _content(answer: Answer) -> list[dict[str, Any]]:
    blocks: list[dict[str, Any]] = []
    if answer.thinking:
        text = {"text": answer.thinking, "signature": signature_of(answer.thinking)}
        blocks.append({"reasoningContent": {"reasoningText": text}})
    if answer.pieces:
        blocks.append({"text": "".join(answer.pieces)})
    for call in answer.tools:
        blocks.append({"toolUse": {"toolUseId": call.id, "name": call.name, "input": call.arguments}})
    return blocks


def _stop(answer: Answer) -> str:
    return answer.stop or ("tool_use" if answer.tools else "end_turn")


def _usage(seen: Seen, answer: Answer, output: int) -> dict[str, Any]:
    fresh = seen.input_tokens - answer.cached
    usage = {"inputTokens": fresh, "outputTokens": output, "totalTokens": seen.input_tokens + output}
    return {**usage, "cacheReadInputTokens": answer.cached, "cacheWriteInputTokens": 0}


def _block_events(index: int, block: dict[str, Any], answer: Answer) -> Iterator[tuple[bytes, int]]:
    if "toolUse" in block:
        use = block["toolUse"]
        start = {"toolUse": {"toolUseId": use["toolUseId"], "name": use["name"]}}
        yield event("contentBlockStart", start=start, contentBlockIndex=index), 5
    for delta, tokens in _deltas(block, answer):
        yield event("contentBlockDelta", delta=delta, contentBlockIndex=index, p="abcdefghij"), tokens
    yield event("contentBlockStop", contentBlockIndex=index), 0


def _deltas(block: dict[str, Any], answer: Answer) -> Iterator[tuple[dict[str, Any], int]]:
    if "text" in block:
        yield from (({"text": piece}, 1) for piece in answer.pieces)
    elif "reasoningContent" in block:
        text = block["reasoningContent"]["reasoningText"]
        for word in re.findall(r"\S+\s*", text["text"]):
            yield {"reasoningContent": {"text": word}}, 1
        yield {"reasoningContent": {"signature": text["signature"]}}, 0
    else:
        told = json.dumps(block["toolUse"]["input"])
        for cut in range(0, len(told), 7):
            yield {"toolUse": {"input": told[cut : cut + 7]}}, 0
