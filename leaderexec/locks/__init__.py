"""The places where an election's record can live, each behind the same small interface."""
