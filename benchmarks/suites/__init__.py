"""What `asv run` measures. `time_` suites have the device as a parameter; `track_` suites are the gate's guards."""
