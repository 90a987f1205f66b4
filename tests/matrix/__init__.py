"""The fault matrix: faults down, competitors across; a cell is an election and a real fault.

`python -m tests.matrix` plays it (`make matrix`); see `runner` for what it accepts and returns.
"""
