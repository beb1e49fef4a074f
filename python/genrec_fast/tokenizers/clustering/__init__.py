"""What clusters rows: k-means and where it starts, even shares, balanced trees."""
