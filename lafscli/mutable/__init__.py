"""Mutable files: SDMF and MDMF (spec 03, 10)."""
