"""What is known of the items, and the trie of their semantic IDs."""
