"""The judge of the tests: witness, test child, proxy, and waiting."""
