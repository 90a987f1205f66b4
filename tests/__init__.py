"""The tests of leaderexec: one folder a lane, and what they share."""
