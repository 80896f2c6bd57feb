"""What Prometheus would read from the operator."""

from __future__ import annotations

import urllib.request
from collections.abc import Mapping

from prometheus_client.parser import text_string_to_metric_families

from tests.integration.operator.process import OperatorProcess


class Scrape:
    """The samples of one scrape."""

    def __init__(self, operator: OperatorProcess) -> None:
        url = f"http://127.0.0.1:{operator.health_port}/metrics"
        with urllib.request.urlopen(url, timeout=10) as response:
            self.text: str = response.read().decode()
        families = text_string_to_metric_families(self.text)
        self._samples = [sample for family in families for sample in family.samples]

    def value(self, name: str, /, **labels: str) -> float | None:
        """A sample; None where there is none."""
        wanted: Mapping[str, str] = labels
        found = [each.value for each in self._samples if each.name == name and each.labels == wanted]
        return found[0] if found else None

    def names_about(self, **labels: str) -> set[str]:
        """Names of the samples that carry these labels, among others."""
        return {each.name for each in self._samples if labels.items() <= each.labels.items()}
