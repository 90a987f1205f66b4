"""Real processes on a file lock: puppets, real signals, the witness."""
