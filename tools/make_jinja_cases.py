#!/usr/bin/env python3
"""Renders the templates of testdata/jinja/cases.jsonl again with the reference and rewrites the expected results.

Needs: pip install jinja2 transformers==5.23.0. To add cases, append lines {"template": "..."} and run this.
The context of every case is testdata/goldens/template/jinja_context.json.
"""
import copy
import json
import pathlib

import transformers.utils.chat_template_utils as reference

ROOT = pathlib.Path(__file__).resolve().parent.parent
CASES = ROOT / "testdata/jinja/cases.jsonl"
CONTEXT = json.loads((ROOT / "testdata/goldens/template/jinja_context.json").read_text())


def render(template):
    row = {"template": template}
    try:
        row["text"] = reference._compile_jinja_template(template).render(**copy.deepcopy(CONTEXT))
    except Exception as error:  # every kind is a result here
        row["error"], row["error_type"] = str(error), type(error).__name__
    return row


def main():
    rows = [json.loads(line) for line in CASES.read_text().splitlines()]
    header = {"made_by": "tools/make_jinja_cases.py with transformers 5.23.0"}
    done = [header] + [render(row["template"]) for row in rows if "template" in row]
    CASES.write_text("".join(json.dumps(row) + "\n" for row in done))


if __name__ == "__main__":
    main()
