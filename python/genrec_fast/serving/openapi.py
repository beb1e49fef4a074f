"""The interface of a server as OpenAPI, made from the fields of a question, and as a page that needs no network."""

from __future__ import annotations

import html
import inspect
import json
import re
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from genrec_fast._version import __version__
from genrec_fast.base.batch import BASES
from genrec_fast.base.query import Options, Query
from genrec_fast.serving.config import ServeConfig
from genrec_fast.serving.http_body import FIELDS

_PLAIN: dict[Any, str] = {bool: "boolean", int: "integer", float: "number", str: "string"}
_NAME = {"anyOf": [{"type": "string"}, {"type": "integer"}], "description": "an item's name; a number is its digits"}
_ID = {"type": "integer", "minimum": 0, "description": "an item id: `id` in the answers"}
_MARK = {
    "description": "a digit 0 or 1 for each action of the model",
    "anyOf": [
        {"type": "string", "pattern": "^[01]+$"},
        {"type": "array", "items": {"anyOf": [{"type": "boolean"}, {"type": "integer", "enum": [0, 1]}]}},
    ],
}


def _list(items: Mapping[str, Any], text: str) -> dict[str, Any]:
    return {"type": "array", "items": items, "description": text}


def _lists(items: Mapping[str, Any], text: str) -> dict[str, Any]:
    return _list({"type": "array", "items": items}, text)


def _chosen(items: Mapping[str, Any], text: str) -> dict[str, Any]:
    forms = [{"type": "array", "items": items}, {"type": "array", "items": {"type": "array", "items": items}}]
    return {"anyOf": forms, "description": f"{text}: a list for all users, or a list of lists, one for each history"}


# Fields whose JSON is not their value in Python; the others follow from their types and texts in base/query.py.
_OWN: dict[str, dict[str, Any]] = {
    "histories": _lists(_NAME, "one list of item names for each user, oldest first"),
    "history_ids": _lists(_ID, "item ids in place of histories"),
    "allowed": _chosen(_NAME, "names of the items that may be recommended"),
    "allowed_ids": _chosen(_ID, "item ids in place of allowed"),
    "candidates": _chosen(_NAME, "names of the items that are to be ranked; with allowed, what is in both"),
    "candidate_ids": _chosen(_ID, "item ids in place of candidates"),
    "exclude": _chosen(_NAME, "names of the items that are not recommended"),
    "exclude_ids": _chosen(_ID, "item ids in place of exclude"),
    "actions": _lists(_MARK, "what was done at each event of each history, for models that read it"),
    "timeout": {"type": "number", "exclusiveMinimum": 0, "description": "seconds; at most the server's own"},
    "num_beams": {
        "anyOf": [{"type": "integer", "minimum": 1}, {"type": "array", "items": {"type": "integer", "minimum": 1}}],
        "description": "width of the search, or one width for each level; the model's own if not given",
    },
}


def description(config: ServeConfig, names: Sequence[str]) -> dict[str, Any]:
    """OpenAPI 3.1 of a server with these settings; ``names``: some items', for the example."""
    found = {
        "item": {"type": "string", "description": "name"},
        "id": {"type": "integer"},
        "score": {"type": "number", "description": "higher is better"},
        "title": {"type": "string"},
    }
    result = {
        "items": _list(_object(found), "best first; fewer than k where no more may be recommended"),
        "exact": {"type": "boolean", "description": "proven to be the best of the catalog"},
        "basis": {"type": "string", "enum": list(BASES), "description": "what it is based on"},
        "skipped": {"type": "integer", "description": "items of the history that the catalog does not have"},
        "bound": {"type": ["number", "null"], "description": "what was pruned scores at most this; null: nothing was"},
    }
    answer = {"results": _list(_object(result), "one for each history"), "version": {"type": "integer"}}
    state: dict[str, Any] = {name: {"type": "integer"} for name in ("items", "version", "waiting", "running")}
    state |= {"status": {"type": "string", "enum": ["ok", "closing"]}, "recipe": {"type": "string"}}
    question = _object(_fields(config), required=())
    question |= {
        "additionalProperties": False,
        "anyOf": [{"required": ["histories"]}, {"required": ["history_ids"]}],
        "example": {"histories": [list(names)], "k": 3, "exclude_seen": True},
    }
    swap = {
        "post": {
            "summary": "Put another model in the place of the present one; with Authorization: Bearer TOKEN",
            "security": [{"token": []}],
            **_body(_object({"folder": {"type": "string", "description": "inside the server's swap_folder"}})),
            "responses": _responses(_object({"version": {"type": "integer"}}), 400, 401, 408, 413, 503),
        }
    }
    health = _responses(_object(state), 503)
    return {
        "openapi": "3.1.0",
        "info": {"title": "genrec_fast", "version": __version__, "description": "The k best items for each history."},
        "paths": {
            "/recommend": {
                "post": {
                    "summary": "The k best items for each history",
                    **_body(_ref("Question")),
                    "responses": _responses(_ref("Answer"), 400, 408, 413, 500, 503, 504),
                }
            },
            "/health": {"get": {"summary": "Whether it answers", "responses": health}},
            "/metrics": {"get": {"summary": "Figures for Prometheus", "responses": {"200": {"description": "text"}}}},
            "/openapi.json": {"get": {"summary": "This", "responses": {"200": {"description": "OpenAPI"}}}},
            "/docs": {"get": {"summary": "The same to read", "responses": {"200": {"description": "HTML"}}}},
            **({"/swap": swap} if config.can_swap else {}),
        },
        "components": {
            "schemas": {
                "Question": question,
                "Answer": _object(answer),
                "Error": _object({"error": {"type": "string", "description": "which field, the rule, and what came"}}),
            },
            **({"securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}} if config.can_swap else {}),
        },
    }


_REASONS = {
    400: "a wrong question; the message names the field",
    401: "not the server's token",
    408: "the body came too slowly",
    413: "the body is too long",
    500: "the model failed at this question",
    503: "full, or closing: come back (Retry-After)",
    504: "no answer in time",
}


def _responses(schema: Mapping[str, Any], *errors: int) -> dict[str, Any]:
    good = {"200": {"description": "answered", "content": {"application/json": {"schema": schema}}}}
    wrong = {"content": {"application/json": {"schema": _ref("Error")}}}
    return good | {str(status): {"description": _REASONS[status], **wrong} for status in errors}


def _body(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _object(properties: Mapping[str, Any], required: Sequence[str] | None = None) -> dict[str, Any]:
    needed = list(properties) if required is None else list(required)
    return {"type": "object", "properties": dict(properties), **({"required": needed} if needed else {})}


def _fields(config: ServeConfig) -> dict[str, Any]:
    """A schema for each field of a question."""
    kinds = typing.get_type_hints(Options) | {"k": int}
    texts = {**_texts(Query, r"^    (\w+): (.*?)(?=^    \w+: |\Z)"), **_texts(Options, r"^``(\w+)``: (.*?)(?=^``|\Z)")}
    limits: dict[str, dict[str, Any]] = {
        "k": {"minimum": 1, "maximum": config.max_k, "default": 10},
        "histories": {"maxItems": config.max_users},
        "history_ids": {"maxItems": config.max_users},
        "num_beams": {"description": f"{_OWN['num_beams']['description']}; at most {config.max_num_beams}"},
    }
    found = {name: _OWN.get(name) or {**_schema(kinds[name]), "description": texts[name]} for name in FIELDS}
    return {name: schema | limits.get(name, {}) for name, schema in found.items()}


def _texts(kind: type, pattern: str) -> dict[str, str]:
    """What the docstring of a class says of each field, in one line."""
    pairs = re.findall(pattern, inspect.cleandoc(kind.__doc__ or ""), re.DOTALL | re.MULTILINE)
    return {name: " ".join(text.replace("``", "").split()) for name, text in pairs}


def _schema(kind: Any) -> dict[str, Any]:
    """JSON for a type of ``Options``: of several forms of the same, the first that JSON has."""
    for form in typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,):
        if typing.get_origin(form) is typing.Literal:
            return {"type": "string", "enum": list(typing.get_args(form))}
        if form in _PLAIN:
            return {"type": _PLAIN[form]}
        if typing.get_origin(form) is Sequence:
            return {"type": "array", "items": _schema(typing.get_args(form)[0])}
    raise TypeError(f"openapi: a field of this type needs a schema of its own, got {kind}")


def page(api: Mapping[str, Any]) -> str:
    """The description as HTML, whole: nothing is fetched from anywhere."""
    parts = []
    for path, methods in api["paths"].items():
        for method, told in methods.items():
            parts.append(f"<h2><code>{method.upper()} {html.escape(path)}</code></h2><p>{html.escape(told['summary'])}")
            if "requestBody" in told:
                parts.append(_table(_resolved(api, told["requestBody"]["content"]["application/json"]["schema"])))
            for status, response in told["responses"].items():
                parts.append(f"<p><b>{status}</b> {html.escape(response['description'])}</p>")
                if status == "200" and "content" in response:
                    parts.append(_table(_resolved(api, response["content"]["application/json"]["schema"])))
    example = json.dumps(api["components"]["schemas"]["Question"]["example"])
    command = html.escape(f"curl -s localhost:8000/recommend -d '{example}'")
    info = api["info"]
    title = html.escape(f"{info['title']} {info['version']}")
    return (
        f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{title}</title><style>{_STYLE}</style>"
        f"<h1>{title}</h1><p>{html.escape(info['description'])} For programs: <a href='openapi.json'>openapi.json</a>."
        f"<pre>{command}</pre>{''.join(parts)}</html>"
    )


_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:60em;margin:2em auto;padding:0 1em}"
    "table{border-collapse:collapse}td,th{border:1px solid #ccc;padding:.2em .6em;text-align:left;vertical-align:top}"
    "pre{background:#f4f4f4;padding:.6em;overflow:auto}h2{margin-top:2em}"
)


def _resolved(api: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Mapping[str, Any] = schema
    if "$ref" in schema:
        found = api["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return found


def _table(schema: Mapping[str, Any]) -> str:
    lines = ["<table><tr><th>field<th>JSON<th>what</tr>"]
    for name, field in schema["properties"].items():
        cells = (f"<code>{html.escape(name)}</code>", html.escape(_word(field)), html.escape(_said(field)))
        lines.append(f"<tr><td>{'<td>'.join(cells)}</tr>")
        inner = field.get("items", {})
        if "properties" in inner:
            lines.append(f"<tr><td><td colspan=2>{_table(inner)}</tr>")
    return "".join([*lines, "</table>"])


def _word(schema: Mapping[str, Any]) -> str:
    """A schema in a few words."""
    if "anyOf" in schema:
        return " or ".join(_word(form) for form in schema["anyOf"])
    kind = schema.get("type", "")
    if kind == "array":
        return f"list of {_word(schema.get('items', {}))}"
    return " or ".join(kind) if isinstance(kind, list) else kind


def _said(schema: Mapping[str, Any]) -> str:
    rules = {"minimum": "at least", "maximum": "at most", "maxItems": "at most", "default": "default"}
    limits = [f"{word} {schema[rule]}" for rule, word in rules.items() if rule in schema]
    return "; ".join([text for text in (schema.get("description", ""), *limits) if text])
