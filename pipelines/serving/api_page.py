"""The page of the API: what OpenAPI describes, as HTML that loads nothing."""

from collections.abc import Mapping
from html import escape
from typing import Any


def requests_html(openapi: Mapping[str, Any]) -> str:
    """A section for each request of an OpenAPI document: method and path, what it does, its parameters and its body."""
    return "\n".join(
        _section(method, path, described) for path, methods in openapi["paths"].items() for method, described in methods.items()
    )


def _section(method: str, path: str, described: Mapping[str, Any]) -> str:
    lines = [
        f"<section><h2><code>{escape(method.upper())} {escape(path)}</code></h2>",
        f"<p>{escape(described.get('description', ''))}</p>",
    ]
    if kinds := described.get("requestBody", {}).get("content"):
        lines.append(f"<p>Body: {escape(', '.join(kinds))}.</p>")
    if parameters := described.get("parameters"):
        rows = (
            f"<tr><td><code>{escape(one['name'])}</code></td><td>{escape(_type(one['schema']))}</td>"
            f"<td>{'needed' if one.get('required') else _default(one['schema'])}</td><td>{escape(one.get('description', ''))}</td></tr>"
            for one in parameters
        )
        lines += [
            "<table><thead><tr><th>parameter</th><th>type</th><th>default</th><th></th></tr></thead><tbody>",
            *rows,
            "</tbody></table>",
        ]
    return "\n".join([*lines, "</section>"])


def _type(schema: Mapping[str, Any]) -> str:
    if "anyOf" in schema:
        return " or ".join(_type(one) for one in schema["anyOf"] if one.get("type") != "null")
    return str(schema.get("type", ""))


def _default(schema: Mapping[str, Any]) -> str:
    return escape(str(schema["default"])) if schema.get("default") not in (None, "") else "none"
