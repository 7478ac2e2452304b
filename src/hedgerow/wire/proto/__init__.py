"""Generated protobuf code and its sources; never edited."""
