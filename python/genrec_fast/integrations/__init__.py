"""Names of before 0.2.0, for programs that import them."""
