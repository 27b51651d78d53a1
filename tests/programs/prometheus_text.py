"""Reads Prometheus' text format from standard input with Prometheus' own parser, checks what that lets pass, and prints the
samples as JSON: a list of [name, labels, value]."""
import json
import sys

from prometheus_client.parser import text_string_to_metric_families

text = sys.stdin.read()
assert text.endswith("\n"), "the last line has no end"
samples, seen, names = [], set(), set()
for family in text_string_to_metric_families(text):
    assert family.name not in names, f"{family.name} stands in two places"
    names.add(family.name)
    assert family.documentation, f"{family.name} has no HELP"
    assert family.type in ("counter", "gauge"), f"{family.name} is of type {family.type}"
    for sample in family.samples:
        assert sample.name.startswith("netacc_"), sample.name
        if family.type == "counter":
            assert sample.name == family.name + "_total", sample.name
        key = (sample.name, tuple(sorted(sample.labels.items())))
        assert key not in seen, f"{key} stands there twice"
        seen.add(key)
        samples.append([sample.name, sample.labels, sample.value])
json.dump(samples, sys.stdout)
