"""From run records to tables, figures and a page. Imports no torch.

Begin with `command` (the verb), `suite` (what is recorded) and `rows` (a table's lines).
"""

from stpl.report.command import report
from stpl.report.tables import print_table

__all__ = ["print_table", "report"]
