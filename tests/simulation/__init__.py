"""Clients that change one slot at once, over simulated servers, in an order that a seed decides (spec 10 §4).

What is tested is the real code of `mutable/` and `storage/`; what is simulated is below `Files` (`disk`, `wire`), the
threads of `Grid` (`grid`) and time (`world`). `scenario` draws who does what and what goes wrong, `oracle` looks at the
disks after every step, `check` judges the end. `python -m tests.simulation SEED --trace` plays one seed.
"""
