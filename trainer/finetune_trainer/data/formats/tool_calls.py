"""Tools and calls of them: in OpenAI's shape, its older one (`function_call`, `functions`), and ShareGPT's."""

from __future__ import annotations

from typing import cast

from pydantic import JsonValue

from finetune_trainer.data.formats.row_values import Row, Unusable, cut, is_blank, kind_of, parse_json
from finetune_trainer.data.rows import JsonObject, ToolCall


def calls_of(message: Row, name: str) -> tuple[ToolCall, ...]:
    """The calls of a message with `tool_calls` or `function_call`; none where it has neither."""
    calls = message.get("tool_calls")
    if calls is None and message.get("function_call") is not None:
        calls = [message["function_call"]]
    if not calls:
        return ()
    if not isinstance(calls, list):
        raise Unusable(f"tool_calls of {name} is {kind_of(calls)}; it must be a list")
    return tuple(_call(call, f"tool call {number} of {name}") for number, call in enumerate(calls, start=1))


def calls_in_text(value: object, name: str) -> tuple[ToolCall, ...]:
    """ShareGPT's function_call turn: one call or a list of calls, as JSON text or as objects."""
    parsed = parse_json(value, name) if isinstance(value, str) else value
    calls = parsed if isinstance(parsed, list) else [parsed]
    if not calls:
        raise Unusable(f"{name} calls no tool")
    return tuple(_call(call, f"tool call {number} of {name}") for number, call in enumerate(calls, start=1))


def _call(value: object, name: str) -> ToolCall:
    if not isinstance(value, dict):
        raise Unusable(f"{name} is {kind_of(value)}; it must be an object with name and arguments")
    function = value.get("function", value)
    if not isinstance(function, dict):
        raise Unusable(f"function of {name} is {kind_of(function)}; it must be an object")
    called = function.get("name")
    if not isinstance(called, str) or not called:
        raise Unusable(f"{name} names no function")
    call_id = value.get("id")
    return ToolCall(
        called,
        _arguments(function.get("arguments"), f"the arguments of {name}"),
        call_id if isinstance(call_id, str) else None,
    )


def _arguments(value: object, name: str) -> JsonObject:
    if is_blank(value):
        return {}
    parsed = parse_json(value, name) if isinstance(value, str) else value
    if not isinstance(parsed, dict):
        raise Unusable(f"{name} are {kind_of(parsed)}; they must be an object")
    return cast(JsonObject, parsed)


def tools_of(row: Row, column: str | None) -> tuple[JsonObject, ...]:
    """The tools that a row offers: a list of objects, or that list as JSON text."""
    value = None if column is None else row.get(column)
    if is_blank(value):
        return ()
    assert column is not None
    name = f"column {cut(column)}"
    parsed = parse_json(value, name, column) if isinstance(value, str) else value
    if not isinstance(parsed, list):
        raise Unusable(f"{name} is {kind_of(parsed)}; it must be a list of tools", column)
    return tuple(_tool(tool, f"tool {number}", column) for number, tool in enumerate(parsed, start=1))


def _tool(value: object, name: str, column: str) -> JsonObject:
    if not isinstance(value, dict):
        raise Unusable(f"{name} of column {cut(column)} is {kind_of(value)}; it must be an object", column)
    tool = cast(JsonObject, _without_nulls(value))
    if column == "functions" and "function" not in tool:
        # OpenAI's older shape has the function alone.
        return {"type": "function", "function": cast(JsonValue, tool)}
    return tool


def _without_nulls(value: object) -> object:
    # Parquet gives every tool the fields of all tools; JSON Schema has no field whose absence differs from null.
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]
    return value
