"""The OpenAPI document, made from the types of requests and answers, and a page that shows it."""

from __future__ import annotations

import html
import json
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from hiersrec_sdk import __version__
from hiersrec_sdk.explain import Explanation
from hiersrec_sdk.serve import requests
from hiersrec_sdk.serve.settings import Settings
from hiersrec_sdk.serve.titles import LONGEST_SEARCH, MOST_FOUND

_Post = tuple[str, type[msgspec.Struct], type]
"""Summary of a route, type of what is asked, and of what is answered."""

_READ: Final[dict[str, _Post]] = {
    "/recommend": (
        "Recommend items for one session or many",
        requests.RecommendRequest,
        requests.Recommendations,
    ),
    "/categories": ("The most probable categories", requests.CategoriesRequest, requests.Categories),
    "/similar": ("The items with the nearest vectors", requests.SimilarRequest, requests.Similar),
    "/explain": ("Why an item has its score", requests.ExplainRequest, Explanation),
}
_CHANGE: Final[dict[str, _Post]] = {
    "/catalog/upsert": ("Add and change items", requests.UpsertRequest, requests.Changed),
    "/catalog/remove": ("Take items out", requests.RemoveRequest, requests.Changed),
    "/catalog/move": ("Put items into other categories", requests.MoveRequest, requests.Changed),
    "/catalog/bias": ("Promote or bury items", requests.BiasRequest, requests.Changed),
}
_GET: Final[dict[str, tuple[str, type | str]]] = {  # summary, and type of the answer, or its media type
    "/healthz": ("Whether the process lives", requests.Health),
    "/readyz": (
        "Whether it can answer, 503 if not; which bundle, and how the reload and the feed stand",
        requests.Readiness,
    ),
    "/info": ("The bundle, the catalog and the limits", requests.Info),
    "/metrics": ("Metrics for Prometheus, of all workers", "text/plain"),
    "/openapi.json": ("This description", "application/json"),
    "/docs": ("This description as a page", "text/html"),
}
_PAGE: Final[dict[str, tuple[str, type | str]]] = {
    "/": ("A page to try things on", "text/html"),
    "/items": ("Items whose titles have the words of a query", requests.Found),
}
_ASKED: Final = {
    "/items": [
        {
            "name": "query",
            "in": "query",
            "schema": {"type": "string", "default": "", "maxLength": LONGEST_SEARCH},
        },
        {
            "name": "limit",
            "in": "query",
            "schema": {"type": "integer", "default": 20, "minimum": 1, "maximum": MOST_FOUND},
        },
    ]
}
_EXAMPLES: Final = {
    "/recommend": {"session": ["sku-00017", "sku-00040"], "k": 5},
    "/categories": {"session": ["sku-00017"], "level": 0},
    "/similar": {"item": "sku-00017", "k": 5},
    "/explain": {"session": ["sku-00017"], "item": "sku-00040"},
    "/catalog/upsert": {"items": [{"id": "sku-7", "category": ["Shoes", "Boots"], "text": "red boots"}]},
    "/catalog/remove": {"ids": ["sku-7"]},
    "/catalog/move": {"items": [{"id": "sku-7", "category": "Boots"}]},
    "/catalog/bias": {"items": [{"id": "sku-7", "value": 1.5}]},
}
_REF: Final = "#/components/schemas/{name}"


def document(settings: Settings) -> dict[str, Any]:
    """The OpenAPI document of a service with these settings."""
    posts = _READ | (_CHANGE if settings.token else {})
    kinds = [kind for _, asked, answered in posts.values() for kind in (asked, answered)]
    gets = _GET | (_PAGE if settings.page else {})
    kinds += [answered for _, answered in gets.values() if not isinstance(answered, str)]
    kinds += [requests.ManyRecommendations, requests.Failure]
    _, schemas = msgspec.json.schema_components(kinds, ref_template=_REF)
    for schema in schemas.values():  # of a docstring its first paragraph
        schema["description"] = schema.get("description", "").partition("\n\n")[0]
    paths: dict[str, Any] = {}
    for path, (summary, asked, answered) in posts.items():
        answers = [answered, requests.ManyRecommendations] if path == "/recommend" else [answered]
        body = {"application/json": {"schema": _ref(asked), "example": _EXAMPLES[path]}}
        post: dict[str, Any] = {
            "summary": summary,
            "requestBody": {"required": True, "content": body},
            "responses": {
                "200": _response("the answer", *answers),
                "4XX": _response("the request is wrong", requests.Failure),
                "5XX": _response("it cannot be answered now", requests.Failure),
            },
        }
        if path in _CHANGE:
            post["security"] = [{"token": []}]
        paths[path] = {"post": post}
    for path, (summary, answer_type) in gets.items():
        if isinstance(answer_type, str):
            answer = {"description": "the answer", "content": {answer_type: {}}}
        else:
            answer = _response("the answer", answer_type)
        paths[path] = {"get": {"summary": summary, "responses": {"200": answer}}}
        if path in _ASKED:
            paths[path]["get"]["parameters"] = _ASKED[path]
    paths["/readyz"]["get"]["responses"]["503"] = _response("it cannot answer", requests.Readiness)
    _limit(schemas, settings)
    components: dict[str, Any] = {"schemas": schemas}
    if settings.token:
        components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    info = {"title": "HierSRec", "version": __version__}
    return {"openapi": "3.1.0", "info": info, "paths": paths, "components": components}


def _limit(schemas: dict[str, Any], settings: Settings) -> None:
    """Add what the types of the requests do not say: the limits of this service, and that one of two is needed."""
    for schema in schemas.values():
        fields = schema.get("properties", {})
        if schema["title"].endswith("Request") and "k" in fields:
            fields["k"]["maximum"] = settings.max_k
    asked = schemas["RecommendRequest"]
    asked["oneOf"] = [{"required": ["session"]}, {"required": ["sessions"]}]
    asked["properties"]["sessions"]["maxItems"] = settings.max_sessions
    for name, field in (("Upsert", "items"), ("Remove", "ids"), ("Move", "items"), ("Bias", "items")):
        if f"{name}Request" in schemas:
            schemas[f"{name}Request"]["properties"][field]["maxItems"] = settings.max_sessions


def page_of(openapi: dict[str, Any], url: str) -> str:
    """The document as a page of HTML, without scripts, of the service at ``url``."""
    return "".join(_page(openapi, url))


def _page(openapi: dict[str, Any], url: str) -> Iterator[str]:
    yield '<!doctype html><html lang="en"><meta charset="utf-8"><title>HierSRec: routes</title>'
    yield f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style><h1>Routes</h1>'
    yield '<p>This service as <a href="openapi.json">OpenAPI document</a>.</p>'
    schemas = openapi["components"]["schemas"]
    for path, methods in openapi["paths"].items():
        for method, about in methods.items():
            yield f"<h2>{method.upper()} {path}</h2><p>{html.escape(about['summary'])}.</p>"
            if "security" in about:
                yield "<p>Needs the header <code>Authorization: Bearer TOKEN</code>.</p>"
            if "requestBody" in about:
                content = about["requestBody"]["content"]["application/json"]
                example = json.dumps(content["example"])
                yield f"<pre>curl -d '{html.escape(example)}' {html.escape(url)}{path}</pre>"
                yield from _fields(_named(content["schema"], schemas))
            for each in about.get("parameters", ()):
                kind, default = _type(each["schema"]), json.dumps(each["schema"]["default"])
                yield f"<p><code>{each['name']}</code>: {kind}, by default {default}.</p>"


def _fields(schema: dict[str, Any]) -> Iterator[str]:
    yield "<table><tr><th>field</th><th>type</th><th>default</th><th>meaning</th></tr>"
    for name, field in schema["properties"].items():
        default = json.dumps(field["default"]) if "default" in field else ""
        if name in schema["required"]:
            default = "required"
        cells = f"<code>{name}</code>", _type(field), default, html.escape(field.get("description", ""))
        yield f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
    yield "</table>"


def _type(field: dict[str, Any]) -> str:
    """The type of a field, for people."""
    if "enum" in field:
        return " or ".join(json.dumps(value) for value in field["enum"])
    if "const" in field:
        return json.dumps(field["const"])
    if "anyOf" in field:
        return " or ".join(map(_type, field["anyOf"]))
    kind = field.get("type", "any")
    if kind == "array":
        return f"list of ({_type(field.get('items', {}))})"
    return " or ".join(kind) if isinstance(kind, list) else str(kind)


def _ref(kind: type) -> dict[str, str]:
    return {"$ref": _REF.format(name=kind.__name__)}


def _named(schema: dict[str, Any], schemas: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = schemas[schema["$ref"].rpartition("/")[2]]
    return found


def _response(description: str, *kinds: type) -> dict[str, Any]:
    schema: dict[str, Any] = _ref(kinds[0]) if len(kinds) == 1 else {"anyOf": [*map(_ref, kinds)]}
    return {"description": description, "content": {"application/json": {"schema": schema}}}


_STYLE: Final = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1d2330}"
    "h2{font-size:1.05rem;margin-top:2.2rem;border-top:1px solid #d8dce5;padding-top:1rem}"
    "pre{background:#f3f5f9;padding:.7rem;overflow-x:auto}td,th{text-align:left;padding:.2rem .8rem .2rem 0;"
    "vertical-align:top}table{border-collapse:collapse;font-size:.9rem}"
    "@media(max-width:40rem){tr,td{display:block;padding:.1rem 0}th{display:none}tr{padding:.5rem 0}}"
)
