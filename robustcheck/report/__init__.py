"""From an `AuditReport` to text that somebody reads.

`junit`, `html` and `as_json` make the standalone files, which `writing` writes whole, `gate` the text of one gate,
`summary` the terminal's table of all, `plan` the tables of what a run would need, `replay` and `qualification` what
came of these; `loading` reads an old `report.json` back, `schema` keeps its published JSON Schema, and
`file_comparison` compares what lies beside it with what it renders to. `output` is the folder that a run writes to,
`progress` what is shown while it runs. `text` holds the words and numbers that all of them share and the cleaning of
text from outside, `wrapping` breaks a table's cells between words, `threat` says threat models in words, `queries` what
asking bought; `view`, `tables`, `facts`, `plot`, `query_plot` (both on a `canvas`) and `pictures` compute what the HTML
template shows. Reports are functions of results and of the counterexample files beside them: nothing here needs torch.
"""

from robustcheck.report.gate import gate_text
from robustcheck.report.loading import read_report
from robustcheck.report.output import outputs
from robustcheck.report.summary import render, summary_line, summary_table
from robustcheck.report.writing import render_reports, write_reports

__all__ = [
    "gate_text",
    "outputs",
    "read_report",
    "render",
    "render_reports",
    "summary_line",
    "summary_table",
    "write_reports",
]
