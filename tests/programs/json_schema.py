"""Checks the JSON on standard input against a schema: json_schema.py SCHEMA

The schema that is shipped allows members that it does not name, so that new ones break nobody's monitor. Here each object has
no others than it names: nothing is added without being described.
"""
import json
import sys

from jsonschema import Draft202012Validator


def strict(part):
    """Every object of the schema closed, but for those that are maps of anything."""
    if isinstance(part, list):
        return [strict(item) for item in part]
    if not isinstance(part, dict):
        return part
    closed = {name: strict(value) for name, value in part.items()}
    if "properties" in part and isinstance(part.get("type"), str):
        assert "additionalProperties" not in part, "the schema as it is shipped lets names be added"
        closed["additionalProperties"] = False
    return closed


with open(sys.argv[1], encoding="utf-8") as file:
    schema = json.load(file)
Draft202012Validator.check_schema(schema)
closed = strict(schema)
for name, part in closed["$defs"].items():
    assert part["additionalProperties"] is False, f"{name} is no object"
    for member, says in part["properties"].items():
        assert "$ref" in says or says.get("description"), f"{name}.{member} is not described"
report = json.load(sys.stdin)
errors = sorted(Draft202012Validator(closed).iter_errors(report), key=lambda e: list(map(str, e.path)))
for error in errors:
    print("/".join(map(str, error.path)), error.message, file=sys.stderr)
# What a later release may add is allowed to those who read by the schema as it is.
report["added_later"] = {"anything": 1}
for process in report["processes"]:
    process["added_later"] = None
    process.get("counters", {})["added_later"] = 1
if not errors and not Draft202012Validator(schema).is_valid(report):
    sys.exit("the schema as it is shipped refuses a name that was added")
sys.exit(bool(errors))
