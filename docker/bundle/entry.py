"""What the bundle runs: the environment first, since others read it when they are imported."""

# ruff: noqa: INP001 - a script, run by its path

from leaderexec import frozen

frozen.restore_environment()

from leaderexec.cli import main  # noqa: E402 - see above

main()
