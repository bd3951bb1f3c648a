"""Says a chat request in the words of Bedrock's Converse API, which is one for the models of all makers.

Knows Converse as of late 2026. What Converse has no word for, and a maker's own API has, goes into
`additionalModelRequestFields` where that maker is known by the model's name: Anthropic, Amazon's Nova, OpenAI. Refuses
to guess for the others: what cannot be said is a `bad_request` that names the parameter. Pictures and documents must be
data: the gateway fetches nothing.

Source: https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_Converse.html,
https://docs.aws.amazon.com/bedrock/latest/userguide/prompt-caching.html,
https://docs.aws.amazon.com/bedrock/latest/userguide/claude-messages-adaptive-thinking.html
"""

from __future__ import annotations

from typing import Any, Literal

from llmops.gateway import chat
from llmops.gateway.calls import Fault, Json
from llmops.gateway.config import TargetConfig
from llmops.gateway.providers.anthropic.request import thinking
from llmops.gateway.providers.bedrock.blocks import Blocks
from llmops.gateway.reading import CALLER, dumped

NAME = "Bedrock"

Maker = Literal["anthropic", "nova", "openai", "other"]

_MARKS: tuple[tuple[str, Maker], ...] = (("claude", "anthropic"), ("nova", "nova"), ("openai.", "openai"))
_NUMBERS = {"temperature": "temperature", "top_p": "topP"}
_CHOICES = {"auto": "auto", "required": "any"}
_OPENAI_EFFORTS = {"minimal": "low", "low": "low", "medium": "medium"}
_NOVA_EFFORTS = {"minimal": "low", "low": "low", "medium": "medium"}


def maker_of(model: str) -> Maker:
    """Who made a model, by its id or the name of its inference profile."""
    return next((maker for mark, maker in _MARKS if mark in model), "other")


def converse_request(body: Json, target: TargetConfig) -> Json:
    """The body for `converse` and `converse-stream`.

    Raises:
        Fault: `bad_request` for what cannot be read, or cannot be said to this model at Bedrock.
    """
    maker = maker_of(target.model)
    body = body if maker == "anthropic" else chat.plain(body)
    chat.refuse_unknown(body, _known(maker), NAME)
    blocks = Blocks(caches=maker in ("anthropic", "nova"), thinks=maker == "anthropic")
    system, turns = blocks.conversation(body)
    limit = chat.output_limit(body, target.max_output_tokens)
    request: Json = {"messages": turns, "inferenceConfig": _inference(body, limit)}
    if system:
        request["system"] = system
    more: Json = {}
    _put_tools(body, request, more, maker, blocks)
    _put_format(body, request)
    _put_top_k(body, more, maker)
    more |= _thinking(body, target.model, limit, maker, turns)
    if more:
        request["additionalModelRequestFields"] = more
    return request


def _known(maker: Maker) -> frozenset[str]:
    known = chat.GENERATION
    if maker == "anthropic":
        known |= {"top_k", "thinking", "output_config"}
    return known | {"top_k"} if maker == "nova" else known


def _inference(body: Json, limit: int) -> Json:
    config: Json = {"maxTokens": limit}
    for name, theirs in _NUMBERS.items():
        if body.get(name) is not None:
            config[theirs] = CALLER.number(body[name], name)
            if not 0 <= config[theirs] <= 1:
                raise CALLER.fault(name, f"must be from 0 to 1 for {NAME}")
    if stop := chat.stop_sequences(body):
        config["stopSequences"] = stop
    return config


def _put_tools(body: Json, request: Json, more: Json, maker: Maker, blocks: Blocks) -> None:
    """Converse can leave a choice of tools open or force it; what else Anthropic's API can is said in its own field.

    A conversation that used tools must go on naming some, so that not to use any more is a choice too.
    """
    tools, choice = chat.tools(body), chat.tool_choice(body) or chat.Choice("auto")
    single = body.get("parallel_tool_calls") is False
    if choice.names and not (choice.mode == "required" and len(choice.names) == 1):
        tools = [tool for tool in tools if tool.name in choice.names]
    if not tools:
        if choice.mode == "required":
            raise CALLER.fault("tool_choice", "asks for a tool that `tools` does not hold")
        tools, choice, single = blocks.past_tools(), chat.Choice("none"), False
    if choice.mode == "none" and not blocks.used_tools:
        return
    request["toolConfig"] = {"tools": [told for tool in tools for told in blocks.tool(tool)]}
    if choice.mode == "none" or single:
        if maker != "anthropic":
            raise _unsayable(body, choice)
        more["tool_choice"] = _anthropic_choice(choice, single)
    elif body.get("tool_choice") is not None:
        request["toolConfig"]["toolChoice"] = _choice(choice)


def _unsayable(body: Json, choice: chat.Choice) -> Fault:
    if choice.mode != "none":
        return CALLER.fault("parallel_tool_calls", f"cannot be switched off for this model at {NAME}")
    if body.get("tool_choice") == "none":
        return CALLER.fault("tool_choice", f"cannot be `none` for this model at {NAME} once tools were used")
    return CALLER.fault("tools", f"must hold the tools that the conversation used: {NAME} wants them for this model")


def _choice(choice: chat.Choice) -> Json:
    if choice.mode == "required" and len(choice.names) == 1:
        return {"tool": {"name": choice.names[0]}}
    return {_CHOICES[choice.mode]: {}}


def _anthropic_choice(choice: chat.Choice, single: bool) -> Json:
    if choice.mode == "none":
        return {"type": "none"}
    (kind, value), *_ = _choice(choice).items()
    return {"type": kind, **value, "disable_parallel_tool_use": single}


def _put_format(body: Json, request: Json) -> None:
    asked = chat.response_format(body)
    if asked.kind == "json_object":
        raise CALLER.fault("response_format", f"`json_object` does not exist at {NAME}: give a `json_schema`")
    if asked.schema is None:
        return
    described = body["response_format"]["json_schema"]
    schema: Json = {"schema": dumped(asked.schema).decode()}
    for name in ("name", "description"):
        if described.get(name) is not None:
            schema[name] = CALLER.text(described[name], f"response_format.json_schema.{name}")
    request["outputConfig"] = {"textFormat": {"type": "json_schema", "structure": {"jsonSchema": schema}}}


def _put_top_k(body: Json, more: Json, maker: Maker) -> None:
    if body.get("top_k") is not None:
        top_k = CALLER.count(body["top_k"], "top_k")
        more |= {"top_k": top_k} if maker == "anthropic" else {"inferenceConfig": {"topK": top_k}}


def _thinking(body: Json, model: str, limit: int, maker: Maker, turns: list[Json]) -> Json:
    """How much to think, in the words of the model's maker."""
    if maker == "anthropic":
        return thinking(body, model, limit, unthought=_acts_unthought(turns))
    effort = chat.reasoning_effort(body)
    if effort is None:
        return {}
    if maker == "openai" and effort != "none":
        return {"reasoning_effort": _OPENAI_EFFORTS.get(effort, "high")}
    if maker == "nova":
        level = {"type": "enabled", "maxReasoningEffort": _NOVA_EFFORTS.get(effort, "high")}
        return {"reasoningConfig": {"type": "disabled"} if effort == "none" else level}
    raise CALLER.fault("reasoning_effort", f"has no counterpart for this model at {NAME}: leave it out")


def _acts_unthought(turns: list[Json]) -> bool:
    """Whether tool results answer a turn that came back without its thinking; see Anthropic's own translation."""
    if len(turns) < 2 or not _is_first(turns[-1], "toolResult"):
        return False
    return not _is_first(turns[-2], "reasoningContent")


def _is_first(turn: Json, kind: str) -> bool:
    first: Any = turn["content"][0]
    return kind in first
