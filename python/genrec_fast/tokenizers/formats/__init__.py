"""Semantic IDs and codebooks in and out: text, JSON, faiss, files of vectors."""
