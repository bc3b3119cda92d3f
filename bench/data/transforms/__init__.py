"""What is done to images before a network sees them: augmentation, offline expansion, views."""
