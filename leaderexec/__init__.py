"""leaderexec runs a command only while it holds a leader election's lock."""

__version__ = "0.1.0"
