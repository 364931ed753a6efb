"""What one stage hands to the next: files with one definition each."""
