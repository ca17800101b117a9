"""Makes the images of the documents."""
