"""Tests of lafs; `python -m tests.bench` measures it."""
