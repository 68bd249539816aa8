"""Ciphertext to shares, and shares back to proven blocks: no keys, no servers."""
