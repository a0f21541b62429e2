"""The theory of Section 2.3 and Appendix B: closed forms (`equations`), and each checked numerically.

`hpr.theory.results.run` gives what the figure `theory` shows; docs/theory.md says what each check is and what came out.
"""

from hpr.theory.check import RULE, Case, Check
from hpr.theory.size import PAPER, QUICK, Size

__all__ = ["PAPER", "QUICK", "RULE", "Case", "Check", "Size"]
