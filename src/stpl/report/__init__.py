"""From run records to tables. Imports no torch."""

from stpl.report.tables import print_table, report

__all__ = ["print_table", "report"]
