"""What leaderexec does besides electing: one module a subcommand, imported when it is asked for."""
