"""From run records to tables. Imports no torch."""
