"""Clients that change one slot at once, over simulated servers, in an order that a seed decides (spec 10 §4).

What is tested is the real code of `mutable/` and `storage/`; what is simulated lies below `Files` (`disk`, `wire`,
`files`), the threads of `Grid` (`grid`) and time (`world`). `cast` has who takes part, `hazards` what goes wrong,
`scenario` who does what and what must hold, `oracle` what lies on the disks after every step. `mutants` switches
rules off. `python -m tests.simulation SEED --trace` plays one seed.
"""
