"""The description of the interface is that of the interface."""

from __future__ import annotations

import re

import pytest

from genrec_fast.serving.config import ServeConfig
from genrec_fast.serving.http import create_app
from genrec_fast.serving.http_body import FIELDS
from shared.served import ask, toy


@pytest.fixture(scope="module")
def app():
    app = create_app(toy(), ServeConfig(max_k=20, max_users=4))
    yield app
    app.state.server.close()


KINDS = {
    "object": dict,
    "array": list,
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "null": type(None),
}


def fits(schema, value, api):
    """JSON Schema, as far as the description uses it."""
    if "$ref" in schema:
        schema = api["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    kinds = schema.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    right = not kinds or any(
        isinstance(value, KINDS[kind]) and (not isinstance(value, bool) or kind == "boolean") for kind in kinds
    )
    right &= "anyOf" not in schema or any(fits(form, value, api) for form in schema["anyOf"])
    if not right:
        return False
    if isinstance(value, dict):
        known = schema.get("properties", {})
        return (
            set(schema.get("required", ())) <= set(value)
            and (schema.get("additionalProperties", True) or set(value) <= set(known))
            and all(fits(known[name], inner, api) for name, inner in value.items() if name in known)
        )
    if isinstance(value, list):
        return len(value) <= schema.get("maxItems", len(value)) and all(
            fits(schema.get("items", {}), inner, api) for inner in value
        )
    if "enum" in schema and value not in schema["enum"]:
        return False
    if isinstance(value, str):
        return "pattern" not in schema or re.search(schema["pattern"], value) is not None
    if isinstance(value, (int, float)):
        low, above = schema.get("minimum", value), schema.get("exclusiveMinimum")
        return low <= value <= schema.get("maximum", value) and (above is None or value > above)
    return True


def test_every_field_is_described(app):
    api = ask(app, "GET", "/openapi.json").json()
    fields = api["components"]["schemas"]["Question"]["properties"]
    assert list(fields) == list(FIELDS)
    assert all(field["description"] and ("type" in field or "anyOf" in field) for field in fields.values())
    assert fields["k"] | {"description": ""} == {
        "type": "integer", "minimum": 1, "maximum": 20, "default": 10, "description": ""
    }  # fmt: skip
    assert fields["target_timestamps"]["items"] == {"type": "number"}


def test_what_the_schema_says_is_what_the_server_says(app):
    api = ask(app, "GET", "/openapi.json").json()
    question, told, wrong = (api["components"]["schemas"][name] for name in ("Question", "Answer", "Error"))
    for body in (
        api["components"]["schemas"]["Question"]["example"],
        {"history_ids": [[1, 2], [3]], "k": 20, "exclude_ids": [[1], []], "allowed_ids": [4, 5], "exact": True},
        {"histories": [["thing 1"]], "timestamps": [[5]], "target_timestamps": [6.5], "seed": 3, "users": [0]},
        {"histories": [["thing 1"]], "num_beams": 30, "timeout": 1.5},
        {"histories": [["thing 1", "none"]], "unknown": "skip", "candidates": [["thing 2"]], "exclude": []},
    ):
        assert fits(question, body, api), body
        answer = ask(app, "POST", "/recommend", json=body)
        assert answer.status_code == 200, answer.text
        assert fits(told, answer.json(), api)
    for body in (
        {"k": 3},
        {"history_ids": [[1]], "k": 21},
        {"history_ids": [["thing 1"]]},
        {"history_ids": [[1]] * 5},
        {"history_ids": [[-1]]},
        {"histories": [[1.5]]},
        {"histories": "thing 1"},
        {"history_ids": [[1]], "colour": "red"},
        {"history_ids": [[1]], "exact": 1},
        {"history_ids": [[1]], "timeout": 0},
        {"history_ids": [[1]], "unknown": "ask"},
    ):
        assert not fits(question, body, api), body
        answer = ask(app, "POST", "/recommend", json=body)
        assert answer.status_code == 400
        assert fits(wrong, answer.json(), api)


def test_the_page_needs_no_network(app):
    page = ask(app, "GET", "/docs")
    assert page.headers["content-type"].startswith("text/html")
    assert not re.search(r"(src|href)=[\"']?(https?:)?//|@import|<script", page.text)
    for name in FIELDS:
        assert f"<code>{name}</code>" in page.text
    assert "POST /recommend" in page.text and "thing 0" in page.text and "/swap" not in page.text


def test_swap_is_described_where_it_is(tmp_path):
    app = create_app(toy(), ServeConfig(swap_token="word", swap_folder=tmp_path))
    assert "/swap" in ask(app, "GET", "/openapi.json").json()["paths"]
    assert "POST /swap" in ask(app, "GET", "/docs").text
    app.state.server.close()
