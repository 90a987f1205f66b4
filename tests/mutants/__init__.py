"""The mutants: for each line that keeps trees apart, what happens without it, and who notices."""
