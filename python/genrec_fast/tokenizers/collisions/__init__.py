"""Items of equal codes: how they are found and told apart."""
