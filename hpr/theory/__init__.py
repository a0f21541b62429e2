"""The theory of Section 2.3 and Appendix B: closed forms (`equations`), and each checked numerically.

`run` gives what the figure `theory` shows; docs/theory.md says what each check is and what came out.
"""

from hpr.theory.check import RULE, Case, Check
from hpr.theory.results import PAPER, QUICK, Results, Size, run

__all__ = ["PAPER", "QUICK", "RULE", "Case", "Check", "Results", "Size", "run"]
