"""What `preparation.redact` names stands nowhere that people or programs look: logs, objects, events, reports, data."""

from __future__ import annotations

import json

from examples.quickstart.installation import NAMESPACE as OPERATOR_NAMESPACE
from tests.e2e.evidence import Evidence
from tests.e2e.jobs import Jobs
from tests.e2e.side_by_side import side_by_side

CANARIES = ("canary.person@example.org", "+86 139 1234 5678", "203.0.113.77")
REDACT = {"redact": ["Email", "Phone", "IPAddress"], "duplicates": "Exact"}


def rows(*, is_broken: bool) -> bytes:
    """Rows with personal data: used, repeated, too long; and, where they are broken, unusable."""
    text = f"Write to {', '.join(CANARIES)}, please."
    written = [
        *({"question": f"{text} Case {number}.", "answer": text} for number in range(20)),
        *[{"question": text, "answer": "Done."}] * 2,
        {"question": text * 200, "answer": "Too long."},
        *([{"question": text}, {"messages": [{"role": CANARIES[0], "content": text}]}] if is_broken else []),
    ]
    return "".join(f"{json.dumps(row)}\n" for row in written).encode()


@side_by_side
def test_personal_data_stand_in_no_log_object_event_report_or_prepared_row(jobs: Jobs) -> None:
    for name, is_broken in (("kept", False), ("refused", True)):
        source = jobs.bucket.put(f"data/private/{name}.jsonl", rows(is_broken=is_broken))
        jobs.apply(
            name, stopAfter="Prepare", dataset__train=[{"source": source}], dataset__preparation=REDACT
        )
    jobs.wait_for("kept", "Succeeded", timeout_seconds=120)
    refused = jobs.wait_for("refused", "Failed", timeout_seconds=120)
    assert refused["reason"] == "DataError"
    assert "answer is missing" in refused["message"]

    evidence = Evidence()
    for namespace in (jobs.namespace, OPERATOR_NAMESPACE):
        evidence.collect(jobs.environment, namespace)
    written = {
        key: jobs.bucket.read(jobs.bucket.uri(key))
        for name in ("kept", "refused")
        for key in jobs.bucket.keys(jobs.bucket.uri(f"models/{jobs.namespace}/{name}"))
    }
    assert any(key.endswith("train.arrow") for key in written)
    assert sum(key.endswith("data-report.html") for key in written) == 2
    assert any("refused-prepare" in where for where in evidence.texts), "the log of the pod that refused them"
    for canary in CANARIES:
        assert [where for where, text in evidence.texts.items() if canary in text] == []
        assert [key for key, content in written.items() if canary.encode() in content] == []
