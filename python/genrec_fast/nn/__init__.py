"""Blocks that the backbones share."""
