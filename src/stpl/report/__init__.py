"""From run records to tables, figures and a page. Imports no torch."""

from stpl.report.command import report
from stpl.report.tables import print_table

__all__ = ["print_table", "report"]
