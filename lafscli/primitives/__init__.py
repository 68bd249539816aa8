"""Bytes in, bytes out (spec 01): no servers, files, clocks or randomness."""
