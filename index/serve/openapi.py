"""The OpenAPI 3.1 description, generated from the route table and its models."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pydantic.json_schema import models_json_schema

from lsr._version import __version__
from lsr.index.serve.answers import Given, ProblemDocument
from lsr.index.serve.route import Route

_AT = "#/components/schemas/"
_REST = {"id": "A document's id, which may contain slashes.", "file": "The name of a file."}
_OF_INDEX = ("/v1/documents/{id}", "/v1/stats")  # paths that take the query parameter "index"


def describe(routes: Mapping[str, Mapping[str, Route]]) -> dict[str, Any]:
    """Return the OpenAPI document for a route table."""
    every = [model for methods in routes.values() for r in methods.values() for model in (r.asked, r.given) if model]
    sides = [(model, "serialization" if issubclass(model, Given) else "validation") for model in every]
    _, schemas = models_json_schema([*sides, (ProblemDocument, "serialization")], ref_template=_AT + "{model}")
    paths: dict[str, Any] = {}
    for path, methods in routes.items():
        parameters: list[dict[str, Any]] = [
            {"name": name, "in": "path", "required": True, "description": _REST[name]}
            for name in re.findall("{(.+)}", path)
        ]
        if path in _OF_INDEX:
            parameters.append(
                {"name": "index", "in": "query", "description": "The index's name; by default the first."}
            )
        for one in parameters:
            one["schema"] = {"type": "string"}
        at = paths[path] = {"parameters": parameters} if parameters else {}
        for method, route in methods.items():
            at[method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {"title": "lsr serve", "version": __version__},
        "paths": paths,
        "components": {
            "schemas": schemas["$defs"],
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(route: Route) -> dict[str, Any]:
    good: dict[str, Any] = {"description": "Done."}
    if route.given:
        good["content"] = {"application/json": {"schema": {"$ref": _AT + route.given.__name__}}}
    bad = {"application/problem+json": {"schema": {"$ref": _AT + ProblemDocument.__name__}}}
    operation: dict[str, Any] = {
        "summary": route.summary,
        "operationId": route.handler.__name__,
        "responses": {"200": good, "default": {"description": "What is wrong, and where.", "content": bad}},
    }
    if route.asked:
        body = {"application/json": {"schema": {"$ref": _AT + route.asked.__name__}}}
        operation["requestBody"] = {"required": True, "content": body}
    if route.role:
        operation["security"] = [{"key": []}, {}]
    return operation
