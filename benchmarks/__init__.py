"""asv suites, side by side comparisons with other libraries, and the gate."""
