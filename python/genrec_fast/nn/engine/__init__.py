"""What runs a search's network: sessions over torch's modules and over the native kernels, and what they share."""
