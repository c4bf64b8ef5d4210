"""Grading: submissions are rebuilt from the release, run in a sandbox, compared outside it, and reported."""
