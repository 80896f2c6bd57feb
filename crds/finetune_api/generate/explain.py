"""What `kubectl explain` prints for a block, so that the field reference shows it; a test holds it to the real kubectl.

Source: kubectl 1.34, pkg/explain/v2/templates/plaintext.tmpl.
"""

from __future__ import annotations

import textwrap

from finetune_api import GROUP, KIND, VERSION
from finetune_api.generate.schema import Schema

_WIDTH = 80


def explain(root_schema: Schema, path: str) -> str:
    """The output of `kubectl explain finetunejobs.<path>` for a block, without blanks at the ends of lines."""
    schema = root_schema
    for name in path.split("."):
        schema = schema["properties"][name]
    required = schema.get("required", [])
    fields = "\n".join(
        _field(name, child, name in required) for name, child in sorted(schema["properties"].items())
    )
    return (
        f"GROUP:      {GROUP}\nKIND:       {KIND}\nVERSION:    {VERSION}\n\n"
        f"FIELD: {path.rsplit('.', 1)[-1]} <{_type(schema)}>\n\n\n"
        f"DESCRIPTION:\n{_wrapped(schema)}\n\nFIELDS:\n{fields}"
    )


def _field(name: str, schema: Schema, is_required: bool) -> str:
    mark = " -required-" if is_required else ""
    values = f"  enum: {', '.join(schema['enum'])}\n" if "enum" in schema else ""
    return f"  {name}\t<{_type(schema)}>{mark}\n{values}{_wrapped(schema)}\n"


def _type(schema: Schema) -> str:
    if schema.get("type") == "array":
        return f"[]{_type(schema['items'])}"
    return str(schema["type"]) if schema.get("type", "object") != "object" else "Object"


def _wrapped(schema: Schema) -> str:
    indent = " " * 4
    return textwrap.fill(
        schema["description"],
        _WIDTH,
        initial_indent=indent,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
