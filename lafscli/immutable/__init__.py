"""Immutable files: LIT and CHK (spec 02)."""
