"""Figures of the project, measured side by side in one run; results are kept as JSON and rendered into README.md."""
