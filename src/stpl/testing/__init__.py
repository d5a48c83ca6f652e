"""For tests of methods, ours and yours: one call checks all that the suite relies on.

Begin with `check_method`; `no_read_back` is one of its checks, good for parts of a step too. Needs no test framework.
"""

from stpl.testing.conformance import ReadBackError, check_method, no_read_back
from stpl.testing.processes import check_ranks
from stpl.testing.runs import TINY

__all__ = ["TINY", "ReadBackError", "check_method", "check_ranks", "no_read_back"]
