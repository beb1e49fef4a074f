"""A published system as a sentence, its parts joined, and what can be asked of them."""
