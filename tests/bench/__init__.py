"""Speed of lafs, against what the same machine can do without it: `python -m tests.bench --help`, and README.md here.

Every figure comes from real processes on ten local sshd. What is compared is run in turns, and the medians count.
"""
