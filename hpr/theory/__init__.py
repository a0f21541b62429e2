"""The theory of Section 2.3 and Appendix B: closed forms (`equations`), and a numerical check of each.

`hpr.theory.results.run_checks` computes what the figure `theory` shows. docs/theory.md describes each check and its
result.
"""

from hpr.theory.check import CHECK_RULE, Check, CheckCase
from hpr.theory.size import PAPER, QUICK, Size

__all__ = ["CHECK_RULE", "PAPER", "QUICK", "Check", "CheckCase", "Size"]
