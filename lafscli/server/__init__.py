"""The storage server over SFTP: it knows what a share is, and no client (CLI.md §7).

An SFTP engine (`wire`, `requests`, `session`, `streams`) asks a Backend; `policy` is the one that keeps the rules.
"""
