"""asv suites, comparisons with other libraries, and the gate; `__main__.py` lists the commands."""
