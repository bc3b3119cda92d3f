"""What is measured on images and networks beside accuracy: distances, filters, transferability."""
