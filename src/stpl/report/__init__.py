"""From run records to tables, figures and a page. Imports no torch.

Begin with `suite` (what is recorded), `rows` (a table's lines) and `tables`.
"""

from stpl.report.tables import print_table

__all__ = ["print_table"]
