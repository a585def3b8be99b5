"""What a run leaves behind: written as it goes, read and found again."""
