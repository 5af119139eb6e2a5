"""From an `AuditReport` to text that somebody reads.

`junit`, `html` and `as_json` make the standalone files, which `writing` writes whole. `gate` makes one gate's text,
`summary` the terminal's table of all, `plan` the tables of what a run would need, `replay` and `qualification` those of
their results. `loading` reads an old `report.json` back, `schema` keeps its published JSON Schema, and
`file_comparison` compares the files beside it with what it renders to. `output` is the folder that a run writes to,
`progress` what is shown while it runs. `text` holds the words and numbers that all of them share and cleans text from
outside, `wrapping` breaks a table's cells between words, `threat` puts threat models into words, `queries` what asking
brought, and `found_elsewhere` what a gate has from other attacks. `view`, `tables`, `facts`, `plot`, `query_plot` (both
on a `canvas`) and `pictures` compute what the HTML template shows. Reports are functions of results and of the
counterexample files beside them: nothing here needs torch.
"""

from robustcheck.report.loading import read_report
from robustcheck.report.writing import render_reports, write_reports

__all__ = ["read_report", "render_reports", "write_reports"]
