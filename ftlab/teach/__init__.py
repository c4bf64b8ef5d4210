"""The machinery of exercises: gaps, checks, hints, probes and what is remembered of a student. Knows no lab."""

from ftlab.teach.check import against, answer, call, expect, expect_close, mistake
from ftlab.teach.exercise import Exercise

__all__ = ["Exercise", "against", "answer", "call", "expect", "expect_close", "mistake"]
