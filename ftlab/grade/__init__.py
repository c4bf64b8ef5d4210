"""Grading: a submission rebuilt from the release, run in a sandbox by nbval, judged outside the kernel."""
