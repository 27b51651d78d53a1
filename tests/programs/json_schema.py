"""Checks the JSON on standard input against a schema: json_schema.py SCHEMA

Every object of the schema names all its members and allows no others, so that nothing can be added without being described.
"""
import json
import sys

from jsonschema import Draft202012Validator

with open(sys.argv[1], encoding="utf-8") as file:
    schema = json.load(file)
Draft202012Validator.check_schema(schema)
for name, part in schema["$defs"].items():
    assert part["additionalProperties"] is False, f"{name} allows what is not described"
    for member, says in part["properties"].items():
        assert "$ref" in says or says.get("description"), f"{name}.{member} is not described"
errors = sorted(Draft202012Validator(schema).iter_errors(json.load(sys.stdin)), key=lambda e: list(map(str, e.path)))
for error in errors:
    print("/".join(map(str, error.path)), error.message, file=sys.stderr)
sys.exit(bool(errors))
