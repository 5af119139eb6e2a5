"""The published JSON Schema of `report.json`. `python -m robustcheck.report.schema` writes it anew."""

from __future__ import annotations

import json
from pathlib import Path

from robustcheck.results import json_schema

FILE = Path(__file__).with_name("report.schema.json")


def schema_text() -> str:
    """The schema of the results as they are now."""
    return json.dumps(json_schema(), indent=1, sort_keys=True, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    FILE.write_text(schema_text(), encoding="utf-8", newline="\n")
