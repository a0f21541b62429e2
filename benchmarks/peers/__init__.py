"""Side by side with other libraries: each module is a script that prints one Markdown table."""
