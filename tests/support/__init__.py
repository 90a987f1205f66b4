"""The judge of the tests: witness, puppet, proxy, and waiting."""
