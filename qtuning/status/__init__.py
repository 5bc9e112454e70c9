"""What experiments have done, are doing and have left to do, read from the files that their jobs leave."""
