"""Real processes on a file lock: test children, real signals, the witness."""
