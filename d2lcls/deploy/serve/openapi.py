"""The service's description, OpenAPI 3.1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from d2lcls.deploy.serve.limits import Limits


def document(limits: Limits, media_types: Sequence[str], token: bool) -> dict[str, Any]:
    """Return the document.

    Args:
        limits: `Limits`, whose numbers it holds.
        media_types: of a body.
        token: whether clients must send a bearer token.
    """
    picture: dict[str, Any] = {"type": "string", "format": "byte", "description": "an image file in base64"}
    prediction = {
        "type": "object",
        "required": ["class", "probability"],
        "properties": {"class": {"type": "string"}, "probability": {"type": "number", "minimum": 0, "maximum": 1}},
    }
    bodies: dict[str, Any] = {
        media_type: {"schema": {"type": "string", "contentMediaType": media_type}}
        for media_type in media_types
        if media_type not in ("application/json", "multipart/form-data")
    }
    bodies["application/json"] = {
        "schema": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "image": picture,
                "images": {"type": "array", "items": picture, "maxItems": limits.pictures},
                "top": _TOP,
            },
        }
    }
    bodies["multipart/form-data"] = {
        "schema": {
            "type": "object",
            "properties": {
                "image": {
                    "type": "array",
                    "items": {"type": "string", "format": "binary"},
                    "maxItems": limits.pictures,
                },
                "top": _TOP,
            },
        }
    }
    predict = {
        "summary": "Classify pictures, the most probable classes first.",
        "description": f"Up to {limits.pictures} pictures of {limits.pixels} pixels, {limits.body} bytes in all, "
        f"within {limits.seconds:g} s.",
        "parameters": [{"name": "top", "in": "query", "schema": _TOP, "description": "how many classes"}],
        "requestBody": {"required": True, "content": bodies},
        "responses": {
            "200": _json(
                "The classes of each picture, in the order sent.",
                {
                    "type": "object",
                    "required": ["model", "predictions"],
                    "properties": {
                        "model": {"type": "string"},
                        "predictions": {"type": "array", "items": {"type": "array", "items": prediction}},
                    },
                },
            ),
            **_problems(400, 408, 413, 415, 500, 503, 504),
        },
    }
    secured: dict[str, Any] = {"security": [{"token": []}]} if token else {}
    denied = _problems(401) if token else {}

    def operation(content: dict[str, Any]) -> dict[str, Any]:
        return {**content, **secured, "responses": {**content["responses"], **denied}}

    content = {
        "openapi": "3.1.0",
        "info": {"title": "d2lcls: an image classifier", "version": "1"},
        "paths": {
            "/v1/predict": {"post": operation(predict)},
            "/v1/models": {
                "get": operation(
                    {
                        "summary": "The model, with its accuracy and checksums.",
                        "responses": {"200": _json("The models.", {"type": "object"})},
                    }
                )
            },
            "/v1/reload": {
                "post": operation(
                    {
                        "summary": "Load the model's folder again; needs a token.",
                        "responses": {
                            "200": _json("The new model serves.", {"type": "object"}),
                            **_problems(403),
                            "409": _json("A reload is in progress.", {"type": "object"}),
                            "422": _json("The new model cannot be used; the old one stays.", {"type": "object"}),
                        },
                    }
                )
            },
            "/healthz": {
                "get": {
                    "summary": "Whether requests are accepted.",
                    "responses": {"200": _json("They are.", {"type": "object"}), **_problems(503)},
                }
            },
            "/metrics": {
                "get": operation(
                    {
                        "summary": "Counters for Prometheus.",
                        "responses": {
                            "200": {"description": "Prometheus' text format.", "content": {"text/plain": {}}}
                        },
                    }
                )
            },
            "/openapi.json": {
                "get": {"summary": "This document.", "responses": {"200": _json("OpenAPI 3.1.", {"type": "object"})}}
            },
        },
    }
    if token:
        content["components"] = {"securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}}
    return content


_TOP = {"type": "integer", "minimum": 1, "maximum": 1000, "default": 5}
_TITLES = {
    400: "The request is not valid.",
    401: "The token is missing or wrong.",
    403: "Not allowed.",
    408: "The request arrived too slowly.",
    413: "Too much in one request.",
    415: "The media type is not supported.",
    500: "The service has failed.",
    503: "Busy; see Retry-After.",
    504: "Not done in time.",
}


def _json(description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _problems(*statuses: int) -> dict[str, Any]:
    return {
        str(status): {
            "description": _TITLES[status],
            "content": {
                "application/problem+json": {
                    "schema": {
                        "type": "object",
                        "properties": {
                            "status": {"type": "integer"},
                            "title": {"type": "string"},
                            "detail": {"type": "string"},
                        },
                    }
                }
            },
        }
        for status in statuses
    }
