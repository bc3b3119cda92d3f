"""Looking into networks: class images, class trees, layer maps."""
