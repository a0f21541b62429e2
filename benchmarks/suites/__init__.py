"""What `asv run` measures. Suites of times have the device as a parameter; those named `track_` are the guards."""
