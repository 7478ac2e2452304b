"""What the server keeps: the database and the folder of blobs."""
