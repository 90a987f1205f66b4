"""`python -m leaderexec` is the command `leaderexec`."""

from leaderexec.cli import main

main()
