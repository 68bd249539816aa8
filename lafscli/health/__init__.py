"""Health: count, prove, and keep alive what is stored (spec 05 §5, 06)."""
