"""The field reference holds every field once, and its links lead somewhere."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from finetune_api.generate.crd import build_root_schema
from finetune_api.generate.explain import explain
from finetune_api.generate.reference import build_reference

REFERENCE = build_reference(build_root_schema())


def anchors() -> set[str]:
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.*)$", REFERENCE, flags=re.MULTILINE)
    return {re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def all_fields(schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, child in schema.get("properties", {}).items():
        yield name, child
        yield from all_fields(child.get("items", child))


def test_every_field_of_spec_and_status_has_a_row() -> None:
    rows = set(re.findall(r"^\| `([^`]+)` ", REFERENCE, flags=re.MULTILINE))
    named = {part.removesuffix("[]") for row in rows for part in row.split(".")}
    root = build_root_schema()["properties"]

    missing = {name for block in ("spec", "status") for name, _ in all_fields(root[block])} - named

    assert missing == set()


def test_every_link_within_the_page_leads_to_a_heading() -> None:
    links = set(re.findall(r"\]\(#([^)]*)\)", REFERENCE))

    assert links
    assert links <= anchors()


def test_a_shape_that_comes_again_is_shown_once() -> None:
    # A store that is read, and one that is written to, which has a field more.
    assert REFERENCE.count("| `endpoint` |") == 2
    assert REFERENCE.count("| `encryption` |") == 1
    assert "| `store` | [spec.model.store](#specmodelstore) |" in REFERENCE


def test_every_sentence_that_refuses_a_job_is_there() -> None:
    def messages(schema: dict[str, Any]) -> Iterator[str]:
        for rule in schema.get("x-kubernetes-validations", []):
            if "oldSelf" not in rule["rule"]:
                yield rule["message"]
        for child in [
            *schema.get("properties", {}).values(),
            *([schema["items"]] if "items" in schema else []),
        ]:
            yield from messages(child)

    missing = [message for message in messages(build_root_schema()) if message not in REFERENCE]

    assert missing == []


def test_tables_have_four_cells_and_no_markup_of_their_own() -> None:
    rows = [line for line in REFERENCE.splitlines() if line.startswith("| `")]

    for row in rows:
        text = re.sub(r"`[^`]*`", "", row)
        assert len(re.split(r"(?<!\\)\|", row)) == 6, row
        assert not re.search(r"<\S", text), row
        assert not re.search(r"(?<![\\*])\*(?!\*)", text), row


def test_a_default_that_is_not_written_stands_in_parentheses() -> None:
    assert re.search(r"^\| `globalBatchSize` \| [^|]* \| \(`16`\) \|", REFERENCE, flags=re.MULTILINE)
    assert re.search(r"^\| `rank` \| [^|]* \| `16` \|", REFERENCE, flags=re.MULTILINE)


def test_what_kubectl_explains_is_wrapped_as_kubectl_wraps_it() -> None:
    lines = explain(build_root_schema(), "spec.training").splitlines()

    assert lines[:5] == [
        "GROUP:      finetune.dev",
        "KIND:       FineTuneJob",
        "VERSION:    v1alpha1",
        "",
        "FIELD: training <Object>",
    ]
    assert max(map(len, lines)) <= 80
